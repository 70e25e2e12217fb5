"""Strata, task weights, repeatability and prefetching of batches."""

import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from lwd.batch import TransitionBatch
from lwd.data.arena import ReplayArena
from lwd.data.sampling import (
    BatchSampler,
    Prefetcher,
    Stratum,
    from_sources,
    human_steps,
    successes,
)
from lwd.data.steps import BoolArray, imitable_steps
from lwd.errors import ConfigError, ShapeError
from lwd.types import ByteArray, Embodiment, Episode, EpisodeInfo, Outcome, Source, TokenSpec

ROBOT = Embodiment(
    name="toy",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="episode_and_step", size=2),),
    action_low=(-1.0,),
    action_high=(1.0,),
)


def make_episode(
    number: int,
    steps: int,
    *,
    task: str = "press",
    source: Source = Source.DEMONSTRATION,
    outcome: Outcome = Outcome.SUCCESS,
    human: tuple[int, ...] = (),
) -> Episode:
    """An episode whose states say (number, step), so that samples can be counted."""
    controllers_T = np.zeros(steps, dtype=np.uint8)
    controllers_T[list(human)] = 1
    return Episode(
        info=EpisodeInfo(
            episode_id=f"e{number:03d}",
            robot_id="r0",
            embodiment="toy",
            task=task,
            instruction=task,
            source=source,
            outcome=outcome,
            policy_version=0,
            sub_step_scores=(),
            control_hz=10.0,
            seed=0,
            world="nominal",
            started_at_s=0.0,
            software_version="test",
        ),
        states_TS=np.stack([np.full(steps + 1, number), np.arange(steps + 1)], axis=1).astype(np.float32),
        actions_TA=np.zeros((steps, 1), dtype=np.float32),
        controllers_T=controllers_T,
    )


def make_arena(*episodes: Episode, directory: Path | None = None) -> ReplayArena:
    arena = ReplayArena(
        ROBOT,
        horizon=2,
        gamma=0.9,
        embed=lambda text: np.zeros(3, dtype=np.float32),
        initial_rows=8,
        directory=directory,
    )
    arena.add(episodes)
    return arena


def sampled(batch: TransitionBatch) -> list[tuple[int, int]]:
    return [(int(number), int(step)) for number, step in batch.observation.state_BS.tolist()]


def same(left: TransitionBatch, right: TransitionBatch) -> bool:
    return torch.equal(left.observation.state_BS, right.observation.state_BS) and torch.equal(
        left.bootstrap_observation.state_BS, right.bootstrap_observation.state_BS
    )


def mixed_episodes() -> list[Episode]:
    sources = list(Source)
    return [
        make_episode(i, 3 + i % 7, task=f"task{i % 3}", source=sources[i % 4], human=(0,) if i % 2 else ())
        for i in range(24)
    ]


def test_every_step_of_every_episode_can_start_a_transition() -> None:
    arena = make_arena(make_episode(0, 1), make_episode(1, 4), make_episode(2, 2))
    sampler = BatchSampler(arena, [Stratum()], batch_size=500, seed=0)
    assert set(sampled(sampler.batch(0))) == {(0, 0), (1, 0), (1, 1), (1, 2), (1, 3), (2, 0), (2, 1)}


def test_steps_of_a_task_are_drawn_alike() -> None:
    arena = make_arena(make_episode(0, 1), make_episode(1, 9))
    counts = Counter(sampled(BatchSampler(arena, [Stratum()], batch_size=20_000, seed=0).batch(0)))
    assert len(counts) == 10
    assert all(count == pytest.approx(2000, abs=5 * 2000**0.5) for count in counts.values())


@pytest.mark.parametrize(("exponent", "share"), [(0.0, 1 / 2), (0.5, 3 / 4), (1.0, 9 / 10)])
def test_tasks_are_drawn_by_their_steps_to_the_exponent(exponent: float, share: float) -> None:
    arena = make_arena(make_episode(0, 9, task="long"), make_episode(1, 1, task="short"))
    sampler = BatchSampler(arena, [Stratum(task_exponent=exponent)], batch_size=20_000, seed=0)
    long = sum(number == 0 for number, _ in sampled(sampler.batch(0))) / 20_000
    assert long == pytest.approx(share, abs=0.02)


def test_strata_get_their_exact_share_in_every_batch_and_are_shuffled() -> None:
    arena = make_arena(*mixed_episodes())
    offline = from_sources(Source.DEMONSTRATION, Source.ROLLOUT, Source.PLAY)
    strata = [Stratum(fraction=1, episodes=offline), Stratum(fraction=1, episodes=from_sources(Source.FLEET))]
    sampler = BatchSampler(arena, strata, batch_size=64, seed=0)
    first_half = set()
    for update in range(20):
        fleet = [number % 4 == 3 for number, _ in sampled(sampler.batch(update))]
        assert sum(fleet) == 32
        first_half.add(sum(fleet[:32]))
    assert len(first_half) > 3  # not all of one kind in front
    assert all(4 < count < 28 for count in first_half)


