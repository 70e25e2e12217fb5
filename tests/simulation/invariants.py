"""What must hold at every moment of a simulation, and what must have come about at its end."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.simulation.world import World

from lwd.data.log import LogEntry, LogReader, Snapshot, log_key
from lwd.data.quarantine import QuarantineRecord, quarantine_key


class InvariantBroken(AssertionError):
    """The product broke a promise."""


def require(condition: bool, promise: str) -> None:
    if not condition:
        raise InvariantBroken(promise)


@dataclass(kw_only=True)
class Ledger:
    """What the product has promised so far, kept outside of the world."""

    world: World
    acknowledged: dict[str, str] = field(default_factory=dict)
    """Episode id -> SHA-256 of what was safely in a spool when the robot was told so."""
    bad: set[str] = field(default_factory=set)
    """Acknowledged episodes that must never be in the log."""
    revoked: set[str] = field(default_factory=set)
    """Identities that somebody was told are revoked."""
    _winners: dict[int, str] = field(default_factory=dict)
    _entries: dict[int, LogEntry] = field(default_factory=dict)
    _folds: dict[int, str] = field(default_factory=dict)

    def watch_effect(self, call: str, path: str) -> None:
        """An episode may leave a spool only when the log has it."""
        file = Path(path)
        if call != "unlink" or file.suffix != ".arrow" or file.name.startswith(".tmp-") or "spool" not in file.parts:
            return
        require(
            any(added.episode_id == file.stem for entry in self.log() for added in entry.added),
            f"episode {file.stem} leaves the spool, but no committed snapshot contains it",
        )

    def won(self, entry: LogEntry) -> None:
        """A coordinator was told that its entry is the version: only one ever may be."""
        winner = self._winners.setdefault(entry.version, entry.batch_id)
        require(winner == entry.batch_id, f"two coordinators were told that version {entry.version} is theirs")
        stored = LogEntry.model_validate_json(self.world.stored()[log_key(entry.version)])
        require(stored == entry, f"version {entry.version} is not what its committer wrote")
        self._promised(entry)

    def committed(self, episode_ids: Iterable[str]) -> None:
        """A coordinator said that it committed them."""
        known = {added.episode_id for entry in self.log() for added in entry.added}
        for episode_id in episode_ids:
            require(episode_id in known, f"episode {episode_id} was called committed; the log does not have it")

    def seen(self, snapshot: Snapshot, entries: Sequence[LogEntry], start: int) -> None:
        """A reader that was at version `start` polled `entries` and shows `snapshot` now."""
        versions = [entry.version for entry in entries]
        require(
            versions == list(range(start + 1, snapshot.version + 1)),
            f"a reader went from version {start} to {snapshot.version} and was given {versions}",
        )
        for entry in entries:
            self._promised(entry)
        content = sorted((name, item.version, item.entry.sha256) for name, item in snapshot.episodes.items())
        fold = repr((content, sorted(snapshot.revoked)))
        require(
            self._folds.setdefault(snapshot.version, fold) == fold,
            f"version {snapshot.version} differs for two readers",
        )

    def read(self, episode_id: str, sha256: str, data: bytes) -> None:
        """A reader fetched an episode of a snapshot."""
        found = hashlib.sha256(data).hexdigest()
        require(found == sha256, f"episode {episode_id} has other bytes than its snapshot says")

    def log(self) -> list[LogEntry]:
        """The log as it is now; gap-free, nothing twice, nothing changed."""
        stored = self.world.stored()
        keys = [key for key in sorted(stored) if key.startswith("log/")]
        require(keys == [log_key(number + 1) for number in range(len(keys))], f"the log has gaps: {keys}")
        entries = [LogEntry.model_validate_json(stored[key]) for key in keys]
        added = [item.episode_id for entry in entries for item in entry.added]
        require(len(set(added)) == len(added), f"an episode is in two snapshot entries: {sorted(added)}")
        for number, entry in enumerate(entries, start=1):
            require(entry.version == number, f"{log_key(number)} says version {entry.version}")
            # Only compared: what just this ledger has seen may still go in a power cut.
            known = self._entries.get(number, entry)
            require(known == entry, f"the entry of version {number} has changed")
        return entries

    def unfinished(self) -> list[str]:
        """Acknowledged episodes that are neither committed nor quarantined yet."""
        stored = self.world.stored()
        known = {
            added.episode_id
            for key, data in stored.items()
            if key.startswith("log/")
            for added in LogEntry.model_validate_json(data).added
        }
        quarantined = {Path(record.key).stem for record in self._quarantined(stored)}
        return sorted(set(self.acknowledged) - known - quarantined)

    def spooled(self) -> list[str]:
        """Episodes in the spools of all machines."""
        files = (path for disk in self.world.disks.values() for path in disk.root.glob("spool/*/*.arrow"))
        return sorted(path.stem for path in files if not path.name.startswith(".tmp-"))

    def check_now(self) -> None:
        """What holds at any moment: the log is whole, and nothing acknowledged has vanished."""
        self.log()
        gone = set(self.unfinished()) - set(self.spooled()) - self._uploaded()
        require(not gone, f"acknowledged episodes are nowhere: {sorted(gone)}")

    def check_end(self) -> None:
        """What must have come about when the faults ended and everything was quiet."""
        entries = self.log()
        reader = LogReader(self.world.open_store())
        reader.poll()
        live = {item.entry.episode_id for item in reader.snapshot.episodes.values()}
        everything = {item.episode_id: item for entry in entries for item in entry.added}
        withdrawn = {name.rpartition("/")[2] for entry in entries for name in entry.revoked}
        stored = self.world.stored()
        quarantined = {Path(record.key).stem for record in self._quarantined(stored)}
        for name, sha256 in self.acknowledged.items():
            if name in self.bad:
                require(name in quarantined, f"bad episode {name} is not quarantined")
                require(name not in everything, f"bad episode {name} is in the log")
                continue
            require(name in everything, f"acknowledged episode {name} is not in the log")
            require(everything[name].sha256 == sha256, f"episode {name} is in the log with other bytes")
            require((name in live) != (name in withdrawn), f"episode {name} is not in exactly one live entry")
            require(quarantine_key(everything[name].key) not in stored, f"{name} is committed and quarantined")
        for name in self.revoked:
            require(name not in reader.snapshot.episodes, f"revoked episode {name} is live")
        for item in everything.values():
            require(item.key in stored, f"the object of committed episode {item.episode_id} is gone")
            self.read(item.episode_id, item.sha256, stored[item.key])
        require(not self.spooled(), f"spools are not empty: {self.spooled()}")

    def _promised(self, entry: LogEntry) -> None:
        known = self._entries.setdefault(entry.version, entry)
        require(known == entry, f"the entry of version {entry.version} has changed")

    def _uploaded(self) -> set[str]:
        return {Path(key).stem for key in self.world.stored() if key.startswith("episodes/")}

    @staticmethod
    def _quarantined(stored: dict[str, bytes]) -> list[QuarantineRecord]:
        return [
            QuarantineRecord.model_validate_json(data) for key, data in stored.items() if key.startswith("quarantine/")
        ]
