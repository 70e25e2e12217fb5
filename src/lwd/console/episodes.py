"""Episodes of the newest snapshot, or of an older one: filtered lists, and one episode in detail."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from lwd.console.export import tar_of
from lwd.data.episode_file import read_episode
from lwd.data.log import CommittedEpisode, LogReader
from lwd.data.relabelling import Relabelling, relabel
from lwd.errors import ConfigError
from lwd.fleet.embodiment import embodiment_json
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Episode, Outcome

MAX_ROWS = 500


@dataclass(frozen=True, kw_only=True)
class EpisodeFilter:
    """Conditions that an episode must all fulfil; None and empty do not count."""

    task: str = ""
    robot: str = ""
    outcome: str = ""
    source: str = ""
    policy_version: int | None = None
    helped: bool | None = None
    """Whether a human acted in it."""

    def accepts(self, item: CommittedEpisode) -> bool:
        entry = item.entry
        return (
            (not self.task or entry.task == self.task)
            and (not self.robot or entry.robot_id == self.robot)
            and (not self.outcome or entry.outcome.value == self.outcome)
            and (not self.source or entry.source.value == self.source)
            and (self.policy_version is None or entry.policy_version == self.policy_version)
            and (self.helped is None or (entry.human_steps > 0) == self.helped)
        )


class Episodes:
    """Follows the log of a run. Methods block on the store: call them in a thread."""

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self._store = run.store()
        self._lock = threading.Lock()
        self._newest: LogReader | None = None
        self._last: tuple[str, Episode] | None = None

    def page(self, wanted: EpisodeFilter, *, snapshot: int | None, offset: int, limit: int) -> dict[str, Any]:
        """Return rows of the episodes that fulfil the conditions, newest first.

        Args:
            snapshot: version to look at; None: the newest.
        Raises:
            ConfigError: if the snapshot does not exist yet.
            StoreError: if the log cannot be read.
        """
        reader = self._reader(snapshot)
        items = list(reader.snapshot.episodes.values())
        found = [item for item in reversed(items) if wanted.accepts(item)]
        return {
            "snapshot": reader.version,
            "episodes": len(items),
            "matching": len(found),
            "rows": [_row(item) for item in found[offset : offset + min(limit, MAX_ROWS)]],
            "tasks": sorted({item.entry.task for item in items}),
            "robots": sorted({item.entry.robot_id for item in items}),
            "policy_versions": sorted({item.entry.policy_version for item in items}),
        }

    def select(self, wanted: EpisodeFilter, *, snapshot: int | None) -> tuple[int, list[CommittedEpisode]]:
        """Return a snapshot's version and its episodes that fulfil the conditions, oldest first.

        Raises:
            ConfigError: if the snapshot does not exist yet, or none of its episodes does.
            StoreError: if the log cannot be read.
        """
        reader = self._reader(snapshot)
        found = [item for item in reader.snapshot.episodes.values() if wanted.accepts(item)]
        if not found:
            raise ConfigError(f"no episode of snapshot {reader.version} fulfils the conditions")
        return reader.version, found

    def tar(self, items: list[CommittedEpisode], snapshot: int) -> Iterator[bytes]:
        """Return what yields episodes of a snapshot as a tar file (`lwd.console.export`).

        Raises:
            ConfigError: if nothing says what the run's robot is.
        """
        return tar_of(self._store, items, snapshot, embodiment_json(self._run.embodiment()))

    def find(self, identity: str) -> CommittedEpisode:
        """Return the episode ROBOT/ID of the newest snapshot.

        Raises:
            ConfigError: if it has none of that identity.
        """
        found = self._reader(None).find(identity)
        if found is None:
            raise ConfigError(f"episode {identity} is not in the newest snapshot")
        return found

    def detail(self, identity: str) -> dict[str, Any]:
        """Return one episode: its row, its actions, and who was in control when.

        Raises:
            ConfigError: if the newest snapshot has none of that identity.
            StoreError: if it cannot be read.
        """
        item = self.find(identity)
        episode = self._episode(item)
        return {
            **_row(item),
            "key": item.entry.key,
            "sha256": item.entry.sha256,
            "seed": episode.info.seed,
            "software_version": episode.info.software_version,
            "controllers": episode.controllers_T.tolist(),
            "actions": [[round(value, 4) for value in row] for row in episode.actions_TA.tolist()],
            "operator_ids": list(episode.info.operator_ids),
            "operator_steps": list(episode.info.operator_steps),
            "cameras": {camera: len(frames) for camera, frames in episode.images.items()},
        }

    def relabel(self, identity: str, outcome: Outcome, who: str) -> Relabelling:
        """Give an episode another outcome.

        Raises:
            ConfigError: if it is not in the newest snapshot, or cannot be relabelled.
            EpisodeRejected: if the outcome does not fit it.
            StoreError: if the store fails.
        """
        return relabel(self._store, identity, outcome, who=who)

    def frame(self, identity: str, camera: str, step: int) -> bytes:
        """Return one recorded camera frame, PNG or JPEG.

        Raises:
            ConfigError: if there is no such frame.
        """
        episode = self._episode(self.find(identity))
        frames = episode.images.get(camera, ())
        if not 0 <= step < len(frames):
            raise ConfigError(f"episode {identity} has no frame {step} of camera {camera!r}")
        return frames[step]

    def _episode(self, item: CommittedEpisode) -> Episode:
        """Read an episode; the last one is kept, whose frames a page asks for one by one."""
        last = self._last
        if last is None or last[0] != item.entry.sha256:
            last = self._last = (item.entry.sha256, read_episode(self._store.get(item.entry.key)))
        return last[1]

    def _reader(self, snapshot: int | None) -> LogReader:
        with self._lock:
            if self._newest is None:
                self._newest = LogReader(self._store)
                self._newest.load_index()
            self._newest.poll()
            if snapshot is None or snapshot == self._newest.version:
                return self._newest
            if not 0 <= snapshot <= self._newest.version:
                raise ConfigError(f"snapshot is {snapshot}; the newest one is {self._newest.version}")
        reader = LogReader(self._store)
        reader.load_index(snapshot)
        reader.poll(snapshot)
        return reader


def _row(item: CommittedEpisode) -> dict[str, Any]:
    return {
        **item.entry.model_dump(mode="json", exclude={"key", "sha256"}),
        "snapshot": item.version,
        "committed_at_s": item.committed_at_s,
    }
