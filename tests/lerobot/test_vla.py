"""LeRobot's VLAs as ours: the same numbers as theirs, and QAM's gradient where it belongs."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lerobot.configs.policies import PreTrainedConfig
from lerobot.policies.factory import get_policy_class, make_pre_post_processors

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.sft import SFT, SFTConfig
from lwd.batch import ObservationBatch, TransitionBatch
from lwd.cli.main import dispatch
from lwd.data.policies import fetch_base, put_base
from lwd.data.store import open_store
from lwd.errors import CheckpointError, ConfigError, ShapeError
from lwd.models.checkpoint import PolicyReader, base_bytes, load_policy, policy_bytes
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.lerobot.adapters import AdaptedVLA
from lwd.models.lerobot.files import load_lerobot, save_lerobot
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.models.normalization import StateStatistics
from lwd.types import Observation, TokenSpec

from .tiny_vla import EMBODIMENT, HORIZON, INSTRUCTIONS, KINDS, instructions, small_networks, tiny_vla


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def observations(policy: LeRobotVLA, size: int = 3, seed: int = 0) -> ObservationBatch:
    rng = np.random.default_rng(seed)
    texts = [INSTRUCTIONS[index % 2] for index in range(size)]
    return ObservationBatch(
        state_BS=torch.from_numpy(rng.standard_normal((size, 4), dtype=np.float32)),
        instruction_BE=torch.from_numpy(np.stack([policy.instructions(text) for text in texts])),
        images={
            name: torch.from_numpy(rng.integers(0, 256, (size, *shape, 3), dtype=np.uint8))
            for name, shape in EMBODIMENT.cameras.items()
        },
    )


def theirs(policy: Any, batch: ObservationBatch, noise: torch.Tensor) -> torch.Tensor:
    """What LeRobot's own tools make of the same weights, inputs and noise: actions in physical units."""
    items: dict[str, Any] = {"observation.state": batch.state_BS.clone()}
    items |= {
        f"observation.images.{name}": image.permute(0, 3, 1, 2).float() / 255 for name, image in batch.images.items()
    }
    items["task"] = [INSTRUCTIONS[index % 2] for index in range(batch.size)]
    processed = policy.processors.preprocessor(items)
    chunk = policy.network.predict_action_chunk(processed, noise=noise)
    return policy.processors.postprocessor(chunk)


