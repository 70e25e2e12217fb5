"""Prefixes that are looked up: the same as computed ones, never another state's, and only of frozen backbones."""

import io
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs import FeatureType, PolicyFeature
from PIL import Image
from safetensors.torch import load_file
from tests.tiny_run import as_fleet, commit, copy_of

from lwd.algos.sft import SFT, SFTConfig
from lwd.batch import ObservationBatch
from lwd.cli.main import dispatch
from lwd.data.arena import ReplayArena
from lwd.data.episode_file import read_episode
from lwd.data.revocation import newest_log
from lwd.data.row_table import RowTable
from lwd.errors import ConfigError
from lwd.learner.checkpoint import STATE
from lwd.learner.limiter import UpdateToDataLimiter
from lwd.learner.loop import UpdateResult
from lwd.models.checkpoint import load_policy, policy_bytes
from lwd.models.lerobot.adapters import AdaptedVLA
from lwd.models.lerobot.families import Prefix
from lwd.models.lerobot.files import save_lerobot
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.fleet_learner import LearnerConfig, run_learner
from lwd.recipes.prefix_cache import PrefixCache
from lwd.recipes.pretrained import PretrainedPolicy
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import recipe
from lwd.recipes.stages import Control, run_offline, run_sft
from lwd.types import Episode, EpisodeInfo, Outcome, Source

from . import datasets
from .test_vla import lwd, observations, transitions
from .tiny_vla import EMBODIMENT, INSTRUCTIONS, KINDS, small_networks, tiny_vla

PRECISIONS = [("float32", "float32"), ("float32", "bfloat16"), ("bfloat16", "bfloat16")]
"""Of the backbone's weights, and of the products."""


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


Keep = Callable[..., RowTable]


@pytest.fixture
def keep(tmp_path: Path) -> Iterator[Keep]:
    """Opens a table for a policy, and lets it keep its prefixes there."""
    with ExitStack() as stack:

        def call(policy: LeRobotVLA, *, rows: int = 40, name: str = "table") -> RowTable:
            prefix = policy.frozen_prefix()
            table = RowTable(
                tmp_path / name,
                row_bytes=prefix.row_bytes,
                budget_bytes=4096 + rows * (prefix.row_bytes + 128),
                content=prefix.fingerprint(),
            )
            stack.enter_context(closing(table))
            prefix.keep_in(table)
            return table

        yield call


def uncached(policy: LeRobotVLA, batch: ObservationBatch) -> Prefix:
    return policy.read(policy.preprocessed(batch, policy.instructions.texts(batch.instruction_BE.numpy())))


