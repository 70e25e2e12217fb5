"""Which episodes may enter the replay: checked once, before an episode is committed.

Every rejection names the field, its value and what to do; the coordinator keeps it beside the episode.
"""

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, UnidentifiedImageError

from lwd.data.episode_file import read_episode
from lwd.errors import EpisodeRejected
from lwd.types import Controller, Embodiment, Episode, Outcome, Source

MAX_STEPS = 1_000_000
MAX_FRAME_BYTES = 16 * 2**20
ACTION_TOLERANCE = 1e-4
"""How far, relative to the range, an executed action may lie outside the limits: rounding to float32."""


@dataclass(frozen=True, kw_only=True)
class EpisodeLimits:
    """What a fleet accepts."""

    embodiment: Embodiment | None = None
    """Checks name, shapes, action limits and cameras; None accepts any (several embodiments in one store)."""
    max_steps: int = MAX_STEPS


def validate_episode(data: bytes | Episode, limits: EpisodeLimits) -> Episode:
    """Return the episode if it may enter the replay.

    Raises:
        EpisodeRejected: naming the first field that is wrong, its value and the remedy.
    """
    episode = read_episode(data) if isinstance(data, bytes) else data
    _check_numbers(episode, limits)
    _check_labels(episode)
    if limits.embodiment is not None:
        _check_embodiment(episode, limits.embodiment)
    return episode


def _check_numbers(episode: Episode, limits: EpisodeLimits) -> None:
    steps = episode.steps
    if not 1 <= steps <= limits.max_steps:
        raise EpisodeRejected(f"steps is {steps}; it must lie in [1, {limits.max_steps}]: split or drop it")
    for name, length, expected in (
        ("states", len(episode.states_TS), steps + 1),
        ("controllers", len(episode.controllers_T), steps),
        *((f"images of {camera}", len(frames), steps + 1) for camera, frames in episode.images.items()),
    ):
        if length != expected:
            raise EpisodeRejected(f"{name} has {length} rows; {steps} actions need {expected}: record it again")
    for name, values in (("states", episode.states_TS), ("actions", episode.actions_TA)):
        finite = np.isfinite(values).all(axis=1)
        if not finite.all():
            raise EpisodeRejected(f"{name} is not finite at step {int(np.argmin(finite))}: check that sensor")
    known = np.isin(episode.controllers_T, [int(controller) for controller in Controller])
    if not known.all():
        step = int(np.argmin(known))
        value = int(episode.controllers_T[step])
        raise EpisodeRejected(f"controllers is {value} at step {step}; known are 0 (policy) and 1 (human)")


def _check_labels(episode: Episode) -> None:
    info = episode.info
    for number, score in enumerate(info.sub_step_scores):
        if not 0 <= score <= 1:
            raise EpisodeRejected(f"sub_step_scores[{number}] is {score}; scores lie in [0, 1]: correct the label")
    if info.source is Source.DEMONSTRATION and info.outcome is not Outcome.SUCCESS:
        raise EpisodeRejected(f"outcome of a demonstration is {info.outcome.value}; store it as source rollout")
    if info.source is Source.PLAY and info.outcome is Outcome.SUCCESS:
        raise EpisodeRejected("outcome of play is success; play explores failures: store it as source rollout")
    if info.source is Source.FLEET and info.policy_version < 0:
        raise EpisodeRejected(f"policy_version is {info.policy_version} in a fleet episode; record which policy acted")


def _check_embodiment(episode: Episode, embodiment: Embodiment) -> None:
    info = episode.info
    if info.embodiment != embodiment.name:
        raise EpisodeRejected(f"embodiment is {info.embodiment!r}, this fleet's is {embodiment.name!r}: use its store")
    for name, width, expected in (
        ("states", episode.states_TS.shape[1], embodiment.state_size),
        ("actions", episode.actions_TA.shape[1], embodiment.action_size),
    ):
        if width != expected:
            raise EpisodeRejected(f"{name} has {width} columns; embodiment {embodiment.name} has {expected}")
    if abs(info.control_hz - embodiment.control_hz) > 1e-6 * embodiment.control_hz:
        raise EpisodeRejected(
            f"control_hz is {info.control_hz}; {embodiment.name} runs at {embodiment.control_hz}: use that"
        )
    low_A, high_A = np.asarray(embodiment.action_low), np.asarray(embodiment.action_high)
    slack_A = ACTION_TOLERANCE * np.maximum(high_A - low_A, 1e-6)
    inside = ((episode.actions_TA >= low_A - slack_A) & (episode.actions_TA <= high_A + slack_A)).all(axis=1)
    if not inside.all():
        step = int(np.argmin(inside))
        raise EpisodeRejected(
            f"actions is {episode.actions_TA[step].tolist()} at step {step}, outside "
            f"[{embodiment.action_low}, {embodiment.action_high}]: record what was executed, after clipping"
        )
    if set(episode.images) != set(embodiment.cameras):
        raise EpisodeRejected(f"cameras are {sorted(episode.images)}; expected {sorted(embodiment.cameras)}")
    for camera, frames in episode.images.items():
        for step, frame in enumerate(frames):
            _check_frame(frame, embodiment.cameras[camera], f"frame {step} of camera {camera}")


def _check_frame(frame: bytes, size: tuple[int, int], name: str) -> None:
    """Check the header only: decoding every frame here would be slower than the robots."""
    if not 1 <= len(frame) <= MAX_FRAME_BYTES:
        raise EpisodeRejected(f"{name} has {len(frame)} bytes; 1 to {MAX_FRAME_BYTES} are allowed")
    try:
        with Image.open(io.BytesIO(frame), formats=("PNG", "JPEG")) as image:
            found = (image.height, image.width)
    except (UnidentifiedImageError, Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise EpisodeRejected(f"{name} is neither PNG nor JPEG ({error}): check the camera") from error
    if found != tuple(size):
        raise EpisodeRejected(f"{name} has (height, width) {found}; the embodiment's is {tuple(size)}")
