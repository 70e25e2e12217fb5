"""Write a trained LeRobot policy as a checkpoint that LeRobot's own tools load.

Takes a policy file, or the directory of a checkpoint of `lwd sft --pretrained`, `lwd offline` or `lwd learner`.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import console
from lwd.errors import ConfigError
from lwd.models.checkpoint import load_policy
from lwd.models.lerobot.files import save_lerobot
from lwd.models.lerobot.vla import LeRobotVLA
from lwd.recipes.evaluate import policy_of


def run(
    checkpoint: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(help="a checkpoint directory, or a policy.safetensors")
    ],
    lerobot: Annotated[Path, tyro.conf.arg(metavar="PATH", help="directory of the checkpoint to write")],
) -> None:
    path = policy_of(checkpoint, None)[0]
    policy = load_policy(path)
    if not isinstance(policy, LeRobotVLA):
        raise ConfigError(
            f"{path} holds a {type(policy).__name__}, which LeRobot does not know: only what came from LeRobot "
            "(lwd sft --pretrained) can go back"
        )
    if lerobot.exists() and any(lerobot.iterdir()):
        raise ConfigError(f"lerobot {lerobot} is not empty: give a new directory")
    save_lerobot(policy, lerobot)
    console.print(f"written to {lerobot}", highlight=False)