def velocity(policy: LeRobotVLA, prefix: Prefix) -> torch.Tensor:
    size = prefix.pad_mask_BL.shape[0]
    chunk = torch.randn(2, size, *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.field(prefix)(chunk, torch.tensor([[0.3], [0.6]]))


@pytest.mark.parametrize(("backbone", "products"), PRECISIONS)
def test_a_batch_that_was_computed_together_comes_back_bit_for_bit(
    kind: str, backbone: Any, products: Any, tmp_path: Path, keep: Keep
) -> None:
    policy = tiny_vla(kind, tmp_path, backbone_precision=backbone)
    policy.precision = products
    batch = observations(policy, 5)
    plain = uncached(policy, batch)
    table = keep(policy)
    for hits in (0, 5):
        found = policy.features(batch)
        assert (table.hits, table.misses) == (hits, 5)
        assert torch.equal(found.pad_mask_BL, plain.pad_mask_BL)
        there = plain.pad_mask_BL[:, None, :, None]
        for ours, theirs in zip(found.cache, plain.cache, strict=True):
            for mine, computed in zip(ours[:2], theirs[:2], strict=True):
                assert mine.dtype == computed.dtype
                assert torch.equal(mine, computed.masked_fill(~there, 0))
        assert torch.equal(velocity(policy, found), velocity(policy, plain))


@pytest.mark.parametrize(("backbone", "products"), PRECISIONS)
def test_rows_of_other_batches_differ_by_rounding_alone(
    kind: str, backbone: Any, products: Any, tmp_path: Path, keep: Keep
) -> None:
    policy = tiny_vla(kind, tmp_path, backbone_precision=backbone)
    policy.precision = products
    batch = observations(policy, 6)
    expected = velocity(policy, uncached(policy, batch))
    table = keep(policy)
    # One alone, two together (the shorter prompt, then both), the rest when all six are asked for: in another order.
    policy.features(batch.rows(torch.tensor([1])))
    policy.features(batch.rows(torch.tensor([3, 4])))
    assert table.misses == 3
    order = torch.tensor([5, 1, 0, 4, 2, 3])
    found = policy.features(batch.rows(order))
    assert (table.hits, table.misses) == (3, 6)
    tolerance = 1e-5 if (backbone, products) == ("float32", "float32") else 2e-2
    chunk = torch.randn(2, 6, *policy.noise_shape, generator=torch.Generator().manual_seed(0))[:, order]
    with torch.no_grad():
        again = policy.field(found)(chunk, torch.tensor([[0.3], [0.6]]))
    torch.testing.assert_close(again, expected[:, order], atol=tolerance, rtol=0)


def test_a_qam_update_has_the_same_gradients(kind: str, tmp_path: Path, keep: Keep) -> None:
    gradients, metrics = [], []
    for kept in (False, True):
        policy = tiny_vla(kind, tmp_path)
        algorithm = lwd(policy, deepcopy(policy), actor_learning_rate=1e-2)
        if kept:
            table = keep(policy)
            algorithm.reference.frozen_prefix().keep_in(table)
        states = transitions(policy).observation
        metrics.append([algorithm.update_actor(states) for _ in range(3)])
        gradients.append({name: p.grad for name, p in policy.named_parameters() if p.grad is not None})
    assert (table.hits, table.misses) == (8, 4)
    assert metrics[0] == metrics[1]
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        assert torch.equal(gradient, gradients[1][name]), name


def test_a_state_that_a_batch_holds_often_is_read_once(kind: str, tmp_path: Path, keep: Keep) -> None:
    policy = tiny_vla(kind, tmp_path)
    batch = observations(policy, 3).repeat(4)
    expected = velocity(policy, uncached(policy, batch))
    table = keep(policy)
    found = policy.features(batch)
    assert (table.misses, len(table)) == (3, 3)
    torch.testing.assert_close(velocity(policy, found), expected, atol=1e-5, rtol=0)


def png(seed: int, camera: str) -> bytes:
    size = EMBODIMENT.cameras[camera]
    pixels = np.random.default_rng([seed, len(camera)]).integers(0, 256, (*size, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


def episode(number: int, *, instruction: str = INSTRUCTIONS[0], name: str | None = None, steps: int = 6) -> Episode:
    """Pixels, states and actions follow from the number."""
    rng = np.random.default_rng(number)
    info = EpisodeInfo(
        episode_id=name or f"episode-{number}",
        robot_id="r",
        embodiment=EMBODIMENT.name,
        task="t",
        instruction=instruction,
        source=Source.FLEET,
        outcome=Outcome.SUCCESS,
        policy_version=0,
        sub_step_scores=(1.0,),
        control_hz=10.0,
        seed=number,
        world="nominal",
        started_at_s=1.5e9,
        software_version="0",
    )
    return Episode(
        info=info,
        states_TS=rng.normal(size=(steps + 1, 4)).astype(np.float32),
        actions_TA=rng.uniform(-0.5, 0.5, size=(steps, 3)).astype(np.float32),
        controllers_T=np.zeros(steps, np.uint8),
        images={c: tuple(png(1000 * number + step, c) for step in range(steps + 1)) for c in EMBODIMENT.cameras},
    )


def arena_of(policy: LeRobotVLA) -> ReplayArena:
    return ReplayArena(EMBODIMENT, horizon=policy.horizon, gamma=0.99, embed=policy.instructions, initial_rows=8)


def assert_right(policy: LeRobotVLA, arena: ReplayArena, rows: list[int]) -> None:
    batch = arena.gather(np.array(rows)).observation
    expected = velocity(policy, uncached(policy, batch))
    torch.testing.assert_close(velocity(policy, policy.features(batch)), expected, atol=1e-5, rtol=0)


def test_a_growing_replay_and_revoked_episodes_never_meet_a_stale_row(kind: str, tmp_path: Path, keep: Keep) -> None:
    policy = tiny_vla(kind, tmp_path)
    table = keep(policy)
    arena = arena_of(policy)
    arena.add([episode(0)])
    assert_right(policy, arena, [0, 1, 2, 3])
    arena.add([episode(1), episode(2)])  # its buffers have moved twice
    assert_right(policy, arena, [0, 1, 2, 3, 8, 9, 15])
    assert (table.hits, table.misses) == (4, 7)
    arena.revoke(["r/episode-0"])
    assert_right(policy, arena, [8, 9, 15])
    assert table.misses == 7
    # The arena of a learner that is started again holds the others from its first row on.
    again = arena_of(policy)
    again.add([episode(2), episode(1), episode(3)])
    assert_right(policy, again, [0, 1, 2, 3, 8, 9])
    # Row 15 was the second of episode 2, rows 8 and 9 the second and third of episode 1, as now.
    assert table.misses == 7 + 3


def test_two_instructions_for_one_frame_are_two_rows(kind: str, tmp_path: Path, keep: Keep) -> None:
    policy = tiny_vla(kind, tmp_path)
    table = keep(policy)
    arena = arena_of(policy)
    arena.add([episode(0), episode(0, instruction=INSTRUCTIONS[1], name="relabelled"), episode(0, name="again")])
    assert_right(policy, arena, [1, 8])
    assert table.misses == 2
    first, second = (policy.features(arena.gather(np.array([row])).observation) for row in (1, 8))
    assert not torch.equal(velocity(policy, first), velocity(policy, second))
    assert_right(policy, arena, [15])  # the same pixels and words under another episode's name: the same row
    assert table.misses == 2


def test_a_full_table_forgets_the_oldest_and_stays_right(kind: str, tmp_path: Path, keep: Keep) -> None:
    policy = tiny_vla(kind, tmp_path)
    table = keep(policy, rows=4)
    assert table.rows == 4
    arena = arena_of(policy)
    arena.add([episode(0), episode(1)])
    assert_right(policy, arena, [0, 1, 2])
    assert_right(policy, arena, [3, 4, 2])
    assert (table.hits, len(table)) == (1, 4)
    assert_right(policy, arena, [0, 4, 3, 2])  # 0 was forgotten
    assert (table.hits, table.misses) == (4, 6)
    # More new states than there is room for: each is computed, the last ones stay.
    assert_right(policy, arena, [7, 8, 9, 10, 11, 12])
    assert_right(policy, arena, [9, 10, 11, 12])
    assert (table.hits, table.misses) == (8, 12)


def test_a_restart_finds_the_rows_of_the_same_backbone_and_of_no_other(
    kind: str, tmp_path: Path, keep: Keep, caplog: pytest.LogCaptureFixture
) -> None:
    policy = tiny_vla(kind, tmp_path)
    batch = observations(policy, 3)
    with closing(keep(policy)) as table:
        kept = velocity(policy, policy.features(batch))
    # From its file, with an expert that has learned.
    with small_networks():
        again = load_policy(policy_bytes(policy))
    assert isinstance(again, LeRobotVLA)
    for parameter in again._expert_parameters():
        parameter.data += 0.01
    with closing(keep(again)) as table:
        found = again.features(batch)
        assert (table.hits, table.misses) == (3, 0)
    assert not torch.equal(velocity(again, found), kept)
    assert torch.equal(velocity(policy, found), kept)
    assert not caplog.records
    other = tiny_vla(kind, tmp_path, seed=1)
    table = keep(other)
    assert [record.message.count("begins anew") for record in caplog.records] == [1]
    found = other.features(batch)
    assert (table.hits, table.misses) == (0, 3)
    assert torch.equal(velocity(other, found), velocity(other, uncached(other, batch)))


def test_the_fingerprint_is_of_all_that_a_prefix_depends_on(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path)
    whole = policy.frozen_prefix().fingerprint()
    assert deepcopy(policy).frozen_prefix().fingerprint() == whole
    name = sorted(policy.frozen_names)[-1]
    before = policy.state_dict()[name].clone()
    policy.state_dict()[name].view(-1)[-1] += 1
    assert policy.frozen_prefix().fingerprint() != whole
    policy.state_dict()[name].copy_(before)
    assert policy.frozen_prefix().fingerprint() == whole
    tokenizer = next(step for step in policy.processors.preprocessor.steps if hasattr(step, "max_length"))
    tokenizer.max_length -= 1
    assert policy.frozen_prefix().fingerprint() != whole


def test_the_longest_prompt_fills_a_row(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path)
    prefix = policy.read(policy.preprocessed(observations(policy, 1), [" ".join(["cup"] * 300)]))
    keys, values, _ = next(iter(prefix.cache))
    token = len(prefix.cache) * (keys[0, :, 0].numel() + values[0, :, 0].numel()) * keys.element_size()
    assert int(prefix.pad_mask_BL.sum()) * token == policy.frozen_prefix().row_bytes


def test_missing_cameras_and_special_tokens_take_their_places(kind: str, tmp_path: Path, keep: Keep) -> None:
    policy = tiny_vla(kind, tmp_path)
    policy.network.config.input_features["observation.images.third"] = PolicyFeature(FeatureType.VISUAL, (3, 24, 32))
    if kind == "smolvla":
        policy.network.config.empty_cameras = 1
        policy.network.model.add_image_special_tokens = True
        policy.network.model.prefix_length = 60
    batch = observations(policy, 3)
    plain = uncached(policy, batch)
    assert not plain.pad_mask_BL.all()
    keep(policy)
    for _ in range(2):
        found = policy.features(batch)
        assert torch.equal(found.pad_mask_BL, plain.pad_mask_BL)
        assert torch.equal(velocity(policy, found), velocity(policy, plain))


def test_rows_stay_with_copies_and_leave_what_has_another_backbone(kind: str, tmp_path: Path, keep: Keep) -> None:
    policy = tiny_vla(kind, tmp_path)
    table = keep(policy)
    assert deepcopy(policy).kept_rows is table
    with pytest.raises(ConfigError, match="train_backbone is True, but prefixes"):
        policy.train_backbone(True)
    batch = observations(policy, 3)
    policy.features(batch)
    adapted = AdaptedVLA(policy, 2)
    for name, parameter in adapted.named_parameters():
        if ".lora_B." in name:
            torch.nn.init.normal_(parameter, std=0.3)
    looked_up = table.hits
    with torch.no_grad():
        own = adapted.features(batch)
        merged = adapted.merged()
        again = merged.features(batch)
    assert table.hits == looked_up
    assert not torch.equal(velocity(policy, own), velocity(policy, policy.features(batch)))
    torch.testing.assert_close(velocity(policy, again), velocity(policy, own), atol=1e-4, rtol=1e-4)


def test_only_frozen_backbones_and_budgets_of_a_batch_are_accepted(kind: str, tmp_path: Path) -> None:
    cache = PrefixCache(gigabytes=0.001, directory=tmp_path / "prefixes")

    def sft(policy: Any) -> SFT:
        return SFT(policy, SFTConfig(), torch.Generator().manual_seed(0))

    plain = tiny_vla(kind, tmp_path)
    small = SmallVLA(EMBODIMENT, VLAConfig(), plain.normalizer.statistics)
    for policy in (tiny_vla(kind, tmp_path, backbone_trained=True), AdaptedVLA(tiny_vla(kind, tmp_path), 2)):
        with pytest.raises(ConfigError, match=r"--prefix-cache is 0\.001 \(GB\), but .* backbone learns"):
            cache.open_for(sft(policy), batch_size=2)
    with pytest.raises(ConfigError, match=r"--prefix-cache is .* SmallVLA has no frozen backbone"):
        cache.open_for(sft(small), batch_size=2)
    with pytest.raises(ConfigError, match=r"--prefix-cache is .* bytes hold \d+ rows of \d+ bytes, at least 5000"):
        cache.open_for(sft(plain), batch_size=5000)
    assert not cache.directory.exists()
    cache.open_for(sft(plain), batch_size=2).close()
    assert sum(path.stat().st_size for path in cache.directory.iterdir()) <= 1_000_000


def metrics_of(run: RunDirectory, stage: str) -> dict[str, float]:
    rows = map(json.loads, (run.path / "metrics" / "learner.jsonl").read_text().splitlines())
    return [row["metrics"] for row in rows if row["stage"] == stage][-1]


WHOLE = recipe("vla_smoke")


def cache_in(run: RunDirectory) -> PrefixCache:
    return PrefixCache(gigabytes=0.01, directory=run.path / "prefixes")


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    """A run with recorded pixels and its SFT stage, whose prefixes were kept."""
    made = tmp_path_factory.mktemp("begun")
    with pytest.MonkeyPatch.context() as patched:
        # Not the scene's words in other capitals: which of two texts with one embedding is read, rounding decides.
        patched.setattr(datasets, "TASKS", ("Pick up the cup.", "Push the cup away."))
        datasets.make_dataset(made / "cups", use_videos=False)
    (made / "tokens").mkdir()
    save_lerobot(tiny_vla("smolvla", made / "tokens"), made / "tiny")
    words = ("--lerobot", str(made / "cups"), "--label-column", "next.success", "--frames", "png")
    assert dispatch(["data", "import", "--run", str(made / "run"), *words]) == 0
    run = RunDirectory(made / "run")
    start = PretrainedPolicy(source=str(made / "tiny"), fit_to_data=True)
    control = Control(prefix_cache=cache_in(run))
    run_sft(run, replace(WHOLE.sft, updates=50), seed=0, pretrained=start, control=control)
    return run


def test_a_stage_that_was_killed_ends_in_the_same_bytes(begun: RunDirectory, tmp_path: Path) -> None:
    whole, cut = (copy_of(begun, tmp_path / name) for name in ("whole", "cut"))
    expected = run_offline(whole, WHOLE.offline, seed=0, control=Control(prefix_cache=cache_in(whole)))

    def die(result: UpdateResult, total: int) -> None:
        if result.update == 6:
            raise KeyboardInterrupt

    # Before its first checkpoint: all that is left of these updates is what they have kept.
    with pytest.raises(KeyboardInterrupt):
        run_offline(cut, WHOLE.offline, seed=0, control=Control(watch=die, prefix_cache=cache_in(cut)))
    found = run_offline(cut, WHOLE.offline, seed=0, control=Control(prefix_cache=cache_in(cut)))
    assert found.sha256 == expected.sha256


def test_all_stages_of_a_run_share_a_table(
    begun: RunDirectory, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run = copy_of(begun, tmp_path / "run")
    cache = cache_in(run)
    seen = {"sft": metrics_of(run, "sft")}
    offline = replace(WHOLE.offline, updates=50)
    checkpoint = run_offline(run, offline, seed=0, control=Control(prefix_cache=cache))
    seen["offline"] = metrics_of(run, "offline")
    assert (cache.directory / "0.rows").stat().st_size <= 10_000_000
    names = load_file(checkpoint.directory / STATE) | load_file(checkpoint.policy_path)
    assert not [name for name in names if "row" in name or "prefix" in name]

    # Without the table the stage learns the same, up to rounding.
    checkpoint.directory.parent.rename(tmp_path / "with")
    run_offline(run, offline, seed=0)
    plain = metrics_of(run, "offline")
    assert not [name for name in plain if name.startswith("prefixes/")]
    for name, value in plain.items():
        assert seen["offline"][name] == pytest.approx(value, rel=1e-3, abs=1e-4), name

    # Every first frame of a chunk once: 11 and 6 of the two successes, which alone are imitated, and 8 of the failure.
    assert seen["sft"]["prefixes/misses"] == seen["sft"]["prefixes/rows"] == 17
    assert seen["offline"]["prefixes/misses"] == 8
    assert seen["offline"]["prefixes/rows"] == 17 + 8

    log = newest_log(run.store())
    recorded = [read_episode(run.store().get(item.entry.key)) for item in log.snapshot.episodes.values()]
    commit(run, [as_fleet(episode) for episode in recorded])
    limiter = UpdateToDataLimiter(updates_per_step=10)
    written = run.path / "metrics" / "learner.jsonl"
    run_learner(
        run,
        replace(WHOLE, fleet=replace(WHOLE.fleet, limiter=limiter)),
        LearnerConfig(on_bus=False, prefix_cache=cache),
        stop=lambda: '"online"' in written.read_text(),
    )
    online = metrics_of(run, "online")
    # The fleet's episodes are the same pixels under other names.
    assert online["prefixes/misses"] == 0
    assert online["prefixes/hits"] >= 50 * 8
    assert online["prefixes/rows"] == 25
    assert "begins anew" not in caplog.text


def test_the_command_line_keeps_them_in_the_run_or_says_how_much_it_needs(
    begun: RunDirectory, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = copy_of(begun, tmp_path / "run")
    shutil.rmtree(run.path / "prefixes")
    words = ["offline", "--run", str(run.path), "--budget", "vla_smoke", "--prefix-cache"]
    assert dispatch([*words, "0.0001"]) == 1
    assert "--prefix-cache is 0.0001 (GB), but 100000 bytes hold 3 rows of 29184 bytes, at least 8 are" in (
        re.sub(r"\s+", " ", capsys.readouterr().err)
    )
    assert not (run.path / "prefixes").exists()
    assert dispatch([*words, "0.001"]) == 0
    (table,) = (run.path / "prefixes").iterdir()
    assert 900_000 < table.stat().st_size <= 1_000_000
