"""Random networks of LeRobot's own VLA classes, small or full size, with tokenizers made on the spot.

Nothing is downloaded.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from lerobot.configs import FeatureType, PolicyFeature
from lerobot.policies import factory
from lerobot.policies.pi0 import modeling_pi0
from lerobot.policies.pi0.configuration_pi0 import PI0Config
from lerobot.policies.pi05 import modeling_pi05
from lerobot.policies.pi05.configuration_pi05 import PI05Config
from lerobot.policies.smolvla.configuration_smolvla import SmolVLAConfig
from lerobot.processor import TokenizerProcessorStep, tokenizer_processor
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoTokenizer,
    PaliGemmaConfig,
    PreTrainedTokenizerFast,
    SmolVLMConfig,
    SmolVLMImageProcessor,
    SmolVLMProcessor,
    SmolVLMVideoProcessor,
)

from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.lerobot.processors import Processors
from lwd.models.lerobot.vla import LeRobotVLA, LeRobotVLAConfig
from lwd.models.normalization import StateStatistics
from lwd.types import Embodiment, TokenSpec

EMBODIMENT = Embodiment(
    name="tiny-arm",
    control_hz=10.0,
    state_tokens=(TokenSpec(name="joints", size=4),),
    action_low=(-2.0, -1.0, 0.0),
    action_high=(2.0, 1.0, 3.0),
    cameras={"front": (24, 32), "wrist": (24, 32)},
)
HORIZON = 5
INSTRUCTIONS = ("pick up the red cup", "open drawer")
KINDS = ("smolvla", "pi05", "pi0")
_WORDS = ["pick", "up", "the", "red", "cup", "open", "drawer", "close", "push", "button", "Task", "State", "Action"]
_SPECIAL = (
    *("<pad>", "<unk>", "<bos>", "<eos>"),
    *("<fake_token_around_image>", "<global-img>", "<image>", "<end_of_utterance>"),
)


def tiny_vla(
    kind: str,
    directory: Path,
    *,
    seed: int = 0,
    relative: bool = False,
    full_size: bool = False,
    weightless: bool = False,
    **config: Any,
) -> LeRobotVLA:
    """A small random policy of LeRobot's, as ours.

    Args:
        directory: gets its tokenizer (and SmolVLM's configuration).
        relative: whether actions are relative to the state (pi0, pi0.5).
        full_size: with the sizes of the published checkpoints (pi0.5: 3.6 billion weights, made in bfloat16).
        weightless: nothing is computed with it, only its sizes are asked for.
        config: of `LeRobotVLAConfig`.
    """
    torch.manual_seed(seed)
    lerobot = _config(kind, directory, relative, full_size)
    device = "meta" if weightless else "cpu"
    lerobot.device = device
    with nullcontext() if full_size else small_networks(), torch.device(device):
        torch.set_default_dtype(torch.bfloat16 if full_size else torch.float32)
        try:
            network = factory.get_policy_class(kind)(lerobot)
        finally:
            torch.set_default_dtype(torch.float32)
    lerobot.device = "cpu"
    for name, parameter in network.named_parameters():
        if name.endswith("dense.weight"):
            # pi0.5's adaptive norms begin at zero: flow time would not matter, and nothing would reach its network.
            torch.nn.init.normal_(parameter, std=0.1)
    return LeRobotVLA(
        network,
        Processors(*_processors(lerobot, directory)),
        EMBODIMENT,
        StateStatistics(mean=(0.0,) * 4, std=(1.0,) * 4),
        LeRobotVLAConfig(**config),
        instructions(),
    )


def instructions() -> InstructionEncoder:
    """Knows the test's instructions; the sentence encoder is not needed."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((len(INSTRUCTIONS), EMBEDDING_SIZE), dtype=np.float32)
    return InstructionEncoder(dict(zip(INSTRUCTIONS, rows, strict=True)))


@contextmanager
def small_networks() -> Iterator[None]:
    """Within, pi0 and pi0.5 are built small: LeRobot fixes their sizes by names and constants."""
    sizes = {"gemma_2b": 32, "gemma_300m": 16}

    def gemma(variant: str) -> modeling_pi05.GemmaConfig:
        # Eight heads of one key/value head: LeRobot's joint attention has these numbers in it.
        return modeling_pi05.GemmaConfig(sizes[variant], 2, 32, 8, 1, 4)

    def paligemma() -> PaliGemmaConfig:
        vision = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "patch_size": 14}
        return PaliGemmaConfig(vision_config=vision, text_config={"model_type": "gemma"})

    def small_vision(config: PaliGemmaConfig) -> Any:
        config.vision_config.intermediate_size, config.vision_config.projection_dim = 24, sizes["gemma_2b"]
        return whole(config=config)

    whole = modeling_pi05.PaliGemmaForConditionalGenerationWithPiGemma
    configs = {"paligemma": paligemma, "gemma": modeling_pi05.CONFIG_MAPPING["gemma"]}
    with ExitStack() as patches:
        for module in (modeling_pi05, modeling_pi0):
            for name, small in (
                ("get_gemma_config", gemma),
                ("CONFIG_MAPPING", configs),
                ("PaliGemmaForConditionalGenerationWithPiGemma", small_vision),
            ):
                patches.enter_context(patch.object(module, name, small))
        yield


