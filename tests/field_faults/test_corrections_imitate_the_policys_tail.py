"""A correction is imitated as far as its steps are a person's, not as far as its chunk goes (A9)."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from lwd.algos.sft import SFT, SFTConfig, chunk_matching_loss
from lwd.data.arena import ReplayArena
from lwd.types import Controller, Embodiment, Episode, EpisodeInfo, Outcome, Source, TokenSpec

HORIZON = 10
ROBOT = Embodiment(
    name="toy", control_hz=10.0, state_tokens=(TokenSpec(name="step", size=1),), action_low=(-1.0,), action_high=(1.0,)
)


def arena_of(outcome: Outcome, human: tuple[int, ...], *, steps: int = 20, source: Source = Source.FLEET):
    controllers_T = np.zeros(steps, np.uint8)
    controllers_T[list(human)] = Controller.HUMAN
    info = EpisodeInfo(
        episode_id="e", robot_id="r", embodiment="toy", task="press", instruction="press", source=source,
        outcome=outcome, policy_version=0, sub_step_scores=(), control_hz=10.0, seed=0, world="nominal",
        started_at_s=0.0, software_version="test",
    )  # fmt: skip
    episode = Episode(
        info=info,
        states_TS=np.arange(steps + 1, dtype=np.float32)[:, None],
        actions_TA=np.full((steps, 1), 0.5, np.float32),
        controllers_T=controllers_T,
    )
    arena = ReplayArena(ROBOT, horizon=HORIZON, gamma=0.9, embed=lambda text: np.zeros(1), initial_rows=8)
    arena.add([episode])
    return arena


def targets(arena: ReplayArena) -> dict[int, int]:
    """Start step -> how many of its chunk's steps are imitated; those with none are left out."""
    chunk = arena.gather(np.arange(20)).imitable()
    starts = chunk.observation.state_BS[:, 0].int().tolist()
    return dict(zip(starts, chunk.action_mask_BH.sum(dim=1).tolist(), strict=True))


@pytest.mark.parametrize("outcome", [Outcome.FAILURE, Outcome.TIME_LIMIT, Outcome.TRUNCATED])
def test_two_human_steps_of_a_failed_episode_leave_two_targets(outcome: Outcome) -> None:
    assert targets(arena_of(outcome, (10, 11))) == {10: 2, 11: 1}


def test_a_person_who_acts_again_later_begins_another_chunk() -> None:
    assert targets(arena_of(Outcome.FAILURE, (10, 11, 13))) == {10: 2, 11: 1, 13: 1}


@pytest.mark.parametrize("source", [Source.FLEET, Source.DEMONSTRATION])
def test_successes_are_imitated_whole_up_to_their_end(source: Source) -> None:
    assert targets(arena_of(Outcome.SUCCESS, (10, 11), source=source)) == {t: min(HORIZON, 20 - t) for t in range(20)}


def test_the_policys_tail_does_not_move_the_loss(policy, make_batch) -> None:
    """Whatever the policy did after the person's two steps, the velocity's target there does not count."""
    batch = make_batch()
    human_BH = torch.zeros(16, 3, dtype=torch.bool)
    human_BH[:, :2] = True
    batch = replace(batch, action_mask_BH=torch.ones(16, 3, dtype=torch.bool), imitable_BH=human_BH)

    def velocity(context, noisy, time):
        return torch.zeros_like(noisy)

    policy.velocity = velocity
    losses = []
    for tail in (0.0, 1.0):
        chunk = batch.action_chunk_BHA.clone()
        chunk[:, 2] = tail
        imitated = replace(batch, action_chunk_BHA=chunk).imitable()
        losses.append(chunk_matching_loss(policy, None, imitated, torch.Generator().manual_seed(0)))
    assert losses[0] == losses[1] > 0


def test_what_is_imitated_whole_is_learned_bit_for_bit_as_before(policy, make_batch) -> None:
    """The update of fully imitable chunks is flow matching under the padding's mask alone."""
    batch = make_batch()
    batch = replace(batch, imitable_BH=batch.action_mask_BH)
    algorithm = SFT(policy, SFTConfig(), torch.Generator().manual_seed(5))
    expected = chunk_matching_loss(
        policy, policy.encode(batch.observation), batch, torch.Generator().manual_seed(5)
    ).item()
    assert algorithm.update(batch)["loss/flow"] == expected
