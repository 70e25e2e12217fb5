"""The learning experiment: SFT, filtered BC, LWD offline and LWD online over several seeds; takes hours.

Finished stages and evaluations are kept: the same command continues. Writes learn.json and learn.md.
"""

from pathlib import Path

from lwd.cli.options import BudgetOption, console
from lwd.recipes.learn import LearnConfig, learn


def run(
    root: Path = Path("runs/learn"),
    out: Path = Path("docs/results"),
    seeds: tuple[int, ...] = (0, 1, 2),
    episodes: int = 25,
    budget: BudgetOption = "full",
    threads: int = 2,
) -> None:
    config = LearnConfig(root=root, out=out, seeds=seeds, episodes=episodes, budget=budget, threads=threads)
    learn(config, lambda text: console.rule(text, align="left"))
    console.print(f"results: {out / 'learn.md'}")
