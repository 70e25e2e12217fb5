"""Bring the episodes of LeRobot datasets into the run's store: validated and committed like all data.

Several datasets of one robot come in together, with limits that fit all of them. A dry run shows what would come in
and what is wrong with it. How episodes ended is said by a column, a file or for all at once; what none of them says
stays unlabelled: no critic learns from it, and it is imitated only where you ask for it. A dataset has no observation
after its last action, so that action is dropped. Without a file that describes the robot, RUN/embodiment.json is
written from the dataset's features. Datasets of version 2.1 are converted by LeRobot's converter, in a temporary copy.
Episodes are told apart by their content: what the store has already is passed over, whatever place or name it has now.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from lwd.cli.data_options import print_json, print_table
from lwd.cli.options import JsonOption, RunOption, console, next_step, progress, run_at
from lwd.cli.services import NOTED_STORE, StoreOptions
from lwd.commands import lwd_command
from lwd.data.lerobot.content import robot_name
from lwd.data.lerobot.importing import FrameFormat, ImportSettings, Planned
from lwd.data.lerobot.labels import read_labels, require_episodes
from lwd.errors import ConfigError, EpisodeRejected
from lwd.recipes.lerobot_data import Imported, Survey, import_dataset, survey
from lwd.recipes.lerobot_known import KnownRecordings
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
        said = None if labels is None else _labels_of(labels, datasets)
        plans = [
            ImportSettings(
                name=robot_name(name or dataset.name),
                named=name is not None,
                labels=said,
                all_success=all_success,
                source=Source(source),
                imitate_unlabelled=imitate_unlabelled,
                control_hz=control_hz,
                frames=frames,
            )
            for dataset in datasets
        ]
        robot = embodiment_for(
            directory, datasets, plans[0], given=embodiment, image_size=image_size, limits=limits, widen=widen_limits
        )
        found, known = [], KnownRecordings(directory)
        for dataset, settings in zip(datasets, plans, strict=True):
            with progress("check") as bar:
                found.append(survey(dataset, robot, settings, known, progress=bar))
        if dry_run:
            _show(found, datasets, json_output=json_output)
            return
        _require_something(found)
        results = []
        for dataset, settings, item in zip(datasets, plans, found, strict=True):
            with progress("import") as bar:
                results.append(import_dataset(directory, dataset, item, settings, progress=bar))
        if not json_output:
            _show_notes(datasets)
    _report(found, results, json_output=json_output)
    if any(result.quarantined for result in results):
        raise EpisodeRejected(f"the store refused episodes: {lwd_command('data', 'quarantine', '--run', run)}")
    if damaged := sum(len(result.refused) for result in results):
        raise EpisodeRejected(f"{damaged} episodes are damaged and were left out; the others are in the store")
    if json_output:
        return
    if directory.embodiment_path.exists():
        console.print(f"robot: {directory.embodiment_path}", soft_wrap=True)
    next_step(lwd_command("sft", "--run", run))


def _labels_of(path: Path, datasets: "Sequence[LeRobotSource]") -> Mapping[int, Outcome]:
    if len(datasets) > 1:
        raise ConfigError(f"labels {path} are of one dataset's episodes: import the datasets one after the other")
    labels = read_labels(path)
    require_episodes(path, labels, datasets[0].indices)
    return labels


def _require_something(found: Sequence[Survey]) -> None:
    """Refuse an import that brings nothing, or passes over what was said of an episode, before anything is written."""
    refused = [item for part in found for item in part.refused]
    if conflicts := [item for item in refused if item.conflict]:
        raise ConfigError("; ".join(conflicts[0].problems))
    if not any(part.accepted or part.there for part in found):
        first = f" (episode {refused[0].recording.index}: {refused[0].problems[0]})" if refused else ""
        raise ConfigError(f"no episode can come in{first}: --dry-run says why for each")


def _report(found: Sequence[Survey], results: Sequence[Imported], *, json_output: bool) -> None:
    damaged = {item.info.identity: reason for result in results for item, reason in result.refused}
    refused = [(item, item.problems) for part in found for item in part.refused]
    refused += [
        (item, (damaged[item.info.identity],))
        for part in found
        for item in part.accepted
        if item.info.identity in damaged
    ]
    there = [item for part in found for item in part.there]
    committed = [entry for result in results for entry in result.committed]
    if json_output:
        print_json(
            {
                "committed": [entry.identity for entry in committed],
                "already_there": [
                    {"episode": item.info.episode_id, "index": item.recording.index, "stored_as": item.there}
                    for item in there
                ],
                "refused": [
                    {"episode": item.info.episode_id, "index": item.recording.index, "problems": list(problems)}
                    for item, problems in refused
                ],
            }
        )
        return
    for item, problems in refused:
        console.print(
            f"left out: episode {item.recording.index} ({item.info.robot_id}): {'; '.join(problems)}",
            soft_wrap=True,
            markup=False,
        )
    new = [entry.outcome for entry in committed]
    notes = [f"{len(there)} already there"] * bool(there)
    notes += [f"{len(refused)} were left out (--dry-run --json lists them)"] * bool(refused)
    console.print("; ".join([f"{len(committed)} episodes committed, {_counts(new)}", *notes]), soft_wrap=True)


def _show(found: Sequence[Survey], datasets: "Sequence[LeRobotSource]", *, json_output: bool) -> None:
    robot, planned = found[0].embodiment, [item for part in found for item in part.planned]
    outside = outside_limits(planned, robot)
    left_out = {feature: reason for dataset in datasets for feature, reason in dataset.layout.left_out.items()}
    rows = [
        {
            "episode": item.info.episode_id,
            "index": item.recording.index,
            "task": item.info.task,
            "frames": item.recording.frames,
            "steps": item.steps,
            "human": _human_steps(item.recording.human_N),
            "source": item.info.source.value,
            "outcome": item.info.outcome.value,
            "problems": list(item.problems),
            "already_there": item.there,
            "notes": list(item.recording.notes),
        }
        for item in planned
    ]
    if json_output:
        print_json(
            {
                "episodes": rows,
                "left_out": left_out,
                "outside_limits": [asdict(column) for column in outside],
                "notes": [note for dataset in datasets for note in dataset.notes],
            }
        )
        return
    print_table(
        ["episode", "index", "task", "frames", "steps", "human", "source", "outcome", "what is wrong"],
        [(*list(row.values())[:8], "; ".join(_remarks(item)) or "-") for row, item in zip(rows, planned, strict=True)],
        numbers=["index", "frames", "steps", "human"],
    )
    _show_robot(robot, datasets)
    _show_notes(datasets)
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
    steps, there = sum(item.steps for item in accepted), sum(len(part.there) for part in found)
    console.print(
        f"{len(accepted)} of {len(planned)} episodes would come in, {steps} steps, "
        + _counts([item.info.outcome for item in accepted])
        + (f"; {there} already there" if there else "")
    )


def _remarks(item: Planned) -> list[str]:
    there = [] if item.there is None else [f"already there as {item.there}"]
    return [*item.problems, *there, *item.recording.notes]


def _show_notes(datasets: "Sequence[LeRobotSource]") -> None:
    for dataset in datasets:
        for note in dataset.notes:
            console.print(f"noted: {note}", soft_wrap=True)


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


def _counts(outcomes: Sequence[Outcome]) -> str:
    counts = Counter(outcomes)
    return ", ".join(f"{counts[outcome]} {outcome}" for outcome in Outcome if counts[outcome]) or "none"
