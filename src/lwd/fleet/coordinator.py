"""The coordinator: every uploaded episode is committed exactly once, or quarantined with a reason.

It may die at any line. An episode is committed when its log entry exists; whatever was in flight is announced
again by the bus, or found by listing the store. Two coordinators at once do no harm: the log lets one of them
win each version, and the other reads what it lost to before it goes on.
"""

import logging
import re
import time
import uuid
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from lwd.data.identity import found_store
from lwd.data.log import EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.log_index import IndexUpdate
from lwd.data.quarantine import case_name, list_cases, quarantine, readable
from lwd.data.revocation import commit_revocation
from lwd.data.store import ObjectStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.judging import Candidate, Judge, Refusal
from lwd.fleet.messages import EpisodeAnnouncement
from lwd.fleet.suspects import Suspects
from lwd.types import episode_identity

_KEY = re.compile(r"^episodes/([^/]+)/([^/]+)\.arrow$")

_logger = logging.getLogger(__name__)


@dataclass(kw_only=True)
class BatchResult:
    """What became of a batch of candidates."""

    committed: list[EpisodeEntry] = field(default_factory=list)
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    """(key, reason)."""
    known: int = 0
    """Candidates that were committed or quarantined before."""
    missing: list[str] = field(default_factory=list)
    """Keys that were announced but are not in the store, or cannot be read, or read differently each time; each
    listing tries them again."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What a listing of the store found."""

    found: Sequence[Candidate]
    """Objects that are neither committed nor quarantined, of every robot in turn."""
    quarantined: frozenset[str]
    released: frozenset[str]
    """Both by `case_name`."""


class Coordinator:
    """Turns candidates into log entries. It knows neither the bus nor time; `run_coordinator` drives it."""

    def __init__(
        self,
        store: ObjectStore,
        limits: EpisodeLimits,
        suspects: Suspects | None = None,
        *,
        reread_after_s: float = 0.1,
    ) -> None:
        """Read the log of the store; a store that is begun here gets its identity.

        Args:
            suspects: remembers across restarts which files ended this process; None forgets.
            reread_after_s: rest before objects that would be refused are read again.
        Raises:
            StoreError: if the store or its log cannot be read.
        """
        self._store = store
        self._judge = Judge(store, limits, suspects, reread_after_s=reread_after_s)
        self._suspects = suspects
        found_store(store)
        self.reader = LogReader(store)
        self.reader.load_index()
        self.reader.poll()
        self._writer = LogWriter(store, self.reader)
        self.epoch = self.reader.epoch + 1
        self._quarantined = {case.name for case in list_cases(store).values() if case.newest is not None}

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
        new: dict[str, Candidate] = {}
        for candidate in candidates:
            if candidate.key in new or self._is_known(candidate.key):
                result.known += 1
            else:
                new[candidate.key] = candidate
        for found in self._judge.passes(list(new.values())):
            # What is good does not wait for what is doubtful.
            committed = self._commit(found.entries)
            result.committed += committed
            result.known += len(found.entries) - len(committed)  # another coordinator was faster
            for refusal in found.refusals:
                self._quarantine(refusal, result)
            result.missing += found.missing
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
        survey = self.survey()
        self.note(survey)
        return list(survey.found)

    def survey(self) -> Survey:
        """List the store; may run in another thread than `process`, of which it only looks up single keys.

        Raises:
            StoreError: if the store cannot be listed.
        """
        cases = list_cases(self._store).values()
        released = frozenset(case.name for case in cases if case.newest is None)
        quarantined = frozenset(case.name for case in cases if case.newest is not None)
        found = []
        for item in self._store.list("episodes"):
            name = case_name(item.key)
            if self._is_committed(item.key) or name in quarantined:
                continue
            if name in released or name not in self._quarantined:
                found.append(Candidate(key=item.key, uploaded_at_s=item.modified_s, size_bytes=item.size_bytes))
        return Survey(found=_by_turns(found), quarantined=quarantined, released=released)

    def note(self, survey: Survey) -> None:
        """Take over from a survey what others, people or coordinators, quarantined and released."""
        self._quarantined = (self._quarantined | survey.quarantined) - survey.released

    def due_index(self) -> IndexUpdate | None:
        """Return the index that is to be written now, if one is: in any thread, while commits go on."""
        return self._writer.due_index()

    def _is_known(self, key: str) -> bool:
        return self._is_committed(key) or case_name(key) in self._quarantined

    def _is_committed(self, key: str) -> bool:
        names = _KEY.match(key)
        return names is not None and self.reader.knows(episode_identity(names[1], names[2]))

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

    def _quarantine(self, refusal: Refusal, result: BatchResult) -> None:
        _logger.warning("quarantined %s: %s", readable(refusal.key), readable(refusal.reason))
        quarantine(self._store, refusal.key, refusal.reason, sha256=refusal.sha256)
        self._quarantined.add(case_name(refusal.key))
        if self._suspects is not None:
            # The record has it now; should the object be released, it gets as many tries as any other.
            self._suspects.forget(refusal.key)
        result.quarantined.append((refusal.key, refusal.reason))


def _by_turns(found: Sequence[Candidate]) -> list[Candidate]:
    """Return one of each robot, then the next one of each: a robot with many must not hold up the others."""
    turns: Counter[str] = Counter()
    ranked = []
    for item in found:
        robot = item.key.split("/")[1]
        ranked.append((turns[robot], item))
        turns[robot] += 1
    return [item for _, item in sorted(ranked, key=lambda pair: pair[0])]


def candidate_of(announcement: EpisodeAnnouncement) -> Candidate:
    """Return what an announcement asks for."""
    return Candidate(key=announcement.key, uploaded_at_s=announcement.uploaded_at_s, sha256=announcement.sha256)
