"""The experiment as the verb runs it: records, then a page that also shows what was not asked for this time."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from lwd.recipes.reproduce.experiment import Experiment, ReproduceConfig

from .fake_verbs import REGISTRY, FakeVerbs


@pytest.fixture
def config(tmp_path: Path) -> ReproduceConfig:
    out = tmp_path / "out"
    out.mkdir()
    # Measuring them would take longer than all the rest.
    (out / "floors.json").write_text('{"sft_updates_per_s": 40, "lwd_updates_per_s": 36, "env_steps_per_s": 900}')
    return ReproduceConfig(table="table3", budget="small", root=tmp_path / "root", out=out, seeds=(0,))


def run(config: ReproduceConfig, verbs: FakeVerbs) -> dict[str, object]:
    assert Experiment(config, REGISTRY, start=verbs).run(stop=lambda: False)
    content: dict[str, object] = json.loads((config.out / "experiment.json").read_text())
    return content


def test_the_page_shows_every_seed_and_table_that_is_there(config: ReproduceConfig) -> None:
    def rate(method: str) -> float:
        return 0.8 if method == "lwd" else 0.4

    first = run(config, FakeVerbs(rate=rate))
    claim = next(item for item in first["claims"] if item["name"] == "adaptive > constant level")
    assert claim["verdict"] == "holds"
    assert claim["seeds"] == [0]
    # A record of other settings is left alone and counted; a seed beside the budget's own is shown.
    (config.out / "cells" / "sft-seed0-000000000000.json").write_text("{}")
    second = run(replace(config, seeds=(7,)), FakeVerbs(rate=rate))
    claim = next(item for item in second["claims"] if item["name"] == "adaptive > constant level")
    assert claim["seeds"] == [0, 7]
    assert second["setting"]["other_records"] == 1
    assert "1 records of other settings are not shown" in (config.out / "experiment.md").read_text()


def test_a_stopped_experiment_says_so_and_has_its_page(config: ReproduceConfig) -> None:
    verbs = FakeVerbs(slow="offline")
    experiment = Experiment(config, REGISTRY, start=verbs)
    before_s = experiment.left_s()
    assert not experiment.run(stop=lambda: bool(verbs.of("offline")))
    after_s = experiment.left_s()
    assert before_s is not None
    assert after_s is not None
    assert 0 < after_s < before_s
    page = (config.out / "experiment.md").read_text()
    assert "cells are missing, about" in page
