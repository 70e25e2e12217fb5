"""What the learner asks of an algorithm."""

from typing import Any, Protocol

from torch import Generator
from torch.nn import Module

from lwd.batch import TransitionBatch

Metrics = dict[str, float]
State = dict[str, Any]
"""Nested dictionaries whose leaves are tensors, numbers, strings or None."""


class Algorithm(Protocol):
    """One objective with all of its mutable state."""

    @property
    def generator(self) -> Generator:
        """Source of all its randomness: the only state that differs among processes that train together."""

    def update(self, batch: TransitionBatch) -> Metrics:
        """Take one training step.

        Raises:
            NonFiniteLoss: if a loss is NaN or infinite; parameters are as they were before this loss's step.
        """

    def deployed_policy(self) -> Module:
        """Return the policy to publish; it changes with later updates."""

    def state(self) -> State:
        """Everything that a bit-for-bit continuation needs, the random generator included."""

    def load_state(self, state: State) -> None:
        """Continue from what `state` returned."""
