"""Bring the episodes of LeRobot datasets into the run's store: validated and committed like all data.

Several datasets of one robot come in together, with limits that fit all of them. A dry run shows what would come in
and what is wrong with it. How episodes ended is said by a column, a file or for all at once; what none of them says
stays unlabelled: no critic learns from it, and it is imitated only where you ask for it. A dataset has no observation
after its last action, so that action is dropped. Without a file that describes the robot, RUN/embodiment.json is
written from the dataset's features. Datasets of version 2.1 are converted by LeRobot's converter, in a temporary copy.
Repeating the command commits nothing twice.
"""

import re
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lwd.cli.data_options import print_json, print_table
from lwd.cli.options import JsonOption, RunOption, console, next_step, progress, run_at
from lwd.cli.services import NOTED_STORE, StoreOptions
from lwd.commands import lwd_command
from lwd.data.lerobot.importing import FrameFormat, ImportSettings
from lwd.data.lerobot.labels import read_labels
from lwd.errors import ConfigError, EpisodeRejected
from lwd.recipes.lerobot_data import Survey, import_dataset, survey
from lwd.recipes.lerobot_robot import embodiment_for, outside_limits
from lwd.types import Controller, Embodiment, Outcome, Source

if TYPE_CHECKING:
    from lwd.data.lerobot.source import LeRobotSource


def run(
    lerobot: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="DIR|ID [DIR|ID ...]", help="directories of datasets of one robot, or their ids on the hub"
        ),
    ],
    run: RunOption = Path("runs/demo"),
    label_column: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME",
            help="column that says how episodes ended: booleans or rewards (one frame above 0: success), or words "
            "such as success, failure, time_limit; of frames or of episodes; None: no such",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE", help='JSON {"0": true, ...} or CSV with the columns episode and success; None: no such'
        ),
    ] = None,
    all_success: Annotated[bool, tyro.conf.arg(help="every episode is a success")] = False,
    imitate_unlabelled: Annotated[
        bool, tyro.conf.arg(help="imitate episodes without a label as if they were demonstrations")
    ] = False,
    source: Annotated[
        Literal["demonstration", "rollout"],
        tyro.conf.arg(help="what successful episodes are: demonstrations are imitated, roll-outs are not"),
    ] = "demonstration",
    intervention_column: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME", help="column that is above 0 where a person acted; None: a usual one, if there is one"
        ),
    ] = None,
    state: Annotated[
        tuple[str, ...],
        tyro.conf.arg(
            metavar="[NAME ...]",
            help="features that make up the state; none: the run's, else observation.state",
        ),
    ] = (),
    embodiment: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE.json", help="what the robot is; None: the run's, or written from the features"),
    ] = None,
    control_hz: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="HZ",
            help="control rate of the episodes, the dataset's or lower: the frames nearest to its steps are taken, and "
            "nothing is interpolated (actions must be targets, not differences); None: the dataset's",
        ),
    ] = None,
    limits: Annotated[
        Path | None,
        tyro.conf.arg(
            metavar="FILE",
            help='JSON {"shoulder.pos": [-100, 100], ...}, by name or number of the action\'s columns: limits in place '
            "of those that are derived; in a run without policies also wider ones; None: derived",
        ),
    ] = None,
    widen_limits: Annotated[
        bool,
        tyro.conf.arg(help="widen the limits of a run without policies so that what was recorded now is within"),
    ] = False,
    image_size: Annotated[
        tuple[int, int] | None,
        tyro.conf.arg(metavar="HEIGHT WIDTH", help="size of the frames that are kept; None: as recorded"),
    ] = None,
    frames: Annotated[FrameFormat, tyro.conf.arg(help="how frames are kept: jpeg, or png without loss")] = "jpeg",
    name: Annotated[
        str | None, tyro.conf.arg(metavar="ID", help="robot id of the episodes; None: the dataset's name")
    ] = None,
    dry_run: Annotated[bool, tyro.conf.arg(help="show what would come in, and write nothing")] = False,
    json_output: JsonOption = False,
    where: StoreOptions = NOTED_STORE,
) -> None:
    # Here, not above: the verb explains itself without LeRobot.
    from lwd.data.lerobot.source import LeRobotSource

    directory = run_at(run, where, begins=True)
    if sum([label_column is not None, labels is not None, all_success]) > 1:
        raise ConfigError("choose one of --label-column, --labels and --all-success")
    if not lerobot:
        raise ConfigError("lerobot names no dataset: give a directory, or an id on the hub")
    with ExitStack() as stack:
        datasets = [
            stack.enter_context(LeRobotSource(given, state=state, controller=intervention_column, label=label_column))
            for given in lerobot
        ]
        said = None if labels is None else read_labels(labels)
        plans = [
            ImportSettings(
                name=own,
                labels=said,
                all_success=all_success,
                source=Source(source),
                imitate_unlabelled=imitate_unlabelled,
                control_hz=control_hz,
                frames=frames,
            )
            for own in _names([name or dataset.name for dataset in datasets])
        ]
        robot = embodiment_for(
            directory, datasets, plans[0], given=embodiment, image_size=image_size, limits=limits, widen=widen_limits
        )
        found = []
        for dataset, settings in zip(datasets, plans, strict=True):
            with progress("check") as bar:
                found.append(survey(dataset, robot, settings, look_at_frames=dry_run, progress=bar))
        if dry_run:
            _show(found, datasets, json_output=json_output)
            return
        committed = 0
        for dataset, settings, item in zip(datasets, plans, found, strict=True):
            if not item.accepted and any(other.accepted for other in found):
                continue
            with progress("import") as bar:
                result = import_dataset(directory, dataset, item, settings, progress=bar)
            committed += len(result.committed)
            if result.quarantined:
                shown = lwd_command("data", "quarantine", "--run", run)
                raise EpisodeRejected(f"{len(result.quarantined)} episodes were refused: {shown}")
    left = sum(len(item.planned) - len(item.accepted) for item in found)
    note = f"; {left} were left out (--dry-run says why)" if left else ""
    console.print(f"{committed} episodes committed, {_labels(found)}{note}", soft_wrap=True)
    if directory.embodiment_path.exists():
        console.print(f"robot: {directory.embodiment_path}", soft_wrap=True)
    next_step(lwd_command("sft", "--run", run))