def test_odd_batches_split_by_largest_remainder() -> None:
    arena = make_arena(make_episode(0, 5), make_episode(1, 5, source=Source.FLEET))
    strata = [
        Stratum(fraction=0.7, episodes=from_sources(Source.DEMONSTRATION)),
        Stratum(fraction=0.3, episodes=from_sources(Source.FLEET)),
    ]
    numbers = Counter(n for n, _ in sampled(BatchSampler(arena, strata, batch_size=9, seed=0).batch(0)))
    assert numbers == {0: 6, 1: 3}


def test_an_empty_stratum_leaves_its_share_until_it_fills() -> None:
    arena = make_arena(make_episode(0, 5))
    strata = [
        Stratum(episodes=from_sources(Source.DEMONSTRATION)),
        Stratum(episodes=from_sources(Source.FLEET)),
    ]
    sampler = BatchSampler(arena, strata, batch_size=10, seed=0)
    assert {number for number, _ in sampled(sampler.batch(0))} == {0}
    arena.add([make_episode(1, 5, source=Source.FLEET)])
    assert Counter(number for number, _ in sampled(sampler.batch(0))) == {0: 5, 1: 5}


def test_an_arena_that_fits_no_stratum_is_an_error() -> None:
    sampler = BatchSampler(make_arena(), [Stratum()], batch_size=4, seed=0)
    with pytest.raises(ConfigError, match="add episodes"):
        sampler.batch(0)
    sampler.arena.add([make_episode(0, 3)])
    assert len(sampled(sampler.batch(0))) == 4
    sampler.arena.revoke(["r0/e000"])
    with pytest.raises(ConfigError, match="add episodes"):
        sampler.batch(0)


def test_a_batch_depends_on_seed_and_index_only() -> None:
    arena = make_arena(*mixed_episodes())
    one = BatchSampler(arena, [Stratum()], batch_size=32, seed=1)
    other = BatchSampler(arena, [Stratum()], batch_size=32, seed=1)
    for update in (5, 0, 3):
        assert same(one.batch(update), other.batch(update))
    assert same(one.batch(3), other.batch(3))
    assert not same(one.batch(3), one.batch(4))
    assert not same(one.batch(3), BatchSampler(arena, [Stratum()], batch_size=32, seed=2).batch(3))


def test_a_batch_does_not_depend_on_the_order_or_the_batches_of_arrival() -> None:
    episodes = mixed_episodes()
    strata = [Stratum(), Stratum(steps=imitable_steps)]
    whole = BatchSampler(make_arena(*episodes), strata, batch_size=64, n_step=2, seed=0)
    grown_arena = make_arena(*episodes[20:])
    grown = BatchSampler(grown_arena, strata, batch_size=64, n_step=2, seed=0)
    assert not same(grown.batch(7), whole.batch(7))
    for begin in (12, 0):
        grown_arena.add(reversed(episodes[begin : begin + 12]))
    assert same(grown.batch(7), whole.batch(7))


def test_an_arena_in_files_gives_the_same_batches(tmp_path: Path) -> None:
    """Also from rows beyond the initial capacity of 8, and from those that came later."""
    episodes = mixed_episodes()
    arenas = [make_arena(*episodes[:5]), make_arena(*episodes[:5], directory=tmp_path)]
    strata = [Stratum(), Stratum(episodes=successes, steps=human_steps)]
    samplers = [BatchSampler(arena, strata, batch_size=64, seed=3) for arena in arenas]
    for part in (episodes[5:9], episodes[9:]):
        in_memory, in_files = (sampler.batch(1) for sampler in samplers)
        assert same(in_memory, in_files)
        for arena in arenas:
            arena.add(part)
    in_memory, in_files = (sampler.batch(2) for sampler in samplers)
    assert same(in_memory, in_files)
    assert {number for number, _ in sampled(in_files)} - {episode.info.seed for episode in episodes[:5]}
    assert list(tmp_path.iterdir()) == []
    arenas[1].close()


def test_revoked_episodes_are_not_drawn() -> None:
    arena = make_arena(*[make_episode(i, 4) for i in range(4)])
    sampler = BatchSampler(arena, [Stratum()], batch_size=200, seed=0)
    assert {number for number, _ in sampled(sampler.batch(0))} == {0, 1, 2, 3}
    arena.revoke(["r0/e001", "r0/e003"])
    assert {number for number, _ in sampled(sampler.batch(0))} == {0, 2}


def test_imitable_steps_are_demonstrations_fleet_successes_and_corrections() -> None:
    arena = make_arena(
        make_episode(0, 3, source=Source.DEMONSTRATION),
        make_episode(1, 3, source=Source.FLEET),
        make_episode(2, 4, source=Source.FLEET, outcome=Outcome.FAILURE, human=(1, 2)),
        make_episode(3, 3, source=Source.FLEET, outcome=Outcome.TIME_LIMIT),
        make_episode(4, 2, source=Source.PLAY, outcome=Outcome.FAILURE, human=(0, 1)),
        make_episode(5, 3, source=Source.FLEET, outcome=Outcome.TRUNCATED, human=(2,)),
        make_episode(6, 3, source=Source.ROLLOUT),
        make_episode(7, 3, source=Source.ROLLOUT, outcome=Outcome.FAILURE, human=(0, 1, 2)),
    )
    drawn = set(sampled(BatchSampler(arena, [Stratum(steps=imitable_steps)], batch_size=500, seed=0).batch(0)))
    whole = {(number, step) for number in (0, 1) for step in range(3)}
    assert drawn == whole | {(2, 1), (2, 2), (5, 2)}
    every_step = BatchSampler(arena, [Stratum()], batch_size=500, seed=0).batch(0)
    assert set(sampled(every_step.imitable())) == drawn
    assert 0 < every_step.imitable().size == every_step.imitable_BH[:, 0].sum() < every_step.size


