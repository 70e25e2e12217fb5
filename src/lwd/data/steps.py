"""What an episode's control steps are good for: which are imitated, and where no transition may pass.

Shape suffixes: T steps, gaps included (`Controller.NOBODY`); L = T + 1 observations.
"""

import numpy as np
import numpy.typing as npt

from lwd.types import ByteArray, Controller, EpisodeInfo, Outcome, Source

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]
_NOBODY = int(Controller.NOBODY)  # numpy compares with an enum's member slowly


def acted_steps(controllers_T: ByteArray) -> BoolArray:
    """Accept the steps that were made; the others are gaps."""
    return np.not_equal(controllers_T, _NOBODY)


def segment_ends(controllers_T: ByteArray) -> IntArray:
    """Return the last observation of each observation's segment (L,): the next gap's, or the episode's last one."""
    steps = controllers_T.shape[0]
    ends = np.append(np.flatnonzero(~acted_steps(controllers_T)), steps)
    return ends[np.searchsorted(ends, np.arange(steps + 1))]


def acts_left(controllers_T: ByteArray) -> IntArray:
    """Return how many steps are made from each observation to the episode's end (L,)."""
    return np.append(np.cumsum(acted_steps(controllers_T)[::-1], dtype=np.int64)[::-1], 0)


def imitable_steps(info: EpisodeInfo, controllers_T: ByteArray) -> BoolArray:
    """Accept demonstrations, the fleet's successes, and a human's corrections in its other episodes.

    This is the data of filtered behaviour cloning and HG-DAgger: corrections are worth imitating even where the
    episode failed later. Historical roll-outs are not, even where they succeeded: ours are a spoiled expert's, and a
    reference that imitated them fell from .69 to .31 (docs/adr/0015).
    """
    if info.source is Source.DEMONSTRATION or (info.source is Source.FLEET and info.outcome is Outcome.SUCCESS):
        return acted_steps(controllers_T)
    if info.source is not Source.FLEET:
        return np.zeros(controllers_T.shape, dtype=np.bool_)
    return np.equal(controllers_T, Controller.HUMAN)
