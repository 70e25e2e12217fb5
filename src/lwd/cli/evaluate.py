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

from lwd.cli.options import JsonOption, TasksOption, WorkersOption, WorldOption, progress
from lwd.evaluation.table import success_table
from lwd.recipes.evaluate import evaluate_checkpoint, policy_of


def run(
    checkpoint: Annotated[
        Path, tyro.conf.Positional, tyro.conf.arg(help="a run, a checkpoint directory, or a policy.safetensors")
    ],
    method: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="NAME",
            help="of a run: which stage's policy (sft, lwd_offline, lwd_online, filtered_bc); otherwise: the name in "
            "tables and reports. None: the stage's or the file's name",
        ),
    ] = None,
    episodes: Annotated[int, tyro.conf.arg(help="episodes per task")] = 25,
    tasks: TasksOption = (),
    world: WorldOption = "nominal",
    seed: Annotated[int, tyro.conf.arg(help="which set of starts; the same for all methods that you compare")] = 0,
    known_instructions: Annotated[
        bool, tyro.conf.arg(help="use the wordings of the training data instead of the held-out ones")
    ] = False,
    workers: WorkersOption = 2,
    out: Annotated[
        Path | None,
        tyro.conf.arg(metavar="PATH", help="file of the result; None: RUN/eval/METHOD.json, or beside the policy"),
    ] = None,
    json_output: JsonOption = False,
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
            progress=bar,
        )
    if json_output:
        json.dump(json.loads(target.read_text()), sys.stdout, indent=1)
        print()
    else:
        Console().print(success_table({name: result}))
        print(f"written to {target}")
