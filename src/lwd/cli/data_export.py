"""Write episodes of a snapshot as a LeRobot dataset (version 3), with LeRobot's own writer.

The conditions are those of `lwd data list`. State, further vectors and action keep their names. The columns
intervention, controller, outcome, next.reward, next.success, next.done (the last frame of a success is 1; an episode
that nobody judged is 0) and, with --value, value come beside them; --like writes another dataset's columns instead.
Every episode has one frame more than steps: the last observation, whose action repeats the one before. For Lance, RLDS
and other formats use LeRobot's tools on the result (docs/bring-your-own.md).
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
    selection,
    store_at,
)
from lwd.cli.options import RunOption, console, next_step, progress, run_at
from lwd.recipes.lerobot_data import export_dataset, value_of


def run(
    lerobot: Annotated[Path, tyro.conf.arg(metavar="DIR", help="the dataset's directory; it must not exist")],
    run: RunOption = Path("runs/demo"),
    snapshot: Annotated[int | None, tyro.conf.arg(metavar="INT", help="version of the log; None: the newest")] = None,
    robot: RobotOption = None,
    since: SinceOption = None,
    until: UntilOption = None,
    task: TaskOption = None,
    policy_version: PolicyVersionOption = None,
    episode: EpisodeOption = (),
    lossless: Annotated[bool, tyro.conf.arg(help="pictures instead of videos: exact, and many times as large")] = False,
    like: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="DIR",
            help="dataset whose features and kind of frames it gets, and no others, so that LeRobot's tools can merge "
            "the two; None: all that is known",
        ),
    ] = None,
    value: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE", help="value network (value.safetensors of a checkpoint) for the column value; None: no such"
        ),
    ] = None,
) -> None:
    store_at(run)
    wanted = selection(robot, since, until, task, policy_version, episode)
    with progress("export") as bar:
        count = export_dataset(
            run_at(run),
            lerobot,
            snapshot=snapshot,
            selection=wanted,
            lossless=lossless,
            value=None if value is None else value_of(value),
            like=like,
            progress=bar,
        )
    console.print(f"{count} episodes in {lerobot}", soft_wrap=True)
    next_step(f"LeRobotDataset({f'local/{lerobot.name}'!r}, root={str(lerobot)!r}) opens it")
