"""Stop all robots of a run: every host holds its robots, and goes on holding until `lwd stop --release`.

Works on this machine by a file in RUN/stop, and everywhere by the message bus; learner, coordinator and store need not
be there. A host that restarts, or starts while it is stopped, holds. Says which hosts confirmed that their robots hold,
and fails if one did not. To press the button without this program: touch RUN/stop/button
"""

import asyncio
import getpass
import re
import sys
import time
import uuid
from pathlib import Path
from typing import Annotated

import tyro
from pydantic import ValidationError

from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.errors import ConfigError, ServiceError, StoreError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.stop_files import StopFiles
from lwd.fleet.stop_messages import StopOrder, words_of


def run(
    run: Annotated[Path, tyro.conf.arg(help="directory of the run")] = Path("runs/demo"),
    release: Annotated[bool, tyro.conf.arg(help="let the robots move again; needs --reason")] = False,
    reason: Annotated[str, tyro.conf.arg(help="why; shown to everybody")] = "",
    name: Annotated[str | None, tyro.conf.arg(metavar="NAME", help="who; None: your login on this machine")] = None,
    within: Annotated[float, tyro.conf.arg(metavar="SECONDS", help="how long to wait for hosts to confirm")] = 5.0,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    order = _order(name or _login(), reason, "release" if release else "stop")
    if release and not reason:
        raise ConfigError("reason is empty: say with --reason why the robots may move again")
    files = StopFiles(run) if run.is_dir() else None
    if files is None and where.nats_url is None:
        raise ConfigError(f"run {run} is not there: give its directory with --run, or the bus with --nats-url")
    troubles = []
    if files is not None and not release:
        # Before anything else: the rest of this program takes longer to load.
        try:
            files.write(files.read().order(order))
        except (StoreError, OSError) as error:
            troubles.append(str(error))
    from lwd.fleet.stop_call import StopCall, StopResult

    call = StopCall(files, lambda: _bus(run, where), within_s=within)
    result: StopResult = asyncio.run(call.release(order.by, reason) if release else call.stop(order))
    _tell(result.done, "released" if release else "holds")
    if release:
        print(f"released: {words_of(result.released) or 'nobody had stopped the robots'}")
    for trouble in (*troubles, *result.troubles):
        print(f"lwd stop: {trouble}", file=sys.stderr)
    if result.undone:
        said = "; ".join(f"{host_id} ({why})" for host_id, why in sorted(result.undone.items()))
        raise ServiceError(
            f"not confirmed within {within:g} s: {said}. "
            + ("Its robots may still hold" if release else "Its robots may move: use their own emergency stop")
        )
    # An embedded bus reaches this machine only, as the files do.
    if (troubles or result.troubles) and not (result.done and not troubles and _has_own_bus(run, where)):
        raise ServiceError("not everybody could be told: see above")


def _tell(done: dict[str, float], what: str) -> None:
    for host_id, after_s in sorted(done.items()):
        print(f"{host_id} {what} after {after_s:.2f} s")
    if not done:
        print("no host answered: one that starts now " + ("may move" if what == "released" else "starts stopped"))


def _order(by: str, reason: str, what: str) -> StopOrder:
    try:
        return StopOrder(stop_id=uuid.uuid4().hex, by=by, reason=reason, at_s=time.time())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = "name" if first["loc"][0] == "by" else "reason"
        raise ConfigError(f"{field} is {first['input']!r} ({first['msg']}): {what} with another --{field}") from error


def _login() -> str:
    try:
        login = getpass.getuser()
    except (OSError, KeyError):
        login = ""
    return re.sub(r"[^A-Za-z0-9._-]", "_", login)[:128].lstrip("._-") or "nobody"


def _has_own_bus(run: Path, where: ServiceOptions) -> bool:
    from lwd.recipes.run_directory import RunDirectory

    return where.nats_url is None and RunDirectory(run).bus() is None


def _bus(run: Path, where: ServiceOptions) -> BusConfig:
    """Return where the bus is, noting nothing: a stop must not fail because of what else is wrong in a run."""
    from lwd.fleet.coordinator_process import bus_of
    from lwd.recipes.run_directory import RunDirectory

    return where.bus_config() or bus_of(run, RunDirectory(run).bus())