@pytest.mark.parametrize("relative", [False, True])
def test_the_sampler_equals_lerobots(kind: str, relative: bool, tmp_path: Path) -> None:
    if relative and kind == "smolvla":
        pytest.skip("SmolVLA has no relative actions")
    policy = tiny_vla(kind, tmp_path, relative=relative)
    batch = observations(policy)
    noise = torch.randn(3, *policy.noise_shape, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        chunk = policy.sample(batch, noise)
        ours = policy.normalizer.action_scale * policy.unit_chunk(batch, chunk) + policy.normalizer.action_center
    assert ours.shape == (3, HORIZON, EMBODIMENT.action_size)
    torch.testing.assert_close(ours, theirs(policy, batch, noise), atol=1e-5, rtol=0)


def transitions(policy: LeRobotVLA, size: int = 4) -> TransitionBatch:
    rng = np.random.default_rng(2)
    low, high = np.array(EMBODIMENT.action_low), np.array(EMBODIMENT.action_high)
    actions = rng.uniform(low, high, (size, HORIZON, 3)).astype(np.float32)
    mask = torch.ones(size, HORIZON, dtype=torch.bool)
    mask[0, 3:] = False
    return TransitionBatch(
        observation=observations(policy, size),
        action_chunk_BHA=torch.from_numpy(actions),
        action_mask_BH=mask,
        human_BH=torch.zeros(size, HORIZON, dtype=torch.bool),
        return_B=torch.zeros(size),
        outcome_return_B=torch.full((size,), 0.5),
        bootstrap_observation=observations(policy, size, seed=1),
        bootstrap_discount_B=torch.full((size,), 0.9),
        task_B=torch.zeros(size, dtype=torch.int64),
        imitable_BH=torch.ones(size, HORIZON, dtype=torch.bool),
    )


def lwd(policy: LeRobotVLA, reference: LeRobotVLA, **settings: Any) -> LWD:
    torch.manual_seed(0)
    sizes = CriticConfig(token_width=8, readout_size=16, action_width=8, width=16, num_atoms=11)
    critic = ValueCritic(EMBODIMENT, sizes, policy.normalizer.statistics, policy.horizon)
    config = LWDConfig(train_backbone=False, temperature=0.1, flow_steps=3, **settings)
    return LWD(policy, reference, critic, config, torch.Generator().manual_seed(0))


def test_chunks_go_through_the_checkpoints_units_and_back(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path, relative=kind != "smolvla")
    batch = transitions(policy)
    chunk = policy.flow_chunk(batch.observation, batch.action_chunk_BHA)
    assert chunk.shape == (4, *policy.noise_shape)
    assert not chunk[..., 3:].any()
    physical = policy.physical_chunk(batch.observation, chunk)
    torch.testing.assert_close(physical, batch.action_chunk_BHA, atol=1e-5, rtol=0)
    unit = policy.unit_chunk(batch.observation, chunk)
    torch.testing.assert_close(unit, policy.normalizer.action(batch.action_chunk_BHA), atol=1e-5, rtol=0)
    beyond = policy.flow_chunk(batch.observation, batch.action_chunk_BHA + 10)
    high = torch.tensor(EMBODIMENT.action_high).expand(4, HORIZON, 3)
    torch.testing.assert_close(policy.physical_chunk(batch.observation, beyond), high)


def test_padding_counts_in_no_loss_and_no_adjoint(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path)
    batch = observations(policy)
    field = policy.field(policy.encode(batch))
    trajectory = torch.randn(2, 3, *policy.noise_shape, generator=torch.Generator().manual_seed(0))
    times = torch.tensor([[0.3], [0.6]])
    vjp = field.linearize(trajectory, times)
    gradient = torch.randn(3, *policy.noise_shape, generator=torch.Generator().manual_seed(1))
    product = vjp(1, gradient)
    assert product[..., :3].abs().sum() > 0
    assert not product[..., 3:].any()
    noisy = gradient.clone()
    noisy[..., 3:] += 5
    torch.testing.assert_close(vjp(1, noisy), product)
    # The product is what a small change of the actions does to the velocity.
    step = torch.zeros_like(gradient)
    step[..., :3] = torch.randn(3, HORIZON, 3, generator=torch.Generator().manual_seed(2)) * 1e-2
    with torch.no_grad():
        change = field(trajectory[1] + step, times[1]) - field(trajectory[1] - step, times[1])
    along = (product * step).sum() * 2
    torch.testing.assert_close(along, (change[..., :3] * gradient[..., :3]).sum(), rtol=2e-2, atol=1e-4)


def test_a_frozen_backbone_is_one_for_policy_reference_and_average(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path)
    reference = deepcopy(policy)
    algorithm = lwd(policy, reference, reference_learning_rate=1e-3)
    assert algorithm.imitation is not None
    copies = (algorithm.averaged_policy, algorithm.reference, algorithm.imitation.policy)
    own = dict(policy.named_parameters())
    assert any(parameter.requires_grad for parameter in own.values())
    for copy in copies:
        for name, parameter in copy.named_parameters():
            assert (parameter is own[name]) == (not own[name].requires_grad), name
    with pytest.raises(ConfigError, match="backbone_trained"):
        reference.train_backbone(True)


def test_qams_gradient_reaches_the_expert_and_nothing_else(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path)
    reference = deepcopy(policy)
    algorithm = lwd(policy, reference, actor_learning_rate=1e-2)
    before = {name: parameter.clone() for name, parameter in policy.named_parameters()}
    fixed = {name: tensor.clone() for name, tensor in reference.state_dict().items()}
    metrics = algorithm.update(transitions(policy))
    assert metrics["gradient_norm/actor"] > 0
    backbone = {id(p) for module in policy._backbone() for p in module.parameters()}
    moved = {name for name, parameter in policy.named_parameters() if not torch.equal(parameter, before[name])}
    expected = {name for name, parameter in policy.named_parameters() if id(parameter) not in backbone}
    # No velocity is read from the head of the expert's language model.
    assert moved == {name for name in expected if "lm_head" not in name}
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, fixed[name]), name


