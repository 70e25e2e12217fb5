"""Search for the settings of the compared methods on validation starts, never on those of the tables.

Each candidate is trained offline from one SFT policy (about four minutes of one core) and added to OUT/search.json,
which the page of `lwd reproduce` shows. Ctrl-C ends after the candidates that run; the same command continues.
"""

from pathlib import Path
from typing import Annotated

import tyro

from lwd.cli.options import BudgetOption, SeedOption, run_at, status
from lwd.recipes.interrupt import StopRequest
from lwd.recipes.reproduce.search import SearchConfig, run_search
from lwd.recipes.scene import recipe


def run(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="a run with offline data and a finished SFT stage")],
    root: Annotated[Path, tyro.conf.arg(help="directory of the candidates' runs")] = Path("runs/search"),
    out: Annotated[Path, tyro.conf.arg(help="directory of search.json")] = Path("docs/results"),
    budget: BudgetOption = "full",
    seed: SeedOption = 0,
    episodes: Annotated[int, tyro.conf.arg(help="validation episodes per task")] = 15,
    jobs: Annotated[int, tyro.conf.arg(help="candidates side by side, each on one core")] = 2,
) -> None:
    config = SearchConfig(run=run_at(run).path, root=root, out=out, seed=seed, episodes=episodes, jobs=jobs)
    with StopRequest() as request:
        done = run_search(
            config,
            recipe(budget),
            say=lambda text: status.print(text, highlight=False),
            stop=lambda: request.stop,
        )
    if not done:
        raise KeyboardInterrupt
