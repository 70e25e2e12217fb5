"""From a LeRobotDataset to episodes: which come in, which do not and why."""

import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from lwd.data.lerobot.layout import Camera, DatasetLayout, mismatches, stride_for
from lwd.data.lerobot.pauses import with_pauses
from lwd.data.lerobot.recording import Recording, control_steps, controllers, problems, task_name
from lwd.errors import ConfigError
from lwd.types import ByteArray, Embodiment, Episode, EpisodeInfo, Outcome, Source

if TYPE_CHECKING:
    from lwd.data.lerobot.source import LeRobotSource

DESCRIPTION = "lwd.episode"
"""Column in which our exporter leaves an episode's description, in its first frame."""
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
    """What keeps it out; empty: it comes in."""


def plan(recording: Recording, layout: DatasetLayout, embodiment: Embodiment, settings: ImportSettings) -> Planned:
    """Decide what becomes of one recording."""
    stride = stride_for(layout.fps, settings.control_hz)
    recording = with_pauses(recording, layout.fps)
    if settings.all_success:
        recording = replace(recording, outcome=Outcome.SUCCESS)
    elif settings.labels is not None:
        recording = replace(recording, outcome=settings.labels.get(recording.index, Outcome.UNLABELLED))
    found = [*mismatches(layout, embodiment, layout.fps / stride), *problems(recording, embodiment, stride)]
    info = _info(recording, embodiment, settings, found)
    return Planned(
        recording=recording,
        info=info,
        steps=max(0, -(-recording.frames // stride) - 1),
        problems=tuple(found),
    )


def episode_of(planned: Planned, source: "LeRobotSource", embodiment: Embodiment, settings: ImportSettings) -> Episode:
    """Read the frames of a planned episode and build it."""
    steps = control_steps(planned.recording, stride_for(source.layout.fps, settings.control_hz))

    def frames(camera: Camera) -> Iterator[bytes]:
        height, width = embodiment.cameras[camera.name]
        for frame in source.frames(planned.recording.index, camera, steps.frame_of_T):
            yield encoded(resized(frame, (height, width)), settings.frames)

    return Episode(
        info=planned.info,
        states_TS=steps.states_TS,
        actions_TA=steps.actions_TA,
        controllers_T=controllers(
            steps.human_T,
            len(steps.actions_TA),
            people_recorded=settings.source is Source.DEMONSTRATION,
            gap_T=steps.gap_T,
        ),
        images={camera.name: tuple(frames(camera)) for camera in source.layout.cameras},
    )


def resized(frame: ByteArray, size: tuple[int, int]) -> ByteArray:
    """Return a frame at (height, width); the whole picture is kept, so its sides may change their ratio."""
    if frame.shape[:2] == size:
        return frame
    return np.asarray(Image.fromarray(frame).resize((size[1], size[0]), Image.Resampling.BOX))


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


def _info(recording: Recording, embodiment: Embodiment, settings: ImportSettings, found: list[str]) -> EpisodeInfo:
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
        # The same for every import of a dataset: repeating it commits nothing twice.
        episode_id=f"{settings.name}-{recording.index:06d}",
        robot_id=settings.name,
        embodiment=embodiment.name,
        task=task_name(instruction),
        instruction=instruction,
        source=_source(recording.outcome, settings),
        outcome=recording.outcome,
        policy_version=-1,
        sub_step_scores=(),
        control_hz=embodiment.control_hz,
        seed=recording.index,
        world=WORLD,
        # Datasets do not tell; the time of the import would make every import another one.
        started_at_s=0.0,
        software_version="lerobot",
    )


def _described(recording: Recording, embodiment: Embodiment) -> EpisodeInfo:
    """Return the description that our exporter left; a label column overrules its outcome."""
    fields = json.loads(recording.description)
    fields["sub_step_scores"] = tuple(fields["sub_step_scores"])
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
