"""Take episodes out of the replay for good: one new snapshot version without them.

All conditions must hold (at least one is needed). Learners drop the episodes at their next look at the log; older
snapshots and the objects themselves stay until `lwd data retain`. A revoked id can never be committed again.
Safe while the fleet runs. It revokes what is committed now: stop a faulty robot first, or repeat the command when
its spool is empty.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.data_options import (
    EpisodeOption,
    PolicyVersionOption,
    RobotOption,
    SinceOption,
    TaskOption,
    UntilOption,
    per_task,
    print_table,
    selection,
    store_at,
)
from lwd.cli.options import RunOption, console, next_step
from lwd.commands import lwd_command
from lwd.data.revocation import newest_log, require_known, revoke_selected


def run(
    run: RunOption = Path("runs/demo"),
    robot: RobotOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    task: TaskOption = None,
    policy_version: PolicyVersionOption = None,
    episode: EpisodeOption = (),
    reason: Annotated[
        str | None, tyro.conf.arg(metavar="TEXT", help="kept in the log beside the revocation; None: no reason")
    ] = None,
    dry_run: Annotated[bool, tyro.conf.arg(help="show what would be revoked, and revoke nothing")] = False,
) -> None:
    store = store_at(run)
    wanted = selection(robot, since, until, task, policy_version, episode)
    snapshot = newest_log(store).snapshot
    require_known(snapshot, wanted)
    entries = wanted.of(snapshot.episodes.values())
    if entries:
        steps = sum(entry.steps for entry in entries)
        rows = [*per_task(entries), *([("all", len(entries), steps)] if len(per_task(entries)) > 1 else [])]
        print_table(["task", "episodes", "steps"], rows, numbers=["episodes", "steps"])
    if dry_run:
        console.print(f"{len(entries)} of {len(snapshot.episodes)} episodes at version {snapshot.version}")
        if entries:
            next_step("the same command without --dry-run")
        return
    done = revoke_selected(store, wanted, reason=reason)
    if not done.episodes:
        console.print(f"nothing to revoke: no episode of version {done.version} fulfils the conditions")
        return
    late = len(done.episodes) - len(entries)
    console.print(
        f"version {done.version} revokes {len(done.episodes)} episodes"
        + (f" ({late} more than above: committed meanwhile)" if late > 0 else "")
    )
    shown, freed = (lwd_command("data", *verb, "--run", run) for verb in (("list", "--revoked"), ("retain",)))
    next_step(f"{shown} shows them; {freed} frees their space later")
