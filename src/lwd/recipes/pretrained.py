"""A run that begins with a policy of LeRobot's instead of a small one from scratch."""

from dataclasses import dataclass

import numpy as np
import torch

from lwd.data.arena import ReplayArena
from lwd.models.instruction import InstructionEncoder
from lwd.models.lerobot.files import FeatureStatistics, chunk_size_of, load_lerobot
from lwd.models.lerobot.vla import LeRobotVLA, LeRobotVLAConfig
from lwd.models.normalization import StateStatistics
from lwd.models.precision import Precision


@dataclass(frozen=True, kw_only=True)
class PretrainedPolicy:
    """Where the policy comes from and how it is brought to the run's robot."""

    source: str
    """Directory or hub id of a pi0, pi0.5 or SmolVLA checkpoint."""
    horizon: int | None = None
    """H; None: the checkpoint's chunk size."""
    camera_keys: tuple[tuple[str, str], ...] = ()
    """(camera of the run, image of the checkpoint) where their names differ."""
    fit_to_data: bool = False
    """Take features and normalisation from the run's data, for a base model that never saw this robot. False keeps the
    checkpoint's own."""
    backbone_trained: bool = False
    """Fine-tune the backbone, too. Policy, reference and averages then have one each."""
    gradient_checkpointing: bool = False
    backbone_precision: Precision = "float32"
    """How a frozen backbone's weights are kept: bfloat16 halves its memory and the policy files."""
    states_at_once: int | None = None
    """States that go through the network at a time when it learns; None: a whole batch."""
    lora_rank: int = 0
    """Of adapters that SFT and offline learning train instead of weights; 0: none."""

    def chunk_size(self) -> int:
        """Return H.

        Raises:
            CheckpointError: if there is no such checkpoint.
        """
        return self.horizon or chunk_size_of(self.source)

    def load(self, arena: ReplayArena, instructions: InstructionEncoder) -> LeRobotVLA:
        """Load the policy for an arena's embodiment, on the CPU.

        Raises:
            CheckpointError: if there is no such checkpoint.
            ConfigError: if it does not fit the embodiment.
        """
        view = arena.view
        config = LeRobotVLAConfig(
            camera_keys=self.camera_keys,
            backbone_trained=self.backbone_trained,
            gradient_checkpointing=self.gradient_checkpointing,
            backbone_precision=self.backbone_precision,
            lora_rank=self.lora_rank,
            states_at_once=self.states_at_once,
        )
        return load_lerobot(
            self.source,
            arena.embodiment,
            StateStatistics.of(np.asarray(view.states_RS)),
            config=config,
            horizon=self.horizon,
            fit_to=statistics_of(arena) if self.fit_to_data else None,
            instructions=instructions,
        )


def statistics_of(arena: ReplayArena) -> FeatureStatistics:
    """Measure states and actions of a replay as LeRobot does of a dataset: over all frames."""
    view = arena.view
    columns = {"observation.state": np.asarray(view.states_RS), "action": np.asarray(view.actions_RA)}
    return {
        name: {
            statistic: torch.from_numpy(np.asarray(value, dtype=np.float32))
            for statistic, value in {
                "mean": rows.mean(axis=0, dtype=float),
                "std": rows.std(axis=0, dtype=float),
                "min": rows.min(axis=0),
                "max": rows.max(axis=0),
                "q01": np.quantile(rows, 0.01, axis=0),
                "q99": np.quantile(rows, 0.99, axis=0),
            }.items()
        }
        for name, rows in columns.items()
    }
