"""The disk of a robot's spool and the disk of the store get full: what was accepted stays, and room mends it."""

import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .audit import assert_exactly_once
from .servers import DataPlane

WRITERS, ROBOTS, EPISODES = 2, 4, 80
TOTAL = WRITERS * ROBOTS * EPISODES
SIZE_KIB = 1024
"""An episode takes a page of 4 KiB, so this is full before half of them are there."""
PATIENCE_S = 240.0


@pytest.fixture
def small_disk(tmp_path) -> Iterator[Path]:
    path = tmp_path / "small"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SIZE_KIB}k", "tmpfs", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount a small file system here: {mounted.stderr.strip()}")
    yield path
    subprocess.run(["umount", "-l", str(path)], check=True)


def data_plane(run: Path, **places: Path) -> DataPlane:
    return DataPlane(run, writers=WRITERS, robots=ROBOTS, episodes=EPISODES, period_s=0.01, **places)


def tend_until(plane: DataPlane, condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, plane.logs()
        plane.tend()
        time.sleep(0.05)


def settled(count: Callable[[], int], quiet_s: float = 2.0) -> Callable[[], bool]:
    """Return a condition: a count has not changed for a while."""
    last, since_s = -1, time.monotonic()

    def condition() -> bool:
        nonlocal last, since_s
        if (now := count()) != last:
            last, since_s = now, time.monotonic()
        return time.monotonic() - since_s > quiet_s

    return condition


def test_a_full_spool_stops_its_robots_and_loses_nothing(tmp_path, small_disk):
    plane = data_plane(tmp_path, directory=tmp_path / "store", spools=small_disk)

    def journalled() -> int:
        return sum(map(len, plane.journal().values()))

    with plane:
        # Nothing leaves a spool while nobody commits.
        coordinator = plane.member("coordinator")
        coordinator.start_at_s = float("inf")
        tend_until(plane, lambda: all("no space left" in plane.log_of(name) for name in plane.writers))
        tend_until(plane, settled(journalled))
        assert 0 < journalled() < TOTAL
        assert all(plane.member(name).running for name in plane.writers)
        # A host that is killed now starts on the full disk.
        kept = plane.journal()
        plane.member("writer-0").kill()
        complaints = plane.log_of("writer-0").count("no space left")
        tend_until(plane, lambda: plane.log_of("writer-0").count("no space left") > complaints)
        assert all(kept[name].items() <= journal.items() for name, journal in plane.journal().items())
        # Commits make room.
        coordinator.start_at_s = 0.0
        tend_until(plane, lambda: plane.finished)
        assert_exactly_once(plane.object_store(), plane.journal(), plane.spools, episodes=TOTAL)


def test_a_full_store_is_waited_for_and_loses_nothing(tmp_path, small_disk):
    plane = data_plane(tmp_path, directory=small_disk / "store")

    def stored() -> int:
        return sum(1 for _ in (small_disk / "store").rglob("*.*"))

    with plane:
        tend_until(plane, lambda: any("no space left" in plane.log_of(name) for name in plane.writers))
        tend_until(plane, settled(stored))
        assert 0 < stored() < TOTAL
        # The spools take everything meanwhile, and restarts do not help.
        for name in ("coordinator", "writer-0"):
            plane.member(name).kill()
        tend_until(plane, lambda: sum(map(len, plane.journal().values())) == TOTAL)
        subprocess.run(["mount", "-o", f"remount,size={64 * SIZE_KIB}k", str(small_disk)], check=True)
        tend_until(plane, lambda: plane.finished)
        assert_exactly_once(plane.object_store(), plane.journal(), plane.spools, episodes=TOTAL)
