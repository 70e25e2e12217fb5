"""Damaged files of the embedded NATS server: named, each with the remedy that works."""

import asyncio
import random
import shutil
from pathlib import Path

import pytest

from lwd.errors import ServiceError
from lwd.fleet.bus import Bus
from lwd.fleet.messages import EpisodeAnnouncement, PolicyPointer
from lwd.fleet.nats_server import NatsServer, read_url, seed_file, url_file

POINTER = PolicyPointer(
    version=4, key="policies/000000000004.safetensors", sha256="0" * 64, update=9, snapshot=2, published_at_s=1.0
)


def announcement(number: int) -> EpisodeAnnouncement:
    return EpisodeAnnouncement(
        episode_id=f"e{number}", robot_id="r", key=f"episodes/r/e{number}.arrow", sha256=f"{number:064x}", bytes=10,
        uploaded_at_s=1.0,
    )  # fmt: skip


def use(directory: Path, number: int, found: list[str]) -> None:
    """Announce and fetch, and say what the bus complains of."""

    async def work() -> None:
        bus = await Bus.connect(read_url(directory), name="test")
        try:
            await bus.set_policy_pointer(POINTER)
            await bus.announce(announcement(number))
            for item in await bus.fetch_announcements(100, 0.5):
                found.append(item.announcement.episode_id)
                await bus.acknowledge(item)
        finally:
            await bus.close()

    with NatsServer(directory):
        asyncio.run(work())


def complaint_of(directory: Path) -> str:
    """Use the bus; return what it complains of, empty if all is well."""
    try:
        use(directory, 2, [])
    except ServiceError as error:
        return str(error)
    return ""


@pytest.fixture
def filled(tmp_path) -> Path:
    found: list[str] = []
    use(tmp_path / "nats", 1, found)
    assert found == ["e1"]
    return tmp_path / "nats"


def garbage(path: Path) -> None:
    path.write_bytes(random.Random(0).randbytes(max(path.stat().st_size, 64)))


def test_damaged_files_of_the_server_are_made_anew_or_the_remedy_is_named_and_works(filled):
    files = sorted(path for path in (filled / "jetstream").rglob("*") if path.is_file())
    names = [str(path.relative_to(filled)) for path in files]
    assert any(name.endswith("o.dat") for name in names)
    kept = filled.with_name("kept")
    shutil.copytree(filled, kept)
    complaints = []
    for damaged in (*([name] for name in names), names):
        shutil.rmtree(filled)
        shutil.copytree(kept, filled)
        for name in damaged:
            garbage(filled / name)
        if complaint := complaint_of(filled):
            complaints.append(complaint)
            shutil.rmtree(filled)
            assert complaint_of(filled) == ""
    assert complaints
    remedy = f"its files are damaged; stop the run, delete {filled}, start again: nothing is lost with it"
    assert all(remedy in complaint for complaint in complaints)


def test_damaged_directory_of_the_server_is_named_with_its_remedy(filled):
    shutil.rmtree(filled / "jetstream")
    (filled / "jetstream").write_bytes(b"\x80")
    with pytest.raises(ServiceError, match=f"If its files are damaged: delete {filled}, nothing is lost with it"):
        use(filled, 2, [])
    shutil.rmtree(filled)
    found: list[str] = []
    use(filled, 3, found)
    assert found == ["e3"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"http://x", b"nats://h\x1b[2J", "nats://\u202eh".encode()])
def test_damaged_url_file_is_named_and_made_anew(filled, content):
    url_file(filled).write_bytes(content)
    with pytest.raises(ServiceError, match="url is damaged: start `lwd up` again") as refused:
        read_url(filled)
    assert str(refused.value).isprintable()
    seed_file(filled).write_bytes(b"\xff")
    (filled / "nats.conf").write_bytes(b"\xff")
    found: list[str] = []
    use(filled, 2, found)
    assert found == ["e2"]


def test_unreadable_url_file_is_named(filled):
    url_file(filled).unlink()
    url_file(filled).mkdir()
    with pytest.raises(ServiceError, match=r"url is a directory, not a file: remove it; then start `lwd up` again"):
        read_url(filled)
