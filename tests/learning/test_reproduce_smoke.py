"""The whole experiment at its smallest: real verbs, real processes, every cell, and the page at the end."""

import json
from pathlib import Path

import pytest

from lwd.recipes.reproduce.experiment import Experiment, ReproduceConfig

pytestmark = pytest.mark.learning


def test_the_smoke_budget_of_everything(tmp_path: Path) -> None:
    config = ReproduceConfig(table="all", budget="smoke", root=tmp_path / "root", out=tmp_path / "out")
    # Stopped in the middle, as by Ctrl-C or --max-minutes.
    stopped = Experiment(config)
    assert not stopped.run(stop=lambda: len(stopped.engine.records) >= 2)
    assert not any(record.failed for record in stopped.engine.records.values())
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "cells").iterdir()}
    experiment = Experiment(config)
    assert experiment.run(stop=lambda: False)
    assert kept.items() <= {p.name: p.stat().st_mtime_ns for p in (tmp_path / "out" / "cells").iterdir()}.items()
    content = json.loads((tmp_path / "out" / "experiment.json").read_text())
    assert len(content["cells"]) == len(experiment.plan.cells)
    assert [cell["error"] for cell in content["cells"]] == [None] * len(content["cells"])
    online = next(cell for cell in content["cells"] if cell["name"] == "lwd-online-seed0")
    assert online["fleet_steps"] >= 3_000
    assert online["updates"] >= 50
    page = (tmp_path / "out" / "experiment.md").read_text()
    assert "State: complete." in page
    assert "experiment/value-episode-1.svg" in page
    # Nothing is left to do, and nothing is done again.
    assert Experiment(config).engine.todo() == []