def test_backbone_and_expert_learn_from_flow_matching_where_asked(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path, backbone_trained=True)
    algorithm = SFT(policy, SFTConfig(learning_rate=1e-3), torch.Generator().manual_seed(0))
    copies = dict(algorithm.averaged_policy.named_parameters())
    assert not any(parameter is copies[name] for name, parameter in policy.named_parameters())
    before = [p.clone() for module in policy._backbone() for p in module.parameters()]
    first = algorithm.update(transitions(policy))["loss/flow"]
    after = [p for module in policy._backbone() for p in module.parameters()]
    assert any(not torch.equal(a, b) for a, b in zip(after, before, strict=True))
    losses = [algorithm.update(transitions(policy))["loss/flow"] for _ in range(30)]
    assert np.mean(losses[-10:]) < first


def test_activations_computed_again_give_the_same_gradient(kind: str, tmp_path: Path) -> None:
    gradients = []
    for again in (False, True):
        policy = tiny_vla(kind, tmp_path, gradient_checkpointing=again)
        algorithm = lwd(policy, deepcopy(policy))
        algorithm.update(transitions(policy))
        gradients.append([p.grad.clone() for p in policy.parameters() if p.grad is not None])
    for kept, computed in zip(*gradients, strict=True):
        torch.testing.assert_close(kept, computed)


def test_bfloat16_products_keep_float32_weights_and_flow(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path)
    algorithm = lwd(policy, deepcopy(policy))
    noise = torch.randn(3, *policy.noise_shape, generator=torch.Generator().manual_seed(1))
    batch = observations(policy)
    with torch.no_grad():
        exact = policy.sample(batch, noise)
        policy.precision = "bfloat16"
        rough = policy.sample(batch, noise)
    assert rough.dtype == torch.float32
    assert 0 < (rough - exact).abs().max() < 0.3
    algorithm.reference.precision = "bfloat16"
    metrics = algorithm.update(transitions(policy))
    assert np.isfinite(metrics["loss/actor"])
    assert all(p.dtype == torch.float32 for p in policy.parameters())


def test_a_backbone_in_bfloat16_leaves_what_learns_in_float32(kind: str, tmp_path: Path) -> None:
    whole, half = tiny_vla(kind, tmp_path), tiny_vla(kind, tmp_path, backbone_precision="bfloat16")
    backbone = {id(p) for module in half._backbone() for p in module.parameters()}
    for parameter in half.parameters():
        assert parameter.dtype == (torch.bfloat16 if id(parameter) in backbone else torch.float32)
    noise = torch.randn(3, *whole.noise_shape, generator=torch.Generator().manual_seed(1))
    for precision in ("float32", "bfloat16"):
        half.precision = precision
        with torch.no_grad():
            exact, rough = (policy.sample(observations(policy), noise) for policy in (whole, half))
        assert 0 < (rough - exact).abs().max() < 0.3
    algorithm = lwd(half, deepcopy(half))
    algorithm.reference.precision = "bfloat16"
    assert np.isfinite(algorithm.update(transitions(half))["loss/actor"])
    with small_networks():
        again = load_policy(policy_bytes(half))
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), half.parameters(), strict=True))
    with pytest.raises(ConfigError, match="backbone_precision"):
        tiny_vla(kind, tmp_path, backbone_trained=True, backbone_precision="bfloat16")


