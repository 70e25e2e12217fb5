"""Asking a version for chunks, and what a host remembers of each version that its robots act with."""

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

import numpy as np

from lwd.errors import ActionRejected, PolicyFault
from lwd.types import FloatArray

if TYPE_CHECKING:
    # Only for types: the network side of a host needs no torch, which takes a second to import.
    import torch

    from lwd.fleet.release import LoadedPolicy
    from lwd.models.protocol import Policy
    from lwd.robots.plan_age import InferenceTimes
    from lwd.robots.session import EpisodeSession

MAX_FAULTS = 3
"""Faults of a version without a completed episode between them after which robots go back: one may be chance, and each
costs an episode."""
_WORKED_ACTS = 20
"""Acts without a fault after which a version has worked, for tasks whose episodes are long; an episode counts, too."""


class Judge(Protocol):
    """Hears what comes of a version (`lwd.fleet.release.PolicyFollower`)."""

    def acted(self, version: int) -> None:
        """A version gave chunks that robots can execute."""


def load_chunks(
    judge: Judge,
    loaded: "LoadedPolicy",
    sessions: Sequence["EpisodeSession"],
    generator: "torch.Generator",
    inference: "InferenceTimes",
) -> list[PolicyFault | None]:
    """Ask a version once for the chunks of all sessions, and load them; one that has become too old is dropped.

    Args:
        inference: notes how long the version took.
    Returns:
        Each session's fault, None where its chunk is loaded. One act has one fault: the same for all that have it.
    """
    asked_s, observed_s = time.monotonic(), [session.observed_s for session in sessions]
    try:
        chunks_BHA = _chunks(loaded.policy, sessions, generator)
    except PolicyFault as error:
        return [error] * len(sessions)
    inference.note(time.monotonic() - asked_s)
    fault: PolicyFault | None = None
    faults: list[PolicyFault | None] = []
    for session, chunk_HA, seen_s in zip(sessions, chunks_BHA, observed_s, strict=True):
        try:
            session.load_chunk(chunk_HA, observed_s=seen_s, inference_s=inference.usual_s)
            faults.append(None)
        except ActionRejected as error:
            fault = fault or PolicyFault(str(error))
            faults.append(fault)
    if fault is None:
        judge.acted(loaded.version)
    return faults


def _chunks(policy: "Policy", sessions: Sequence["EpisodeSession"], generator: "torch.Generator") -> FloatArray:
    """Return chunks (B, H, A); whether they are finite is seen robot by robot, where they are loaded.

    Raises:
        PolicyFault: if the policy raises anything, or what it returns is no chunk for each robot.
    """
    observations = [session.observation for session in sessions]
    instructions = [session.instruction for session in sessions]
    try:
        chunks: FloatArray = np.asarray(policy.act(observations, instructions, generator=generator))
    except Exception as error:
        raise PolicyFault(f"its policy raised {type(error).__name__}: {str(error)[:300]}") from error
    robots, actions = len(sessions), policy.embodiment.action_size
    if chunks.ndim != 3 or chunks.shape[::2] != (robots, actions) or not chunks.shape[1]:
        raise PolicyFault(f"its policy returned shape {chunks.shape}, not ({robots}, H, {actions})")
    return chunks


class VersionRecord:
    """What a host's robots have met with one version."""

    def __init__(self) -> None:
        self._acts = 0
        self._faults = 0
        self._last: Exception | None = None
        self.worked = False
        """Whether it completed an episode, or acted often enough."""

    def acted(self) -> None:
        """Note an act without a fault. It ends no row of faults: each episode may begin well."""
        self._acts += 1
        self.worked = self.worked or self._acts >= _WORKED_ACTS

    def completed(self) -> None:
        """Note an episode that ended by itself."""
        self._faults = 0
        self.worked = True

    def failed(self, error: Exception) -> bool:
        """Note a fault, several robots' one only once; return whether these are too many in a row."""
        if error is not self._last:
            self._faults += 1
            self._last = error
        return self._faults >= MAX_FAULTS
