"""Bad policies against a real host: the good version goes on, its episodes are committed, the next one is taken."""

import hashlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lwd.data.log import LogReader
from lwd.data.policies import PolicyManifest, PolicyPublisher, manifest_key, policy_key
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.learner_link import LearnerLink
from lwd.fleet.nats_server import NatsServer

from ..hostile.policies import BadPolicy, all_bad, good_policy
from ..point_mass import EMBODIMENT
from .conftest import Measured

pytestmark = pytest.mark.attacks

_PATIENCE_S = 60.0
_MAX_GROWTH_BYTES = 192 * 2**20
"""Above what the host has with a good policy: the largest bad file has some 70 MB, which are read and refused."""
_BIG = BadPolicy(name="2.5-GB-instead-of-77-bytes", reason="has 2500000000 bytes, more than 77", make=lambda: b"x" * 77)

_TRIED = (
    *("metadata-without-a-kind", "half-json", "wrong-width", "horizon-0", "a-billion-flow-steps", "width-60000"),
    *("depth-a-billion", "a-thousand-brackets", "nan-weights", "std-0", "other-limits", "no-safetensors"),
    *("header-of-2-to-60-bytes", "overlapping-offsets", "other-embodiment", "overflow", "a-hang", "too-much-memory"),
)
"""One of each kind; the others are in tests/unit/models/test_bad_policy_files.py."""
_BAD = [*(bad for bad in all_bad() if bad.name in _TRIED), _BIG]


