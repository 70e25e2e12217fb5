"""Stop all robots of a run: every host holds its robots, and goes on holding until `lwd stop --release`.

Works on this machine by a file in RUN/stop, and everywhere by the message bus; learner, coordinator and store need not
be there. A host that restarts, or starts while it is stopped, holds. Says which hosts confirmed that their robots hold,
and fails if one did not. To press the button without this program: touch RUN/stop/button
"""

import asyncio
import getpass
import os
import re
import sys
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import tyro

from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.errors import ConfigError, ServiceError, StoreError

if TYPE_CHECKING:
    from lwd.fleet.bus_config import BusConfig


def run(
    run: Annotated[Path, tyro.conf.arg(help="directory of the run")] = Path("runs/demo"),
    release: Annotated[bool, tyro.conf.arg(help="let the robots move again; needs --reason")] = False,
    reason: Annotated[str, tyro.conf.arg(help="why; shown to everybody")] = "",
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME", help="who; None: your login on this machine")] = None,
    within: Annotated[float, tyro.conf.arg(metavar="SECONDS", help="how long to wait for hosts to confirm")] = 5.0,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    stop_id = uuid.uuid4().hex
    if run.is_dir() and not release:
        _press(run, stop_id)
    if not run.is_dir() and where.nats_url is None:
        raise ConfigError(f"run {run} is not there: give its directory with --run, or the bus with --nats-url")
    if release and not reason.strip():
        raise ConfigError("reason is empty: say with --reason why the robots may move again")

    # Here, not above: it takes a second to load on a busy machine, and the robots are stopped meanwhile.
    from lwd.fleet.stop_call import StopCall
    from lwd.fleet.stop_files import StopFiles
    from lwd.fleet.stop_messages import MAX_REASON, StopOrder, words_of

    by = re.sub(r"[^A-Za-z0-9._-]", "_", name or _login())[:128].lstrip("._-") or "nobody"
    # No words are refused: a stop must not fail because of them.
    said = "".join(each if each.isprintable() else "?" for each in reason)[:MAX_REASON]
    files = StopFiles(run) if run.is_dir() else None
    troubles = []
    order = StopOrder(stop_id=stop_id, by=by, reason=said, at_s=time.time())
    if files is not None and not release:
        try:
            files.write(files.read().order(order))
        except (StoreError, OSError) as error:
            troubles.append(str(error))
    call = StopCall(files, lambda: _bus(run, where), within_s=within)
    result = asyncio.run(call.release(by, said) if release else call.stop(order))
    _tell(result.done, "released" if release else "holds")
    if release:
        print(f"released: {words_of(result.released) or 'nobody had stopped the robots'}")
    for trouble in (*troubles, *result.troubles):
        print(f"lwd stop: {trouble}", file=sys.stderr)
    if result.undone:
        hosts = "; ".join(f"{host_id} ({why})" for host_id, why in sorted(result.undone.items()))
        raise ServiceError(
            f"not confirmed within {within:g} s: {hosts}. "
            + ("Its robots may still hold" if release else "Its robots may move: use their own emergency stop")
        )
    # An embedded bus reaches this machine only, as the files do.
    if (troubles or result.troubles) and not (result.done and not troubles and _has_own_bus(run, where)):
        raise ServiceError("not everybody could be told: see above")


def _press(run: Path, stop_id: str) -> None:
    """Stop this machine's hosts before anything else: an empty file counts (`lwd.fleet.stop_files`)."""
    try:
        (run / "stop").mkdir(exist_ok=True)
        os.close(os.open(run / "stop" / stop_id, os.O_WRONLY | os.O_CREAT, 0o644))
    except OSError as error:
        # It is tried again, with what to do about it.
        print(f"lwd stop: no file in {run / 'stop'} yet ({error.strerror}); going on", file=sys.stderr)


def _tell(done: dict[str, float], what: str) -> None:
    for host_id, after_s in sorted(done.items()):
        print(f"{host_id} {what} after {after_s:.2f} s")
    if not done:
        print("no host answered: one that starts now " + ("may move" if what == "released" else "starts stopped"))


def _login() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):
        return ""


def _has_own_bus(run: Path, where: ServiceOptions) -> bool:
    from lwd.recipes.run_directory import RunDirectory

    return where.nats_url is None and RunDirectory(run).bus() is None


def _bus(run: Path, where: ServiceOptions) -> "BusConfig":
    """Return where the bus is, noting nothing: a stop must not fail because of what else is wrong in a run."""
    from lwd.fleet.coordinator_process import bus_of
    from lwd.recipes.run_directory import RunDirectory

    return where.bus_config() or bus_of(run, RunDirectory(run).bus())
