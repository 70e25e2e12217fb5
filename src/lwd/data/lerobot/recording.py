"""One recorded episode of a dataset: what is wrong with it, and the control steps it becomes.

Shape suffixes besides those of `lwd.types`: N recorded frames.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from lwd.data.steps import BoolArray
from lwd.data.validation import ACTION_TOLERANCE
from lwd.types import ByteArray, Controller, Embodiment, FloatArray, Outcome


@dataclass(frozen=True, kw_only=True)
class Recording:
    """The numbers of one episode, as the dataset has them."""

    index: int
    instruction: str
    states_NS: FloatArray
    actions_NA: FloatArray
    human_N: ByteArray | None
    """1 where a human acted; None: not recorded."""
    outcome: Outcome
    times_s_N: npt.NDArray[np.float64] | None = None
    """Timestamps; None: not recorded."""
    gap_N: BoolArray | None = None
    """Where the next frame does not follow (`lwd.data.lerobot.pauses`); None: not looked for."""
    description: str = ""
    """JSON that our own exporter left; empty in other people's datasets."""
    notes: tuple[str, ...] = ()
    """What was noticed when it was read."""
    problems: tuple[str, ...] = ()
    """Why its rows are not one whole episode; then its numbers say nothing."""
    pictures: str = "00000000"
    """Digest of its pictures (`content.pictures_digest`)."""

    @property
    def frames(self) -> int:
        return len(self.actions_NA)


@dataclass(frozen=True, kw_only=True)
class Steps:
    """The control steps of an episode of T steps."""

    frame_of_T: tuple[int, ...]
    """T + 1 recorded frames that the observations are taken from."""
    states_TS: FloatArray
    """(T + 1, S)."""
    actions_TA: FloatArray
    human_T: ByteArray | None
    gap_T: BoolArray | None = None
    """Steps that hold a gap, so that nobody made them."""


def control_steps(recording: Recording, stride: float) -> Steps:
    """Return the steps of a recording, `stride` recorded frames each.

    A dataset has one observation for every action, an episode one more: what the last action led to was not recorded.
    So the last frame gives the last observation, and its action is dropped. With a stride above 1 each observation is
    the recorded frame that is nearest to its time, and the last command before the next one is the step's action, which
    is right for targets (absolute actions); nothing is interpolated. A step is human if one of its frames is.
    """
    observed = frames_at(recording.frames, stride)
    human_T = None
    if recording.human_N is not None and len(observed) > 1:
        human_T = np.maximum.reduceat(recording.human_N[: observed[-1]], observed[:-1])
    gap_T: BoolArray | None = None
    if recording.gap_N is not None and len(observed) > 1:
        gap_T = np.logical_or.reduceat(recording.gap_N[: observed[-1]], observed[:-1])
    return Steps(
        frame_of_T=tuple(observed.tolist()),
        states_TS=recording.states_NS[observed],
        actions_TA=recording.actions_NA[observed[1:] - 1],
        human_T=human_T,
        gap_T=gap_T,
    )


def frames_at(frames: int, stride: float) -> npt.NDArray[np.int64]:
    """Return the recorded frames that are nearest to the control steps; the later one of two that are as near."""
    times = np.arange(int(frames / stride) + 2) * stride
    nearest: npt.NDArray[np.int64] = np.floor(times + 0.5).astype(np.int64)
    within: npt.NDArray[np.int64] = nearest[nearest < frames]
    return within


def problems(recording: Recording, embodiment: Embodiment, stride: float) -> list[str]:
    """Return in words what keeps an episode out; nothing if it can come in."""
    if recording.problems:
        return list(recording.problems)
    if len(frames_at(recording.frames, stride)) < 2:
        return [f"{recording.frames} frames are no step at this rate"]
    gap_T = control_steps(recording, stride).gap_T
    if gap_T is not None and gap_T.all():
        return ["no two of its frames follow each other in time"]
    found = []
    for name, values in (("state", recording.states_NS), ("action", recording.actions_NA)):
        finite_N = np.isfinite(values).all(axis=1)
        if not finite_N.all():
            found.append(
                f"{name} is not finite in {int((~finite_N).sum())} frames, first in {int(np.argmin(finite_N))}"
            )
    if not found and recording.actions_NA.shape[1] == embodiment.action_size:
        actions_TA = control_steps(recording, stride).actions_TA
        low_A, high_A = np.asarray(embodiment.action_low), np.asarray(embodiment.action_high)
        slack_A = ACTION_TOLERANCE * (high_A - low_A)
        inside_A = ((actions_TA >= low_A - slack_A) & (actions_TA <= high_A + slack_A)).all(axis=0)
        if not inside_A.all():
            column = int(np.argmin(inside_A))
            name = f" ({embodiment.action_names[column]})" if embodiment.action_names else ""
            found.append(
                f"action {column}{name} reaches [{actions_TA[:, column].min():g}, {actions_TA[:, column].max():g}], "
                f"outside the limits [{low_A[column]:g}, {high_A[column]:g}]: where the robot may do that, import all "
                "its datasets at once, or give --limits or --widen-limits"
            )
    if not recording.instruction.strip():
        found.append("it has no task string")
    return found


def controllers(
    human_T: ByteArray | None, steps: int, *, people_recorded: bool, gap_T: BoolArray | None = None
) -> ByteArray:
    """Return who acted, by step; where it is not recorded, people alone or a policy alone. In a gap nobody did.

    Args:
        people_recorded: whether an episode without tags is a human's.
    """
    if human_T is None:
        acted_T = np.full(steps, Controller.HUMAN if people_recorded else Controller.POLICY, np.uint8)
    else:
        acted_T = np.where(human_T > 0, Controller.HUMAN, Controller.POLICY).astype(np.uint8)
    return acted_T if gap_T is None else np.where(gap_T, Controller.NOBODY, acted_T).astype(np.uint8)
