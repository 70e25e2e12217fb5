"""Kill points: a learning fleet meets one fault after another, and every accepted episode is committed once.

Each test ends with the count: what the spools called safe is what the log holds.
"""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lwd.data.episode_file import episode_key, read_episode, write_episode
from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import StoreConfig
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.run_record import RunRecord

from ..hostile.policies import all_bad
from ..seaweedfs import BUCKET, SeaweedServer
from .flaky_proxy import FlakyProxy
from .learning_fleet import LearningFleet, learning_fleet, prepare
from .servers import environment

pytestmark = pytest.mark.faults
_BAD = (
    *("metadata-without-a-kind", "half-json", "wrong-width", "horizon-0", "a-billion-flow-steps", "nan-weights"),
    *("width-60000", "no-safetensors", "header-of-2-to-60-bytes"),
)
_FAR = 1000
"""Bad policies get numbers so far ahead, that the learner does not meet them as its own next ones."""
_GHOSTS = 3000


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("prepared") / "run"
    prepare(run)
    return run


@pytest.fixture
def fleet(prepared: Path, tmp_path: Path) -> Iterator[LearningFleet]:
    run = copy_of(prepared, tmp_path / "run")
    with learning_fleet(run) as fleet:
        yield fleet


def copy_of(prepared: Path, run: Path) -> Path:
    shutil.copytree(prepared, run)
    return run


def test_kill_point_store_unmounted_for_20_s(fleet: LearningFleet) -> None:
    """Robots keep what no snapshot of this very store contains; nobody writes into the empty mount point."""
    fleet.disk.take_away()
    time.sleep(20)
    left = list((fleet.run / "store").rglob("*"))
    fleet.disk.bring_back()
    fleet.wait_for_more(4)
    fleet.wait_for_policy()
    assert fleet.count() > 8
    assert left == []


def test_kill_point_older_store_restored(fleet: LearningFleet) -> None:
    """An older copy in the store's place is not rewritten at any start; with the right one back all goes on."""
    disk, older, newer = fleet.run / "disk", fleet.run / "older", fleet.run / "newer"
    content = disk if fleet.disk.real else fleet.run / "store"
    fleet.stop()
    shutil.copytree(content, older)
    fleet.start()
    fleet.wait_for_more(4)
    fleet.stop()
    _swap(fleet, content, newer, older)
    log = sorted(path.name for path in (content / "log").iterdir())
    for number in range(4):
        fleet.start()
        # The supervisor tries again, for a disk may come back, and says why.
        fleet.wait(lambda number=number: (fleet.run / "supervisor.log").read_text().count("--accept-restored") > number)
        fleet.stop()
    assert sorted(path.name for path in (content / "log").iterdir()) == log
    _swap(fleet, content, older, newer)
    fleet.start()
    fleet.wait_for_more(4)
    assert fleet.count() > 12


def _swap(fleet: LearningFleet, content: Path, out: Path, back: Path) -> None:
    if fleet.disk.real:
        fleet.disk.close()
    content.rename(out)
    back.rename(content)
    if fleet.disk.real:
        fleet.disk.bring_back()


def test_kill_point_nine_bad_policies(fleet: LearningFleet) -> None:
    """Hosts go on with the learner's policies, also with newer ones, while bad ones with higher numbers lie there."""
    publisher = PolicyPublisher(fleet.store, at_least=fleet.acted() + _FAR)
    bad = {each.name: each for each in all_bad()}
    for name in _BAD:
        publisher.publish(bad[name].data, update=0, snapshot=0)
    fleet.wait_for_more(8)
    fleet.wait_for_policy()
    assert fleet.acted() < _FAR
    assert fleet.count() > 12
    assert all("ended with status" not in line for line in (fleet.run / "supervisor.log").read_text().splitlines())


def test_kill_point_seconds_of_503(prepared: Path, tmp_path: Path) -> None:
    """A store that answers 503 for ten seconds ends nothing: neither learner, nor coordinator, nor hosts."""
    server = SeaweedServer(tmp_path / "seaweedfs")
    server.start()
    proxy = FlakyProxy(int(urlsplit(server.endpoint).port or 0))
    try:
        with _elsewhere(copy_of(prepared, tmp_path / "run"), server, proxy) as fleet:
            before = fleet.pids()
            proxy.failing = True
            time.sleep(10)
            assert proxy.refusals > 1
            proxy.failing = False
            fleet.wait_for_more(4)
            fleet.wait_for_policy()
            assert fleet.pids() == before
            assert fleet.count() > 8
    finally:
        proxy.close()
        server.close()


