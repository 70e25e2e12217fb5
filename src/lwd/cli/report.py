"""Tables of a run, and its self-contained HTML page RUN/report.html. --json prints the figures for machines."""

import json
import sys
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from lwd.cli.options import JsonOption
from lwd.recipes.reporting import report_run


def run(
    run: Annotated[Path, tyro.conf.Positional, tyro.conf.arg(help="directory of the run")],
    out: Annotated[Path | None, tyro.conf.arg(metavar="PATH", help="file to write; None: RUN/report.html")] = None,
    film: Annotated[
        bool, tyro.conf.arg(help="leave out the film strips of one success and one failure (they take some seconds)")
    ] = True,
    json_output: JsonOption = False,
) -> None:
    from lwd.evaluation.run_data import read_run
    from lwd.evaluation.run_summary import report_json
    from lwd.evaluation.table import run_table

    if json_output:
        json.dump(report_json(read_run(run)), sys.stdout, indent=1)
        print()
        return
    path = report_run(run, out or run / "report.html", film=film)
    Console().print(run_table(read_run(run)))
    print(f"report: {path}")
