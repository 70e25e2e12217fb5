"""The replay arena against a reference that walks every transition step by step."""

import io
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch.testing import assert_close

from lwd.batch import TransitionBatch
from lwd.data.arena import ReplayArena
from lwd.data.growable import GrowableArray
from lwd.errors import ConfigError, EpisodeRejected, ShapeError
from lwd.ops.returns import bootstrap_discount, n_step_chunk_return
from lwd.types import Controller, Embodiment, Episode, EpisodeInfo, Outcome, Source, TokenSpec

HORIZON, GAMMA = 3, 0.9
ROBOT = Embodiment(
    name="toy",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="all", size=4),),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
)
CAMERA_ROBOT = Embodiment(
    name="toy",
    control_hz=10.0,
    state_tokens=ROBOT.state_tokens,
    action_low=ROBOT.action_low,
    action_high=ROBOT.action_high,
    cameras={"wrist": (2, 3)},
)


def embed(instruction: str) -> np.ndarray:
    return np.full(5, len(instruction), dtype=np.float64)


def make_episode(
    name: str,
    steps: int,
    *,
    outcome: Outcome = Outcome.SUCCESS,
    task: str = "press",
    seed: int = 0,
    images: Mapping[str, tuple[bytes, ...]] | None = None,
) -> Episode:
    rng = np.random.default_rng([seed, steps])
    return Episode(
        info=EpisodeInfo(
            episode_id=name,
            robot_id="r0",
            embodiment="toy",
            task=task,
            instruction=f"please {task}",
            source=Source.FLEET,
            outcome=outcome,
            policy_version=3,
            sub_step_scores=(),
            control_hz=10.0,
            seed=seed,
            world="nominal",
            started_at_s=0.0,
            software_version="test",
        ),
        states_TS=rng.normal(size=(steps + 1, 4)).astype(np.float32),
        actions_TA=rng.normal(size=(steps, 2)).astype(np.float32),
        controllers_T=rng.integers(0, 2, steps).astype(np.uint8),
        images=images or {},
    )


def make_arena(episodes: list[Episode], *, directory: Path | None = None, initial_rows: int = 4) -> ReplayArena:
    arena = ReplayArena(
        ROBOT, horizon=HORIZON, gamma=GAMMA, embed=embed, initial_rows=initial_rows, directory=directory
    )
    arena.add(episodes)
    return arena


def row_of(arena: ReplayArena, episode: int, step: int) -> int:
    return int(arena.view.first_row_E[episode]) + step


def assert_same(left: TransitionBatch, right: TransitionBatch) -> None:
    for name in (
        "action_chunk_BHA",
        "action_mask_BH",
        "human_BH",
        "return_B",
        "bootstrap_discount_B",
        "task_B",
    ):
        assert torch.equal(getattr(left, name), getattr(right, name)), name
    for name in ("observation", "bootstrap_observation"):
        assert torch.equal(getattr(left, name).state_BS, getattr(right, name).state_BS), name
        assert torch.equal(getattr(left, name).instruction_BE, getattr(right, name).instruction_BE), name


def check_transition(batch: TransitionBatch, b: int, episode: Episode, start: int, n_step: int) -> None:
    """Walk the episode from `start`, one control step at a time."""
    steps, outcome = episode.steps, episode.info.outcome
    discount, total, t = 1.0, 0.0, start
    terminated = False
    while t < steps and t < start + n_step * HORIZON:
        last = t == steps - 1
        reward = 1.0 if last and outcome is Outcome.SUCCESS else 0.0
        total += discount * reward
        discount *= GAMMA
        t += 1
        terminated = last and outcome in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIME_LIMIT)
    assert batch.return_B[b].item() == pytest.approx(total, rel=1e-6)
    assert batch.bootstrap_discount_B[b].item() == pytest.approx(0.0 if terminated else discount, rel=1e-6)
    np.testing.assert_array_equal(batch.observation.state_BS[b], episode.states_TS[start])
    np.testing.assert_array_equal(batch.bootstrap_observation.state_BS[b], episode.states_TS[t])
    np.testing.assert_array_equal(batch.observation.instruction_BE[b], embed(episode.info.instruction))
    for h in range(HORIZON):
        real = start + h < steps
        source = min(start + h, steps - 1)
        assert batch.action_mask_BH[b, h].item() is real
        assert batch.human_BH[b, h].item() == (real and episode.controllers_T[source] == Controller.HUMAN)
        np.testing.assert_array_equal(batch.action_chunk_BHA[b, h], episode.actions_TA[source])


