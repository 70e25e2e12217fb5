"""Observation -> one vector: tokens of the state, the instruction and the cameras, embedded and mixed."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from lwd.batch import ObservationBatch
from lwd.models.instruction import EMBEDDING_SIZE
from lwd.models.normalization import Normalizer
from lwd.types import Embodiment


class StateTokens(nn.Module):
    """Embed every state token with a linear map of its own, all of them in one matrix product."""

    block_mask: Tensor

    def __init__(self, embodiment: Embodiment, token_width: int) -> None:
        super().__init__()
        sizes = [token.size for token in embodiment.state_tokens]
        self.linear = nn.Linear(sum(sizes), len(sizes) * token_width)
        blocks = [torch.ones(token_width, size) for size in sizes]
        mask = torch.block_diag(*blocks)  # type: ignore[no-untyped-call]
        self.register_buffer("block_mask", mask, persistent=False)
        with torch.no_grad():  # the default initialisation assumes a fan-in of all entries, a token has fewer
            for index, size in enumerate(sizes):
                rows = slice(index * token_width, (index + 1) * token_width)
                nn.init.uniform_(self.linear.weight[rows], -(size**-0.5), size**-0.5)

    def forward(self, state_BS: Tensor) -> Tensor:
        return F.linear(state_BS, self.linear.weight * self.block_mask, self.linear.bias)


class ImageToken(nn.Module):
    """A small convolutional encoder: (B, height, width, 3) uint8 -> (B, token_width)."""

    def __init__(self, height: int, width: int, token_width: int) -> None:
        super().__init__()
        self.convolutions = nn.Sequential(
            nn.Conv2d(3, 32, 4, stride=4), nn.SiLU(),
            nn.Conv2d(32, 64, 3, stride=2, padding=1), nn.SiLU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1), nn.SiLU(),
        )  # fmt: skip
        with torch.no_grad():
            features = self.convolutions(torch.zeros(1, 3, height, width)).flatten(1).shape[1]
        self.linear = nn.Linear(features, token_width)

    def forward(self, image_BHWC: Tensor) -> Tensor:
        pixels = image_BHWC.permute(0, 3, 1, 2).float() / 127.5 - 1.0
        return self.linear(self.convolutions(pixels).flatten(1))  # type: ignore[no-any-return]


class ObservationEncoder(nn.Module):
    """Tokens of instruction, state and cameras -> one readout vector (B, width).

    Policy and critic each own one. The normalisation is part of it, so it takes observations in physical units.
    """

    def __init__(
        self,
        embodiment: Embodiment,
        normalizer: Normalizer,
        *,
        width: int,
        token_width: int,
        image_token_width: int = 128,
    ) -> None:
        super().__init__()
        self.normalizer = normalizer
        self.instruction = nn.Linear(EMBEDDING_SIZE, token_width)
        self.state = StateTokens(embodiment, token_width)
        self.cameras = tuple(embodiment.cameras)
        self.images = nn.ModuleDict(
            {_module_name(name): ImageToken(*size, image_token_width) for name, size in embodiment.cameras.items()}
        )
        token_count = 1 + len(embodiment.state_tokens)
        self.mix = nn.Linear(token_count * token_width + len(self.images) * image_token_width, width)
        self.norm = nn.LayerNorm(width)

    def forward(self, observation: ObservationBatch) -> Tensor:
        tokens = [
            self.instruction(observation.instruction_BE),
            self.state(self.normalizer.state(observation.state_BS)),
            *self._image_tokens(observation.images),
        ]
        mixed = self.mix(F.silu(torch.cat(tokens, dim=-1)))
        return F.silu(self.norm(mixed))

    def _image_tokens(self, images: Mapping[str, Tensor]) -> list[Tensor]:
        return [self.images[_module_name(name)](images[name]) for name in self.cameras]


def _module_name(camera: str) -> str:
    """Return what a camera's encoder is called in state dictionaries.

    A module's name has no dot, a camera's may have (Gymnasium's pixels.top); a camera's has no slash. A ModuleDict
    takes no name of its own methods ("type", "keys"), a camera may have it.
    """
    name = camera.replace(".", "/")
    return f"/{name}" if hasattr(nn.ModuleDict(), name) else name
