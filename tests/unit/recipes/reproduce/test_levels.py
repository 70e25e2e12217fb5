"""What the adaptive level does in a finished run: nothing where entropy does not count."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from lwd.algos.config import LWDConfig
from lwd.errors import ConfigError
from lwd.evaluation.experiment.beside import read_levels
from lwd.recipes.reproduce.levels import measure_levels, write_levels
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import run_offline, run_sft

from ....tiny_run import RECIPE, commit, make_data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("levels") / "run")
    commit(run, make_data())
    run_sft(run, RECIPE.sft, seed=0)
    run_offline(run, RECIPE.offline, seed=0)
    return run


def settings(**changes: object) -> LWDConfig:
    assert isinstance(RECIPE.offline.algorithm, LWDConfig)
    return replace(RECIPE.offline.algorithm, **changes)  # type: ignore[arg-type]


def test_levels_differ_with_the_entropy_alone(finished: RunDirectory, tmp_path: Path) -> None:
    wide = replace(RECIPE.offline, algorithm=settings(quantile_low=0.001, quantile_high=0.999, entropy_weight=0.3))
    found = measure_levels(finished, wide, seed=0)
    assert found.level_std == pytest.approx(0.3 * found.entropy_std, rel=1e-3)
    assert 0 < found.shift_abs < found.value_std
    assert 0 < found.bootstrapped < 1
    constant = measure_levels(finished, replace(RECIPE.offline, algorithm=settings(entropy_weight=0.0)), seed=0)
    assert constant.level_std == pytest.approx(0, abs=1e-6)
    assert constant.shift_abs == 0
    assert constant.entropy_std == found.entropy_std


def test_what_was_measured_stays_when_its_run_is_gone(finished: RunDirectory, tmp_path: Path) -> None:
    """As on another machine, which trains only the seeds whose cells are missing."""
    here: set[str] = set()
    runs = SimpleNamespace(finished=lambda parent: parent in here, run_of=lambda cell: finished)

    def keys(*wanted: str) -> tuple[str, ...]:
        cells = [SimpleNamespace(key=key, parents=(key,), seed=seed) for seed, key in enumerate(wanted)]
        write_levels(cells, runs, RECIPE.offline, tmp_path)  # type: ignore[arg-type]
        found = read_levels(tmp_path)
        return () if found is None else found.keys

    assert keys("a", "b") == ()
    here.add("b")
    assert keys("a", "b") == ("b",)
    here.clear()
    here.add("a")
    assert keys("a", "b") == ("a", "b")
    here.clear()
    assert keys("a", "b") == ("a", "b")
    found = read_levels(tmp_path)
    assert found is not None
    assert [run.seed for run in found.runs] == [0, 1]
    here.add("c")
    assert keys("c") == ("c",)  # the settings changed


def test_a_value_that_is_a_number_has_no_levels(finished: RunDirectory) -> None:
    with pytest.raises(ConfigError, match="value is not 'divl'"):
        measure_levels(finished, replace(RECIPE.offline, algorithm=settings(value="expectile")), seed=0)
