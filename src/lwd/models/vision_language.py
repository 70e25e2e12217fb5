"""A pretrained language model that reads pictures, instruction and state for the critic (method.md section 5).

The classes are those of transformers: Gemma 3 for text, SigLIP for pictures in the paper; others alike work, too.
Shape suffixes besides the neighbours': L tokens, W width of the language model, P pictures' patches.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwd.batch import ObservationBatch
from lwd.errors import CheckpointError
from lwd.models.instruction import InstructionEncoder
from lwd.models.normalization import Normalizer
from lwd.types import Embodiment


class VisionLanguageEncoder(nn.Module):
    """Pictures, instruction, state tokens and a learned readout token through a causal language model -> (B, Z)."""

    def __init__(
        self,
        embodiment: Embodiment,
        normalizer: Normalizer,
        instructions: InstructionEncoder,
        *,
        width: int,
        language: str,
        vision: str,
        tokens_per_side: int,
        weights: bool,
    ) -> None:
        """
        Args:
            width: Z.
            language: directory or hub id of tokenizer, configuration and, where training begins, weights.
            vision: the same of a SigLIP; not looked at where the robot has no camera.
            tokens_per_side: a picture becomes so many tokens squared.
            instructions: says which text an instruction's embedding stands for.
            weights: whether to read the pretrained weights; False: the caller loads trained ones.
        Raises:
            CheckpointError: if there is no such language or vision model.
        """
        super().__init__()
        self.normalizer = normalizer
        self.instructions = instructions
        self._tokens_per_side = tokens_per_side
        self._sizes = [token.size for token in embodiment.state_tokens]
        self._cameras = tuple(embodiment.cameras)
        self.tokenizer, self.language = _language(language, weights)
        inner = int(self.language.config.hidden_size)
        self.vision = self.picture = None
        if self._cameras:
            self.vision = _vision(vision, weights)
            self.picture = nn.Linear(int(self.vision.config.hidden_size), inner)
        self.state = nn.ModuleList(nn.Linear(size, inner) for size in self._sizes)
        self.readout = nn.Parameter(torch.randn(inner) * 0.02)
        self.out = nn.Linear(inner, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, observation: ObservationBatch) -> Tensor:
        pictures = [self._picture_tokens(observation.images[name]) for name in self._cameras]
        text_BLW, text_mask_BL = self._text_tokens(observation)
        states_BLW = self._state_tokens(observation.state_BS)
        readout_B1W = self.readout.to(text_BLW.dtype).expand(observation.size, 1, -1)
        others = [*(tokens.to(text_BLW.dtype) for tokens in pictures), states_BLW.to(text_BLW.dtype)]
        # Last, so that a causal model's readout has seen everything; the text, whose length varies, before it.
        embedded_BLW = torch.cat([*others, text_BLW, readout_B1W], dim=1)
        count = sum(tokens.shape[1] for tokens in others)
        ones_BL = text_mask_BL.new_ones(observation.size, count)
        mask_BL = torch.cat([ones_BL, text_mask_BL, ones_BL[:, :1]], dim=1)
        hidden_BLW = self.language(
            inputs_embeds=embedded_BLW,
            attention_mask=mask_BL,
            position_ids=(mask_BL.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=False,
        ).last_hidden_state
        return F.silu(self.norm(self.out(hidden_BLW[:, -1])))

    def _picture_tokens(self, image_BHWC: Tensor) -> Tensor:
        assert self.vision is not None
        assert self.picture is not None
        side = int(self.vision.config.image_size)
        pixels = image_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1
        pixels = F.interpolate(pixels, size=(side, side), mode="bilinear", antialias=True, align_corners=False)
        patches_BPV = self.vision(pixel_values=pixels).last_hidden_state
        grid = round(patches_BPV.shape[1] ** 0.5)
        patches_BVhw = patches_BPV.transpose(1, 2).unflatten(-1, (grid, grid))
        pooled = F.adaptive_avg_pool2d(patches_BVhw, min(self._tokens_per_side, grid))
        tokens: Tensor = self.picture(pooled.flatten(2).transpose(1, 2))
        return tokens

    def _text_tokens(self, observation: ObservationBatch) -> tuple[Tensor, Tensor]:
        texts = self.instructions.texts(observation.instruction_BE.cpu().numpy())
        encoded = self.tokenizer(texts, padding=True, return_tensors="pt")
        device = observation.state_BS.device
        return self.language.get_input_embeddings()(encoded["input_ids"].to(device)), encoded["attention_mask"].to(
            device
        )

    def _state_tokens(self, state_BS: Tensor) -> Tensor:
        parts = torch.split(self.normalizer.state(state_BS), self._sizes, dim=-1)
        return torch.stack([layer(part) for layer, part in zip(self.state, parts, strict=True)], dim=1)


def _language(source: str, weights: bool) -> tuple[Any, Any]:
    from transformers import AutoConfig, AutoModel, AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(source)
        model = (
            AutoModel.from_pretrained(source, dtype=torch.float32)
            if weights
            else AutoModel.from_config(AutoConfig.from_pretrained(source), dtype=torch.float32)  # type: ignore[no-untyped-call]
        )
    except (OSError, ValueError) as error:
        raise CheckpointError(f"language is {source!r}: {error}; give the directory or hub id of a model") from error
    if tokenizer.pad_token_id is None:
        raise CheckpointError(f"language is {source!r}, whose tokenizer has no padding token; set one and save it")
    return tokenizer, model


def _vision(source: str, weights: bool) -> Any:
    from transformers import AutoConfig, SiglipVisionModel

    try:
        if weights:
            return SiglipVisionModel.from_pretrained(source, dtype=torch.float32)
        config = AutoConfig.from_pretrained(source)
        return SiglipVisionModel(getattr(config, "vision_config", config))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"vision is {source!r}: {error}; give the directory or hub id of a SigLIP") from error
