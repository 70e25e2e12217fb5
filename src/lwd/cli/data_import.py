"""Bring the episodes of a LeRobot dataset into the run's store: validated and committed like all data.

A dry run shows what would come in and what is wrong with it. How episodes ended is said by a column, a file or for all
at once; what none of them says stays unlabelled: no critic learns from it, and it is imitated only where you ask for
it. A dataset has no observation after its last action, so that action is dropped. Without a file that describes the
robot, RUN/embodiment.json is written from the dataset's features. Datasets of version 2.1 are converted by LeRobot's
converter, in a temporary copy. Repeating the command commits nothing twice.
"""

import re
from collections import Counter
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
from lwd.recipes.lerobot_data import Survey, embodiment_for, import_dataset, survey
from lwd.types import Controller, Outcome, Source

if TYPE_CHECKING:
    from lwd.data.lerobot.source import LeRobotSource


def run(
    lerobot: Annotated[str, tyro.conf.arg(metavar="DIR|ID", help="directory of a dataset, or its id on the hub")],
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
        tyro.conf.arg(metavar="[NAME ...]", help="features that make up the state; none: all vectors of observation.*"),
    ] = (),
    embodiment: Annotated[
        Path | None,
        tyro.conf.arg(metavar="FILE.json", help="what the robot is; None: the run's, or written from the features"),
    ] = None,
    control_hz: Annotated[
        float | None,
        tyro.conf.arg(
            metavar="HZ",
            help="control rate of the episodes, the dataset's divided by a whole number (actions must be targets, not "
            "differences); None: the dataset's",
        ),
    ] = None,
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
    with LeRobotSource(lerobot, state=state, controller=intervention_column, label=label_column) as dataset:
        settings = ImportSettings(
            name=name or re.sub(r"[^A-Za-z0-9._-]+", "-", dataset.name).strip("-._") or "dataset",
            labels=None if labels is None else read_labels(labels),
            all_success=all_success,
            source=Source(source),
            imitate_unlabelled=imitate_unlabelled,
            control_hz=control_hz,
            frames=frames,
        )
        robot = embodiment_for(directory, dataset, settings, given=embodiment, image_size=image_size)
        with progress("check") as bar:
            found = survey(dataset, robot, settings, look_at_frames=dry_run, progress=bar)
        if dry_run:
            _show(found, dataset, json_output=json_output)
            return
        with progress("import") as bar:
            result = import_dataset(directory, dataset, found, settings, progress=bar)
        if result.quarantined:
            shown = lwd_command("data", "quarantine", "--run", run)
            raise EpisodeRejected(f"{len(result.quarantined)} episodes were refused: {shown}")
    left = len(found.planned) - len(found.accepted)
    note = f"; {left} were left out (--dry-run says why)" if left else ""
    console.print(f"{len(result.committed)} episodes committed, {_labels(found)}{note}", soft_wrap=True)
    if directory.embodiment_path.exists():
        console.print(f"robot: {directory.embodiment_path}", soft_wrap=True)
    next_step(lwd_command("sft", "--run", run))


def _show(found: Survey, dataset: "LeRobotSource", *, json_output: bool) -> None:
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
        for item in found.planned
    ]
    if json_output:
        print_json({"episodes": rows, "left_out": dict(dataset.layout.left_out)})
        return
    print_table(
        ["episode", "task", "frames", "steps", "human", "source", "outcome", "what is wrong"],
        [
            (*list(row.values())[:7], "; ".join([*item.problems, *item.recording.notes]) or "-")
            for row, item in zip(rows, found.planned, strict=True)
        ],
        numbers=["frames", "steps", "human"],
    )
    robot, layout = found.embodiment, dataset.layout
    tokens = ", ".join(f"{token.name} ({token.size})" for token in robot.state_tokens)
    cameras = ", ".join(f"{camera} {height}x{width}" for camera, (height, width) in robot.cameras.items()) or "none"
    console.print(f"robot {robot.name}: {robot.control_hz:g} Hz (recorded at {layout.fps:g} Hz); state {tokens}")
    console.print(f"action {robot.action_size}; cameras {cameras}; who acted: {layout.controller or 'not recorded'}")
    for feature, reason in layout.left_out.items():
        console.print(f"left out: {feature}: {reason}")
    steps = sum(item.steps for item in found.accepted)
    console.print(
        f"{len(found.accepted)} of {len(found.planned)} episodes would come in, {steps} steps, {_labels(found)}"
    )


def _human_steps(human_N: object) -> str:
    return "?" if human_N is None else str(int((human_N == Controller.HUMAN).sum()))  # type: ignore[attr-defined]


def _labels(found: Survey) -> str:
    counts = Counter(item.info.outcome for item in found.accepted)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]) or "none"
