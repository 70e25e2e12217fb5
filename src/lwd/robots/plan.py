"""The policy's actions that wait to be executed."""

from collections import deque
from typing import Any

import numpy as np

from lwd.errors import ShapeError
from lwd.robots.limits import checked_chunk
from lwd.robots.plan_age import PlanAge
from lwd.types import Embodiment, FloatArray


class Plan:
    """A queue of actions within the robot's limits. Of a real robot it has an age."""

    def __init__(self, embodiment: Embodiment, *, ages: bool) -> None:
        """
        Args:
            ages: whether it can become too old: the robot's world moves on while nobody steps.
        """
        self._embodiment = embodiment
        self._queue: deque[FloatArray] = deque()
        self._age = PlanAge(embodiment.control_hz) if ages else None
        self.replaced = 0
        """How often the queue was replaced or dropped."""
        self.too_old = 0
        """How many plans were too old to begin, or to go on."""

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def queue_OA(self) -> FloatArray:
        return np.array(self._queue, np.float32).reshape(-1, self._embodiment.action_size)

    def is_late(self, since_s: float, now_s: float) -> bool:
        """Whether what was seen or asked then is of another moment by now."""
        return self._age is not None and now_s - since_s > self._age.slack_s

    def load(self, chunk_HA: Any, *, observed_s: float, inference_s: float, now_s: float) -> bool:
        """Replace the queue by a chunk; by nothing, and return False, if it is too old.

        Raises:
            ActionRejected: if it is no chunk of finite actions; the queue is empty then.
        """
        self.drop()
        checked_HA = checked_chunk(chunk_HA, self._embodiment)
        if not self._may_begin(observed_s + inference_s, now_s):
            return False
        self._queue = deque(checked_HA)
        return True

    def join(self, chunk_HA: Any, *, executed: int, observed_s: float, inference_s: float, now_s: float) -> bool:
        """Let the queue fade into a chunk whose first `executed` actions are over; leave it, if the chunk is too old.

        Where both have an action, the weight of the new one grows in equal steps from the queue's first action to its
        last, so no command jumps at the seam.

        Raises:
            ShapeError: if all of the chunk is over.
            ActionRejected: if it is no chunk of finite actions; the queue is empty then.
        """
        queue = self._queue
        self.drop()
        rest_HA = checked_chunk(chunk_HA, self._embodiment)[executed:].copy()
        if not len(rest_HA):
            raise ShapeError(f"all {executed} actions of the chunk are over; ask for it with fewer actions left")
        if not self._may_begin(observed_s + inference_s, now_s):
            self._queue = queue
            return False
        overlap = min(len(queue), len(rest_HA))
        for number in range(overlap):
            weight = (number + 1) / (overlap + 1)
            rest_HA[number] = weight * rest_HA[number] + (1 - weight) * queue[number]
        self._queue = deque(rest_HA)
        return True

    def next(self, now_s: float) -> FloatArray | None:
        """Return the next action; None, and drop the rest, if it comes too late."""
        if self._age is not None and self._age.is_over(now_s):
            self.too_old += 1
            self.drop()
            return None
        return self._queue.popleft()

    def stepped(self, begun_s: float) -> None:
        """An action was executed, which began then."""
        if self._age is not None:
            self._age.stepped(begun_s)

    def drop(self) -> None:
        """Empty the queue."""
        self._queue = deque()
        self.replaced += 1

    def _may_begin(self, thought_s: float, now_s: float) -> bool:
        if self._age is None:
            return True
        if not self._age.begin(thought_s, now_s):
            self.too_old += 1
            return False
        return True
