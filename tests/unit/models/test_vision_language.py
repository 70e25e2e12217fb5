"""A critic with a pretrained encoder: small random Gemma 3 and SigLIP of transformers' own classes."""

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    Gemma3TextConfig,
    Gemma3TextModel,
    PreTrainedTokenizerFast,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.batch import ObservationBatch, TransitionBatch
from lwd.errors import CheckpointError, ConfigError
from lwd.models.checkpoint import load_value, value_bytes
from lwd.models.critic import PretrainedCriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.types import Embodiment, TokenSpec

ARM = Embodiment(
    name="arm",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="joints", size=4), TokenSpec(name="gripper", size=2)),
    action_low=(-1.0,) * 3,
    action_high=(1.0,) * 3,
    cameras={"front": (24, 32), "wrist": (20, 20)},
)
TEXTS = ("open the drawer", "put the red cup onto the blue plate")
HORIZON = 4


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> PretrainedCriticConfig:
    directory = tmp_path_factory.mktemp("models")
    words = ["<pad>", "<unk>", "<bos>", *sorted({word for text in TEXTS for word in text.split()})]
    vocabulary = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    vocabulary.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>", unk_token="<unk>")
    tokenizer.save_pretrained(directory / "language")
    torch.manual_seed(0)
    language = Gemma3TextConfig(
        vocab_size=len(words),
        hidden_size=24,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        pad_token_id=0,
    )
    Gemma3TextModel(language).save_pretrained(directory / "language")
    vision = SiglipVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=32, patch_size=8
    )
    SiglipVisionModel(vision).save_pretrained(directory / "vision")
    return PretrainedCriticConfig(
        readout_size=16,
        action_width=8,
        width=16,
        num_atoms=11,
        language=str(directory / "language"),
        vision=str(directory / "vision"),
        tokens_per_side=2,
    )


@pytest.fixture
def critic(pretrained: PretrainedCriticConfig) -> ValueCritic:
    torch.manual_seed(1)
    rows = np.random.default_rng(0).standard_normal((len(TEXTS), EMBEDDING_SIZE), dtype=np.float32)
    known = InstructionEncoder(dict(zip(TEXTS, rows, strict=True)))
    statistics = StateStatistics(mean=(0.0,) * 6, std=(1.0,) * 6)
    return ValueCritic(ARM, pretrained, statistics, HORIZON, instructions=known).eval()


def observations(critic: ValueCritic, texts: tuple[str, ...], seed: int = 0) -> ObservationBatch:
    assert critic.instructions is not None
    rng, size = np.random.default_rng(seed), len(texts)
    return ObservationBatch(
        state_BS=torch.from_numpy(rng.standard_normal((size, 6), dtype=np.float32)),
        instruction_BE=torch.from_numpy(np.stack([critic.instructions(text) for text in texts])),
        images={
            name: torch.from_numpy(rng.integers(0, 256, (size, *shape, 3), dtype=np.uint8))
            for name, shape in ARM.cameras.items()
        },
    )


def test_everything_that_is_seen_reaches_the_value(critic: ValueCritic) -> None:
    batch = observations(critic, TEXTS[:1])
    with torch.no_grad():
        before = critic.encode(batch)
        assert before.shape == (1, 16)
        others = {
            "instruction": observations(critic, TEXTS[1:]),
            "state": ObservationBatch(
                state_BS=batch.state_BS + 1, instruction_BE=batch.instruction_BE, images=batch.images
            ),
        } | {
            camera: ObservationBatch(
                state_BS=batch.state_BS,
                instruction_BE=batch.instruction_BE,
                images={**batch.images, camera: 255 - batch.images[camera]},
            )
            for camera in ARM.cameras
        }
        for what, other in others.items():
            assert not torch.allclose(critic.encode(other), before, atol=1e-5), what


def test_a_longer_neighbour_changes_nothing(critic: ValueCritic) -> None:
    both = observations(critic, TEXTS)
    with torch.no_grad():
        torch.testing.assert_close(critic.encode(both)[:1], critic.encode(both.first(1)), atol=1e-5, rtol=1e-4)


