"""What differs between LeRobot's flow VLAs: how a state becomes a prefix, and how the expert reads it.

Only LeRobot's own modules compute; here they are called in the order of their `sample_actions`, with the prefix kept.
LeRobot's flow time runs from 1 (noise) to 0 (data), and its velocity points from data to noise.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from lwd.errors import ConfigError
from lwd.models.precision import Precision, dtype_of


@dataclass(frozen=True, kw_only=True)
class Prefix:
    """A state as the vision-language model has read it: keys and values of its tokens, computed once."""

    pad_mask_BL: Tensor
    """(B, L) bool, True on tokens that are there."""
    cache: Any
    """transformers' cache of keys and values, one pair per layer."""
    state_BS: Tensor | None = None
    """pi0's expert reads the (padded) state itself."""


@dataclass(frozen=True, kw_only=True)
class PrefixShape:
    """What keys and values of one token are."""

    layers: int
    heads: int
    head_size: int

    @property
    def numbers_per_token(self) -> int:
        return 2 * self.layers * self.heads * self.head_size


class Family(Protocol):
    """One kind of VLA."""

    state_in_prefix: bool
    """Whether the backbone reads the state beside the prompt."""
    expert_reads_state: bool
    """Whether `Prefix.state_BS` is needed."""

    def backbone(self, network: Any) -> list[nn.Module]:
        """Return the modules that make the prefix, and those that nothing is read from; the expert is all the rest."""

    def prefix(self, network: Any, batch: dict[str, Any]) -> Prefix:
        """Run the backbone on a batch that went through the checkpoint's preprocessor."""

    def velocity(self, network: Any, prefix: Prefix, chunk_BHF: Tensor, time_B: Tensor) -> Tensor:
        """Run the expert: LeRobot's velocity (B, H, F) at LeRobot's flow times."""

    def shape(self, network: Any) -> PrefixShape:
        """Return what the prefix keeps of a token."""

    def kept_in(self, precision: Precision) -> torch.dtype:
        """Return the type of keys and values where a float32 backbone computes with a precision."""

    def pad_mask(self, network: Any, image_sizes: Sequence[tuple[int, int]], language_BT: Tensor) -> Tensor:
        """Return `Prefix.pad_mask_BL` without running the backbone.

        Args:
            image_sizes: (height, width) of the images that are there.
            language_BT: bool, True on the prompt's tokens.
        """


