"""A fleet whose store goes away while it runs, and comes back. A process of its own, for a mount namespace of its own.

[unshare --mount] python -m tests.faults.unmounted_fleet {renamed | mounted} RUN AWAY_S
"""

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from lwd.errors import StoreError

from .test_fleet_crashes import Fleet, assert_exactly_once, wait_until

_PATIENCE_S = 240.0


class Renamed:
    """Stands in for a mount where none is allowed: an empty directory takes the store's place."""

    def __init__(self, store: Path) -> None:
        self._store, self._aside = store, store.with_name("store.aside")

    def away(self) -> None:
        self._store.rename(self._aside)
        self._store.mkdir()

    def back(self) -> Path:
        """Return where the mount point's content is to be seen."""
        point = self._store.with_name("store.mount-point")
        self._store.rename(point)
        self._aside.rename(self._store)
        return point


class Mounted:
    """The store is a mount of its own; `umount --lazy`, because the processes hold it."""

    def __init__(self, store: Path) -> None:
        self._store, self._disk = store, store.with_name("disk")
        self._point = store.with_name("store.mount-point")
        for directory in (self._store, self._disk, self._point):
            directory.mkdir(parents=True)
        # The mount point itself, to be looked at while the disk lies over it.
        subprocess.run(["mount", "--bind", str(store), str(self._point)], check=True)
        self._mount()

    def _mount(self) -> None:
        subprocess.run(["mount", "--bind", str(self._disk), str(self._store)], check=True)

    def away(self) -> None:
        subprocess.run(["umount", "--lazy", str(self._store)], check=True)

    def back(self) -> Path:
        self._mount()
        return self._point


def main(kind: str, run: Path, away_s: float) -> None:
    disk = Mounted(run / "store") if kind == "mounted" else None
    fleet = Fleet(run)
    place = disk or Renamed(run / "store")
    fleet.start()
    try:
        wait_until(lambda: _episodes(fleet) >= 5, _PATIENCE_S, fleet)
        place.away()
        spooled = len(fleet.journal())
        time.sleep(away_s)
        wait_until(lambda: len(fleet.journal()) >= spooled + 5, _PATIENCE_S, fleet)  # robots go on collecting
        point = place.back()
        left = sorted(str(path.relative_to(point)) for path in point.rglob("*") if path.is_file())
        print(f"in the mount point: {left}")
        assert not [name for name in left if not name.startswith("probe/")]
        known = set(fleet.journal())
        committed = lambda: known <= {item.entry.key for item in fleet.snapshot().episodes.values()}  # noqa: E731
        wait_until(_without_store_errors(committed), _PATIENCE_S, fleet)
        fleet.stop()
        count = assert_exactly_once(fleet)
        print(f"accepted {len(fleet.journal())}, committed {count}, {len(known) - spooled} while the store was away")
    finally:
        fleet.close()


def _episodes(fleet: Fleet) -> int:
    return len(fleet.snapshot().episodes)


def _without_store_errors(condition: Callable[[], bool]) -> Callable[[], bool]:
    def asked() -> bool:
        with contextlib.suppress(StoreError):
            return condition()
        return False

    return asked


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]))
