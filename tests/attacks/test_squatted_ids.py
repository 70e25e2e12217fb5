"""A robot that takes the ids of another one's episodes, which are on the bus before they end, harms nobody."""

import asyncio
import hashlib
import time

import pytest

from lwd.data.episode_file import episode_key, write_episode
from lwd.data.log import LogReader
from lwd.data.quarantine import find_quarantined
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.bus import Bus
from lwd.fleet.coordinator import Coordinator, candidate_of
from lwd.fleet.messages import EpisodeAnnouncement, episode_subject
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool

from ..unit.data.episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)
VICTIM, SQUATTER = "robot-1", "robot-2"


@pytest.fixture
def store(tmp_path):
    return DirectoryStore(tmp_path / "store")


def squat(store, data: bytes) -> EpisodeAnnouncement:
    """Upload an episode under the victim's id, from another robot."""
    key = episode_key(SQUATTER, "episode-1")
    store.create(key, data)
    return EpisodeAnnouncement(
        episode_id="episode-1",
        robot_id=SQUATTER,
        key=key,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=len(data),
        uploaded_at_s=time.time(),
    )


@pytest.mark.parametrize("valid", [True, False])
def test_squatted_id_delays_and_loses_no_episode_of_its_robot(tmp_path, store, valid):
    data = write_episode(episode(7, robot_id=SQUATTER, episode_id="episode-1")) if valid else b"no arrow file"

    async def check() -> None:
        with NatsServer(tmp_path / "nats") as server:
            bus = await Bus.connect(server.url, name="test")
            first = squat(store, data)
            await bus.announce(first)
            # What a hostile client can do besides: messages of its own with the ids that others' might have.
            for header in ("episode-1", f"{VICTIM}/episode-1", episode_key(VICTIM, "episode-1")):
                await bus._jetstream.publish(
                    episode_subject(SQUATTER), first.model_dump_json().encode(), headers={"Nats-Msg-Id": header}
                )
            coordinator = Coordinator(store, LIMITS)
            coordinator.process([candidate_of(first)])
            spool = Spool(tmp_path / "spool")
            spool.claim(VICTIM)
            shipper = Shipper(store, spool, {VICTIM})
            await shipper.spool(episode(1))
            await shipper.follow_log()  # it sees the squatter's, if that is committed
            assert [item.episode_id for item in spool.pending()] == ["episode-1"]
            await shipper.upload()
            await shipper.announce(bus)
            received = await bus.fetch_announcements(10, 5.0)
            found = [item.announcement for item in received if item.announcement.robot_id == VICTIM]
            assert len(found) == 1, "the victim's announcement was taken for a repetition"
            result = coordinator.process([candidate_of(found[0])])
            assert [entry.identity for entry in result.committed] == [f"{VICTIM}/episode-1"]
            await shipper.follow_log()
            assert spool.pending() == []
            assert shipper.committed == 1
            await bus.close()

    asyncio.run(check())
    reader = LogReader(store)
    reader.poll()
    expected = [f"{SQUATTER}/episode-1", f"{VICTIM}/episode-1"] if valid else [f"{VICTIM}/episode-1"]
    assert list(reader.snapshot.episodes) == expected
    assert reader.find(f"{VICTIM}/episode-1").entry.key == episode_key(VICTIM, "episode-1")
    assert (find_quarantined(store, episode_key(SQUATTER, "episode-1")) is None) == valid
