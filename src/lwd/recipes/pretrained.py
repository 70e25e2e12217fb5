"""A run that begins with a policy of LeRobot's instead of a small one from scratch."""

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lwd.data.arena import ReplayArena
from lwd.data.steps import IntArray
from lwd.models.instruction import InstructionEncoder
from lwd.models.lerobot.files import FeatureStatistics, RelativeColumns, chunk_size_of, load_lerobot
from lwd.models.lerobot.vla import LeRobotVLA, LeRobotVLAConfig
from lwd.models.normalization import StateStatistics
from lwd.models.precision import Precision
from lwd.types import FloatArray


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
            fit_to=partial(statistics_of, arena) if self.fit_to_data else None,
            instructions=instructions,
        )


_FLOOR = 1e-3
_MOST_ACTIONS = 4_000_000


def statistics_of(arena: ReplayArena, horizon: int = 1, relative: RelativeColumns = ()) -> FeatureStatistics:
    """Measure states and actions of a replay as LeRobot does of a dataset.

    Actions are those that the normaliser sees: over all frames; with relative columns over all chunks (evenly chosen
    ones from four million actions on), each less the state at its chunk's start in these columns.

    No standard deviation and no half of a range is less than a thousandth of the entry's largest magnitude, nor than
    0.001: an entry that was constant and moves would otherwise become millions.

    Args:
        horizon: H, control steps in a chunk.
        relative: for each action entry whether it is relative; empty: none is.
    """
    view = arena.view
    states_RS, actions_RA = np.asarray(view.states_RS), np.asarray(view.actions_RA)
    if any(relative):
        actions_RA = _relative_actions(states_RS, actions_RA, np.asarray(view.segment_end_R), horizon, relative)
    return {"observation.state": _statistics(states_RS), "action": _statistics(actions_RA)}


def _relative_actions(
    states_RS: FloatArray, actions_RA: FloatArray, segment_end_R: IntArray, horizon: int, relative: RelativeColumns
) -> FloatArray:
    """Return the actions (N, A) of all chunks, which end with their segments."""
    columns = np.flatnonzero(relative)
    stride = -(-len(states_RS) * horizon // _MOST_ACTIONS)
    starts = np.arange(0, len(states_RS), stride)
    found = []
    for offset in range(horizon):
        inside = starts[starts + offset < segment_end_R[starts]]
        actions = actions_RA[inside + offset].copy()
        actions[:, columns] -= states_RS[inside][:, columns]
        found.append(actions)
    return np.concatenate(found)


def _statistics(rows: FloatArray) -> dict[str, torch.Tensor]:
    floor = np.maximum(_FLOOR, _FLOOR * np.abs(rows).max(axis=0))
    values = {"mean": rows.mean(axis=0, dtype=float), "std": rows.std(axis=0, dtype=float).clip(min=floor)}
    q01, q10, q90, q99 = np.quantile(rows, (0.01, 0.1, 0.9, 0.99), axis=0)
    for (low, below), (high, above) in (
        (("min", rows.min(axis=0)), ("max", rows.max(axis=0))),
        (("q01", q01), ("q99", q99)),
        (("q10", q10), ("q90", q90)),
    ):
        middle, half = (above + below) / 2, ((above - below) / 2).clip(min=floor)
        values |= {low: middle - half, high: middle + half}
    return {name: torch.from_numpy(np.asarray(value, dtype=np.float32)) for name, value in values.items()}
