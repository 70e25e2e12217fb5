"""Floors: an update is slower than its matrix products, and a floor once measured is kept."""

import time
from pathlib import Path

from lwd.evaluation.experiment.beside import Floors
from lwd.recipes.reproduce.floors import write_floors

from ....tiny_run import RECIPE


def test_floors_are_measured_once_and_kept(tmp_path: Path) -> None:
    started_s = time.perf_counter()
    write_floors(RECIPE, tmp_path, seconds=0.05)
    assert time.perf_counter() - started_s > 3 * 0.05
    first = (tmp_path / "floors.json").read_bytes()
    floors = Floors.model_validate_json(first)
    assert 100 < floors.lwd_updates_per_s < floors.sft_updates_per_s
    assert 50 < floors.env_steps_per_s < 20_000
    write_floors(RECIPE, tmp_path, seconds=0.05)
    assert (tmp_path / "floors.json").read_bytes() == first