def test_a_learners_state_leaves_the_frozen_backbone_out(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path)
    algorithm = lwd(policy, deepcopy(policy), actor_learning_rate=1e-2, reference_learning_rate=1e-3)
    algorithm.update(transitions(policy))
    state = deepcopy(algorithm.state())  # as from a file: a loaded state shares no tensor with the algorithm
    backbone = {id(p) for module in policy._backbone() for p in module.parameters()}
    names = {name for name, parameter in policy.named_parameters() if id(parameter) not in backbone}
    for key in ("policy", "averaged_policy", "reference"):
        assert {name for name in state[key] if name in dict(policy.named_parameters())} == names
    fresh = tiny_vla(kind, tmp_path)
    other = lwd(fresh, deepcopy(fresh), actor_learning_rate=1e-2, reference_learning_rate=1e-3)
    other.load_state(state)
    batch = transitions(policy)
    assert other.update(batch) == algorithm.update(batch)
    with pytest.raises(CheckpointError, match="another policy"):
        fresh.load_learned_state({name: state["policy"][name] for name in list(state["policy"])[1:]})


def test_a_chunk_goes_on_from_the_one_before(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path, relative=kind != "smolvla")
    rng = np.random.default_rng(0)
    seen = Observation(
        state=rng.standard_normal(4, dtype=np.float32),
        images={name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in EMBODIMENT.cameras.items()},
    )
    queued = np.tile(np.array([0.3, -0.2, 1.2], np.float32), (3, 1))
    alone, going_on = [], []
    for seed in range(8):
        generator = torch.Generator().manual_seed(seed)
        alone.append(policy.act([seen], INSTRUCTIONS[:1], generator=generator)[0])
        generator = torch.Generator().manual_seed(seed)
        going_on.append(policy.continue_chunk(seen, INSTRUCTIONS[0], queued, frozen=2, generator=generator))
    assert going_on[0].shape == (HORIZON, 3)
    away, near = (np.abs(np.array(chunks)[:, :2] - queued[:2]).mean() for chunks in (alone, going_on))
    assert near < 0.2 * away


def test_no_more_states_than_fit_go_through_at_a_time(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path, states_at_once=2)
    algorithm = lwd(policy, deepcopy(policy), actor_learning_rate=1e-2, reference_learning_rate=1e-3)
    seen: list[int] = []
    for network in (algorithm.policy, algorithm.reference, algorithm.imitation.policy):
        network.features = _counting(network.features, seen)
    before = {name: tensor.clone() for name, tensor in policy.learned_state().items()}
    metrics = algorithm.update(transitions(policy, size=5))
    assert np.isfinite(metrics["loss/actor"])
    assert max(seen) == 2
    assert seen.count(1) >= 2  # the rests of five
    assert any(not torch.equal(tensor, before[name]) for name, tensor in policy.learned_state().items())
    with pytest.raises(ConfigError, match="states_at_once is 0"):
        tiny_vla(kind, tmp_path, states_at_once=0)


def _counting(features: Any, seen: list[int]) -> Any:
    def counted(observation: ObservationBatch) -> Any:
        seen.append(observation.size)
        return features(observation)

    return counted


