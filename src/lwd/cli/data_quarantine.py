"""Uploads that the coordinator refused, each with its reason; none of them is in the replay.

--release takes objects out of the quarantine, once what was wrong is repaired (a wrong limit, a damaged disk): the
coordinator judges them anew at its next listing, and refuses again what still fails. The old verdict stays in the
store, with the reason of the release. Objects stay until they are older than the age limit of `lwd data retain`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.data_options import print_json, print_table, store_at
from lwd.cli.options import JsonOption, RunOption, console, next_step
from lwd.commands import lwd_command
from lwd.data.quarantine import QuarantineCase, QuarantineRecord, case_name, open_cases, release
from lwd.data.revocation import newest_log
from lwd.data.selection import time_in_words
from lwd.data.store import ObjectStore
from lwd.errors import ConfigError


def run(
    run: RunOption = Path("runs/demo"),
    release: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="[KEY ...]", help="objects to take out, as the table shows them; none: show the table"),
    ] = (),
    replace: Annotated[
        bool,
        tyro.conf.arg(help="with --release: delete the objects, too; a robot host that still has one uploads it again"),
    ] = False,
    reason: Annotated[
        str | None, tyro.conf.arg(metavar="TEXT", help="kept beside the release; None: no reason given")
    ] = None,
    json_output: JsonOption = False,
) -> None:
    store = store_at(run)
    cases = sorted(open_cases(store), key=lambda found: found[1].quarantined_at_s)
    if release:
        _release(store, cases, release, replace=replace, reason=reason or "no reason given")
        rest = lwd_command("data", "quarantine", "--run", run)
        next_step(f"the coordinator judges them at its next listing; {rest} shows the rest")
        return
    if replace or reason is not None:
        raise ConfigError("--replace and --reason go with --release: say which objects")
    if json_output:
        print_json([record.model_dump(mode="json") for _, record in cases])
        return
    if cases:
        rows = [(time_in_words(record.quarantined_at_s), _shown(case, record), record.reason) for case, record in cases]
        print_table(["refused", "object", "reason"], rows)
    console.print(f"{len(cases)} objects are quarantined")
    if cases:
        next_step("repair what the reasons name and record the episodes again; --release KEY has one judged anew")


def _release(
    store: ObjectStore,
    cases: Sequence[tuple[QuarantineCase, QuarantineRecord]],
    keys: Sequence[str],
    *,
    replace: bool,
    reason: str,
) -> None:
    by_key = {_shown(case, record): (case, record) for case, record in cases}
    if unknown := [key for key in keys if key not in by_key]:
        raise ConfigError(
            f"{unknown[0]} is not quarantined: give an object as `lwd data quarantine` shows it, nothing was released"
        )
    log = newest_log(store)
    for case, record in (by_key[key] for key in keys):
        if replace:
            if case_name(record.key) != case.name:
                raise ConfigError(f"--replace cannot tell which object {case.name} is of: release it without")
            if log.knows(record.key.removeprefix("episodes/").removesuffix(".arrow")):
                raise ConfigError(f"{record.key} was committed since: it is never deleted so, use `lwd data revoke`")
            store.delete(record.key)
        release(store, case.name, reason=reason)
        console.print(f"released {_shown(case, record)}" + (", its object is deleted" if replace else ""))


def _shown(case: QuarantineCase, record: QuarantineRecord) -> str:
    """Return the object's key, or the record's own where that does not tell which object it is."""
    return record.key if case.newest is None or case_name(record.key) == case.name else case.newest.key
