"""Hostile files against validation in this process, and against the real service with a real bus and store."""

import asyncio
import hashlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwd.data.episode_file import MAX_FILE_BYTES, NAME_PATTERN, episode_key, write_episode
from lwd.data.log import LogReader
from lwd.data.quarantine import QuarantineRecord, find_quarantined
from lwd.data.store import DirectoryStore
from lwd.errors import ObjectExists
from lwd.fleet.bus import Bus
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.judging import Candidate
from lwd.fleet.messages import EpisodeAnnouncement
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.suspects import MAX_DEATHS

from .case import LIMITS, ROBOT, Case, base, good
from .coordinator_process import EMBODIMENT as SERVED
from .corpus import corpus

SCRIPT = Path(__file__).with_name("coordinator_process.py")
WITHIN_S = 2.0
"""For one file, of work and on a machine that does nothing else."""
GROWTH_MIB = 768
"""What one file may take at its worst: itself, its decompressed columns and a copy of its frames, 256 MiB each."""
PATIENCE_S = 300.0
GOOD_EVERY = 20
WELL_NAMED = re.compile(f"^episodes/{NAME_PATTERN[1:-1]}/{NAME_PATTERN[1:-1]}\\.arrow$")


def within_s() -> float:
    """Return WITHIN_S, longer as far as other programs keep our cores busy: waiting for them is not the file's work."""
    return WITHIN_S * max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))


def put(store: DirectoryStore, hostile: Case) -> None:
    store.create(hostile.key, hostile.data)


def announcement(key: str, data: bytes) -> EpisodeAnnouncement:
    """What a robot sends that checks nothing itself."""
    robot_id, name = key.removeprefix("episodes/").removesuffix(".arrow").partition("/")[::2]
    return EpisodeAnnouncement.model_construct(
        episode_id=name,
        robot_id=robot_id,
        key=key,
        sha256=hashlib.sha256(data).hexdigest(),
        bytes=max(1, len(data)),
        uploaded_at_s=time.time(),
    )


def test_the_corpus_is_large_and_has_no_duplicates():
    names = [case.name for case in corpus()]
    assert len(names) >= 500
    assert len(set(names)) == len(names)
    assert len({case.data for case in corpus()} | {case.key for case in corpus()}) >= len(names)
    assert LIMITS.embodiment == SERVED


def test_every_file_is_quarantined_in_time_for_the_right_reason(tmp_path):
    store = DirectoryStore(tmp_path)
    coordinator = Coordinator(store, LIMITS)
    for case in corpus():
        put(store, case)
        begun_s, worked_s = time.monotonic(), time.process_time()
        result = coordinator.process([Candidate(key=case.key, uploaded_at_s=1.0)])
        took_s, worked_s = time.monotonic() - begun_s, time.process_time() - worked_s
        assert [key for key, _ in result.quarantined] == [case.key], f"{case.name} was accepted"
        record = find_quarantined(store, case.key)
        assert case.reason in record.reason, f"{case.name}: {record.reason}"
        assert "report a bug" not in record.reason, f"{case.name}: {record.reason}"
        assert worked_s < WITHIN_S, f"{case.name} took {worked_s:.2f} s of work"
        assert took_s < within_s(), f"{case.name} took {took_s:.2f} s"
    assert coordinator.reader.version == 0
    assert coordinator.unprocessed() == []
    assert Coordinator(store, LIMITS).quarantined == len(corpus())