def _config(kind: str, directory: Path, relative: bool, full_size: bool) -> Any:
    images = {
        f"observation.images.{name}": PolicyFeature(FeatureType.VISUAL, (3, *size))
        for name, size in EMBODIMENT.cameras.items()
    }
    features: dict[str, Any] = {
        "device": "cpu",
        "input_features": {"observation.state": PolicyFeature(FeatureType.STATE, (4,)), **images},
        "output_features": {"action": PolicyFeature(FeatureType.ACTION, (3,))},
    }
    kinds = {"pi05": PI05Config, "pi0": PI0Config}
    if full_size:
        if kind == "smolvla":
            return SmolVLAConfig(vlm_model_name=_smolvlm(directory, full_size), **features)
        return kinds[kind](use_relative_actions=relative, dtype="bfloat16", **features)
    common = {
        "chunk_size": HORIZON,
        "n_action_steps": HORIZON,
        "max_state_dim": 6,
        "max_action_dim": 7,
        **features,
    }
    if kind == "smolvla":
        name = _smolvlm(directory, full_size)
        return SmolVLAConfig(vlm_model_name=name, num_vlm_layers=4, resize_imgs_with_padding=(32, 32), **common)
    return kinds[kind](
        image_resolution=(28, 28), tokenizer_max_length=48, use_relative_actions=relative, dtype="float32", **common
    )


def _processors(config: Any, directory: Path) -> tuple[Any, Any]:
    rng = np.random.default_rng(1)
    statistics = {}
    for key, size in (("observation.state", 4), ("action", 3)):
        middle, spread = rng.uniform(-0.3, 0.3, size), rng.uniform(0.5, 1.5, size)
        numbers = {"mean": middle, "std": spread, "q01": middle - spread, "q99": middle + spread}
        statistics[key] = {name: torch.tensor(value, dtype=torch.float32) for name, value in numbers.items()}
    local = _tokenizer(directory)
    from_pretrained = AutoTokenizer.from_pretrained
    with patch.object(tokenizer_processor.AutoTokenizer, "from_pretrained", lambda name, **_: from_pretrained(local)):
        pipelines = factory.make_pre_post_processors(config, dataset_stats=statistics)
    for step in pipelines[0].steps:
        if isinstance(step, TokenizerProcessorStep):
            step.tokenizer_name = local
    return pipelines


def _tokenizer(directory: Path) -> str:
    words = [*_SPECIAL, *_WORDS, *map(str, range(256)), *":;,."]
    model = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="<unk>"))
    model.pre_tokenizer = pre_tokenizers.Whitespace()
    named = dict(
        zip(
            ("fake_image_token", "global_image_token", "image_token", "end_of_utterance_token"),
            _SPECIAL[4:],
            strict=True,
        )
    )
    PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<bos>",
        eos_token="<eos>",
        extra_special_tokens=named,
    ).save_pretrained(directory)
    return str(directory)


def _smolvlm(directory: Path, full_size: bool) -> str:
    """A SmolVLM as a directory of its configuration and processor, without weights."""
    text = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
    text = (*text, "num_key_value_heads", "head_dim")
    vision = (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "image_size",
        "patch_size",
    )
    text_sizes = (49280, 960, 2560, 32, 15, 5, 64) if full_size else (300, 32, 48, 4, 4, 2, 8)
    vision_sizes = (768, 3072, 12, 12, 512, 16) if full_size else (16, 24, 2, 2, 32, 8)
    SmolVLMConfig(
        text_config={"model_type": "llama", "pad_token_id": 0, **dict(zip(text, text_sizes, strict=True))},
        vision_config=dict(zip(vision, vision_sizes, strict=True)),
        scale_factor=4 if full_size else 2,
        image_token_id=_SPECIAL.index("<image>"),
        pad_token_id=0,
    ).save_pretrained(directory)
    tokenizer = AutoTokenizer.from_pretrained(_tokenizer(directory))
    SmolVLMProcessor(SmolVLMImageProcessor(), tokenizer, SmolVLMVideoProcessor()).save_pretrained(directory)
    return str(directory)
