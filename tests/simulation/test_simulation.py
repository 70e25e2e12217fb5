"""The commit protocol under seeded chaos. `make simulate` runs ten thousand seeds; this runs the first ones."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.simulation.simulate import REGRESSIONS, load_regression, simulate

SEEDS = 200
_CHUNK = 20


@pytest.mark.parametrize("first", range(0, SEEDS, _CHUNK))
def test_every_promise_holds_under_chaos(first):
    outcomes = [simulate(seed) for seed in range(first, first + _CHUNK)]
    # A simulation in which nothing happens proves nothing.
    assert sum(outcome.episodes for outcome in outcomes) > 3 * _CHUNK
    assert sum(outcome.versions for outcome in outcomes) > 3 * _CHUNK
    assert sum(outcome.kills for outcome in outcomes) > _CHUNK


@pytest.mark.parametrize("path", sorted(REGRESSIONS.glob("*.json")), ids=lambda path: path.stem)
def test_seeds_that_failed_once(path):
    seed, settings = load_regression(path)
    simulate(seed, settings)


def test_a_seed_is_a_run():
    """Also in another process, whose strings hash differently."""
    seeds = (3, 7, 12)
    here = [simulate(seed).digest for seed in seeds]
    assert len(set(here)) == len(seeds)
    assert [simulate(seed).digest for seed in seeds] == here
    code = f"from tests.simulation.simulate import simulate\nfor seed in {seeds}: print(simulate(seed).digest)"
    other = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "17", "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert other.stdout.split() == here