@contextmanager
def _elsewhere(run: Path, server: SeaweedServer, proxy: FlakyProxy) -> Iterator[LearningFleet]:
    """Move a prepared run's store to S3, and start its fleet behind the proxy."""
    url = f"s3://{BUCKET}/kill-points"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        copied = [sys.executable, "-m", "lwd", "data", "copy", "--from", str(run / "store"), "--to", url]
        subprocess.run(copied, check=True, env={**os.environ, **environment()})
        shutil.rmtree(run / "store")
        RunRecord().with_store(StoreConfig(url=url)).save(run)
        with learning_fleet(run, {"AWS_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}) as fleet:
            yield fleet


def test_kill_point_second_learner(fleet: LearningFleet, prepared: Path, tmp_path: Path) -> None:
    """A learner of another run on the same store is refused, and the rightful one goes on."""
    other = copy_of(prepared, tmp_path / "other")
    shutil.rmtree(other / "store")
    RunRecord().with_store(RunDirectory(fleet.run).store_config).save(other)
    first = fleet.pids()["learner"]
    second = subprocess.run(
        [sys.executable, "-m", "lwd", "learner", "--run", str(other), "--budget", "smoke", "--no-bus"],
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert second.returncode == 1, second.stderr
    assert f"process {first}" in second.stderr
    fleet.wait_for_policy()
    assert fleet.pids()["learner"] == first
    assert fleet.count() > 4


def test_kill_point_frozen_for_45_s(fleet: LearningFleet) -> None:
    """Coordinator, learner and a host stand still; the supervisor says so, kills none, and all go on."""
    before, frozen = fleet.pids(), ("coordinator", "learner", "host-a")
    for name in frozen:
        fleet.signal(name, signal.SIGSTOP)
    time.sleep(45)
    for name in frozen:
        fleet.signal(name, signal.SIGCONT)
    fleet.wait_for_more(4)
    fleet.wait_for_policy()
    assert fleet.pids() == before
    said = (fleet.run / "supervisor.log").read_text()
    for name in frozen:
        assert any(name in line and "stopped" in line for line in said.splitlines()), said
    assert fleet.count() > 8


def test_kill_point_backlog_of_unannounced_episodes(fleet: LearningFleet) -> None:
    """Live episodes are committed while thousands that nobody announced wait in the store."""
    reader = LogReader(fleet.store)
    reader.poll()
    live = next(item.entry for item in reader.snapshot.episodes.values() if item.entry.robot_id.startswith("host-"))
    episode = read_episode(fleet.store.get(live.key))
    for number in range(_GHOSTS):
        info = replace(episode.info, robot_id=f"ghost-{number % 7}", episode_id=f"ghost-{number:06d}")
        key = episode_key(info.robot_id, info.episode_id)
        fleet.store.create(key, write_episode(replace(episode, info=info)))
    waiting = _GHOSTS - _ghosts(fleet)
    fleet.wait_for_more(4)
    # The live ones did not wait for the last of the others.
    assert waiting == 0 or _ghosts(fleet) < _GHOSTS
    fleet.wait(lambda: _ghosts(fleet) == _GHOSTS)
    assert fleet.count() > 8


def _ghosts(fleet: LearningFleet) -> int:
    reader = LogReader(fleet.store)
    reader.poll()
    return sum(item.entry.robot_id.startswith("ghost-") for item in reader.snapshot.episodes.values())


@pytest.mark.parametrize("name", ["nats", "coordinator", "learner", "host-a"])
def test_kill_point_kill_9(fleet: LearningFleet, name: str) -> None:
    """A killed process is started again, and continues."""
    before = fleet.pids()[name]
    fleet.signal(name, signal.SIGKILL)
    fleet.wait(lambda: fleet.pids().get(name, before) != before)
    fleet.wait_for_more(4)
    fleet.wait_for_policy()
    assert fleet.count() > 8
