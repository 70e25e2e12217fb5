"""One bad item among many (a directory, pipe, link, empty or unreadable file) keeps nothing else from its way."""

import asyncio
import logging
import os

import pytest

from lwd.data.episode_file import episode_key, write_episode
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import StoreError
from lwd.fleet import spool_files
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool
from lwd.fleet.suspects import Suspects

from ..unit.data.episodes import EMBODIMENT, episode

LIMITS = EpisodeLimits(embodiment=EMBODIMENT)


@pytest.fixture(autouse=True)
def anew():
    spool_files._noted.clear()


def directory(path) -> None:
    path.mkdir()


def pipe(path) -> None:
    os.mkfifo(path)


def link(path) -> None:
    path.symlink_to("/dev/zero")


def dangling(path) -> None:
    path.symlink_to("nowhere")


def socket_like(path) -> None:
    os.mknod(path, 0o140600)


KINDS = {"directory": directory, "pipe": pipe, "link": link, "dangling link": dangling, "socket": socket_like}


def ship(tmp_path, robots=("robot-1",)) -> tuple[Shipper, Spool, DirectoryStore]:
    spool = Spool(tmp_path / "spool")
    for robot in robots:
        spool.claim(robot)
    store = DirectoryStore(tmp_path / "store")
    return Shipper(store, spool, set(robots)), spool, store


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("place", ["robot-1/bad.arrow", "robot-1/rejected/bad.arrow", "bad", "bad name"])
def test_spool_with_something_else_in_an_episodes_place_ships_the_others(tmp_path, caplog, kind, place):
    path = tmp_path / "spool" / place
    path.parent.mkdir(parents=True, exist_ok=True)
    KINDS[kind](path)
    shipper, spool, store = ship(tmp_path)
    asyncio.run(shipper.spool(episode(1)))
    for _ in range(3):
        asyncio.run(shipper.adopt())
        asyncio.run(shipper.upload())
        spool.unclaimed()
    coordinator = Coordinator(store, LIMITS)
    coordinator.process(coordinator.unprocessed())
    asyncio.run(shipper.follow_log())
    assert (shipper.committed, spool.pending(), spool.used_bytes) == (1, [], 0)
    assert os.path.lexists(path)
    told = [record.getMessage() for record in caplog.records if str(path) in record.getMessage()]
    if not (kind == "directory" and place == "bad"):  # a robot's directory without a robot
        assert len(told) == 1, told
        assert "move it away" in told[0]


def test_empty_file_in_a_spool_is_kept_aside_with_a_reason(tmp_path):
    shipper, _, store = ship(tmp_path)
    (tmp_path / "spool" / "robot-1" / "000000-000000-empty.arrow").touch()
    asyncio.run(shipper.adopt())
    asyncio.run(shipper.spool(episode(1)))
    asyncio.run(shipper.upload())
    assert [item.key for item in store.list("episodes")] == [episode_key("robot-1", "episode-1")]
    aside = tmp_path / "spool" / "robot-1" / "rejected" / "000000-000000-empty.txt"
    assert "the file is empty" in aside.read_text()
    assert shipper.waiting == 1


def test_file_that_cannot_be_read_waits_and_the_others_do_not(tmp_path, monkeypatch, caplog):
    shipper, _, store = ship(tmp_path)
    for number in (1, 2):
        asyncio.run(shipper.spool(episode(number)))
    (bad, _) = shipper._items.values()
    read = type(bad.episode).read

    def failing(self):
        if self.episode_id == "episode-1":
            raise OSError(5, "Input/output error")
        return read(self)

    monkeypatch.setattr(type(bad.episode), "read", failing)
    for _ in range(3):
        asyncio.run(shipper.upload())
    assert [item.key for item in store.list("episodes")] == [episode_key("robot-1", "episode-2")]
    assert caplog.text.count("cannot be read (Input/output error): check the disk") == 1
    monkeypatch.setattr(type(bad.episode), "read", read)
    bad.rest_until_s = 0.0
    asyncio.run(shipper.upload())
    assert len(list(store.list("episodes"))) == 2


def test_upload_that_the_store_has_no_room_for_in_its_place_holds_up_no_other(tmp_path):
    shipper, spool, store = ship(tmp_path)
    (tmp_path / "store" / "episodes" / "robot-1" / "episode-1.arrow").mkdir(parents=True)
    for number in (1, 2):
        asyncio.run(shipper.spool(episode(number)))
    asyncio.run(shipper.upload())
    assert [item.key for item in store.list("episodes")] == [episode_key("robot-1", "episode-2")]
    assert [item.episode_id for item in spool.pending()] == ["episode-1", "episode-2"]


