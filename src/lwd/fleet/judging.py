"""What becomes of an uploaded object: an entry of the log, or a reason why it may not be one.

A verdict needs proof that the bytes are the object's: the announced hash, or reads that agree. Memory, disks and
networks flip bits now and then, and a flipped bit in an episode's numbers can look like a good episode, too.
"""

import hashlib
import logging
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from lwd.data.episode_file import MAX_FILE_BYTES, NAME_PATTERN, episode_key
from lwd.data.fresh_read import get_past_caches
from lwd.data.log import EpisodeEntry, log_key
from lwd.data.quarantine import readable
from lwd.data.store import ObjectStore, get_or_none
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import EpisodeRejected, EpisodeUnjudged, ObjectMissing, ObjectTooLarge, StoreError
from lwd.fleet.describing import describe
from lwd.fleet.suspects import MAX_DEATHS, Suspects

_KEY = re.compile(r"^episodes/([^/]+)/([^/]+)\.arrow$")
_NAME = re.compile(NAME_PATTERN)
_READS = 3
"""Reads that must agree before an object is refused for what it holds."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """An object that may become part of the log."""

    key: str
    uploaded_at_s: float
    sha256: str | None = None
    """What the robot announced; None for an object that was found by listing."""
    size_bytes: int = 0
    """As listed; 0 where it is not known."""


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """An object that is to be quarantined."""

    key: str
    reason: str
    sha256: str | None = None
    """Of what was judged; None where nothing was read."""


@dataclass(kw_only=True)
class Judgement:
    """What one pass over candidates found."""

    entries: list[EpisodeEntry] = field(default_factory=list)
    refusals: list[Refusal] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    """Keys of objects that are not there, cannot be read, or read differently each time."""


@dataclass(kw_only=True)
class _Doubt:
    """An object that would be refused, if what was read of it is what it is."""

    candidate: Candidate
    digests: list[str]

    @property
    def agree(self) -> bool:
        return len(set(self.digests)) == 1

    def proven(self, digest: str) -> bool:
        """Whether `digest` is surely the object's, or what all reads agree on where nobody announced it."""
        announced = self.candidate.sha256
        return digest == announced or (announced is None and len(self.digests) > 1 and self.agree)


class Judge:
    """Reads candidates and validates them; it knows nothing of the log."""

    def __init__(
        self, store: ObjectStore, limits: EpisodeLimits, suspects: Suspects | None, *, reread_after_s: float
    ) -> None:
        """Prepare to judge.

        Args:
            suspects: remembers across restarts which files ended this process; None forgets.
            reread_after_s: rest before doubtful objects are read again, all together.
        """
        self._store = store
        self._limits = limits
        self._suspects = suspects
        self._reread_after_s = reread_after_s

    def passes(self, candidates: Sequence[Candidate]) -> Iterator[Judgement]:
        """Yield what is clear at once, then, after rests, what became of the doubtful rest.

        Raises:
            StoreError: if the whole store is out of reach.
        """
        doubts: list[_Doubt] = []
        first = Judgement()
        for candidate in candidates:
            doubt = self._inspect(candidate, first)
            if doubt is not None:
                doubts.append(doubt)
        yield first
        for _ in range(_READS - 1):
            if not doubts:
                return
            time.sleep(self._reread_after_s)
            found = Judgement()
            doubts = [doubt for doubt in doubts if self._again(doubt, found)]
            yield found
        last = Judgement()
        for doubt in doubts:
            _logger.warning(
                "%s reads differently each time (sha256 %s): no verdict, the next listing tries again; check the "
                "store's disks and memory",
                *(readable(doubt.candidate.key), ", ".join(digest[:12] for digest in doubt.digests)),
            )
            last.missing.append(doubt.candidate.key)
        yield last

    def _inspect(self, candidate: Candidate, found: Judgement) -> _Doubt | None:
        """Read an object for the first time. Returns the doubt, if there is one."""
        key = candidate.key
        try:
            names = _KEY.match(key)
            if names is None or not (_NAME.match(names[1]) and _NAME.match(names[2])):
                raise EpisodeRejected(f"key {key!r} is not episodes/<robot id>/<episode id>.arrow: rename it")
            if self._suspects is not None and (deaths := self._suspects.deaths(key)) >= MAX_DEATHS:
                raise EpisodeRejected(f"file ended the coordinator {deaths} times; keep it and report a bug")
            data = self._fetch(key)
        except ObjectMissing:
            found.missing.append(key)
            return None
        except EpisodeRejected as error:
            found.refusals.append(Refusal(key=key, reason=str(error)))
            return None
        doubt = _Doubt(candidate=candidate, digests=[hashlib.sha256(data).hexdigest()])
        if candidate.sha256 is not None:
            return self._judge(doubt, data, found)
        # Nobody said what it should be, so it is read twice, also if it looks good.
        del data
        return self._again(doubt, found)

    def _again(self, doubt: _Doubt, found: Judgement) -> _Doubt | None:
        """Read an object again. Returns the doubt, if it remains."""
        try:
            data = self._fetch(doubt.candidate.key, past_caches=True)
        except (ObjectMissing, EpisodeRejected):
            found.missing.append(doubt.candidate.key)
            return None
        doubt.digests.append(hashlib.sha256(data).hexdigest())
        return self._judge(doubt, data, found)

    def _judge(self, doubt: _Doubt, data: bytes, found: Judgement) -> _Doubt | None:
        candidate, digest = doubt.candidate, doubt.digests[-1]
        final = doubt.agree and len(doubt.digests) >= _READS
        if doubt.proven(digest):
            try:
                found.entries.append(self._entry(candidate, data, digest))
                return None
            except EpisodeUnjudged as error:
                # Too little memory, say: not the file's fault if it does not come again.
                reason = str(error)
            except EpisodeRejected as error:
                reason, final = str(error), final or digest == candidate.sha256
        else:
            reason = (
                f"sha256 is {digest}, the robot announced {candidate.sha256}: the object is damaged, or the "
                "announcement false; the robot's host says which"
            )
        if not final:
            return doubt
        found.refusals.append(Refusal(key=candidate.key, reason=reason, sha256=digest))
        return None

    def _entry(self, candidate: Candidate, data: bytes, sha256: str) -> EpisodeEntry:
        if self._suspects is None:
            episode = validate_episode(data, self._limits)
        else:
            with self._suspects.inspecting(candidate.key):
                episode = validate_episode(data, self._limits)
        if candidate.key != episode_key(episode.info.robot_id, episode.info.episode_id):
            raise EpisodeRejected(
                f"robot_id and episode_id in the file are {episode.info.robot_id!r} and "
                f"{episode.info.episode_id!r}, its key is {candidate.key!r}: store it under its own key"
            )
        return describe(episode, data_bytes=len(data), sha256=sha256, uploaded_at_s=candidate.uploaded_at_s)

    def _fetch(self, key: str, *, past_caches: bool = False) -> bytes:
        """Get an object that a stranger wrote; one that cannot be read must not hold up the others."""
        try:
            if past_caches:
                return get_past_caches(self._store, key, max_bytes=MAX_FILE_BYTES)
            return self._store.get(key, max_bytes=MAX_FILE_BYTES)
        except ObjectTooLarge as error:
            raise EpisodeRejected(f"file is too large ({error}): record shorter episodes") from error
        except ObjectMissing:
            raise
        except StoreError as error:
            get_or_none(self._store, log_key(1))  # raises if the whole store is out of reach
            _logger.warning("%s; it is tried again at each listing", error)
            raise ObjectMissing(f"{key} cannot be read") from error