lengths = st.lists(st.integers(1, 14), min_size=1, max_size=4)
outcomes = st.lists(st.sampled_from(list(Outcome)), min_size=4, max_size=4)


@settings(derandomize=True, deadline=None, max_examples=50)
@given(lengths=lengths, outcomes=outcomes, n_step=st.integers(1, 4))
def test_every_transition_equals_the_walk(lengths: list[int], outcomes: list[Outcome], n_step: int) -> None:
    episodes = [
        make_episode(f"e{i}", steps, outcome=outcomes[i], task=f"task{i % 2}", seed=i)
        for i, steps in enumerate(lengths)
    ]
    arena = make_arena(episodes)
    starts = [(i, t) for i, episode in enumerate(episodes) for t in range(episode.steps)]
    batch = arena.gather(np.array([row_of(arena, i, t) for i, t in starts]), n_step)
    for b, (i, t) in enumerate(starts):
        check_transition(batch, b, episodes[i], t, n_step)
        assert arena.tasks[int(batch.task_B[b])] == episodes[i].info.task


def test_masks_returns_and_discounts_by_hand() -> None:
    episodes = [make_episode(outcome.value, 5, outcome=outcome) for outcome in Outcome]
    arena = make_arena(episodes)
    success, failure, time_limit, truncated = (row_of(arena, i, 2) for i in range(4))
    batch = arena.gather(np.array([success, failure, time_limit, truncated, row_of(arena, 0, 1)]), 1)
    assert_close(batch.return_B, torch.tensor([0.81, 0.0, 0.0, 0.0, 0.0]))
    assert_close(batch.bootstrap_discount_B, torch.tensor([0.0, 0.0, 0.0, 0.729, 0.729]))
    assert arena.gather(np.array([row_of(arena, 3, 4)]), 2).bootstrap_discount_B.item() == pytest.approx(0.9)


def test_returns_equal_the_generic_operations_on_explicit_rewards() -> None:
    episodes = [make_episode(f"e{i}", 3 + i, outcome=list(Outcome)[i % 4], seed=i) for i in range(9)]
    arena, n_step = make_arena(episodes), 2
    window = n_step * HORIZON
    starts, rewards, valid, terminated = [], [], [], []
    for i, episode in enumerate(episodes):
        for t in range(episode.steps):
            starts.append(row_of(arena, i, t))
            steps = t + np.arange(window)
            success = episode.info.outcome is Outcome.SUCCESS
            rewards.append(np.where((steps == episode.steps - 1) & success, 1.0, 0.0))
            valid.append(steps < episode.steps)
            terminated.append(t + window >= episode.steps and episode.info.outcome.terminal)
    batch = arena.gather(np.array(starts), n_step)
    valid_BN = torch.tensor(np.array(valid))
    rewards_BN = torch.tensor(np.array(rewards), dtype=torch.float32)
    assert_close(batch.return_B, n_step_chunk_return(rewards_BN, valid_BN, GAMMA))
    expected = bootstrap_discount(valid_BN.sum(-1), torch.tensor(terminated), GAMMA)
    assert_close(batch.bootstrap_discount_B, expected)


def test_n_step_by_task() -> None:
    episodes = [make_episode("a", 20, task="long"), make_episode("b", 20, task="short")]
    arena = make_arena(episodes)
    starts = np.array([row_of(arena, 0, 1), row_of(arena, 1, 1)])
    batch = arena.gather(starts, {"long": 4, "short": 1})
    check_transition(batch, 0, episodes[0], 1, 4)
    check_transition(batch, 1, episodes[1], 1, 1)
    with pytest.raises(ConfigError, match="wrong for short"):
        arena.gather(starts, {"long": 4})
    with pytest.raises(ConfigError, match="n_step is 0"):
        arena.gather(starts, 0)


def test_rows_without_an_action_cannot_start_a_transition() -> None:
    arena = make_arena([make_episode("a", 3), make_episode("b", 2)])
    with pytest.raises(ShapeError, match="last observation"):
        arena.gather(np.array([3]))
    with pytest.raises(ShapeError, match=r"\[0, 7\)"):
        arena.gather(np.array([7]))
    with pytest.raises(ShapeError, match=r"\[0, 7\)"):
        arena.gather(np.array([-1]))


