"""Another outcome for a committed episode: a corrected copy comes in and the old one goes out, in one version.

Objects never change, so the copy has an id of its own; the old label stays in the log's history, with who changed it.
The copy lies where no coordinator looks for episodes, so that nothing but that version can make it visible: whoever
is killed before has changed nothing.
"""

import hashlib
import re
import time
import uuid
from dataclasses import dataclass, replace

from lwd.data.episode_file import read_episode, write_episode
from lwd.data.log import CommittedEpisode, EpisodeEntry, LogEntry, LogReader, LogWriter
from lwd.data.revocation import commit_entry, newest_log
from lwd.data.store import ObjectStore
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import ConfigError
from lwd.types import Outcome, Source, episode_identity

RELABELLED_PREFIX = "relabelled"
_COPY = re.compile(r"^(?P<first>.+)-label(?P<number>[0-9]+)$")


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """What was changed."""

    version: int
    """The first snapshot with the new label."""
    episode_id: str
    """Of the copy with the new label; its robot is the episode's."""


def relabel(store: ObjectStore, identity: str, outcome: Outcome, *, who: str) -> Relabelling:
    """Give an episode of the newest snapshot another outcome.

    Args:
        identity: of the episode, ROBOT/ID.
        who: noted in the log's reason.
    Raises:
        ConfigError: if the newest snapshot has no such episode, or its outcome cannot or need not change.
        EpisodeRejected: if the episode with that outcome may not be in the replay.
        StoreError: if the store fails; doing it again is harmless.
    """
    reader = newest_log(store)
    old = _relabelled(reader, identity, outcome)
    epoch, writer = reader.epoch + 1, LogWriter(store, reader)
    copy: EpisodeEntry | None = None
    while True:
        if copy is None or reader.knows(copy.identity):
            copy = _store_copy(store, old.entry, _free_id(reader, old.entry), outcome)
        version = LogEntry(
            version=reader.version + 1,
            epoch=epoch,
            batch_id=uuid.uuid4().hex,
            committed_at_s=time.time(),
            added=(copy,),
            revoked=(identity,),
            reason=f"{who} changed {old.entry.outcome.value} to {outcome.value}: now {copy.episode_id}",
        )
        if commit_entry(reader, writer, version):
            writer.write_index_if_due()
            return Relabelling(version=version.version, episode_id=copy.episode_id)
        reader.poll()
        if reader.find(identity) is None:
            raise ConfigError(f"episode {identity} was revoked meanwhile")


def _relabelled(reader: LogReader, identity: str, outcome: Outcome) -> CommittedEpisode:
    """Return the episode, if its outcome can be changed to that."""
    old = reader.find(identity)
    if old is None:
        raise ConfigError(f"episode {identity} is not in the newest snapshot (version {reader.version})")
    if old.entry.outcome is outcome:
        raise ConfigError(f"episode {identity} has the outcome {outcome.value} already")
    if old.entry.source not in (Source.FLEET, Source.ROLLOUT):
        raise ConfigError(f"episode {identity} is {old.entry.source.value}; only what a policy did is relabelled")
    return old


def _free_id(reader: LogReader, old: EpisodeEntry) -> str:
    """Return the next id of the episode's copies that nobody has, the robot itself included."""
    found = _COPY.match(old.episode_id)
    first, number = (found["first"], int(found["number"])) if found else (old.episode_id, 0)
    while True:
        number += 1
        if not reader.knows(episode_identity(old.robot_id, name := f"{first}-label{number}")):
            return name


def _store_copy(store: ObjectStore, old: EpisodeEntry, new_id: str, outcome: Outcome) -> EpisodeEntry:
    """Store the episode under another id and outcome; return the entry that would add it."""
    episode = read_episode(store.get(old.key))
    copy = replace(episode, info=replace(episode.info, episode_id=new_id, outcome=outcome))
    data = write_episode(validate_episode(copy, EpisodeLimits()))
    # Never the object of an earlier try: retention may take what no version names and is old enough.
    key = f"{RELABELLED_PREFIX}/{old.robot_id}/{new_id}-{uuid.uuid4().hex}.arrow"
    store.create(key, data)
    return old.model_copy(
        update={
            "episode_id": new_id,
            "key": key,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "outcome": outcome,
            "uploaded_at_s": time.time(),
        }
    )
