"""Which episodes may enter the replay: checked once, before an episode is committed.

Every rejection names the field, its value and what to do; the coordinator keeps it beside the episode.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from lwd.data.episode_file import MAX_STEPS, check_storable, read_episode
from lwd.data.frames import decode_frame, frame_size
from lwd.errors import ConfigError, EpisodeRejected, EpisodeUnjudged
from lwd.types import Controller, Embodiment, Episode, Outcome, Source

MAX_FRAMES = 2**17
"""Frames of all cameras together: more than an hour of one camera at 30 Hz."""
MAX_DECODED_PIXELS = 2**25
"""Pixels of one episode that are decoded to prove that its frames can be: half a second's work, two seconds at the
worst. All frames of an episode that has fewer; of a longer one as many as that, evenly spread. The structure of every
frame is checked."""
_FRAME_OVERHEAD_PIXELS = 4096
"""What it costs to open a frame, in pixels that could be decoded meanwhile."""
MAX_MAGNITUDE = 1e6
"""Larger numbers are no measurement in any unit we know, and their squares overflow in training."""
ACTION_TOLERANCE = 1e-4
"""How far, relative to the range, an executed action may lie outside the limits: rounding to float32."""


@dataclass(frozen=True, kw_only=True)
class EpisodeLimits:
    """What a fleet accepts."""

    embodiment: Embodiment | None = None
    """Checks name, shapes, action limits and cameras; None accepts any (several embodiments in one store)."""
    max_steps: int = MAX_STEPS
    """Of any episode: offline data may be one long recording."""
    max_fleet_steps: int = MAX_STEPS
    """Of a fleet episode whose task's time limit is not known."""
    time_limits: Mapping[str, int] | None = None
    """Task name -> control steps after which its fleet episodes end; a task that is not named is refused.
    None: tasks are not known."""

    def __post_init__(self) -> None:
        for name in ("max_steps", "max_fleet_steps"):
            if getattr(self, name) < 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; an episode has at least one step: give 1 or more")


def validate_episode(data: bytes | Episode, limits: EpisodeLimits) -> Episode:
    """Return the episode if it may enter the replay.

    Raises:
        EpisodeRejected: naming the first field that is wrong, its value and the remedy.
    """
    try:
        episode = read_episode(data, max_steps=limits.max_steps) if isinstance(data, bytes) else data
        validate_numbers(episode, limits)
        _check_frames(episode, limits.embodiment)
    except EpisodeRejected:
        raise
    except Exception as error:
        # One file must never stop the service, whatever it found in us or in a library.
        raise EpisodeUnjudged(
            f"file could not be validated ({type(error).__name__}: {error}); keep it and report a bug"
        ) from error
    return episode


def validate_numbers(episode: Episode, limits: EpisodeLimits) -> None:
    """Check all that is known of an episode before its frames are: an import's dry run asks nothing else.

    Raises:
        EpisodeRejected: naming the first field that is wrong, its value and the remedy.
    """
    check_storable(episode)
    _check_numbers(episode, limits)
    _check_task(episode, limits)
    _check_labels(episode)
    if limits.embodiment is not None:
        _check_embodiment(episode, limits.embodiment)


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
        small = (np.abs(values) <= MAX_MAGNITUDE).all(axis=1)
        if not small.all():
            step = int(np.argmin(small))
            largest = float(np.abs(values[step]).max())
            raise EpisodeRejected(f"{name} reaches {largest:g} at step {step}, beyond {MAX_MAGNITUDE:g}: check units")
    known = np.isin(episode.controllers_T, [int(controller) for controller in Controller])
    if not known.all():
        step = int(np.argmin(known))
        value = int(episode.controllers_T[step])
        raise EpisodeRejected(
            f"controllers is {value} at step {step}; known are 0 (policy), 1 (human) and 2 (nobody: a gap)"
        )
    if not episode.acted_steps:
        raise EpisodeRejected("controllers is 2 (nobody) at every step; an episode has at least one step made: drop it")


