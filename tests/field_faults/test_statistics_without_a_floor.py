"""A constant state entry that moved by .05 became 5,000,001 (mean and std) or 10,000,001 (quantiles, min and max)."""

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.data.episodes import EMBODIMENT, episode

from lwd.data.arena import ReplayArena
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.recipes.pretrained import statistics_of
from lwd.types import Controller


def arena_of(*episodes, horizon=3):
    arena = ReplayArena(
        EMBODIMENT, horizon=horizon, gamma=0.99, embed=lambda _: np.zeros(EMBEDDING_SIZE), initial_rows=8
    )
    arena.add(episodes)
    return arena


@pytest.mark.parametrize("value", [0.0, 1.5, 90.0, -5000.0])
def test_a_constant_entry_moves_by_small_numbers(value):
    made = episode(steps=50)
    made.states_TS[:, 0] = value
    made.states_TS[-1, 0] = value
    state = {name: float(row[0]) for name, row in statistics_of(arena_of(made))["observation.state"].items()}
    moved = value + 0.05
    assert abs(moved - state["mean"]) / state["std"] <= 5.1
    for low, high in (("min", "max"), ("q01", "q99"), ("q10", "q90")):
        assert abs(2 * (moved - state[low]) / (state[high] - state[low]) - 1) <= 5.1
        assert state[low] < value < state[high]


def test_a_rare_movement_is_no_huge_number_for_quantiles():
    made = episode(steps=400)
    made.states_TS[:, 1] = 0
    made.states_TS[7, 1] = 1  # q01 = q99 = 0
    state = {name: float(row[1]) for name, row in statistics_of(arena_of(made))["observation.state"].items()}
    assert 2 * (1 - state["q01"]) / (state["q99"] - state["q01"]) - 1 < 25


def test_entries_that_move_keep_their_own_statistics():
    made = episode(steps=400)
    state = statistics_of(arena_of(made))["observation.state"]
    np.testing.assert_allclose(state["std"], made.states_TS.std(axis=0), rtol=1e-5)
    np.testing.assert_allclose(state["q99"], np.quantile(made.states_TS, 0.99, axis=0), rtol=1e-5)


def test_relative_actions_are_measured_within_segments_and_without_revoked_episodes():
    first, second = episode(0, steps=9), episode(1, steps=9)
    controllers = np.zeros(9, np.uint8)
    controllers[4] = Controller.NOBODY
    first = replace(first, controllers_T=controllers)
    arena = arena_of(first, second)
    arena.revoke([second.info.identity])
    expected = [
        first.actions_TA[start + step, 0] - first.states_TS[start, 0]
        for segment in (range(4), range(5, 9))
        for start in segment
        for step in range(3)
        if start + step in segment
    ]
    action = statistics_of(arena, (True, False))["action"]
    assert float(action["mean"][0]) == pytest.approx(np.mean(expected), abs=1e-6)
    assert float(action["std"][0]) == pytest.approx(np.std(expected), abs=1e-6)
    acted = first.actions_TA[controllers == 0, 1]
    assert float(action["mean"][1]) == pytest.approx(acted.mean(), abs=1e-6)
