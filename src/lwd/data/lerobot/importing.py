"""From a LeRobotDataset to episodes: which come in, which do not and why."""

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from PIL import Image

from lwd.data.episode_file import check_size
from lwd.data.lerobot.content import content_id, numbers_digest
from lwd.data.lerobot.layout import Camera, DatasetLayout, mismatches, stride_for
from lwd.data.lerobot.pauses import with_pauses
from lwd.data.lerobot.recording import Recording, Steps, control_steps, controllers, problems
from lwd.data.validation import EpisodeLimits, check_frame_count, validate_numbers
from lwd.errors import ConfigError, EpisodeRejected
from lwd.pictures import fitted
from lwd.types import ByteArray, Controller, Embodiment, Episode, EpisodeInfo, Outcome, Source

if TYPE_CHECKING:
    from lwd.data.lerobot.source import LeRobotSource

EMBODIMENT_FILE = "meta/lwd_embodiment.json"
"""Where our exporter leaves what the robot is, below the dataset's directory."""
FrameFormat = Literal["jpeg", "png"]
WORLD = "recorded"
"""World of imported episodes: a real one, or one that we do not know."""
_JPEG_QUALITY = 95


@dataclass(frozen=True, kw_only=True)
class ImportSettings:
    """How the recordings of a dataset become episodes."""

    name: str
    """The robot's id in our store, and the beginning of the episodes' ids."""
    named: bool = False
    """The name was asked for: what the store has of other robots is not looked at."""
    labels: Mapping[int, Outcome] | None = None
    """Outcome by episode index, from a file; what it does not name is unlabelled. None: from a column, if any."""
    all_success: bool = False
    source: Source = Source.DEMONSTRATION
    """Of successful episodes: demonstrations are worth imitating, roll-outs are not."""
    imitate_unlabelled: bool = False
    """Store unlabelled episodes as demonstrations: they are imitated, and no critic learns from them."""
    control_hz: float | None = None
    """None: the dataset's rate."""
    frames: FrameFormat = "jpeg"

    def __post_init__(self) -> None:
        if self.source not in (Source.DEMONSTRATION, Source.ROLLOUT):
            raise ConfigError(f"source is {self.source}; recordings are demonstration or rollout")
        if self.all_success and self.labels is not None:
            raise ConfigError("labels are given, and all episodes are said to be successes: choose one")


@dataclass(frozen=True, kw_only=True)
class Planned:
    """One recording and what will become of it."""

    recording: Recording
    info: EpisodeInfo
    steps: int
    problems: tuple[str, ...]
    """What keeps it out."""
    numbers: str
    """Digest of its numbers and its task string (`numbers_digest`)."""
    human_steps: int = 0
    there: str | None = None
    """Identity (ROBOT/ID) under which it is already in the store, or comes in with this import."""
    conflict: bool = False
    """Its only problem: it is already in the store, but other things were said of it."""


def plan(
    recording: Recording, layout: DatasetLayout, embodiment: Embodiment, settings: ImportSettings, *, task: str
) -> Planned:
    """Decide what becomes of one recording.

    Args:
        task: name of its task (`lwd.data.lerobot.task_names`).
    """
    stride = stride_for(layout.fps, settings.control_hz)
    recording = with_pauses(recording, layout.fps)
    if settings.all_success:
        recording = replace(recording, outcome=Outcome.SUCCESS)
    elif settings.labels is not None:
        recording = replace(recording, outcome=settings.labels.get(recording.index, Outcome.UNLABELLED))
    found = [*mismatches(layout, embodiment, layout.fps / stride), *problems(recording, embodiment, stride)]
    steps = control_steps(recording, stride)
    numbers = numbers_digest(steps.states_TS, steps.actions_TA, recording.instruction or "-")
    info = _info(recording, embodiment, settings, numbers, task, found)
    episode = _without_frames(info, steps, settings)
    if not found:
        try:
            validate_numbers(episode, EpisodeLimits(embodiment=embodiment))
            check_frame_count((episode.steps + 1) * len(layout.cameras))
        except EpisodeRejected as error:
            found.append(str(error))
    return Planned(
        recording=recording,
        info=info,
        steps=episode.steps,
        problems=tuple(found),
        numbers=numbers,
        human_steps=int((episode.controllers_T == Controller.HUMAN).sum()),
    )


def with_frames_judged(
    planned: Planned, source: "LeRobotSource", embodiment: Embodiment, settings: ImportSettings
) -> Planned:
    """Return the plan with a problem more if its frames cannot be decoded, or are more than an episode may hold.

    The first and the last frame of each camera are looked at; all of them, where those two let expect more than half of
    what an episode may have.
    """
    steps = control_steps(planned.recording, stride_for(source.layout.fps, settings.control_hz))
    episode, expected = _without_frames(planned.info, steps, settings), 0.0
    try:
        for camera in source.layout.cameras:
            looked = [
                len(frame)
                for number in sorted({steps.frame_of_T[0], steps.frame_of_T[-1]})
                for frame in _stored_frames(source, planned.recording.index, camera, (number,), embodiment, settings)
            ]
            expected += sum(looked) / len(looked) * len(steps.frame_of_T)
        try:
            check_size(episode, int(2 * expected))
        except EpisodeRejected:
            check_size(episode, _bytes_of_frames(planned, steps, source, embodiment, settings))
    except (ConfigError, EpisodeRejected) as error:
        return replace(planned, problems=(*planned.problems, str(error)))
    return planned


