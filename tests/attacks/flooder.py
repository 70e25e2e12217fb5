"""A process that publishes on the bus as fast as it may: `python -m tests.attacks.flooder URL KIND RATE_HZ SECONDS`."""

import asyncio
import itertools
import sys
import time

from lwd.fleet.bus_config import BusConfig
from lwd.fleet.bus_connection import connect
from lwd.fleet.messages import WATCH_SUBJECT, ControlCommand, WatchRequest, command_subject

_AT_ONCE = 50
ROBOT = "robot-0"


def message(kind: str, number: int) -> tuple[str, bytes]:
    match kind:
        case "watch":
            request = WatchRequest(console_id=f"eve-{number}", robots=(ROBOT,), views=(ROBOT,), hz=50)
            return WATCH_SUBJECT, request.model_dump_json().encode()
        case "garbage":
            return WATCH_SUBJECT, b"\x80pickle" * 200
        case "take" | "drive":
            command = ControlCommand(
                robot_id=ROBOT,
                verb=kind,
                operator_id="eve",
                client_id=f"eve-{number}",
                request_id=f"r{number}",
                lease=7,
            )
            return command_subject(ROBOT), command.model_dump_json().encode()
    raise ValueError(kind)


async def flood(url: str, kind: str, rate_hz: float, seconds: float) -> int:
    client = await connect(BusConfig(urls=(url,)), "eve", 20.0)
    prepared = [message(kind, number) for number in range(2000)]
    print("flooding", flush=True)
    started_s = time.monotonic()
    sent = 0
    for batch in itertools.count(1):
        for _ in range(_AT_ONCE):
            await client.publish(*prepared[sent % len(prepared)])
            sent += 1
        if time.monotonic() - started_s > seconds:
            break
        await client.flush()
        await asyncio.sleep(max(0.0, started_s + batch * _AT_ONCE / rate_hz - time.monotonic()))
    await client.flush()
    await client.close()
    return sent


if __name__ == "__main__":
    print(asyncio.run(flood(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))))
