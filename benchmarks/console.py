"""The console beside a running fleet: `python -m benchmarks.console RUN`, while `lwd up --run RUN --console` runs.

Prints as JSON: pose updates per robot, the share of a core that each process uses meanwhile, and the time from
a click on "take over" (the WebSocket message) to the last autonomous step. All clocks are this machine's.
"""

import argparse
import asyncio
import json
import os
import struct
import time
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from websockets.asyncio.client import ClientConnection, connect

from lwd.console.links import Links
from lwd.fleet.poses import decode_frame

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


class Tab:
    """What a browser does, without drawing."""

    def __init__(self, socket: ClientConnection) -> None:
        self.socket = socket
        self.counts: Counter[str] = Counter()
        self.first_seen_s: dict[tuple[str, int], float] = {}
        self.last_step: dict[str, int] = {}
        self.robots: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}

    async def read(self) -> None:
        async for message in self.socket:
            if isinstance(message, str):
                content = json.loads(message)
                if content["kind"] == "fleet":
                    self.robots = {robot["robot_id"]: robot for robot in content["robots"]}
                elif content["kind"] == "answer":
                    self.answers[content["request_id"]] = content
                continue
            at = 0
            while at < len(message):
                (length,) = struct.unpack_from("<I", message, at)
                frame = decode_frame(message[at + 4 : at + 4 + length])
                at += 4 + length
                self.counts[frame.robot_id] += 1
                self.last_step[frame.robot_id] = frame.step
                self.first_seen_s.setdefault((frame.robot_id, frame.step), frame.time_s)
            await self.socket.send('{"kind": "ack"}')

    async def ask(self, robot_id: str, verb: str, lease: int = 0) -> Any:
        request = f"{verb}-{time.monotonic_ns()}"
        command = {"kind": "command", "robot_id": robot_id, "verb": verb, "lease": lease, "request_id": request}
        await self.socket.send(json.dumps(command))
        while request not in self.answers:
            await asyncio.sleep(0.002)
        return self.answers[request]


async def measure(run: Path, url: str, seconds: float, takes: int) -> dict[str, Any]:
    begun = httpx.post(f"{url}/api/session", json={"token": Links(run).new(url).rpartition("/")[2]}).raise_for_status()
    ((name, value),) = begun.cookies.items()
    protocols = ["lwd.live", f"csrf.{begun.json()['csrf']}"]
    address = url.replace("http", "ws") + "/api/live"
    async with connect(
        address,
        additional_headers={"cookie": f"{name}={value}"},
        origin=url,  # type: ignore[arg-type]
        subprotocols=protocols,  # type: ignore[arg-type]
    ) as socket:
        tab = Tab(socket)
        reading = asyncio.create_task(tab.read())
        while not tab.robots:
            await asyncio.sleep(0.1)
        names = sorted(tab.robots)
        pids = json.loads((run / "processes.json").read_text())
        idle = await _shares(pids, seconds)
        await socket.send(json.dumps({"kind": "watch", "robots": names, "hz": 15}))
        await asyncio.sleep(2)
        tab.counts.clear()
        watched = await _shares(pids, seconds)
        rates = {name: tab.counts[name] / seconds for name in names}
        latencies_s = []
        await socket.send(json.dumps({"kind": "watch", "robots": names, "hz": 50}))
        for number in range(takes):
            name = names[number % len(names)]
            if tab.robots[name]["state"] not in ("autonomous", "help"):
                continue
            tab.first_seen_s.clear()
            clicked_s = time.time()
            taken = await tab.ask(name, "take")
            await asyncio.sleep(0.7)
            # The frame that first shows the last step was made after it: an upper bound.
            last_s = tab.first_seen_s.get((name, tab.last_step[name]))
            await tab.ask(name, "release", taken["lease"])
            if last_s is not None:
                latencies_s.append(max(0.0, last_s - clicked_s))
            await asyncio.sleep(0.3)
        reading.cancel()
    return {
        "robots": len(names),
        "pose_updates_per_s": {"min": min(rates.values()), "mean": float(np.mean(list(rates.values())))},
        "core_share_idle": idle,
        "core_share_watched": watched,
        "click_to_last_autonomous_step_ms": {
            "count": len(latencies_s),
            **{f"p{q}": round(1000 * float(np.percentile(latencies_s, q)), 1) for q in (50, 90, 99)},
        },
    }


async def _shares(pids: dict[str, int], seconds: float) -> dict[str, float]:
    before = {name: cpu_s(pid) for name, pid in pids.items()}
    await asyncio.sleep(seconds)
    return {name: round((cpu_s(pid) - before[name]) / seconds, 4) for name, pid in pids.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--url", default="http://127.0.0.1:8787")
    parser.add_argument("--seconds", type=float, default=15)
    parser.add_argument("--takes", type=int, default=100)
    given = parser.parse_args()
    print(json.dumps(asyncio.run(measure(given.run, given.url, given.seconds, given.takes)), indent=1))