class SmolVLAFamily:
    """SmolVLA (arXiv 2506.01844): the state is a token of the prefix."""

    state_in_prefix = True
    expert_reads_state = False

    def backbone(self, network: Any) -> list[nn.Module]:
        return [network.model.vlm_with_expert.vlm, network.model.state_proj]

    def prefix(self, network: Any, batch: dict[str, Any]) -> Prefix:
        from lerobot.policies.common.vla_utils import make_att_2d_masks

        images, image_masks = network.prepare_images(batch)
        tokens, token_mask = _language(batch)
        state = network.prepare_state(batch)
        model = network.model
        embedded, pad_mask, attention = model.embed_prefix(images, image_masks, tokens, token_mask, state=state)
        _, cache = model.vlm_with_expert.forward(
            attention_mask=make_att_2d_masks(pad_mask, attention),
            position_ids=torch.cumsum(pad_mask, dim=1) - 1,
            past_key_values=None,
            inputs_embeds=[embedded, None],
            use_cache=True,
        )
        return Prefix(pad_mask_BL=pad_mask, cache=cache)

    def velocity(self, network: Any, prefix: Prefix, chunk_BHF: Tensor, time_B: Tensor) -> Tensor:
        from lerobot.policies.common.vla_utils import clone_past_key_values

        # Its self-attention layers write into the cache they are given.
        cache = clone_past_key_values(prefix.cache)
        return network.model.denoise_step(prefix.pad_mask_BL, cache, chunk_BHF, time_B)  # type: ignore[no-any-return]

    def shape(self, network: Any) -> PrefixShape:
        both = network.model.vlm_with_expert
        text = both.config.text_config
        return PrefixShape(layers=both.num_vlm_layers, heads=text.num_key_value_heads, head_size=text.head_dim)

    def kept_in(self, precision: Precision) -> torch.dtype:
        return dtype_of(precision)

    def pad_mask(self, network: Any, image_sizes: Sequence[tuple[int, int]], language_BT: Tensor) -> Tensor:
        config, model = network.config, network.model
        vision, scale = model.vlm_with_expert.config.vision_config, model.vlm_with_expert.config.scale_factor
        empty = min(config.empty_cameras, len(config.image_features) - len(image_sizes))
        sizes = [config.resize_imgs_with_padding or size for size in (*image_sizes, *image_sizes[-1:] * empty)]
        # An image that is not there has its special tokens all the same.
        around = (2, 1) if model.add_image_special_tokens else (0, 0)
        row: list[bool] = []
        for index, (one, other) in enumerate(sizes):
            tokens = (one // vision.patch_size) * (other // vision.patch_size) // scale**2
            row += [True] * around[0] + [index < len(image_sizes)] * tokens + [True] * around[1]
        mask = _with_images(row, language_BT)
        padded = max(0, model.prefix_length - mask.shape[1] - 1)
        return nn.functional.pad(nn.functional.pad(mask, (0, 1), value=True), (0, padded), value=False)


class _PaliGemmaFamily:
    """What pi0.5 and pi0 have in common: no state in the prefix beside the prompt."""

    state_in_prefix = False

    def shape(self, network: Any) -> PrefixShape:
        text = network.model.paligemma_with_expert.paligemma.config.text_config
        return PrefixShape(layers=text.num_hidden_layers, heads=text.num_key_value_heads, head_size=text.head_dim)

    def kept_in(self, precision: Precision) -> torch.dtype:
        # Rotated keys are float32 whatever the products were, and the cache brings values to the keys' type.
        return torch.float32

    def pad_mask(self, network: Any, image_sizes: Sequence[tuple[int, int]], language_BT: Tensor) -> Tensor:
        config, vision = network.config, network.model.paligemma_with_expert.paligemma.config.vision_config
        height, width = config.image_resolution
        tokens = (height // vision.patch_size) * (width // vision.patch_size)
        there = [index < len(image_sizes) for index in range(len(config.image_features)) for _ in range(tokens)]
        return _with_images(there, language_BT)


class Pi05Family(_PaliGemmaFamily):
    """pi0.5: the state is part of the prompt, the expert is conditioned on flow time by adaptive norms."""

    expert_reads_state = False

    def backbone(self, network: Any) -> list[nn.Module]:
        return _paligemma_backbone(network)

    def prefix(self, network: Any, batch: dict[str, Any]) -> Prefix:
        pad_mask, cache = _paligemma_prefix(network, batch)
        return Prefix(pad_mask_BL=pad_mask, cache=cache)

    def velocity(self, network: Any, prefix: Prefix, chunk_BHF: Tensor, time_B: Tensor) -> Tensor:
        return network.model.denoise_step(  # type: ignore[no-any-return]
            prefix_pad_masks=prefix.pad_mask_BL, past_key_values=prefix.cache, x_t=chunk_BHF, timestep=time_B
        )


class Pi0Family(_PaliGemmaFamily):
    """pi0 (arXiv 2410.24164): the expert reads the state as a token of its own."""

    expert_reads_state = True

    def backbone(self, network: Any) -> list[nn.Module]:
        return _paligemma_backbone(network)

    def prefix(self, network: Any, batch: dict[str, Any]) -> Prefix:
        pad_mask, cache = _paligemma_prefix(network, batch)
        return Prefix(pad_mask_BL=pad_mask, cache=cache, state_BS=network.prepare_state(batch))

    def velocity(self, network: Any, prefix: Prefix, chunk_BHF: Tensor, time_B: Tensor) -> Tensor:
        return network.model.denoise_step(  # type: ignore[no-any-return]
            state=prefix.state_BS,
            prefix_pad_masks=prefix.pad_mask_BL,
            past_key_values=prefix.cache,
            x_t=chunk_BHF,
            timestep=time_B,
        )


FAMILIES: Mapping[str, Family] = {"smolvla": SmolVLAFamily(), "pi05": Pi05Family(), "pi0": Pi0Family()}
"""LeRobot's policy type -> family."""


def require_family(kind: object, where: str) -> None:
    """Check a policy type before anything else of the checkpoint is read.

    Args:
        where: the file that says so.
    Raises:
        ConfigError: if LWD has no adapter for it.
    """
    if not isinstance(kind, str) or kind not in FAMILIES:
        raise ConfigError(
            f"policy type is {kind!r} in {where}; LWD trains LeRobot's flow policies {', '.join(FAMILIES)}: "
            "use one of these checkpoints"
        )


def family_of(config: Any) -> Family:
    """Return the family of a LeRobot policy's configuration.

    Raises:
        ConfigError: if LWD has no adapter for it, or if it has a setting that the adapter does not keep.
    """
    require_family(config.type, "the checkpoint's config.json")
    if getattr(config, "adapt_to_pi_aloha", False):
        raise ConfigError(
            "adapt_to_pi_aloha is True in the checkpoint: its joint conversions sit inside the policy; "
            "convert the data instead and set it to False"
        )
    if getattr(config, "compile_model", False):
        raise ConfigError("compile_model is True: compiled models cannot be trained here, set it to False")
    return FAMILIES[config.type]


def _paligemma_backbone(network: Any) -> list[nn.Module]:
    both = network.model.paligemma_with_expert
    # The expert came with a head for words, a quarter of a billion weights in pi0.5: no action is read from it.
    return [both.paligemma, both.gemma_expert.lm_head]


def _paligemma_prefix(network: Any, batch: dict[str, Any]) -> tuple[Tensor, Any]:
    from lerobot.policies.common.vla_utils import make_att_2d_masks, prepare_attention_masks_4d

    images, image_masks = network._preprocess_images(batch)
    model = network.model
    embedded, pad_mask, attention = model.embed_prefix(images, image_masks, *_language(batch))
    both = model.paligemma_with_expert
    # As `sample_actions` does: the four-dimensional mask is for the plain attention.
    both.paligemma.model.language_model.config._attn_implementation = "eager"
    embedded = embedded.to(both.paligemma.model.language_model.layers[0].self_attn.q_proj.weight.dtype)
    _, cache = both.forward(
        attention_mask=prepare_attention_masks_4d(make_att_2d_masks(pad_mask, attention)),
        position_ids=torch.cumsum(pad_mask, dim=1) - 1,
        past_key_values=None,
        inputs_embeds=[embedded, None],
        use_cache=True,
    )
    return pad_mask, cache


def _with_images(images_L: list[bool], language_BT: Tensor) -> Tensor:
    """Put the same image tokens before every prompt."""
    images = torch.tensor(images_L, dtype=torch.bool, device=language_BT.device)
    return torch.cat([images.expand(language_BT.shape[0], -1), language_BT], dim=1)


def _language(batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
    from lerobot.utils.constants import OBS_LANGUAGE_ATTENTION_MASK, OBS_LANGUAGE_TOKENS

    return batch[OBS_LANGUAGE_TOKENS], batch[OBS_LANGUAGE_ATTENTION_MASK]