class Attacked:
    """A fleet of one host, its coordinator, and a learner's link to ring the host with."""

    def __init__(self, run: Path, server: NatsServer) -> None:
        self.root = run / "store"
        self.store = DirectoryStore(self.root)
        self.publisher = PolicyPublisher(self.store)
        self.link = LearnerLink(lambda: BusConfig(urls=(server.url,)))
        self.coordinator = Coordinator(self.store, EpisodeLimits(embodiment=EMBODIMENT))
        self.log = run / "host.log"
        self.log.touch()
        self.publish(good_policy(0))
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.attacks.policy_host", str(run), server.url],
                stdout=output,
                stderr=output,
                cwd=Path(__file__).parents[2],
            )

    def publish(self, data: bytes) -> int:
        manifest = self.publisher.publish(data, update=0, snapshot=0)
        self.link.announce_policy(manifest)
        return manifest.version

    def plant(self, bad: BadPolicy) -> int:
        """Publish a bad file as somebody with rights to the store does; bytes that do not fit the manifest, too."""
        if bad is not _BIG:
            return self.publish(bad.data)
        version = self.publisher.newest + 1
        with (self.root / policy_key(version)).open("wb") as file:
            file.truncate(2_500_000_000)
        manifest = PolicyManifest(
            version=version,
            key=policy_key(version),
            sha256=hashlib.sha256(bad.data).hexdigest(),
            bytes=77,
            update=0,
            snapshot=0,
            published_at_s=time.time(),
        )
        self.store.create(manifest_key(version), manifest.model_dump_json().encode())
        self.link.announce_policy(manifest)
        self.publisher = PolicyPublisher(self.store)
        return version

    def committed(self) -> list[int]:
        """Policy versions of the committed episodes."""
        self.coordinator.process(self.coordinator.unprocessed())
        reader = LogReader(self.store)
        reader.poll()
        return [item.entry.policy_version for item in reader.snapshot.episodes.values()]

    def await_episodes(self, version: int, more: int = 2) -> None:
        """Wait until so many more episodes of a version are committed."""
        before = self.committed().count(version)
        self.wait(lambda: self.committed().count(version) >= before + more, f"{more} episodes of policy {version}")

    def said(self, words: str) -> str:
        """The last line of the host's log that contains words; empty without one."""
        lines = [line for line in self.log.read_text(errors="replace").splitlines() if words in line]
        return lines[-1] if lines else ""

    def wait(self, condition: Callable[[], object], what: str) -> None:
        deadline_s = time.monotonic() + _PATIENCE_S
        while not condition():
            assert self.process.poll() is None, self.log.read_text(errors="replace")[-3000:]
            assert time.monotonic() < deadline_s, (what, self.log.read_text(errors="replace")[-3000:])
            time.sleep(0.05)

    def peak_bytes(self) -> int:
        """The most memory that the host's process has had."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmHWM:"))

    def close(self) -> None:
        self.link.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory) -> Iterator[Attacked]:
    run = tmp_path_factory.mktemp("run")
    with NatsServer(run / "nats") as server:
        fleet = Attacked(run, server)
        try:
            yield fleet
        finally:
            fleet.close()


@pytest.mark.parametrize("bad", _BAD, ids=lambda bad: bad.name)
def test_a_bad_policy_stops_no_robot(fleet: Attacked, bad: BadPolicy, measured: Measured):
    good = fleet.publisher.newest
    fleet.await_episodes(good)
    before = fleet.peak_bytes()
    version = fleet.plant(bad)
    begun_s = time.monotonic()
    fleet.wait(lambda: fleet.said(f"policy {version} is not used: "), f"that policy {version} is refused")
    took_s = time.monotonic() - begun_s
    assert re.search(bad.reason, fleet.said(f"policy {version} is not used: "))
    # Robots act with the good one, and with the next good one.
    fleet.await_episodes(good)
    grown = fleet.peak_bytes() - before
    assert grown < _MAX_GROWTH_BYTES
    fleet.await_episodes(fleet.publish(good_policy(version)))
    assert version not in fleet.committed()
    measured(
        f"policy: {bad.name}",
        f"refused after {took_s:.1f} s, host +{grown / 2**20:.0f} MB",
        "robots go on, at most +192 MB",
    )


def test_foreign_files_and_numbers_among_the_policies_stop_no_robot(fleet: Attacked, measured: Measured):
    good = fleet.publisher.newest
    fleet.await_episodes(good)
    episode = next(fleet.store.list("episodes"))
    stolen = {
        "version": good + 1, "key": episode.key, "bytes": episode.size_bytes, "update": 0, "snapshot": 0,
        "sha256": hashlib.sha256(fleet.store.get(episode.key)).hexdigest(), "published_at_s": 0.0,
    }  # fmt: skip
    far = 999_999_999_998
    manifest = json.loads(fleet.store.get(manifest_key(good)))
    planted = {
        manifest_key(good + 1): json.dumps(stolen).encode(),
        manifest_key(good + 2): json.dumps(manifest).encode(),
        manifest_key(far): json.dumps(manifest | {"version": far, "key": policy_key(far)}).encode(),
        policy_key(far): fleet.store.get(policy_key(good)),
        "policies/999999999999.json": b"{}",
        "policies/README.md": b"# Do not touch",
        "policies/old/000000000001.json": b"{}",
    }
    for key, data in planted.items():
        fleet.store.create(key, data)
    fleet.await_episodes(good, more=4)
    fleet.wait(lambda: fleet.said("README.md is no policy of ours"), "that the host looked at the store")
    # The learner starts anew and goes on; robots follow.
    fleet.publisher = PolicyPublisher(fleet.store)
    version = fleet.publish(good_policy(good + 3))
    assert version == good + 3
    fleet.await_episodes(version)
    assert set(fleet.committed()) <= set(range(version + 1))
    measured("foreign files, keys and numbers in policies/", f"learner goes on with {version}", f"{good + 3}")


def test_a_policies_folder_that_is_gone_costs_no_number_twice(fleet: Attacked, measured: Measured):
    good = fleet.publisher.newest
    fleet.await_episodes(good)
    for item in [*fleet.store.list("policies")]:
        fleet.store.delete(item.key)
    assert PolicyPublisher(fleet.store).newest == -1
    fleet.await_episodes(good)
    # What the learner's checkpoint knows.
    fleet.publisher = PolicyPublisher(fleet.store, at_least=good)
    version = fleet.publish(good_policy(good + 1))
    fleet.await_episodes(version)
    measured("policies/ removed", f"next version {version}", f"{good + 1}")