def test_adapters_begin_as_the_reference_and_learn_alone(kind: str, tmp_path: Path) -> None:
    plain = tiny_vla(kind, tmp_path)
    before = {name: tensor.clone() for name, tensor in plain.state_dict().items()}
    policy = AdaptedVLA(plain, 4)
    noise = torch.randn(3, *plain.noise_shape, generator=torch.Generator().manual_seed(1))
    batch = observations(plain)
    with torch.no_grad():
        assert torch.equal(policy.sample(batch, noise), plain.sample(batch, noise))
    torch.manual_seed(0)
    sizes = CriticConfig(token_width=8, readout_size=16, action_width=8, width=16, num_atoms=11)
    critic = ValueCritic(EMBODIMENT, sizes, plain.normalizer.statistics, plain.horizon)
    config = LWDConfig(train_backbone=True, temperature=0.1, flow_steps=3, actor_learning_rate=1e-2)
    algorithm = LWD(policy, plain, critic, config, torch.Generator().manual_seed(0))
    # The second step: an adapter's first factor gets its first gradient when the second one has left zero.
    for _ in range(2):
        algorithm.update(transitions(plain))
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    weights = {id(parameter) for parameter in plain.parameters()}
    own = [parameter for parameter in policy.parameters() if id(parameter) not in weights]
    assert own
    assert all(parameter.requires_grad for parameter in own)
    averaged = {id(parameter) for parameter in algorithm.averaged_policy.parameters()}
    assert weights <= averaged
    assert not averaged & {id(parameter) for parameter in own}
    backbone = [
        name for name, _ in plain.named_parameters() if any(p is _ for m in plain._backbone() for p in m.parameters())
    ]
    moved = {name for name, tensor in algorithm.state()["policy"].items() if ".lora_B." in name and tensor.any()}
    places = {name.partition(".lora_B.")[0] for name in moved}
    assert any(name.removesuffix(".weight") in places for name in backbone), "no adapter of the backbone has learned"
    assert any("expert" in place for place in places)

    fresh = AdaptedVLA(tiny_vla(kind, tmp_path), 4)
    fresh.load_learned_state(policy.learned_state())
    with torch.no_grad():
        learned = policy.sample(batch, noise)
        assert not torch.equal(learned, plain.sample(batch, noise))
        assert torch.equal(fresh.sample(batch, noise), learned)
        merged = policy.merged()
        torch.testing.assert_close(merged.sample(batch, noise), learned, atol=1e-4, rtol=1e-4)
        with small_networks():
            again = load_policy(policy_bytes(policy))
        assert torch.equal(again.sample(batch, noise), merged.sample(batch, noise))
    with pytest.raises(CheckpointError, match="adapters"):
        fresh.load_learned_state({})
    with pytest.raises(ConfigError, match="adapters are in the backbone"):
        policy.train_backbone(False)
    with pytest.raises(ConfigError, match="lora_rank"):
        tiny_vla(kind, tmp_path, lora_rank=2, backbone_trained=True)


def test_a_policy_file_acts_identically(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path, relative=kind != "smolvla")
    data = policy_bytes(policy)
    assert data == policy_bytes(policy)
    with small_networks():
        again = load_policy(data)
    rng = np.random.default_rng(0)
    seen = [
        Observation(
            state=rng.standard_normal(4, dtype=np.float32),
            images={
                name: rng.integers(0, 256, (*size, 3), dtype=np.uint8) for name, size in EMBODIMENT.cameras.items()
            },
        )
        for _ in range(2)
    ]
    noise = rng.standard_normal((2, *policy.noise_shape), dtype=np.float32)
    np.testing.assert_array_equal(
        policy.act(seen, INSTRUCTIONS, noise_BHA=noise), again.act(seen, INSTRUCTIONS, noise_BHA=noise)
    )


def test_robots_fetch_the_frozen_backbone_once(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path / "tokens")
    store = open_store(tmp_path / "store")
    base = put_base(store, base_bytes(policy))
    assert put_base(store, base_bytes(policy)) == base
    fetched: list[str] = []

    def fetch(sha256: str) -> bytes:
        fetched.append(sha256)
        return fetch_base(store, sha256, tmp_path / "copies")

    read = PolicyReader(fetch)
    algorithm = lwd(policy, deepcopy(policy), actor_learning_rate=1e-2)
    batch = observations(policy)
    noise = torch.randn(3, *policy.noise_shape, generator=torch.Generator().manual_seed(1))
    versions, wanted = [], []
    with small_networks(), torch.no_grad():
        for _ in range(3):
            data = policy_bytes(policy, base=base)
            assert len(data) < len(policy_bytes(policy))
            versions.append(read(data))
            wanted.append(policy.sample(batch, noise))
            with torch.enable_grad():
                algorithm.update(transitions(policy))
        for version, expected in zip(versions, wanted, strict=True):
            assert torch.equal(version.sample(batch, noise), expected)
        assert fetched == [base]
        backbones = [{id(p) for module in version._backbone() for p in module.parameters()} for version in versions]
        assert backbones[0] == backbones[1] == backbones[2]
        with pytest.raises(CheckpointError, match="no backbone"):
            load_policy(data)
        # Another process finds the copy on its disk, and fetches again what was damaged there.
        (copy,) = (tmp_path / "copies").iterdir()
        copy.write_bytes(copy.read_bytes()[:-1])
        other = PolicyReader(lambda sha256: fetch_base(store, sha256, tmp_path / "copies"))
        assert torch.equal(other(data).sample(batch, noise), wanted[-1])
        assert fetch_base(store, base, tmp_path / "copies") == copy.read_bytes()


