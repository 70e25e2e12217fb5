"""Value figures of episodes that the real simulator recorded, through a real store and value network."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from lwd.data.store import open_store
from lwd.errors import ShapeError
from lwd.evaluation.run_data import read_run
from lwd.evaluation.value_episodes import (
    FRAME_PIXELS,
    episode_drawings,
    film_frames,
    pick_episodes,
    trace_episode,
)
from lwd.evaluation.value_figures import ValueTrace, frame_steps, value_figure
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.robots.session import EpisodeSession
from lwd.robots.sim import make_robot, task_named
from lwd.types import Episode, Outcome, Source

from .synthetic import FleetPlan, write_episodes, write_fleet

INSTRUCTION = "press it"


def _record(episode_id: str, outcome: Outcome, seed: int) -> Episode:
    """A short real episode of random actions, given the outcome that the test needs."""
    robot = make_robot()
    session = EpisodeSession(
        robot,
        task_named("press_button"),
        INSTRUCTION,
        seed=seed,
        robot_id="robot-0",
        source=Source.FLEET,
        policy_version=1,
        world="nominal",
        episode_id=episode_id,
        started_at_s=100.0 + seed,
    )
    session.load_chunk(np.random.default_rng(seed).uniform(-1, 1, (20, 5)).astype(np.float32))
    while not session.done and not session.needs_chunk:
        session.step()
    episode = session.truncate()
    robot.close()
    return replace(episode, info=replace(episode.info, outcome=outcome))


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    outcomes = [Outcome.SUCCESS, Outcome.TIME_LIMIT]
    return [_record(f"episode-{seed}", outcome, seed) for seed, outcome in enumerate(outcomes)]


@pytest.fixture(scope="module")
def network() -> ValueCritic:
    torch.manual_seed(0)
    embodiment = make_robot().embodiment
    size = embodiment.state_size
    config = CriticConfig(token_width=8, readout_size=16, action_width=8, pooling_heads=2, width=32, depth=2)
    return ValueCritic(embodiment, config, StateStatistics(mean=(0.0,) * size, std=(1.0,) * size), horizon=5)


@pytest.fixture
def instructions() -> InstructionEncoder:
    return InstructionEncoder({INSTRUCTION: np.ones(EMBEDDING_SIZE, np.float32)})


def test_success_and_failure_of_a_run_are_drawn_with_film_strips(
    tmp_path: Path, episodes: list[Episode], network: ValueCritic, instructions: InstructionEncoder
) -> None:
    write_episodes(tmp_path, episodes)
    run = read_run(tmp_path)
    success, failure = episode_drawings(run, open_store(tmp_path / "store"), network, instructions)
    assert "success after 20 steps" in success.caption
    assert "failure (time limit) after 20 steps" in failure.caption
    for drawing in (success, failure):
        # Eight frames and the heat map.
        assert len(re.findall("<image ", drawing.svg)) == 9


def test_trace_is_the_networks_distribution_and_its_median(
    episodes: list[Episode], network: ValueCritic, instructions: InstructionEncoder
) -> None:
    trace = trace_episode(episodes[0], network, instructions)
    assert trace.probs_TK.shape == (21, 201)
    np.testing.assert_allclose(trace.probs_TK.sum(axis=1), 1, rtol=1e-5)
    below = (trace.probs_TK * (trace.atoms_K < trace.quantile_T[:, None])).sum(axis=1)
    up_to = (trace.probs_TK * (trace.atoms_K <= trace.quantile_T[:, None])).sum(axis=1)
    assert (below < 0.5).all()
    assert (up_to >= 0.5 - 1e-6).all()


def test_replayed_frames_show_the_recorded_episode(episodes: list[Episode]) -> None:
    frames = film_frames(episodes[0], [0, 10, 10, 20])
    assert [frame.shape for frame in frames] == [(FRAME_PIXELS, FRAME_PIXELS, 3)] * 4
    assert np.array_equal(frames[1], frames[2])
    assert np.abs(frames[0].astype(int) - frames[3].astype(int)).max() > 50


def test_a_replay_that_leaves_the_recording_draws_no_frames(episodes: list[Episode]) -> None:
    other = replace(episodes[0], actions_TA=-episodes[0].actions_TA)
    assert film_frames(other, [0, 10]) == []


def test_frames_sit_in_the_middle_of_equal_parts() -> None:
    assert frame_steps(80, 8) == [5, 15, 25, 35, 45, 55, 65, 75]
    assert frame_steps(3, 8) == [0, 0, 0, 1, 1, 2, 2, 2]


def test_a_task_with_both_outcomes_is_preferred(tmp_path: Path) -> None:
    plans = [
        FleetPlan(task="short", outcome=Outcome.SUCCESS, steps=30),
        FleetPlan(task="short", outcome=Outcome.FAILURE, steps=60),
        FleetPlan(task="long", outcome=Outcome.SUCCESS, steps=200),
        FleetPlan(task="long", outcome=Outcome.TIME_LIMIT, steps=260),
        FleetPlan(task="hard", outcome=Outcome.TIME_LIMIT, steps=400),
        FleetPlan(task="long", outcome=Outcome.TRUNCATED, steps=500),
    ]
    write_fleet(tmp_path, plans)
    fleet = read_run(tmp_path).fleet
    assert [episode.episode_id for episode in pick_episodes(fleet)] == ["episode-2", "episode-3"]
    assert [episode.episode_id for episode in pick_episodes(fleet[4:])] == ["episode-4"]
    assert pick_episodes([]) == []


def test_human_control_is_shaded_and_said(episodes: list[Episode]) -> None:
    controllers = np.zeros(20, np.uint8)
    controllers[5:9] = controllers[12:20] = 1
    atoms = np.linspace(-0.1, 1.1, 5, dtype=np.float32)
    probs = np.full((21, 5), 0.2, np.float32)
    plain = ValueTrace(episode=episodes[0], probs_TK=probs, atoms_K=atoms, quantile_T=probs[:, 0])
    helped = replace(plain, episode=replace(episodes[0], controllers_T=controllers))
    assert "human" not in value_figure("a", plain, []).caption
    drawing = value_figure("a", helped, [])
    assert "shaded: a human in control" in drawing.caption
    extra = drawing.svg.count("var(--series-4)") - value_figure("a", plain, []).svg.count("var(--series-4)")
    assert extra == 2


def test_a_trace_of_another_length_is_refused(episodes: list[Episode]) -> None:
    atoms = np.linspace(0, 1, 5, dtype=np.float32)
    with pytest.raises(ShapeError, match="has 21 states"):
        ValueTrace(
            episode=episodes[0],
            probs_TK=np.full((20, 5), 0.2, np.float32),
            atoms_K=atoms,
            quantile_T=np.zeros(21, np.float32),
        )
