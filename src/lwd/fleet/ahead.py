"""The next chunk, predicted in the background while the present one is executed: for robots in real time."""

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from lwd.fleet.release import LoadedPolicy
from lwd.robots.session import EpisodeSession
from lwd.types import FloatArray


@dataclass(frozen=True, kw_only=True)
class _Pending:
    """A prediction that was begun."""

    session: EpisodeSession
    plan: int
    """The session's count of plans at that time; a later one makes the prediction void."""
    step: int
    chunk_HA: Future[FloatArray]


class ChunkAhead:
    """Asks for the next chunk when few actions are left, and joins it to them when it is there.

    The chunk starts at the observation it was predicted from; what was executed meanwhile is skipped, and the rest of
    the old chunk fades into it (`EpisodeSession.join_chunk`). If it comes too late the robot waits, as without this.
    """

    def __init__(self, steps_left: int, generator: torch.Generator) -> None:
        """Prepare.

        Args:
            steps_left: actions left in the chunk when the next one is asked for.
            generator: of the policy's noise; while a prediction runs nobody else may use it.
        """
        self._steps_left = steps_left
        self._generator = generator
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="chunk-ahead")
        self._pending: _Pending | None = None

    def update(self, session: EpisodeSession, loaded: LoadedPolicy) -> None:
        """Before a control step: join what is ready, ask for what will be needed.

        Raises:
            RobotFault: if the chunk is not finite.
        """
        if self._pending is not None and self._pending.chunk_HA.done():
            self.fill(session)
        if self._pending is None and 0 < session.queued <= self._steps_left:
            observation, instruction = session.observation, session.instruction
            self._pending = _Pending(
                session=session,
                plan=session.plans,
                step=session.steps,
                chunk_HA=self._pool.submit(
                    lambda: loaded.policy.act([observation], [instruction], generator=self._generator)[0]
                ),
            )

    def fill(self, session: EpisodeSession) -> bool:
        """Join the prediction that runs, waiting for it if necessary. Returns whether there was one for this session.

        Raises:
            RobotFault: if the chunk is not finite.
        """
        pending, self._pending = self._pending, None
        if pending is None:
            return False
        # Waits in any case: the generator must be free for whoever asks next.
        chunk_HA = pending.chunk_HA.result()
        executed = session.steps - pending.step
        if pending.session is not session or pending.plan != session.plans or executed >= len(chunk_HA):
            return False
        session.join_chunk(chunk_HA, executed=executed)
        return True

    def close(self) -> None:
        """Stop the thread."""
        self._pool.shutdown(cancel_futures=True)
