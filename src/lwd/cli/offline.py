"""Learn V and Q from the run's offline data and improve the policy with them (DIVL + QAM).

Ctrl-C saves a checkpoint; the same command continues from it, bit for bit on a CPU.
"""

import dataclasses
from pathlib import Path
from typing import Annotated

import torch
import tyro

from lwd.cli.options import (
    BudgetOption,
    DeviceOption,
    MethodOption,
    QuantileLevelOption,
    RunOption,
    SeedOption,
    ThreadsOption,
    require_device,
    run_at,
)
from lwd.cli.prefix_options import PrefixCacheOption, PrefixDirectoryOption, cache_of
from lwd.cli.services import NOTED_STORE, StoreOptions
from lwd.cli.stage_progress import finish, watched
from lwd.commands import lwd_command
from lwd.errors import ConfigError
from lwd.models.critic import PretrainedCriticConfig
from lwd.recipes.advice import after_fitting, start_fleet
from lwd.recipes.methods import METHODS, method_recipe
from lwd.recipes.stages import described, run_offline


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 2,
    method: MethodOption = "lwd",
    quantile_level: QuantileLevelOption = None,
    critic_language: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="PATH|ID",
            help="pretrained language model that reads for V and Q, such as google/gemma-3-270m-it; None: a small "
            "encoder from scratch",
        ),
    ] = None,
    critic_vision: Annotated[
        str, tyro.conf.arg(metavar="PATH|ID", help="its SigLIP, for robots with cameras")
    ] = PretrainedCriticConfig.vision,
    critic_states_at_once: Annotated[
        int | None,
        tyro.conf.arg(metavar="INT", help="of --critic-language: transitions that go through it at a time; None: all"),
    ] = None,
    prefix_cache: PrefixCacheOption = None,
    prefix_directory: PrefixDirectoryOption = None,
    where: StoreOptions = NOTED_STORE,
) -> None:
    torch.set_num_threads(threads)
    directory, settings = run_at(run, where), method_recipe(budget, method, quantile_level=quantile_level).offline
    if not METHODS[method].offline:
        command = lwd_command("up", "--run", run, "--method", method)
        raise ConfigError(f"method {method!r} has no offline stage: run `{command}` after SFT")
    if critic_language is None and (critic_states_at_once or critic_vision != PretrainedCriticConfig.vision):
        raise ConfigError(
            "--critic-vision and --critic-states-at-once are of a pretrained critic: give --critic-language"
        )
    if critic_language is not None:
        heads = dataclasses.asdict(settings.critic)
        critic = PretrainedCriticConfig(
            **heads, language=critic_language, vision=critic_vision, states_at_once=critic_states_at_once
        )
        settings = dataclasses.replace(settings, critic=critic)
    cache = cache_of(prefix_cache, prefix_directory, run)
    directory.write_config("offline", described(settings, seed=seed))
    chosen = () if method == "lwd" else ("--method", method)
    level = () if quantile_level is None else ("--quantile-level", quantile_level)
    metric = "loss/value" if method == "recap" else "critic/q_mean"
    with watched("offline", metric, require_device(device), prefix_cache=cache) as control:
        checkpoint = run_offline(directory, settings, seed=seed, control=control)

    def then() -> str:
        robot = directory.embodiment()
        return after_fitting(
            robot, start_fleet(run, robot, ("--budget", budget, *chosen, *level)), checkpoint.policy_path
        )

    finish(checkpoint, then)