def episode_of(planned: Planned, source: "LeRobotSource", embodiment: Embodiment, settings: ImportSettings) -> Episode:
    """Read the frames of a planned episode and build it.

    Raises:
        ConfigError: if a frame cannot be decoded.
        EpisodeRejected: if it is larger than an episode may be.
    """
    steps = control_steps(planned.recording, stride_for(source.layout.fps, settings.control_hz))
    episode = replace(
        _without_frames(planned.info, steps, settings),
        images={
            camera.name: tuple(
                _stored_frames(source, planned.recording.index, camera, steps.frame_of_T, embodiment, settings)
            )
            for camera in source.layout.cameras
        },
    )
    check_size(episode, sum(len(frame) for frames in episode.images.values() for frame in frames))
    return episode


def _without_frames(info: EpisodeInfo, steps: Steps, settings: ImportSettings) -> Episode:
    return Episode(
        info=info,
        states_TS=steps.states_TS,
        actions_TA=steps.actions_TA,
        controllers_T=controllers(
            steps.human_T,
            len(steps.actions_TA),
            people_recorded=settings.source is Source.DEMONSTRATION,
            gap_T=steps.gap_T,
        ),
        images={},
    )


def _stored_frames(
    source: "LeRobotSource",
    index: int,
    camera: Camera,
    wanted: Sequence[int],
    embodiment: Embodiment,
    settings: ImportSettings,
) -> Iterator[bytes]:
    height, width = embodiment.cameras[camera.name]
    for frame in source.frames(index, camera, wanted):
        yield encoded(fitted(frame, (height, width)), settings.frames)


def _bytes_of_frames(
    planned: Planned, steps: Steps, source: "LeRobotSource", embodiment: Embodiment, settings: ImportSettings
) -> int:
    return sum(
        len(frame)
        for camera in source.layout.cameras
        for frame in _stored_frames(source, planned.recording.index, camera, steps.frame_of_T, embodiment, settings)
    )


def encoded(frame: ByteArray, kind: FrameFormat) -> bytes:
    """Encode a frame: PNG without loss, JPEG about a tenth as large."""
    sink = io.BytesIO()
    picture = Image.fromarray(frame)
    if kind == "png":
        picture.save(sink, format="PNG")
    else:
        picture.save(sink, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    return sink.getvalue()


def description_of(info: EpisodeInfo) -> str:
    """Return an episode's description for a dataset's column, as JSON."""
    return json.dumps(asdict(info), sort_keys=True)


def _info(
    recording: Recording, embodiment: Embodiment, settings: ImportSettings, numbers: str, task: str, found: list[str]
) -> EpisodeInfo:
    if recording.description and settings.labels is None and not settings.all_success:
        try:
            described = _described(recording, embodiment)
        except (ValueError, TypeError, KeyError) as error:
            found.append(f"the description that lwd left is damaged ({str(error)[:100]})")
        else:
            if described.control_hz == embodiment.control_hz:
                return described
    instruction = recording.instruction or "-"
    return EpisodeInfo(
        # From the content, not from the place in the dataset: that changes when another episode is deleted.
        episode_id=content_id(settings.name, numbers, recording.pictures),
        robot_id=settings.name,
        embodiment=embodiment.name,
        task=task,
        instruction=instruction,
        source=_source(recording.outcome, settings),
        outcome=recording.outcome,
        policy_version=-1,
        sub_step_scores=(),
        control_hz=embodiment.control_hz,
        seed=int(numbers[:15], 16),
        world=WORLD,
        # Datasets do not tell; the time of the import would make every import another one.
        started_at_s=0.0,
        software_version="lerobot",
    )


def _described(recording: Recording, embodiment: Embodiment) -> EpisodeInfo:
    """Return the description that our exporter left; a label column overrules its outcome."""
    fields = json.loads(recording.description)
    # JSON has lists for tuples; descriptions of earlier versions lack what came later.
    fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    fields["source"], fields["outcome"] = Source(fields["source"]), Outcome(fields["outcome"])
    info = EpisodeInfo(**fields)
    if recording.outcome is not Outcome.UNLABELLED:
        info = replace(info, outcome=recording.outcome)
    # LeRobot's tools can change the task string, and a renamed embodiment is the user's wish.
    return replace(info, instruction=recording.instruction, embodiment=embodiment.name)


def _source(outcome: Outcome, settings: ImportSettings) -> Source:
    if outcome is Outcome.SUCCESS or (outcome is Outcome.UNLABELLED and settings.imitate_unlabelled):
        return settings.source if outcome is Outcome.SUCCESS else Source.DEMONSTRATION
    return Source.ROLLOUT
