"""The observations of a stored episode, as networks take them."""

import torch

from lwd.batch import ObservationBatch
from lwd.data.frames import decode_frames
from lwd.models.instruction import InstructionEncoder
from lwd.types import Embodiment, Episode


def episode_observations(
    episode: Episode, embodiment: Embodiment, instructions: InstructionEncoder
) -> ObservationBatch:
    """Return the T + 1 observations of an episode."""
    embedding = torch.tensor(instructions(episode.info.instruction))
    return ObservationBatch(
        state_BS=torch.tensor(episode.states_TS),
        instruction_BE=embedding.expand(episode.steps + 1, -1),
        images={
            name: torch.from_numpy(decode_frames(episode, name, size)) for name, size in embodiment.cameras.items()
        },
    )
