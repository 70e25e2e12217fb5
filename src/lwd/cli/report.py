"""Tables of a run, and its self-contained HTML page RUN/report.html. --json prints the figures for machines."""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from lwd.cli.options import JsonOption, run_at
from lwd.cli.services import NOTED_STORE, StoreOptions
from lwd.recipes.reporting import report_run, run_data


def run(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="directory of the run")],
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help="file to write; None: RUN/report.html")] = None,
    film: Annotated[
        bool, tyro.conf.arg(help="leave out the film strips of one success and one failure (they take some seconds)")
    ] = True,
    json_output: JsonOption = False,
    where: StoreOptions = NOTED_STORE,
) -> None:
    from lwd.evaluation.run_summary import report_json
    from lwd.evaluation.table import run_table

    directory = run_at(run, where)
    if json_output:
        json.dump(report_json(run_data(directory)), sys.stdout, indent=1)
        print()
        return
    path = report_run(directory, out or run / "report.html", film=film)
    Console().print(run_table(run_data(directory)))
    print(f"report: {path}")