def test_episode_file_is_not_taken_for_spooled_where_something_else_lies(tmp_path):
    shipper, spool, _ = ship(tmp_path)
    (tmp_path / "spool" / "robot-1" / "episode-1.arrow").mkdir()
    with pytest.raises(StoreError, match="is no episode of these bytes: move it away"):
        asyncio.run(shipper.spool(episode(1)))
    spool.add("robot-1", "episode-2", b"abc")
    assert spool.add("robot-1", "episode-2", b"abc").size_bytes == 3


@pytest.mark.parametrize(
    "content", [b"garbage", b"-1", b"1e3", b"\xff\x00", b"9" * 400, b"12 ", b"0x10", "٣".encode(), b"1000000"]
)
def test_garbage_in_a_lock_repeats_no_id_and_keeps_their_order(tmp_path, caplog, content):
    robot = tmp_path / "robot-1"
    (robot / "rejected").mkdir(parents=True)
    (robot / "000041-000007-abcdef.arrow").write_bytes(b"x")
    (robot / "rejected" / "000056-000001-abcdef.arrow").write_bytes(b"x")
    (robot / ".lock").write_bytes(content)
    damaged = Spool(tmp_path)
    assert damaged.claim("robot-1") == 57
    damaged.close()
    assert f"{robot / '.lock'} holds no number of starts" in caplog.text
    first = Spool(tmp_path)
    assert first.unclaimed() == {"robot-1"}
    assert first.claim("robot-1") == 58
    assert (robot / ".lock").read_bytes() == b"59"


@pytest.mark.parametrize("kind", KINDS)
def test_lock_that_is_no_file_is_set_aside(tmp_path, caplog, kind):
    robot = tmp_path / "robot-1"
    robot.mkdir()
    KINDS[kind](robot / ".lock")
    other = Spool(tmp_path)
    other.unclaimed()  # neither hangs nor fails
    spool = Spool(tmp_path)
    assert spool.claim("robot-1") == 0
    assert (robot / ".lock").read_bytes() == b"1"
    assert "is set aside as .lock-set-aside-" in caplog.text
    assert other.unclaimed() == set()


def test_leftover_that_cannot_be_removed_ends_no_claim(tmp_path, caplog):
    leftover = tmp_path / "robot-1" / ".tmp-1-e1.arrow"
    leftover.mkdir(parents=True)
    assert Spool(tmp_path).claim("robot-1") == 0
    assert f"{leftover} cannot be removed" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_coordinators_note_that_is_no_file_is_set_aside(tmp_path, caplog, kind):
    note = tmp_path / "coordinator" / "inspecting.json"
    note.parent.mkdir()
    KINDS[kind](note)
    suspects = Suspects(note)
    with suspects.inspecting("a"):
        assert note.is_file()
    assert "is set aside as inspecting.json-set-aside-" in caplog.text
    assert suspects.deaths("a") == 0


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe\x00", b"[]", b'{"deaths": {"a": "many"}}', b"7" * 10_000])
def test_coordinators_note_that_is_damaged_is_begun_again_and_said_so(tmp_path, caplog, content):
    note = tmp_path / "inspecting.json"
    note.write_bytes(content)
    Suspects(note)
    assert f"{note} is damaged and begun again" in caplog.text


def test_full_disk_of_the_coordinators_note_stops_no_commit(tmp_path, caplog, monkeypatch):
    caplog.set_level(logging.WARNING)
    note = tmp_path / "run" / "coordinator" / "inspecting.json"
    suspects = Suspects(note)
    store = DirectoryStore(tmp_path / "store")
    for number in range(3):
        store.create(episode_key("robot-1", f"episode-{number}"), write_episode(episode(number)))
    note.unlink()
    note.parent.rmdir()
    note.parent.write_bytes(b"in the way")
    coordinator = Coordinator(store, LIMITS, suspects)
    assert len(coordinator.process(coordinator.unprocessed()).committed) == 3
    assert caplog.text.count(f"{note} cannot be written") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_store_with_something_else_in_an_episodes_or_records_place_commits_the_others(tmp_path, kind):
    store = DirectoryStore(tmp_path)
    store.create(episode_key("robot-1", "episode-1"), write_episode(episode(1)))
    for place in ("episodes/robot-1/episode-2.arrow", "episodes/robot-2", "quarantine/note.json"):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        KINDS[kind](path)
    (tmp_path / "quarantine" / "README").write_text("what a person wrote")
    coordinator = Coordinator(store, LIMITS)
    assert len(coordinator.process(coordinator.unprocessed()).committed) == 1
    assert coordinator.unprocessed() == []
    assert coordinator.quarantined == 0
