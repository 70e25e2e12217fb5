"""Versions of the replay: when each was committed, what it added and what it revoked, and why.

Snapshot v is what versions 1 to v amount to; a learner's checkpoint names the version that it was trained on.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.data_options import print_json, print_table, store_at
from lwd.cli.options import JsonOption, RunOption, console, next_step
from lwd.commands import lwd_command
from lwd.data.history import read_history
from lwd.data.selection import time_in_words
from lwd.errors import ConfigError


def run(
    run: RunOption = Path("runs/demo"),
    last: Annotated[int, tyro.conf.arg(help="how many of the newest versions to show; 0: all")] = 20,
    revocations: Annotated[bool, tyro.conf.arg(help="only the versions that revoke episodes")] = False,
    json_output: JsonOption = False,
) -> None:
    if last < 0:
        raise ConfigError(f"last is {last}; give a number of versions, or 0 for all")
    history = read_history(store_at(run))
    entries = [entry for entry in history.entries if entry.revoked or not revocations]
    shown = entries[-last:] if last else entries
    if json_output:
        print_json(
            [
                {
                    "version": entry.version,
                    "committed_at_s": entry.committed_at_s,
                    "epoch": entry.epoch,
                    "added": [added.identity for added in entry.added],
                    "steps_added": sum(added.steps for added in entry.added),
                    "revoked": list(entry.revoked),
                    "reason": entry.reason,
                }
                for entry in shown
            ]
        )
        return
    numbers = ["version", "epoch", "added", "steps", "revoked"]
    print_table(
        ["version", "committed", "epoch", "added", "steps", "revoked", "reason"],
        [
            (
                entry.version,
                time_in_words(entry.committed_at_s),
                entry.epoch,
                len(entry.added),
                sum(added.steps for added in entry.added),
                len(entry.revoked) or "",
                entry.reason or "",
            )
            for entry in shown
        ],
        numbers=numbers,
    )
    snapshot = history.snapshot
    console.print(
        f"{len(shown)} of {len(history.entries)} versions; version {snapshot.version} holds {len(snapshot.episodes)} "
        f"episodes, {snapshot.steps} steps; {len(snapshot.revoked)} are revoked"
    )
    next_step(f"{lwd_command('data', 'list', '--run', run)} shows the episodes")