def _names(wanted: list[str]) -> list[str]:
    """Return ids that no two datasets share."""
    plain = [re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip("-._") or "dataset" for name in wanted]
    return [
        f"{name}-{plain[:place].count(name) + 1}" if name in plain[:place] else name for place, name in enumerate(plain)
    ]


def _show(found: Sequence[Survey], datasets: "Sequence[LeRobotSource]", *, json_output: bool) -> None:
    robot, planned = found[0].embodiment, [item for part in found for item in part.planned]
    outside = outside_limits(planned, robot)
    left_out = {feature: reason for dataset in datasets for feature, reason in dataset.layout.left_out.items()}
    rows = [
        {
            "episode": item.info.episode_id,
            "task": item.info.task,
            "frames": item.recording.frames,
            "steps": item.steps,
            "human": _human_steps(item.recording.human_N),
            "source": item.info.source.value,
            "outcome": item.info.outcome.value,
            "problems": list(item.problems),
            "notes": list(item.recording.notes),
        }
        for item in planned
    ]
    if json_output:
        print_json({"episodes": rows, "left_out": left_out, "outside_limits": [asdict(column) for column in outside]})
        return
    print_table(
        ["episode", "task", "frames", "steps", "human", "source", "outcome", "what is wrong"],
        [
            (*list(row.values())[:7], "; ".join([*item.problems, *item.recording.notes]) or "-")
            for row, item in zip(rows, planned, strict=True)
        ],
        numbers=["frames", "steps", "human"],
    )
    _show_robot(robot, datasets)
    for feature, reason in left_out.items():
        console.print(f"left out: {feature}: {reason}", soft_wrap=True)
    for column in outside:
        values = ", ".join(f"{value:g}" for value in column.values)
        console.print(
            f"outside the limits: action {column.column} is {values} (limits {column.low:g} to {column.high:g}) in "
            f"{column.frames} frames of {', '.join(column.episodes)}",
            soft_wrap=True,
        )
    if outside:
        console.print(
            "where the robot may do that: --limits FILE, or --widen-limits in a run that has data and no policies"
        )
    accepted = [item for part in found for item in part.accepted]
    steps = sum(item.steps for item in accepted)
    console.print(f"{len(accepted)} of {len(planned)} episodes would come in, {steps} steps, {_labels(found)}")


def _show_robot(robot: Embodiment, datasets: "Sequence[LeRobotSource]") -> None:
    tokens = ", ".join(f"{token.name} ({', '.join(token.names) or token.size})" for token in robot.state_tokens)
    cameras = ", ".join(f"{camera} {height}x{width}" for camera, (height, width) in robot.cameras.items()) or "none"
    rates = sorted({dataset.layout.fps for dataset in datasets})
    who = sorted({dataset.layout.controller or "not recorded" for dataset in datasets})
    console.print(
        f"robot {robot.name}: {robot.control_hz:g} Hz (recorded at {', '.join(f'{rate:g}' for rate in rates)} Hz); "
        f"state {tokens}",
        soft_wrap=True,
    )
    names = robot.action_names or [str(column) for column in range(robot.action_size)]
    limits = zip(names, robot.action_low, robot.action_high, strict=True)
    console.print(
        f"action {robot.action_size}; cameras {cameras}; who acted: {', '.join(who)}; limits "
        + ", ".join(f"{name} [{low:g}, {high:g}]" for name, low, high in limits),
        soft_wrap=True,
        markup=False,
    )


def _human_steps(human_N: object) -> str:
    return "?" if human_N is None else str(int((human_N == Controller.HUMAN).sum()))  # type: ignore[attr-defined]


def _labels(found: Sequence[Survey]) -> str:
    counts = Counter(item.info.outcome for part in found for item in part.accepted)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]) or "none"