class Service:
    """A coordinator process with its own bus and store."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.store = DirectoryStore(run / "store")
        self.server = NatsServer(run / "nats")
        self.server.start()
        self.start()

    def start(self, *arguments: str) -> None:
        with (self.run / "coordinator.log").open("ab") as log:
            command = [sys.executable, str(SCRIPT), str(self.run), *arguments]
            self.process = subprocess.Popen(command, stdout=log, stderr=log)

    def close(self) -> None:
        self.process.kill()
        self.process.wait()
        self.server.close()

    def log(self) -> str:
        return (self.run / "coordinator.log").read_text()[-3000:]

    def memory_mib(self, field: str) -> float:
        """Return a field of /proc/PID/status: VmRSS now, VmHWM at its highest."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        (line,) = [line for line in status.splitlines() if line.startswith(field)]
        return int(line.split()[1]) / 1024

    def committed(self) -> set[str]:
        reader = LogReader(self.store)
        reader.poll()
        return {item.entry.episode_id for item in reader.snapshot.episodes.values()}

    def wait_for_record(self, key: str) -> QuarantineRecord:
        deadline_s = time.monotonic() + PATIENCE_S
        while (record := find_quarantined(self.store, key)) is None:
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline_s, f"{key!r} is not quarantined\n{self.log()}"
            time.sleep(0.002)
        return record

    def wait_for_episodes(self, names: set[str]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not names <= self.committed():
            assert self.process.poll() is None, self.log()
            assert time.monotonic() < deadline_s, f"missing: {names - self.committed()}\n{self.log()}"
            time.sleep(0.05)

    def add_good(self, name: str) -> str:
        self.store.create(episode_key(ROBOT, name), good(name))
        return name


@pytest.fixture
def service(tmp_path) -> Iterator[Service]:
    service = Service(tmp_path)
    yield service
    service.close()


def announced_one_by_one(service: Service, cases: list[Case]) -> dict[str, float]:
    """Upload and announce each file once the one before is dealt with. Returns seconds until its record."""

    async def run() -> dict[str, float]:
        bus = await Bus.connect(service.server.url, name="test")
        seconds = {}
        for number, case in enumerate(cases):
            put(service.store, case)
            begun_s = time.time()
            await bus.announce(announcement(case.key, case.data))
            record = await asyncio.to_thread(service.wait_for_record, case.key)
            seconds[case.name] = record.quarantined_at_s - begun_s
            if number % GOOD_EVERY == 0:
                service.add_good(f"good-{number}")
        await bus.close()
        return seconds

    return asyncio.run(run())


def test_the_service_quarantines_the_corpus_and_goes_on(service):
    service.wait_for_episodes({service.add_good("first")})
    before_mib = service.memory_mib("VmRSS")
    # An announcement of another name is dropped; listing finds the object.
    announceable = [case for case in corpus() if WELL_NAMED.match(case.key)]
    assert len(announceable) > 400
    one_by_one, in_bulk = announceable[::2], [case for case in corpus() if case not in announceable[::2]]

    seconds = announced_one_by_one(service, one_by_one)
    slow = {name: took_s for name, took_s in seconds.items() if took_s > within_s()}
    assert not slow

    for case in in_bulk:
        put(service.store, case)
    begun_s = time.monotonic()
    for case in in_bulk:
        assert case.reason in service.wait_for_record(case.key).reason, case.name
    bulk_s = time.monotonic() - begun_s
    assert bulk_s < within_s() * len(in_bulk)

    names = {f"good-{number}" for number in range(0, len(one_by_one), GOOD_EVERY)}
    service.wait_for_episodes(names | {"first", service.add_good("last")})
    assert service.committed() == names | {"first", "last"}
    assert service.process.poll() is None, service.log()
    grown_mib = {field: service.memory_mib(field) - before_mib for field in ("VmHWM", "VmRSS")}
    print(f"slowest {max(seconds.values()):.3f} s, {len(in_bulk)} in bulk {bulk_s:.1f} s, grown {grown_mib}")
    assert grown_mib["VmHWM"] < GROWTH_MIB


def test_large_files_that_come_again_and_again_leave_no_memory_behind(service):
    bombs = [case for case in corpus() if case.name.endswith("frame-of-200-mib")]
    assert len(bombs) == 2
    after_mib = []
    for round_number in range(8):
        for number, bomb in enumerate(bombs):
            key = episode_key(ROBOT, f"again-{round_number}-{number}")
            service.store.create(key, bomb.data)
            assert bomb.reason in service.wait_for_record(key).reason
        after_mib.append(service.memory_mib("VmRSS"))
    # Allocators keep something for the next file, at times only from the third round on, but not for each file.
    assert max(after_mib[4:]) < max(after_mib[:4]) + 64, after_mib
    print(f"resident after each round: {after_mib}")


def test_an_object_over_the_limit_is_refused_unread(service):
    service.wait_for_episodes({service.add_good("first")})
    before_mib = service.memory_mib("VmHWM")
    key = episode_key(ROBOT, "huge")
    path = service.run / "store" / key
    with path.with_name("huge.part").open("wb") as file:
        file.truncate(40 * MAX_FILE_BYTES)  # sparse: takes no disk
    path.with_name("huge.part").rename(path)
    assert "more than 268435456): record shorter episodes" in service.wait_for_record(key).reason
    assert service.memory_mib("VmHWM") - before_mib < 32


def test_what_is_no_file_in_the_directory_neither_blocks_nor_stops_the_service(service):
    """Pipes, links, sockets' names and unreadable files: another program's doing, not an episode."""
    robot = service.run / "store" / "episodes" / ROBOT
    robot.mkdir(parents=True)
    os.mkfifo(robot / "pipe.arrow")
    (robot / "loop").symlink_to(robot)
    (robot / "zeros.arrow").symlink_to("/dev/zero")
    (robot / "nowhere.arrow").symlink_to(robot / "missing")
    (robot / "folder.arrow").mkdir()

    async def announce() -> None:
        bus = await Bus.connect(service.server.url, name="test")
        for name in ("pipe", "zeros", "nowhere", "folder", "loop/loop/pipe"):
            await bus.announce(announcement(f"episodes/{ROBOT}/{name}.arrow", b"x"))
        for key in ("../../../etc/passwd", "log/000000000001.json", "episodes/../x/y.arrow"):
            await bus.announce(announcement(episode_key(ROBOT, "escape"), b"x").model_copy(update={"key": key}))
        await bus.close()

    asyncio.run(announce())
    service.wait_for_episodes({service.add_good("after")})
    assert service.process.poll() is None, service.log()


def test_the_same_key_with_other_bytes_is_refused_at_the_writer(service):
    name = service.add_good("contested")
    service.wait_for_episodes({name})
    key = episode_key(ROBOT, name)
    with pytest.raises(ObjectExists, match="is stored with other bytes"):
        service.store.create(key, write_episode(base(name, instruction="something else")))
    assert service.store.get(key) == good(name)
    assert find_quarantined(service.store, key) is None


def test_the_same_id_from_another_robot_is_its_own_episode(service):
    squatted = write_episode(base("shared", robot_id="robot-2", instruction="something else"))
    service.store.create(episode_key("robot-2", "shared"), squatted)
    service.wait_for_episodes({"shared"})
    service.add_good("shared")
    reader = LogReader(service.store)
    deadline_s = time.monotonic() + PATIENCE_S
    while len(reader) < 2:
        reader.poll()
        assert time.monotonic() < deadline_s, service.log()
        time.sleep(0.01)
    assert {item.entry.robot_id for item in reader.snapshot.episodes.values()} == {ROBOT, "robot-2"}
    assert Coordinator(service.store, LIMITS).unprocessed() == []


def test_a_file_that_crashes_the_process_is_left_alone_in_the_end(service):
    """No such file is known, so the process is made to crash, for real, when it validates a certain one."""
    service.wait_for_episodes({service.add_good("first")})
    service.process.kill()
    service.process.wait()
    names = {service.add_good(f"good-{number}") for number in range(3)}
    crashing = service.add_good("crashing")
    for _ in range(MAX_DEATHS):
        service.start("--crash-on", crashing)
        assert service.process.wait(PATIENCE_S) == -signal.SIGSEGV, service.log()
    service.start("--crash-on", crashing)
    record = service.wait_for_record(episode_key(ROBOT, crashing))
    assert f"ended the coordinator {MAX_DEATHS} times" in record.reason
    service.wait_for_episodes(names | {service.add_good("last")})
