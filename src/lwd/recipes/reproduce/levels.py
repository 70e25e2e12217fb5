"""What an adaptive quantile level changes in the targets of finished offline runs, and what could drown it."""

from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import torch

from lwd.algos.config import LWDConfig
from lwd.algos.values import quantile_levels
from lwd.data import durable
from lwd.data.sampling import BatchSampler
from lwd.errors import ConfigError
from lwd.evaluation.experiment.beside import LEVELS, LevelRun, Levels, read_levels
from lwd.learner.checkpoint import VALUE
from lwd.models.checkpoint import load_policy, load_value
from lwd.ops.categorical import categorical_quantile
from lwd.recipes.reproduce.cells import Cell
from lwd.recipes.reproduce.runs import CellRuns
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.scene import StageRecipe
from lwd.recipes.stages import chunks_per_target, offline_strata, open_arena_at

_STATES = 4096
_BATCHES = 4


def write_levels(evaluations: Sequence[Cell], runs: CellRuns, recipe: StageRecipe, out: Path) -> None:
    """Measure the offline runs that are here and finished; keep what was measured before, also where a run is gone.

    Raises:
        ConfigError: if what was written before cannot be read.
    """
    before = read_levels(out)
    measured = {} if before is None else dict(zip(before.keys, before.runs, strict=True))
    new = [
        cell
        for cell in evaluations
        if cell.key not in measured and runs.finished(cell.parents[0]) and _has_value(runs.run_of(cell))
    ]
    if not new:
        return
    measured |= {cell.key: measure_levels(runs.run_of(cell), recipe, seed=cell.seed) for cell in new}
    # Of cells with other settings nothing is kept: the page would average over them.
    keys = tuple(cell.key for cell in evaluations if cell.key in measured)
    levels = Levels(keys=keys, states=_STATES, runs=tuple(measured[key] for key in keys))
    durable.replace(out / LEVELS, levels.model_dump_json(indent=1).encode())


@torch.no_grad()
def measure_levels(run: RunDirectory, recipe: StageRecipe, *, seed: int) -> LevelRun:
    """Compare adaptive and constant targets at the bootstrap states of the run's own replay, with its last critic.

    Raises:
        CheckpointError: if the run's offline stage is not finished.
        ConfigError: if the recipe learns no distribution of values.
    """
    config = recipe.algorithm
    if not isinstance(config, LWDConfig) or config.value != "divl":
        raise ConfigError("value is not 'divl': only a value distribution has quantile levels")
    checkpoint = run.finished("offline", "offline")
    critic = load_value(checkpoint.value_path)
    policy = load_policy(checkpoint.policy_path)
    instructions = policy.instructions
    with closing(
        open_arena_at(run, checkpoint.progress.snapshot, horizon=policy.horizon, instructions=instructions)
    ) as reader:
        sampler = BatchSampler(
            reader.arena,
            offline_strata(recipe),
            batch_size=_STATES // _BATCHES,
            n_step=chunks_per_target(recipe),
            instruction_noise=recipe.instruction_noise,
            seed=seed,
        )
        batches = [sampler.batch(number) for number in range(_BATCHES)]
    probs_BK = torch.cat([critic.value_probs(batch.bootstrap_observation)[0] for batch in batches])
    discount_B = torch.cat([batch.bootstrap_discount_B for batch in batches])
    return_B = torch.cat([batch.return_B for batch in batches])
    q_NB = torch.cat(
        [
            torch.stack(
                critic.q(
                    critic.encode(batch.observation),
                    critic.normalizer.action(batch.action_chunk_BHA),
                    batch.action_mask_BH,
                )
            )
            for batch in batches
        ],
        dim=1,
    )
    level_B, entropy_B = quantile_levels(probs_BK, config)
    adaptive_B = categorical_quantile(probs_BK, critic.atoms_K, level_B)
    constant_B = categorical_quantile(probs_BK, critic.atoms_K, level_B.mean().expand_as(level_B))
    shift_B = discount_B * (
        adaptive_B.clamp(config.bootstrap_low, config.bootstrap_high)
        - constant_B.clamp(config.bootstrap_low, config.bootstrap_high)
    )
    target_B = return_B + discount_B * adaptive_B.clamp(config.bootstrap_low, config.bootstrap_high)
    bootstrapped_B = discount_B > 0
    return LevelRun(
        seed=seed,
        bootstrapped=float(bootstrapped_B.float().mean()),
        entropy_std=float(entropy_B[bootstrapped_B].std()),
        level_mean=float(level_B[bootstrapped_B].mean()),
        level_std=float(level_B[bootstrapped_B].std()),
        value_std=float(_std_of(probs_BK, critic.atoms_K)[bootstrapped_B].mean()),
        shift_mean=float(shift_B[bootstrapped_B].mean()),
        shift_abs=float(shift_B[bootstrapped_B].abs().mean()),
        td_error_rms=float((q_NB - target_B).square().mean().sqrt()),
    )


def _has_value(run: RunDirectory) -> bool:
    return VALUE in run.finished("offline", "offline").sha256


def _std_of(probs_BK: torch.Tensor, atoms_K: torch.Tensor) -> torch.Tensor:
    mean_B = probs_BK @ atoms_K
    return (probs_BK @ atoms_K.square() - mean_B.square()).clamp(min=0).sqrt()
