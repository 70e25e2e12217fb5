"""Where a recording paused: between two of its frames nobody's action explains what changed.

Shape suffixes: N recorded frames, S state entries. `gap_N[k]` says that frame k + 1 does not follow from frame k.
"""

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from lwd.data.steps import BoolArray
from lwd.types import ByteArray, Controller, FloatArray

if TYPE_CHECKING:
    from lwd.data.lerobot.recording import Recording

LATE_PERIODS = 1.5
"""Frames further apart than so many periods are not contiguous."""
LARGEST_STEPS = 3.0
"""A state entry that changes by more than so many of its largest changes elsewhere has jumped."""
_LEAST_FRAMES = 10
"""Fewer contiguous frames do not tell how far an entry moves in one of them."""


def with_pauses(recording: "Recording", fps: float) -> "Recording":
    """Return the recording with its gaps, and a note that says how many; those that our exporter left stay as they are.

    Args:
        fps: of the dataset.
    """
    if recording.gap_N is not None:
        return recording
    late_N = late_frames(recording.times_s_N, fps, recording.frames)
    jumped_N = jumps_at_interventions(recording.states_NS, recording.human_N)
    notes = [
        f"gaps: {int(found_N.sum())} {kind}, the first after frame {int(np.argmax(found_N))}; no transition crosses one"
        for kind, found_N in (("in time", late_N), ("by a jump of state where a person took over or let go", jumped_N))
        if found_N.any()
    ]
    return replace(recording, gap_N=late_N | jumped_N, notes=(*recording.notes, *notes))


def late_frames(times_s_N: npt.NDArray[np.float64] | None, fps: float, frames: int) -> BoolArray:
    """Return after which frames (N,) the next one came more than `LATE_PERIODS` later; times are in seconds."""
    late_N = np.zeros(frames, dtype=np.bool_)
    if times_s_N is not None:
        late_N[:-1] = np.diff(times_s_N) > LATE_PERIODS / fps
    return late_N


def jumps_at_interventions(states_NS: FloatArray, human_N: ByteArray | None) -> BoolArray:
    """Return after which frames (N,) a person took or gave back the robot, and its state jumped.

    Changes elsewhere in the episode say how far an entry moves in one frame. An entry that moves nowhere else has no
    such measure, and does not count: a gripper may close once, and at that moment.
    """
    jumped_N = np.zeros(len(states_NS), dtype=np.bool_)
    if human_N is None:
        return jumped_N
    edge_M = human_N[1:] != human_N[:-1]
    with np.errstate(invalid="ignore"):  # not finite: a problem of its own
        change_MS = np.abs(np.diff(states_NS.astype(np.float64), axis=0))
    if edge_M.any() and (~edge_M).sum() >= _LEAST_FRAMES:
        largest_S = change_MS[~edge_M].max(axis=0)
        jumped_N[:-1] = edge_M & ((change_MS > LARGEST_STEPS * largest_S) & (largest_S > 0)).any(axis=1)
    return jumped_N


def exported_gaps(controller_N: npt.ArrayLike) -> BoolArray:
    """Return the gaps (N,) that our exporter left in its column `controller`."""
    gap_N: BoolArray = np.equal(np.asarray(controller_N).reshape(-1), int(Controller.NOBODY))
    return gap_N
