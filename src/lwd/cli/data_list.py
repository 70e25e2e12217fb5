"""Committed episodes by robot, time, task, policy or id; with --revoked those that were taken out, and why.

The conditions are those of `lwd data revoke`: try them here first. --json prints every field for machines.
"""

from pathlib import Path
from typing import Annotated, Any

import tyro

from lwd.cli.data_options import (
    EpisodeOption,
    PolicyVersionOption,
    RobotOption,
    SinceOption,
    TaskOption,
    UntilOption,
    print_json,
    print_table,
    selection,
    store_at,
)
from lwd.cli.options import JsonOption, RunOption, console, next_step
from lwd.commands import lwd_command
from lwd.data.history import read_history
from lwd.data.log import CommittedEpisode
from lwd.data.revocation import newest_log
from lwd.data.selection import time_in_words
from lwd.data.store import ObjectStore
from lwd.errors import ConfigError


def run(
    run: RunOption = Path("runs/demo"),
    robot: RobotOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    task: TaskOption = None,
    policy_version: PolicyVersionOption = None,
    episode: EpisodeOption = (),
    revoked: Annotated[bool, tyro.conf.arg(help="the revoked episodes instead of the committed ones")] = False,
    limit: Annotated[int, tyro.conf.arg(help="how many of the newest matches to show; 0: all")] = 50,
    json_output: JsonOption = False,
) -> None:
    if limit < 0:
        raise ConfigError(f"limit is {limit}; give a number of episodes, or 0 for all")
    wanted = selection(robot, since, until, task, policy_version, episode)
    found = [(item, more) for item, more in _episodes(store_at(run), revoked=revoked) if wanted.accepts(item.entry)]
    shown = found[-limit:] if limit else found
    if json_output:
        print_json(
            [
                {
                    **item.entry.model_dump(mode="json"),
                    "version": item.version,
                    "committed_at_s": item.committed_at_s,
                    **more,
                }
                for item, more in shown
            ]
        )
        return
    extra = ["revoked in", "reason"] if revoked else []
    print_table(
        ["episode", "robot", "task", "began", "source", "outcome", "policy", "steps", "human", "version", *extra],
        [
            (
                item.entry.episode_id,
                item.entry.robot_id,
                item.entry.task,
                time_in_words(item.entry.started_at_s),
                item.entry.source,
                item.entry.outcome,
                item.entry.policy_version,
                item.entry.steps,
                item.entry.human_steps,
                item.version,
                *((more["revoked_version"], more["reason"] or "") if revoked else ()),
            )
            for item, more in shown
        ],
        numbers=["policy", "steps", "human", "version", "revoked in"],
    )
    steps = sum(item.entry.steps for item, _ in found)
    hint = "; --limit 0 shows all" if len(shown) < len(found) else ""
    console.print(f"{len(shown)} of {len(found)} matching episodes, {steps} steps in all{hint}")
    if not revoked:
        revoke = lwd_command("data", "revoke", "--run", run)
        next_step(f"{revoke} with the same conditions takes them out; lwd data index for SQL")


def _episodes(store: ObjectStore, *, revoked: bool) -> list[tuple[CommittedEpisode, dict[str, Any]]]:
    if not revoked:
        return [(item, {}) for item in newest_log(store).snapshot.episodes.values()]
    return [
        (
            item.episode,
            {"revoked_version": item.version, "revoked_at_s": item.revoked_at_s, "reason": item.reason},
        )
        for item in read_history(store).revoked.values()
    ]