def test_lerobot_loads_what_we_save_and_acts_identically(kind: str, tmp_path: Path) -> None:
    policy = tiny_vla(kind, tmp_path / "tokens", relative=kind != "smolvla")
    algorithm = lwd(policy, deepcopy(policy), actor_learning_rate=1e-2)
    algorithm.update(transitions(policy))
    save_lerobot(policy, tmp_path / "saved")
    batch = observations(policy)
    noise = torch.randn(3, *policy.noise_shape, generator=torch.Generator().manual_seed(1))
    expected = theirs(policy, batch, noise)

    config = PreTrainedConfig.from_pretrained(tmp_path / "saved")
    with small_networks():
        network = get_policy_class(kind).from_pretrained(tmp_path / "saved", config=config)
        ours = load_lerobot(str(tmp_path / "saved"), EMBODIMENT, policy.normalizer.statistics)
    before, after = make_pre_post_processors(config, pretrained_path=str(tmp_path / "saved"))
    alone = SimpleNamespace(network=network, processors=SimpleNamespace(preprocessor=before, postprocessor=after))
    torch.testing.assert_close(theirs(alone, batch, noise), expected, atol=0, rtol=0)
    torch.testing.assert_close(theirs(ours, batch, noise), expected, atol=0, rtol=0)


def test_a_base_model_is_fitted_to_another_robot(kind: str, tmp_path: Path) -> None:
    save_lerobot(tiny_vla(kind, tmp_path / "tokens"), tmp_path / "saved")
    other = replace(
        EMBODIMENT,
        name="other",
        state_tokens=(TokenSpec(name="joints", size=5),),
        action_low=(-1.0,) * 6,
        action_high=(1.0,) * 6,
        cameras={"top": (20, 20)},
    )
    state = StateStatistics(mean=(0.0,) * 5, std=(1.0,) * 5)
    with small_networks(), pytest.raises(ShapeError, match=r"observation\.state of the checkpoint has 4 entries"):
        load_lerobot(str(tmp_path / "saved"), other, state)
    numbers = {"mean": 0.0, "std": 2.0, "q01": -2.0, "q99": 2.0, "min": -3.0, "max": 3.0}
    fit = {
        key: {name: torch.full((size,), value) for name, value in numbers.items()}
        for key, size in (("observation.state", 5), ("action", 6))
    }
    with small_networks():
        policy = load_lerobot(
            str(tmp_path / "saved"), other, state, horizon=3, fit_to=lambda _: fit, instructions=instructions()
        )
    assert policy.horizon == 3
    seen = Observation(state=np.zeros(5, np.float32), images={"top": np.zeros((20, 20, 3), np.uint8)})
    assert policy.act([seen], INSTRUCTIONS[:1], generator=torch.Generator().manual_seed(0)).shape == (1, 3, 6)
    rows = torch.ones(1, 3, 6)
    batch = policy.observation_batch([seen], INSTRUCTIONS[:1])
    torch.testing.assert_close(policy.flow_chunk(batch, rows)[..., :6], rows / 2)


def test_the_command_line_exports_what_lerobot_loads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = tiny_vla("smolvla", tmp_path / "tokens")
    (tmp_path / "policy.safetensors").write_bytes(policy_bytes(policy))
    words = ["policy", "export", str(tmp_path / "policy.safetensors"), "--lerobot", str(tmp_path / "out")]
    assert dispatch(words) == 0
    network = get_policy_class("smolvla").from_pretrained(tmp_path / "out")
    for name, tensor in policy.network.state_dict().items():
        assert torch.equal(network.state_dict()[name], tensor), name
    assert dispatch(words) == 1
    assert "is not empty" in capsys.readouterr().err
