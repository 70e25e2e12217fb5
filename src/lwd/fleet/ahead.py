"""The next chunk, predicted in the background while the present one is executed: for robots in real time."""

import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Literal

import torch

from lwd.errors import PolicyFault
from lwd.fleet.release import LoadedPolicy
from lwd.models.protocol import ContinuingPolicy
from lwd.robots.plan_age import InferenceTimes
from lwd.robots.session import EpisodeSession
from lwd.types import FloatArray

Seam = Literal["fade", "guided"]
"""How the next chunk follows the present one: what is left of this one fades into it; and besides, where the policy is
a flow, its sampling is guided by what is left (real-time chunking)."""
_DELAYS = 10
"""Predictions whose delays are remembered: a slow one counts for some time, not for ever."""


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A prediction that was begun."""

    session: EpisodeSession
    plan: int
    """The session's count of plans at that time; a later one makes the prediction void."""
    step: int
    observed_s: float
    """When the session observed what is predicted from."""
    chunk_HA: Future[FloatArray]


class ChunkAhead:
    """Asks for the next chunk when few actions are left, and joins it to them when it is there.

    The chunk starts at the observation it was predicted from; what was executed meanwhile is skipped, and the rest of
    the old chunk fades into it (`EpisodeSession.join_chunk`). If it comes too late the robot waits, as without this.
    """

    def __init__(
        self, steps_left: int, generator: torch.Generator, inference: InferenceTimes | None = None, *, seam: Seam
    ) -> None:
        """Prepare.

        Args:
            steps_left: actions left in the chunk when the next one is asked for.
            generator: of the policy's noise; while a prediction runs nobody else may use it.
            inference: how long the policy takes; None: measured here alone.
        """
        self._steps_left = steps_left
        self._generator = generator
        self._seam = seam
        self._inference = inference or InferenceTimes()
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="chunk-ahead")
        self._pending: _Pending | None = None
        self._delays: deque[int] = deque(maxlen=_DELAYS)
        """Steps that were executed during each of the last predictions."""

    def update(self, session: EpisodeSession, loaded: LoadedPolicy) -> None:
        """Before a control step: join what is ready, ask for what will be needed.

        Raises:
            PolicyFault: if the policy raised, or its chunk is not finite.
        """
        if self._pending is not None and self._pending.chunk_HA.done():
            self.fill(session)
        if self._pending is None and 0 < session.queued <= self._steps_left:
            self._pending = _Pending(
                session=session,
                plan=session.plans,
                step=session.steps,
                observed_s=session.observed_s,
                chunk_HA=self._begin(session, loaded),
            )

    def fill(self, session: EpisodeSession) -> bool:
        """Join the prediction that runs, waiting for it if necessary. Returns whether there was one for this session.

        Raises:
            PolicyFault: if the policy raised, or its chunk is not finite.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return False
        # Waits in any case: the generator must be free for whoever asks next.
        wait([pending.chunk_HA])
        executed = session.steps - pending.step
        if pending.session is not session or pending.plan != session.plans:
            return False
        try:
            chunk_HA = pending.chunk_HA.result()
            if executed >= len(chunk_HA):
                return False
            joined = session.join_chunk(
                chunk_HA, executed=executed, observed_s=pending.observed_s, inference_s=self._inference.usual_s
            )
        except Exception as error:
            raise PolicyFault(f"its policy gave no chunk ahead: {type(error).__name__}: {str(error)[:300]}") from error
        self._delays.append(executed)
        return joined

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, session: EpisodeSession, loaded: LoadedPolicy) -> Future[FloatArray]:
        policy, generator = loaded.policy, self._generator
        observation, instruction, queued_OA = session.observation, session.instruction, session.queue_OA
        if self._seam == "guided" and isinstance(policy, ContinuingPolicy):
            # Too many frozen steps only hold the chunk longer to the old one, too few let it jump.
            frozen = min(max(self._delays, default=len(queued_OA)), len(queued_OA))
            return self._pool.submit(
                self._timed,
                lambda: policy.continue_chunk(observation, instruction, queued_OA, frozen=frozen, generator=generator),
            )
        return self._pool.submit(self._timed, lambda: policy.act([observation], [instruction], generator=generator)[0])

    def _timed(self, predict: Callable[[], FloatArray]) -> FloatArray:
        begun_s = time.monotonic()
        try:
            return predict()
        finally:
            self._inference.note(time.monotonic() - begun_s)
