"""Success of a policy on every task, from fixed starts that are the same for all methods.

Takes a policy file, a checkpoint directory, or a run with --method sft | lwd_offline | lwd_online | filtered_bc.
Finished episodes are kept: the same command continues. --json prints the figures for machines.
"""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from lwd.cli.options import progress
from lwd.evaluation.table import success_table
from lwd.recipes.evaluate import evaluate_checkpoint, policy_of


def run(
    checkpoint: Annotated[Path, tyro.conf.Positional],
    method: str | None = None,
    episodes: int = 25,
    tasks: tuple[str, ...] = (),
    world: str = "nominal",
    seed: int = 0,
    known_instructions: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False,
    workers: int = 2,
    out: Path | None = None,
    json_output: Annotated[bool, tyro.conf.arg(name="json"), tyro.conf.FlagCreatePairsOff] = False,
) -> None:
    policy, directory, name = policy_of(checkpoint, method)
    target = out or directory / f"{name}.json"
    with progress(f"evaluate {name}") as bar:
        result = evaluate_checkpoint(
            policy,
            target,
            method=name,
            episodes_per_task=episodes,
            tasks=tasks,
            world=world,
            seed=seed,
            heldout_instructions=not known_instructions,
            workers=workers,
            progress=None if json_output else bar,
        )
    if json_output:
        json.dump(json.loads(target.read_text()), sys.stdout, indent=1)
        print()
    else:
        Console().print(success_table({name: result}))
        print(f"written to {target}")
