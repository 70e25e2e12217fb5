"""The coordinator: every uploaded episode is committed exactly once, or quarantined with a reason.

It may die at any line. An episode is committed when its log entry exists; whatever was in flight is announced
again by the bus, or found by listing the store. Two coordinators at once do no harm: the log lets one of them
win each version, and the other reads what it lost to before it goes on.
"""

import hashlib
import logging
import re
import time
import uuid
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from lwd.data.episode_file import MAX_FILE_BYTES, NAME_PATTERN, episode_key
from lwd.data.identity import found_store
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter, log_key
from lwd.data.log_index import IndexUpdate
from lwd.data.quarantine import quarantine, quarantine_key, quarantined_keys, readable
from lwd.data.revocation import commit_revocation
from lwd.data.store import ObjectStore, get_or_none
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import EpisodeRejected, ObjectMissing, ObjectTooLarge, StoreError
from lwd.fleet.messages import EpisodeAnnouncement
from lwd.fleet.suspects import MAX_DEATHS, Suspects
from lwd.types import Controller, Episode, episode_identity

_KEY = re.compile(r"^episodes/([^/]+)/([^/]+)\.arrow$")
_NAME = re.compile(NAME_PATTERN)

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An object that may become part of the log."""

    key: str
    uploaded_at_s: float
    sha256: str | None = None
    """What the robot announced; None for an object that was found by listing."""


@dataclass(kw_only=True)
class BatchResult:
    """What became of a batch of candidates."""

    committed: list[EpisodeEntry] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    """(key, reason)."""
    known: int = 0
    """Candidates that were committed or quarantined before."""
    missing: list[str] = field(default_factory=list)
    """Keys that were announced but are not in the store, or cannot be read; each listing tries them again."""


class Coordinator:
    """Turns candidates into log entries. It knows neither the bus nor time; `run_coordinator` drives it."""

    def __init__(self, store: ObjectStore, limits: EpisodeLimits, suspects: Suspects | None = None) -> None:
        """Read the log of the store; a store that is begun here gets its identity.

        Args:
            suspects: remembers across restarts which files ended this process; None forgets.
        Raises:
            StoreError: if the store or its log cannot be read.
        """
        self._store = store
        self._limits = limits
        self._suspects = suspects
        found_store(store)
        self.reader = LogReader(store)
        self.reader.load_index()
        self.reader.poll()
        self._writer = LogWriter(store, self.reader)
        self.epoch = self.reader.epoch + 1
        self._quarantined = quarantined_keys(store)

    @property
    def quarantined(self) -> int:
        """Number of quarantined objects."""
        return len(self._quarantined)

    def process(self, candidates: Sequence[Candidate]) -> BatchResult:
        """Validate the candidates and commit the good ones together.

        Returns when everything that is not `missing` is durably committed or quarantined.

        Raises:
            StoreError: if the store fails; call again with the same candidates, nothing is committed twice.
        """
        # A commit whose answer was lost may have happened; entries of another coordinator may be new.
        self.reader.poll()
        result = BatchResult()
        entries: dict[str, EpisodeEntry] = {}
        for candidate in candidates:
            if candidate.key in entries or self._is_known(candidate.key):
                result.known += 1
                continue
            try:
                entry = self._inspect(candidate)
            except ObjectMissing:
                result.missing.append(candidate.key)
            except EpisodeRejected as error:
                self._quarantine(candidate.key, str(error), result)
            else:
                entries[entry.key] = entry
        result.committed = self._commit(entries.values())
        result.known += len(entries) - len(result.committed)  # another coordinator was faster
        return result

    def revoke(self, identities: Sequence[str]) -> int:
        """Remove the episodes ROBOT/ID from all later snapshots. Returns the version that does so.

        Raises:
            StoreError: if the store fails.
        """
        return commit_revocation(
            self.reader,
            self._writer,
            lambda reader: [name for name in dict.fromkeys(identities) if reader.find(name) is not None],
            epoch=self.epoch,
        ).version

    def unprocessed(self) -> list[Candidate]:
        """List the store for episodes that are neither committed nor quarantined.

        Raises:
            StoreError: if the store cannot be listed.
        """
        return [
            Candidate(key=item.key, uploaded_at_s=item.modified_s)
            for item in self._store.list("episodes")
            if not self._is_known(item.key)
        ]

    def due_index(self) -> IndexUpdate | None:
        """Return the index that is to be written now, if one is: in any thread, while commits go on."""
        return self._writer.due_index()

    def _is_known(self, key: str) -> bool:
        names = _KEY.match(key)
        committed = names is not None and self.reader.knows(episode_identity(names[1], names[2]))
        return committed or quarantine_key(key) in self._quarantined

    def _inspect(self, candidate: Candidate) -> EpisodeEntry:
        names = _KEY.match(candidate.key)
        if names is None or not (_NAME.match(names[1]) and _NAME.match(names[2])):
            raise EpisodeRejected(f"key {candidate.key!r} is not episodes/<robot id>/<episode id>.arrow: rename it")
        data = self._fetch(candidate.key)
        sha256 = hashlib.sha256(data).hexdigest()
        if candidate.sha256 is not None and candidate.sha256 != sha256:
            raise EpisodeRejected(f"sha256 is {sha256}, the robot announced {candidate.sha256}: record it again")
        episode = self._validate(candidate.key, data)
        if candidate.key != episode_key(episode.info.robot_id, episode.info.episode_id):
            raise EpisodeRejected(
                f"robot_id and episode_id in the file are {episode.info.robot_id!r} and "
                f"{episode.info.episode_id!r}, its key is {candidate.key!r}: store it under its own key"
            )
        return describe(episode, data_bytes=len(data), sha256=sha256, uploaded_at_s=candidate.uploaded_at_s)

    def _validate(self, key: str, data: bytes) -> Episode:
        if self._suspects is None:
            return validate_episode(data, self._limits)
        if (deaths := self._suspects.deaths(key)) >= MAX_DEATHS:
            raise EpisodeRejected(f"file ended the coordinator {deaths} times; keep it and report a bug")
        with self._suspects.inspecting(key):
            return validate_episode(data, self._limits)

    def _fetch(self, key: str) -> bytes:
        """Get an object that a stranger wrote; one that cannot be read must not hold up the others."""
        try:
            return self._store.get(key, max_bytes=MAX_FILE_BYTES)
        except ObjectTooLarge as error:
            raise EpisodeRejected(f"file is too large ({error}): record shorter episodes") from error
        except ObjectMissing:
            raise
        except StoreError as error:
            get_or_none(self._store, log_key(self.reader.version + 1))  # raises if the whole store is out of reach
            _logger.warning("%s; it is tried again at each listing", error)
            raise ObjectMissing(f"{key} cannot be read") from error

    def _commit(self, entries: Collection[EpisodeEntry]) -> list[EpisodeEntry]:
        """Commit those that the log does not know; return them."""
        while True:
            batch = tuple(entry for entry in entries if not self.reader.knows(entry.identity))
            if not batch or self._writer.commit(self._entry(batch)):
                return list(batch)
            self.reader.poll()
            _logger.warning(
                "lost version %d to epoch %d: is another coordinator running?", self.reader.version, self.reader.epoch
            )

    def _entry(self, added: tuple[EpisodeEntry, ...]) -> LogEntry:
        return LogEntry(
            version=self.reader.version + 1,
            epoch=self.epoch,
            batch_id=uuid.uuid4().hex,
            committed_at_s=time.time(),
            added=added,
        )

    def _quarantine(self, key: str, reason: str, result: BatchResult) -> None:
        _logger.warning("quarantined %s: %s", readable(key), readable(reason))
        quarantine(self._store, key, reason)
        self._quarantined.add(quarantine_key(key))
        result.quarantined.append((key, reason))


def describe(episode: Episode, *, data_bytes: int, sha256: str, uploaded_at_s: float) -> EpisodeEntry:
    """Return the log's description of an episode."""
    info = episode.info
    human_T = episode.controllers_T == Controller.HUMAN
    take_overs = int(human_T[0]) + int(np.count_nonzero(human_T[1:] & ~human_T[:-1]))
    return EpisodeEntry(
        episode_id=info.episode_id,
        key=episode_key(info.robot_id, info.episode_id),
        sha256=sha256,
        bytes=data_bytes,
        robot_id=info.robot_id,
        embodiment=info.embodiment,
        task=info.task,
        instruction=info.instruction,
        source=info.source,
        outcome=info.outcome,
        world=info.world,
        policy_version=info.policy_version,
        steps=episode.steps,
        human_steps=int(human_T.sum()),
        interventions=take_overs,
        sub_step_scores=info.sub_step_scores,
        control_hz=info.control_hz,
        started_at_s=info.started_at_s,
        uploaded_at_s=uploaded_at_s,
    )


def candidate_of(announcement: EpisodeAnnouncement) -> Candidate:
    """Return what an announcement asks for."""
    return Candidate(key=announcement.key, uploaded_at_s=announcement.uploaded_at_s, sha256=announcement.sha256)
