"""Another outcome for a committed episode: a corrected copy comes in and the old one goes out, in one version.

Objects never change, so the copy has an id of its own; the old label stays in the log's history, with who changed it.
"""

import hashlib
import re
import time
import uuid
from dataclasses import dataclass, replace

from lwd.data.episode_file import episode_key, read_episode, write_episode
from lwd.data.log import LogEntry, LogWriter
from lwd.data.revocation import commit_entry, newest_log
from lwd.data.store import ObjectStore
from lwd.data.validation import EpisodeLimits, validate_episode
from lwd.errors import ConfigError
from lwd.types import Outcome, Source

_COPY = re.compile(r"^(?P<first>.+)-label(?P<number>[0-9]+)$")


@dataclass(frozen=True, kw_only=True)
class Relabelling:
    """What was changed."""

    version: int
    """The first snapshot with the new label."""
    episode_id: str
    """Of the copy with the new label."""


def relabel(store: ObjectStore, episode_id: str, outcome: Outcome, *, who: str) -> Relabelling:
    """Give an episode of the newest snapshot another outcome.

    Args:
        who: noted in the log's reason.
    Raises:
        ConfigError: if the newest snapshot has no such episode, or its outcome cannot or need not change.
        EpisodeRejected: if the episode with that outcome may not be in the replay.
        StoreError: if the store fails; doing it again is harmless.
    """
    reader = newest_log(store)
    old = reader.find(episode_id)
    if old is None:
        raise ConfigError(f"episode {episode_id} is not in the newest snapshot (version {reader.version})")
    if old.entry.outcome is outcome:
        raise ConfigError(f"episode {episode_id} has the outcome {outcome.value} already")
    if old.entry.source not in (Source.FLEET, Source.ROLLOUT):
        raise ConfigError(f"episode {episode_id} is {old.entry.source.value}; only what a policy did is relabelled")
    found = _COPY.match(episode_id)
    first, number = (found["first"], int(found["number"])) if found else (episode_id, 0)
    new_id = f"{first}-label{number + 1}"
    episode = read_episode(store.get(old.entry.key))
    copy = replace(episode, info=replace(episode.info, episode_id=new_id, outcome=outcome))
    data = write_episode(validate_episode(copy, EpisodeLimits()))
    key = episode_key(old.entry.robot_id, new_id)
    store.create(key, data)
    entry = old.entry.model_copy(
        update={
            "episode_id": new_id,
            "key": key,
            "sha256": hashlib.sha256(data).hexdigest(),
            "bytes": len(data),
            "outcome": outcome,
            "uploaded_at_s": time.time(),
        }
    )
    epoch, writer = reader.epoch + 1, LogWriter(store, reader)
    while True:
        reader.poll()
        if reader.find(episode_id) is None:
            raise ConfigError(f"episode {episode_id} was revoked meanwhile")
        version = LogEntry(
            version=reader.version + 1,
            epoch=epoch,
            batch_id=uuid.uuid4().hex,
            committed_at_s=time.time(),
            # A coordinator that lists the store may have found the copy first.
            added=() if reader.knows(new_id) else (entry,),
            revoked=(episode_id,),
            reason=f"{who} changed {old.entry.outcome.value} to {outcome.value}: now {new_id}",
        )
        if commit_entry(reader, writer, version):
            writer.write_index_if_due()
            return Relabelling(version=version.version, episode_id=new_id)
