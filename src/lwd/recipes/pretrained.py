"""A run that begins with a policy of LeRobot's instead of a small one from scratch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from lwd.data.arena import ReplayArena
from lwd.data.steps import IntArray
from lwd.models.instruction import InstructionEncoder
from lwd.models.lerobot.files import chunk_size_of, load_lerobot
from lwd.models.lerobot.fitting import FeatureStatistics
from lwd.models.lerobot.vla import LeRobotVLA, LeRobotVLAConfig
from lwd.models.normalization import StateStatistics
from lwd.models.precision import Precision
from lwd.types import FloatArray

_RELATIVE_FLOOR = 1e-3
"""Of an entry's own scale: a joint that stands at 90 degrees moves by a tenth of one before it counts as one spread."""
_STATE_FLOOR = 1e-2
"""Smallest spread of a state's entry, in its unit; as in `StateStatistics`."""
_ACTION_FLOOR = 1e-3
"""Smallest spread of an action's entry. Relative actions may be millimetres."""
_MOST_STEPS = 20_000_000
"""Steps of chunks that relative actions are measured over."""


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


def statistics_of(arena: ReplayArena, relative_A: Sequence[bool] = ()) -> FeatureStatistics:
    """Measure states and actions of a replay as a normaliser of LeRobot's sees them.

    States and absolute actions: over all frames. A relative action is the action of any step of a chunk less the state
    that the chunk starts at, over all chunks, of which many data sets have more than fit into memory: then over a
    chunk start in so many, evenly. Entries that hardly move get `_floored` spreads.

    Args:
        relative_A: whether an action's entry is relative to the state's of the same index; empty: none is.
    """
    view = arena.view
    kept_R = ~view.revoked_E[view.episode_R]
    acted_R = kept_R & (view.segment_end_R > np.arange(len(kept_R)))
    states_RS, actions_RA = np.asarray(view.states_RS), np.asarray(view.actions_RA)
    actions = [
        _relative_to_start(arena, np.flatnonzero(acted_R), entry)
        if entry < len(relative_A) and relative_A[entry]
        else actions_RA[acted_R, entry]
        for entry in range(actions_RA.shape[1])
    ]
    return {
        "observation.state": _features([column[kept_R] for column in states_RS.T], _STATE_FLOOR),
        "action": _features(actions, _ACTION_FLOOR),
    }


def _relative_to_start(arena: ReplayArena, starts: IntArray, entry: int) -> FloatArray:
    """Return entry's action less state for every step of the chunks that start at the given rows, in one column."""
    view = arena.view
    starts = starts[:: -(-len(starts) * arena.horizon // _MOST_STEPS) or 1]
    states_R, actions_R = np.asarray(view.states_RS)[:, entry], np.asarray(view.actions_RA)[:, entry]
    steps = []
    for step in range(arena.horizon):
        # A chunk ends with its segment; what would come after is masked and never learned.
        inside = starts[starts + step < view.segment_end_R[starts]]
        steps.append(actions_R[inside + step] - states_R[inside])
    return np.concatenate(steps)


def _features(columns: Sequence[FloatArray], least: float) -> dict[str, torch.Tensor]:
    """Return the statistics of each column, float32 and of shape (columns,)."""
    rows = [_floored(column, least) for column in columns]
    return {
        name: torch.tensor([row[name] for row in rows], dtype=torch.float32)
        for name in ("mean", "std", "min", "max", "q01", "q99", "q10", "q90")
    }


def _floored(column: FloatArray, least: float) -> dict[str, float]:
    """Return statistics of an entry, none of them so narrow that a small movement becomes a huge number.

    The standard deviation is at least `_RELATIVE_FLOOR` of the entry's own scale (the larger of |q01| and |q99|) and at
    least `least`; the ranges [min, max], [q01, q99] and [q10, q90] reach at least one such deviation to either side of
    their middle. LeRobot divides by what it is given, and by 1e-8 where that is zero.
    """
    if not column.size:
        return dict.fromkeys(("mean", "min", "max", "q01", "q99", "q10", "q90"), 0.0) | {"std": 1.0}
    q01, q10, q90, q99 = (float(value) for value in np.quantile(column, (0.01, 0.1, 0.9, 0.99)))
    std = max(float(column.std(dtype=float)), _RELATIVE_FLOOR * max(abs(q01), abs(q99)), least)
    ranges = {
        ("min", "max"): (float(column.min()), float(column.max())),
        ("q01", "q99"): (q01, q99),
        ("q10", "q90"): (q10, q90),
    }
    statistics = {"mean": float(column.mean(dtype=float)), "std": std}
    for (lower, upper), (low, high) in ranges.items():
        half = max((high - low) / 2, std)
        statistics |= {lower: (low + high) / 2 - half, upper: (low + high) / 2 + half}
    return statistics