def _check_task(episode: Episode, limits: EpisodeLimits) -> None:
    """A robot ends its episodes at their task's limit: whoever sends longer ones uses up what all have together."""
    if episode.info.source is not Source.FLEET:
        return
    task, limit, says = episode.info.task, limits.max_fleet_steps, "max_fleet_steps"
    if limits.time_limits is not None:
        if task not in limits.time_limits:
            known = ", ".join(sorted(limits.time_limits))
            raise EpisodeRejected(f"task is {task!r} in a fleet episode; the run's are {known}: give the robot one")
        limit, says = limits.time_limits[task], f"the time limit of task {task!r}"
    if episode.acted_steps > limit:
        raise EpisodeRejected(
            f"steps is {episode.acted_steps} in a fleet episode; {says} is {limit}: correct the robot"
        )
    # Otherwise gaps would be a way around the limit.
    beside = np.convolve(
        np.pad(episode.controllers_T == Controller.NOBODY, 1, constant_values=True), [1, 1, 1], "valid"
    )
    alone = (beside == 1) | (episode.controllers_T != Controller.NOBODY)
    if not alone.all():
        raise EpisodeRejected(
            f"controllers is 2 at step {int(np.argmin(alone))} in a fleet episode; a gap lies between two steps that "
            "were made: correct the robot"
        )


def _check_labels(episode: Episode) -> None:
    info = episode.info
    for number, score in enumerate(info.sub_step_scores):
        if not 0 <= score <= 1:
            raise EpisodeRejected(f"sub_step_scores[{number}] is {score}; scores lie in [0, 1]: correct the label")
    if len(info.operator_ids) != len(info.operator_steps):
        raise EpisodeRejected(
            f"operator_ids names {len(info.operator_ids)} operators, operator_steps {len(info.operator_steps)} steps: "
            "give one step for each"
        )
    for before, step in zip((-1, *info.operator_steps), info.operator_steps, strict=False):
        if not before < step < episode.steps or episode.controllers_T[step] != Controller.HUMAN:
            raise EpisodeRejected(f"operator_steps holds {step}; they increase, and each is a human step: correct it")
    if info.source is Source.FLEET and info.outcome is Outcome.UNLABELLED:
        raise EpisodeRejected("outcome of a fleet episode is unlabelled; a robot that does not know it says truncated")
    if info.source is Source.DEMONSTRATION and info.outcome not in (Outcome.SUCCESS, Outcome.UNLABELLED):
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


def check_frame_count(count: int) -> None:
    """Check the number of frames, all cameras together.

    Raises:
        EpisodeRejected: if they are more than an episode may have.
    """
    if count > MAX_FRAMES:
        raise EpisodeRejected(f"images are {count} frames, more than {MAX_FRAMES}: split the episode")


def _check_frames(episode: Episode, embodiment: Embodiment | None) -> None:
    """Check every frame's structure, then decode them, or as many as the budget allows.

    Args:
        embodiment: has the cameras and their sizes; None: a camera's frames have the size of its first one.
    """
    sizes = {} if embodiment is None else embodiment.cameras
    if embodiment is not None and set(episode.images) != set(sizes):
        raise EpisodeRejected(f"cameras are {sorted(episode.images)}; expected {sorted(sizes)}")
    check_frame_count(sum(len(frames) for frames in episode.images.values()))
    cost = 0
    for camera, frames in episode.images.items():
        size = sizes.get(camera)
        for step, frame in enumerate(frames):
            name = f"frame {step} of camera {camera}"
            if not frame:
                raise EpisodeRejected(f"{name} has 0 bytes: check the camera")
            try:
                found = frame_size(frame)
            except ValueError as error:
                raise EpisodeRejected(f"{name} cannot be used: {error}; check the camera") from error
            if found != tuple(size or found):
                raise EpisodeRejected(f"{name} has (height, width) {found}; expected {size}")
            size = found
            cost += found[0] * found[1] + _FRAME_OVERHEAD_PIXELS
    stride = -(-cost // MAX_DECODED_PIXELS)
    for camera, frames in episode.images.items():
        decoded: set[bytes] = set()
        for step in range(0, len(frames), stride):
            if frames[step] in decoded:  # a camera that sees nothing move
                continue
            try:
                decode_frame(frames[step])
            except ValueError as error:
                raise EpisodeRejected(f"frame {step} of camera {camera} cannot be decoded: {error}") from error
            decoded.add(frames[step])
