"""Fit the reference policy f_beta to the run's demonstrations by flow matching.

Ctrl-C saves a checkpoint; the same command continues from it, bit for bit on a CPU.
"""

from pathlib import Path
from typing import Annotated

import torch
import tyro

from lwd.cli.options import (
    BudgetOption,
    DeviceOption,
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
from lwd.recipes.advice import after_fitting
from lwd.recipes.pretrained import PretrainedPolicy
from lwd.recipes.scene import recipe
from lwd.recipes.stages import described, run_sft


def run(
    run: RunOption = Path("runs/demo"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    device: DeviceOption = "cpu",
    threads: ThreadsOption = 2,
    pretrained: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="PATH|ID",
            help="pi0, pi0.5 or SmolVLA checkpoint of LeRobot to begin with (with --budget vla); None: a small policy",
        ),
    ] = None,
    horizon: Annotated[
        int | None, tyro.conf.arg(help="of --pretrained: control steps per chunk; None: the checkpoint's")
    ] = None,
    cameras: Annotated[
        tuple[str, ...],
        tyro.conf.arg(metavar="CAMERA=IMAGE", help="of --pretrained: the run's cameras among the checkpoint's images"),
    ] = (),
    fit_to_data: Annotated[
        bool,
        tyro.conf.arg(
            help="of --pretrained: features and normalisation from the run's data, for a base model that never saw "
            "this robot; else the checkpoint's own"
        ),
    ] = False,
    train_backbone: Annotated[
        bool, tyro.conf.arg(help="of --pretrained: fine-tune the vision-language model, too, not only the expert")
    ] = False,
    gradient_checkpointing: Annotated[bool, tyro.conf.arg(help="of --pretrained: less memory, more time")] = False,
    bfloat16_backbone: Annotated[
        bool, tyro.conf.arg(help="of --pretrained: keep the frozen vision-language model in half the memory")
    ] = False,
    states_at_once: Annotated[
        int | None,
        tyro.conf.arg(
            metavar="INT",
            help="of --pretrained: states of a batch that go through the network at a time, here and in later stages; "
            "their gradients add up; None: all",
        ),
    ] = None,
    lora: Annotated[
        int,
        tyro.conf.arg(
            metavar="RANK",
            help="of --pretrained: SFT and offline learning train adapters of this rank in backbone and expert, and "
            "nothing else; 0: no adapters",
        ),
    ] = 0,
    prefix_cache: PrefixCacheOption = None,
    prefix_directory: PrefixDirectoryOption = None,
    where: StoreOptions = NOTED_STORE,
) -> None:
    torch.set_num_threads(threads)
    directory, settings = run_at(run, where), recipe(budget).sft
    start = None
    of_pretrained = {
        "--horizon": horizon,
        "--cameras": cameras,
        "--fit-to-data": fit_to_data,
        "--train-backbone": train_backbone,
        "--gradient-checkpointing": gradient_checkpointing,
        "--bfloat16-backbone": bfloat16_backbone,
        "--states-at-once": states_at_once,
        "--lora": lora,
    }
    if pretrained is None and (given := [name for name, value in of_pretrained.items() if value]):
        raise ConfigError(f"{given[0]} is of a pretrained policy: give --pretrained, too, or leave it out")
    if pretrained is not None:
        start = PretrainedPolicy(
            source=pretrained,
            horizon=horizon,
            camera_keys=tuple(_pair(camera) for camera in cameras),
            fit_to_data=fit_to_data,
            backbone_trained=train_backbone,
            gradient_checkpointing=gradient_checkpointing,
            backbone_precision="bfloat16" if bfloat16_backbone else "float32",
            lora_rank=lora,
            states_at_once=states_at_once,
        )
    cache = cache_of(prefix_cache, prefix_directory, run)
    directory.write_config("sft", described(settings, seed=seed, pretrained=start))
    with watched("sft", "loss/flow", require_device(device), prefix_cache=cache) as control:
        checkpoint = run_sft(directory, settings, seed=seed, pretrained=start, control=control)
    offline = lwd_command("offline", "--run", run, "--budget", budget)
    finish(checkpoint, lambda: after_fitting(directory.embodiment(), offline, checkpoint.policy_path))


def _pair(text: str) -> tuple[str, str]:
    camera, found, image = text.partition("=")
    if not (camera and found and image):
        raise ConfigError(f"cameras has {text!r}; write CAMERA=IMAGE, such as front=camera1")
    return camera, image
