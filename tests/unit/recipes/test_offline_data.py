"""The offline data set: complete, as planned, the same however it is made."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from lwd.errors import ConfigError
from lwd.recipes.offline_data import (
    OfflineDataConfig,
    composition,
    composition_table,
    draw_composition,
    generate_offline_data,
    plan,
    smoke_config,
)
from lwd.types import Controller, Episode, Outcome, Source

TINY = OfflineDataConfig(
    tasks=("press_button", "close_window"),
    demonstrations_per_task=1,
    rollout_successes_per_task=1,
    rollout_failures_per_task=1,
    play_per_task=1,
)


@pytest.fixture(scope="module")
def made() -> dict[str, Episode]:
    episodes: list[Episode] = []
    generate_offline_data(TINY, episodes.append, workers=0)
    return {episode.info.episode_id: episode for episode in episodes}


def test_every_kind_comes_out_as_it_should(made: dict[str, Episode]) -> None:
    kinds = Counter((e.info.source, e.info.outcome is Outcome.SUCCESS) for e in made.values())
    assert kinds == {
        (Source.DEMONSTRATION, True): 2,
        (Source.ROLLOUT, True): 2,
        (Source.ROLLOUT, False): 2,
        (Source.PLAY, False): 2,
    }
    for episode in made.values():
        assert (episode.controllers_T == Controller.HUMAN).all()
        assert episode.states_TS.shape[0] == episode.steps + 1
        assert np.isfinite(episode.states_TS).all()
        assert episode.info.policy_version == -1
        assert np.abs(episode.actions_TA).max() <= 1.0


def test_two_processes_make_the_same_bytes_as_one(made: dict[str, Episode]) -> None:
    again: dict[str, Episode] = {}
    infos = generate_offline_data(TINY, lambda e: again.update({e.info.episode_id: e}), workers=2)
    assert set(again) == set(made) == {info.episode_id for info in infos}
    for name, episode in made.items():
        assert again[name].info == episode.info
        np.testing.assert_array_equal(again[name].states_TS, episode.states_TS)
        np.testing.assert_array_equal(again[name].actions_TA, episode.actions_TA)


def test_what_is_there_is_not_made_again(made: dict[str, Episode]) -> None:
    missing = next(iter(made))
    again: list[Episode] = []
    progress: list[tuple[int, int]] = []
    generate_offline_data(
        TINY,
        again.append,
        existing=set(made) - {missing},
        workers=0,
        progress=lambda done, total: progress.append((done, total)),
    )
    assert [episode.info.episode_id for episode in again] == [missing]
    assert progress == [(1, 1)]


def test_raising_one_count_keeps_the_other_episodes() -> None:
    more = OfflineDataConfig(tasks=TINY.tasks, demonstrations_per_task=3)
    assert {p.episode_id for p in plan(TINY)} <= {p.episode_id for p in plan(more)}
    assert len({p.episode_id for p in plan(more)}) == len(plan(more))


def test_the_default_is_the_measured_composition() -> None:
    kinds = Counter(planned.kind for planned in plan(OfflineDataConfig()))
    assert kinds == {"demonstration": 320, "rollout_success": 320, "rollout_failure": 128, "play": 48}
    assert len(plan(smoke_config())) < 50


def test_another_seed_makes_other_episodes(made: dict[str, Episode]) -> None:
    other = OfflineDataConfig(tasks=("press_button",), demonstrations_per_task=1, seed=1)
    assert not {p.episode_id for p in plan(other)} & set(made)


def test_the_composition_adds_up(made: dict[str, Episode], tmp_path: Path) -> None:
    rows = composition([(episode.info, episode.steps) for episode in made.values()])
    assert [row.episodes for row in rows] == [2, 2, 2, 2]
    steps = sum(episode.steps for episode in made.values())
    assert sum(row.hours for row in rows) == pytest.approx(steps / 20 / 3600)
    console = Console(record=True, width=100)
    console.print(composition_table(rows))
    assert "Play (failure)" in console.export_text()
    draw_composition(rows, tmp_path / "composition.png")
    assert (tmp_path / "composition.png").read_bytes().startswith(b"\x89PNG")


def test_settings_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="play"):
        OfflineDataConfig(play_per_task=-1)
    with pytest.raises(ConfigError, match="tasks"):
        OfflineDataConfig(tasks=())
    with pytest.raises(ConfigError, match="make_tea"):
        OfflineDataConfig(tasks=("make_tea",))