def test_file_backed_arena_is_the_same_and_leaves_no_file(tmp_path: Path) -> None:
    episodes = [make_episode(f"e{i}", 5 + i, seed=i) for i in range(30)]
    in_memory = make_arena(episodes)
    on_disk = make_arena(episodes, directory=tmp_path / "arena")
    starts = in_memory.view.first_row_E + 1
    assert_same(on_disk.gather(starts, 2), in_memory.gather(starts, 2))
    on_disk.close()
    assert list((tmp_path / "arena").iterdir()) == []


@pytest.mark.parametrize("on_disk", [False, True])
def test_staged_episodes_cannot_be_sampled_before_they_are_published(tmp_path: Path, on_disk: bool) -> None:
    episodes = [make_episode(f"e{i}", 6, seed=i) for i in range(12)]
    directory = tmp_path if on_disk else None
    arena, whole = make_arena(episodes[:3], directory=directory), make_arena(episodes, directory=directory)
    before, view = arena.version, arena.view
    for part in (episodes[3:7], episodes[5:]):  # beyond the initial rows, some of them twice
        arena.stage(part)
    assert (arena.version, arena.num_episodes) == (before, 3)
    assert arena.view is view
    with pytest.raises(EpisodeRejected):
        arena.stage(
            [make_episode("bad", 4, task="other"), replace(make_episode("worse", 4), actions_TA=np.zeros((4, 9)))]
        )
    assert arena.publish(revoked=["r0/e1", "r0/e9", "r0/nobody"]) == 2
    assert (arena.version, arena.num_episodes, arena.tasks) == (before + 1, 10, whole.tasks)
    starts = whole.view.first_row_E + 1
    assert_same(arena.gather(starts, 2), whole.gather(starts, 2))
    assert arena.publish() == 0
    assert arena.version == before + 1
    arena.close()
    whole.close()


def test_a_view_stays_as_it_was_while_the_arena_grows() -> None:
    episodes = [make_episode(f"e{i}", 6, seed=i) for i in range(40)]
    arena = make_arena(episodes[:1])
    view, starts = arena.view, np.arange(6)
    before = arena.gather(starts, 2, view=view)
    arena.add(episodes[1:])
    arena.revoke(["r0/e0"])
    assert view.num_episodes == 1
    assert not view.revoked_E.any()
    assert_same(arena.gather(starts, 2, view=view), before)
    assert_same(arena.gather(starts, 2), before)


def test_adding_twice_changes_nothing() -> None:
    arena = make_arena([make_episode("a", 4)])
    version = arena.version
    assert arena.add([make_episode("a", 4), make_episode("a", 4)]) == 0
    assert (arena.num_episodes, arena.num_steps, arena.version) == (1, 4, version)
    assert arena.add([make_episode("b", 2)]) == 1
    assert (arena.num_episodes, arena.num_steps, arena.version) == (2, 6, version + 1)


def test_revoking_ignores_the_unknown_and_counts_once() -> None:
    arena = make_arena([make_episode("a", 4), make_episode("b", 2)])
    version = arena.version
    assert arena.revoke(["r0/b", "r0/b", "stranger"]) == 1
    assert arena.revoke(["r0/b"]) == 0
    assert (arena.num_episodes, arena.num_steps, arena.version) == (1, 4, version + 1)


def _broken(field: str) -> Episode:
    good = make_episode("bad", 4)
    fields = {
        "info": good.info,
        "states_TS": good.states_TS,
        "actions_TA": good.actions_TA,
        "controllers_T": good.controllers_T,
    }
    fields[field] = fields[field][:-1]  # type: ignore[index]
    return Episode(**fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: _broken("states_TS"), "states_TS has shape"),
        (lambda: _broken("controllers_T"), "controllers_T has shape"),
        (lambda: make_episode("bad", 0), "no step"),
    ],
)
def test_a_rejected_episode_takes_its_whole_batch_with_it(make: Callable[[], Episode], message: str) -> None:
    arena = make_arena([make_episode("a", 4)])
    before = arena.gather(np.arange(4))
    with pytest.raises(EpisodeRejected, match=message):
        arena.add([make_episode("b", 9, task="new"), make()])
    assert (arena.num_episodes, arena.tasks) == (1, ("press",))
    assert arena.add([make_episode("b", 5)]) == 1
    assert_same(arena.gather(np.arange(4)), before)
    check_transition(arena.gather(np.array([row_of(arena, 1, 3)])), 0, make_episode("b", 5), 3, 1)