def test_human_steps_are_those_at_which_a_human_acted() -> None:
    arena = make_arena(make_episode(0, 3, human=(1,)), make_episode(1, 3, outcome=Outcome.FAILURE, human=(0, 2)))
    drawn = sampled(BatchSampler(arena, [Stratum(steps=human_steps)], batch_size=100, seed=0).batch(0))
    assert set(drawn) == {(0, 1), (1, 0), (1, 2)}


def test_episode_and_step_filters_combine() -> None:
    arena = make_arena(
        make_episode(0, 3, human=(0,)),
        make_episode(1, 3, outcome=Outcome.FAILURE, human=(1,)),
        make_episode(2, 3),
    )

    def humans(info: EpisodeInfo, controllers_T: ByteArray) -> BoolArray:
        return np.equal(controllers_T, 1)

    sampler = BatchSampler(arena, [Stratum(episodes=successes, steps=humans)], batch_size=50, seed=0)
    assert set(sampled(sampler.batch(0))) == {(0, 0)}


def test_prefetching_changes_no_batch() -> None:
    arena = make_arena(*mixed_episodes())
    plain = BatchSampler(arena, [Stratum()], batch_size=16, seed=0)
    with Prefetcher(BatchSampler(arena, [Stratum()], batch_size=16, seed=0), depth=3) as prefetcher:
        for update in (*range(10), 4, 40, 41):
            assert same(prefetcher.batch(update), plain.batch(update))


def test_prefetched_batches_see_what_was_added_and_revoked_meanwhile() -> None:
    arena = make_arena(make_episode(0, 4))
    plain = BatchSampler(arena, [Stratum()], batch_size=64, seed=0)
    with Prefetcher(BatchSampler(arena, [Stratum()], batch_size=64, seed=0), depth=4) as prefetcher:
        prefetcher.batch(0)  # 1 to 4 are being drawn from the old content
        arena.add([make_episode(1, 4)])
        batch = prefetcher.batch(1)
        assert {number for number, _ in sampled(batch)} == {0, 1}
        assert same(batch, plain.batch(1))
        arena.revoke(["r0/e000"])
        for update in range(2, 8):
            batch = prefetcher.batch(update)
            assert {number for number, _ in sampled(batch)} == {1}
            assert same(batch, plain.batch(update))


def test_errors_of_the_thread_reach_the_learner() -> None:
    with (
        Prefetcher(BatchSampler(make_arena(), [Stratum()], batch_size=4, seed=0)) as prefetcher,
        pytest.raises(ConfigError, match="add episodes"),
    ):
        prefetcher.batch(0)


def test_sampling_while_another_thread_adds_never_mixes_episodes() -> None:
    arena = make_arena(make_episode(0, 6))
    sampler = BatchSampler(arena, [Stratum()], batch_size=64, seed=0)

    def grow() -> None:
        for number in range(1, 400):
            arena.add([make_episode(number, 1 + number % 9)])

    thread = threading.Thread(target=grow)
    thread.start()
    update = 0
    while thread.is_alive() or update < 10:
        batch = sampler.batch(update)
        number_B, step_B = batch.observation.state_BS.unbind(1)
        next_number_B, next_step_B = batch.bootstrap_observation.state_BS.unbind(1)
        assert torch.equal(number_B, next_number_B)
        assert ((next_step_B - step_B >= 1) & (next_step_B - step_B <= 2)).all()
        update += 1
    thread.join()
    assert arena.num_episodes == 400


def test_bad_settings_are_refused() -> None:
    arena = make_arena(make_episode(0, 3))
    with pytest.raises(ConfigError, match="needs strata"):
        BatchSampler(arena, [], batch_size=4, seed=0)
    with pytest.raises(ConfigError, match="positive fraction"):
        BatchSampler(arena, [Stratum(fraction=0)], batch_size=4, seed=0)
    with pytest.raises(ConfigError, match="batch_size is 0"):
        BatchSampler(arena, [Stratum()], batch_size=0, seed=0)
    with pytest.raises(ConfigError, match="depth is 0"):
        Prefetcher(BatchSampler(arena, [Stratum()], batch_size=4, seed=0), depth=0)
    wrong = BatchSampler(arena, [Stratum(steps=lambda info, c: np.ones(1, np.bool_))], batch_size=4, seed=0)
    with pytest.raises(ShapeError, match="step filter"):
        wrong.batch(0)
