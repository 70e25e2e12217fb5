"""The learning experiment: SFT, filtered BC, LWD offline and LWD online over several seeds; takes hours.

Finished stages and evaluations are kept: the same command continues. Writes learn.json and learn.md.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import BudgetOption, ThreadsOption, console
from lwd.recipes.learn import LearnConfig, learn


def run(
    root: Annotated[Path, tyro.conf.arg(help="directory of the runs, one per seed")] = Path("runs/learn"),
    out: Annotated[Path, tyro.conf.arg(help="directory of learn.json and learn.md")] = Path("docs/results"),
    seeds: Annotated[tuple[int, ...], tyro.conf.arg(metavar="INT [INT ...]", help="training seeds")] = (0, 1, 2),
    episodes: Annotated[int, tyro.conf.arg(help="evaluation episodes per task, method and seed")] = 25,
    budget: BudgetOption = "full",
    threads: ThreadsOption = 2,
) -> None:
    config = LearnConfig(root=root, out=out, seeds=seeds, episodes=episodes, budget=budget, threads=threads)
    learn(config, lambda text: console.rule(text, align="left"))
    console.print(f"results: {out / 'learn.md'}")