def test_an_episode_of_another_robot_is_rejected() -> None:
    other = Embodiment(
        name="other", control_hz=10.0, state_tokens=ROBOT.state_tokens, action_low=(-1.0,), action_high=(1.0,)
    )
    arena = ReplayArena(other, horizon=HORIZON, gamma=GAMMA, embed=embed)
    with pytest.raises(EpisodeRejected, match="embodiment 'toy'"):
        arena.add([make_episode("a", 4)])


def _png(value: int, size: tuple[int, int] = (2, 3)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, dtype=np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_images_are_decoded_once_and_gathered_like_states() -> None:
    frames = {"wrist": tuple(_png(10 * t) for t in range(6))}
    arena = ReplayArena(CAMERA_ROBOT, horizon=2, gamma=GAMMA, embed=embed, initial_rows=2)
    arena.add([make_episode("a", 5, images=frames)])
    batch = arena.gather(np.array([1, 4]), 1)
    assert batch.observation.images["wrist"].shape == (2, 2, 3, 3)
    assert batch.observation.images["wrist"][:, 0, 0, 0].tolist() == [10, 40]
    assert batch.bootstrap_observation.images["wrist"][:, 1, 2, 2].tolist() == [30, 50]


@pytest.mark.parametrize(
    ("frames", "message"),
    [
        ((), "has 0 frames; expected 3"),
        ((_png(0), _png(1), b"no image"), "frame 2 cannot be decoded"),
        ((_png(0), _png(1), _png(2)[:45]), "frame 2 cannot be decoded"),
        ((_png(0), _png(1, (4, 4)), _png(2)), "frame 1 has 4 x 4 pixels"),
    ],
)
def test_bad_frames_are_rejected(frames: tuple[bytes, ...], message: str) -> None:
    arena = ReplayArena(CAMERA_ROBOT, horizon=2, gamma=GAMMA, embed=embed)
    with pytest.raises(EpisodeRejected, match=message):
        arena.add([make_episode("a", 2, images={"wrist": frames})])
    assert arena.num_episodes == 0


def test_instructions_are_embedded_once() -> None:
    seen: list[str] = []

    def counting(instruction: str) -> np.ndarray:
        seen.append(instruction)
        return embed(instruction)

    arena = ReplayArena(ROBOT, horizon=HORIZON, gamma=GAMMA, embed=counting)
    arena.add([make_episode(f"e{i}", 3, task=f"task{i % 2}") for i in range(6)])
    assert sorted(seen) == ["please task0", "please task1"]


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ConfigError, match="horizon is 0"):
        ReplayArena(ROBOT, horizon=0, gamma=GAMMA, embed=embed)
    with pytest.raises(ConfigError, match=r"gamma is 1\.1"):
        ReplayArena(ROBOT, horizon=1, gamma=1.1, embed=embed)
    with pytest.raises(ConfigError, match="initial_rows is 0"):
        ReplayArena(ROBOT, horizon=1, gamma=1.0, embed=embed, initial_rows=0)


@pytest.mark.parametrize("on_disk", [False, True])
def test_growable_array_keeps_rows_and_old_slices(tmp_path: Path, on_disk: bool) -> None:
    array = GrowableArray((2,), np.float32, initial_rows=1, directory=tmp_path if on_disk else None)
    rows = np.arange(200, dtype=np.float32).reshape(100, 2)
    array.append(rows[:1])
    early = array.rows
    for begin in range(1, 100, 3):
        array.append(rows[begin : begin + 3])
    np.testing.assert_array_equal(array.rows, rows)
    np.testing.assert_array_equal(early, rows[:1])
    array.truncate(10)
    array.append(rows[50:51])
    np.testing.assert_array_equal(array.rows, np.concatenate([rows[:10], rows[50:51]]))
    with pytest.raises(ShapeError, match="rows have shape"):
        array.append(np.zeros((2, 3)))
    array.close()
    assert list(tmp_path.iterdir()) == []
