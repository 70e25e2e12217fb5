"""The next chunk, predicted in the background: what the policy is told, and when its answer counts."""

import numpy as np
import pytest
import torch

from lwd.fleet.ahead import ChunkAhead
from lwd.fleet.release import LoadedPolicy
from lwd.robots.session import EpisodeSession
from lwd.types import Source

from ... import point_mass


class Steering(point_mass.SteeringPolicy):
    """Gives chunks of eight steps, and notes what it was told of the chunk before."""

    noise_shape = (8, 2)

    def __init__(self) -> None:
        super().__init__(2.0)
        self.asked: list[tuple[list[float], int]] = []

    def act(self, observations, instructions, *, generator=None, noise_BHA=None):
        chunk_BHA = super().act(observations, instructions, generator=generator)
        return np.repeat(chunk_BHA[:, :1], 8, axis=1)

    def continue_chunk(self, observation, instruction, queued_OA, *, frozen, generator):
        self.asked.append((queued_OA[:, 0].tolist(), frozen))
        return np.full((8, 2), 0.5, np.float32)


@pytest.fixture
def session() -> EpisodeSession:
    return EpisodeSession(
        point_mass.PointMassRobot(),
        point_mass.TASKS[1],
        "go to the goal",
        seed=0,
        robot_id="r",
        source=Source.FLEET,
        policy_version=1,
        world="w",
    )


def drive(session: EpisodeSession, policy: Steering, seam: str, delays: list[int]) -> None:
    """Queue the numbers 0 to 7 / 10; ask with five left, and execute so many steps during each prediction."""
    ahead, loaded = (
        ChunkAhead(5, torch.Generator(), seam=seam),
        LoadedPolicy(version=1, policy=policy),
    )
    try:
        session.load_chunk(np.repeat(np.arange(8, dtype=np.float32)[:, None] / 10, 2, axis=1))
        for delay in delays:
            while session.queued > 5:
                session.step()
            ahead.update(session, loaded)
            for _ in range(delay):
                session.step()
            assert ahead.fill(session)
    finally:
        ahead.close()


def test_a_guided_chunk_goes_on_from_the_queue_frozen_as_long_as_predictions_take(session):
    policy = Steering()
    drive(session, policy, "guided", [3, 1, 2])
    (first, all_frozen), (second, slowest), (_, still_slowest) = policy.asked
    assert first == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.7])
    # Before the first prediction nobody knows how long one takes; then the slowest of the last ones counts.
    assert (all_frozen, slowest, still_slowest) == (5, 3, 3)
    # Two old actions were left (.6 and .7), and faded into the new chunk's.
    assert second == pytest.approx([(2 * 0.6 + 0.5) / 3, (0.7 + 2 * 0.5) / 3, 0.5, 0.5, 0.5])
    actions_T = session.truncate().actions_TA[:, 0]
    assert actions_T[:6] == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_fading_chunk_and_a_policy_that_cannot_go_on_are_asked_as_ever(session):
    policy = Steering()
    drive(session, policy, "fade", [2, 2])
    assert policy.asked == []
