"""Kill points: a learning fleet meets one fault after another, and every accepted episode is committed once.

Each test ends with the count: what the spools called safe is what the log holds.
"""

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from .learning_fleet import LearningFleet, learning_fleet, prepare

pytestmark = pytest.mark.faults


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("prepared") / "run"
    prepare(run)
    return run


@pytest.fixture
def fleet(prepared: Path, tmp_path: Path) -> Iterator[LearningFleet]:
    run = tmp_path / "run"
    shutil.copytree(prepared, run)
    with learning_fleet(run) as fleet:
        yield fleet


def test_store_unmounted_for_20_s(fleet: LearningFleet) -> None:
    """Robots keep what no snapshot of this very store contains; nobody writes into the empty mount point."""
    fleet.mount.take_away()
    time.sleep(20)
    fleet.mount.bring_back()
    fleet.wait_for_more(4)
    fleet.wait_for_policy()
    assert fleet.count() > 8