def test_all_of_it_learns(critic: ValueCritic) -> None:
    batch = observations(critic, TEXTS)
    z = critic.encode(batch)
    chunk = torch.zeros(2, HORIZON, 3)
    (critic.value(z).sum() + torch.stack(critic.q(z, chunk)).sum()).backward()
    without = {name for name, parameter in critic.named_parameters() if parameter.grad is None}
    # SigLIP's pooling head is for whole pictures, and not used.
    assert {name.partition("vision.")[2].partition(".")[0] or name for name in without} <= {"head", "vision_model"}
    assert all("head." in name for name in without)
    for part in ("encoder.vision.", "encoder.language.", "encoder.state.", "encoder.readout"):
        found = [p.grad for name, p in critic.named_parameters() if name.startswith(part) and p.grad is not None]
        assert any(grad.abs().sum() > 0 for grad in found), part


def test_it_begins_with_the_pretrained_weights(critic: ValueCritic, pretrained: PretrainedCriticConfig) -> None:
    saved = Gemma3TextModel.from_pretrained(pretrained.language).state_dict()
    own = critic.encoder.language.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in saved.items())


def test_a_file_brings_back_weights_and_texts(critic: ValueCritic) -> None:
    with torch.no_grad():
        for parameter in critic.parameters():
            parameter.add_(0.01)
    again = load_value(value_bytes(critic))
    batch = observations(critic, TEXTS)
    with torch.no_grad():
        assert torch.equal(again.encode(batch), critic.encode(batch))
    assert again.config == critic.config
    target = deepcopy(critic)
    assert target.instructions is critic.instructions


def test_parts_of_a_batch_make_the_same_critic_step(critic: ValueCritic, pretrained: PretrainedCriticConfig) -> None:
    rng, size = np.random.default_rng(3), 5
    texts = tuple(TEXTS[index % 2] for index in range(size))
    batch = TransitionBatch(
        observation=observations(critic, texts),
        action_chunk_BHA=torch.from_numpy(rng.uniform(-1, 1, (size, HORIZON, 3)).astype(np.float32)),
        action_mask_BH=torch.ones(size, HORIZON, dtype=torch.bool),
        human_BH=torch.zeros(size, HORIZON, dtype=torch.bool),
        return_B=torch.from_numpy(rng.uniform(0, 1, size).astype(np.float32)),
        outcome_return_B=torch.full((size,), 0.5),
        bootstrap_observation=observations(critic, texts, seed=1),
        bootstrap_discount_B=torch.full((size,), 0.9),
        task_B=torch.zeros(size, dtype=torch.int64),
        imitable_BH=torch.ones(size, HORIZON, dtype=torch.bool),
    )
    results = []
    for at_once in (None, 2):
        copy = deepcopy(critic)
        copy.config = replace(pretrained, states_at_once=at_once)
        seen: list[int] = []
        copy.encoder.register_forward_hook(lambda module, given, z, seen=seen: seen.append(len(z)))
        policy = SmallVLA(ARM, VLAConfig(horizon=HORIZON), copy.normalizer.statistics, critic.instructions)
        algorithm = LWD(policy, deepcopy(policy), copy, LWDConfig(temperature=1.0), torch.Generator().manual_seed(0))
        metrics = algorithm.update_critic(batch)
        assert max(seen) == (at_once or size)
        results.append((metrics, [p.grad for p in copy.parameters() if p.grad is not None]))
    (whole, gradients), (parts, sums) = results
    assert parts == pytest.approx(whole, rel=1e-4)
    for one, other in zip(gradients, sums, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-6)


def test_what_is_wrong_is_named(pretrained: PretrainedCriticConfig, tmp_path: Path) -> None:
    statistics = StateStatistics(mean=(0.0,) * 6, std=(1.0,) * 6)
    for field in ("language", "vision"):
        wrong = PretrainedCriticConfig(**{**vars(pretrained), field: str(tmp_path / "nothing")})
        with pytest.raises(CheckpointError, match=f"{field} is"):
            ValueCritic(ARM, wrong, statistics, HORIZON)
    with pytest.raises(ConfigError, match="tokens_per_side is 0"):
        PretrainedCriticConfig(tokens_per_side=0)
    with pytest.raises(ConfigError, match="states_at_once is 0"):
        PretrainedCriticConfig(states_at_once=0)
