"""Real learner processes and their store: seconds of 503, a second learner, a killed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from lwd.data.policies import newest_policy
from lwd.data.store import StoreConfig
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.run_record import RunRecord
from lwd.recipes.stages import run_offline, run_sft

from ..seaweedfs import BUCKET, SeaweedServer
from ..tiny_run import RECIPE, as_fleet, commit, make_data
from .flaky_proxy import FlakyProxy

pytestmark = pytest.mark.faults
OUTAGE_S = 12.0


def prepared(run: RunDirectory) -> RunDirectory:
    commit(run, make_data())
    run_sft(run, RECIPE.sft, seed=3)
    run_offline(run, RECIPE.offline, seed=3)
    return run


class Arrivals:
    """Commits fleet episodes again and again under new names."""

    def __init__(self, run: RunDirectory) -> None:
        self._run, self.steps = run, 0

    def commit(self, until_steps: int) -> int:
        """Return how many updates all of them allow."""
        new = []
        while self.steps < until_steps:
            for episode in map(as_fleet, make_data()):
                name = f"{episode.info.episode_id}-{self.steps}"
                new.append(replace(episode, info=replace(episode.info, episode_id=name)))
                self.steps += episode.steps
        commit(self._run, new)
        return int(0.02 * (self.steps - 500))


@contextmanager
def learner(run: RunDirectory, log: Path, environment: Mapping[str, str] = {}) -> Iterator[subprocess.Popen[bytes]]:
    words = ("learner", "--run", str(run.path), "--budget", "smoke", "--no-bus", "--env-steps", "100000")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "lwd", *words], stdout=output, stderr=output, env=os.environ | dict(environment)
        )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def updates(run: RunDirectory) -> int:
    """Update of the last look at the log."""
    path = run.path / "checkpoints" / "online" / "snapshots.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return json.loads(lines[-1])["update"] if lines else -1


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.1)


def test_seconds_of_503_do_not_end_a_learner(tmp_path, monkeypatch):
    server = SeaweedServer(tmp_path / "seaweedfs")
    server.start()
    proxy = FlakyProxy(urlsplit(server.endpoint).port)
    try:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        run = RunDirectory(tmp_path / "run").at(store=StoreConfig(url=f"s3://{BUCKET}/run"))
        prepared(run)
        fleet, log = Arrivals(run), tmp_path / "learner.log"
        allowed = fleet.commit(until_steps=900)
        with learner(run, log, {"AWS_ENDPOINT": f"http://127.0.0.1:{proxy.port}"}) as process:
            wait_until(lambda: updates(run) == allowed, process, log)
            proxy.failing = True
            begun_s = time.monotonic()
            allowed = fleet.commit(until_steps=1500)
            while time.monotonic() - begun_s < OUTAGE_S:
                assert process.poll() is None, log.read_text()
                time.sleep(0.1)
            assert proxy.refusals > 1
            proxy.failing = False
            wait_until(lambda: updates(run) == allowed, process, log)
            process.send_signal(signal.SIGTERM)
            assert process.wait(timeout=120) == 130, log.read_text()
        text = log.read_text()
        assert text.count("the log cannot be read (") == 1, text
        assert text.count("works again after") >= 1, text
        manifest = newest_policy(run.store())
        assert manifest is not None
        assert manifest.update == allowed
    finally:
        proxy.close()
        server.close()


def test_a_second_learner_is_refused_and_a_killed_one_is_followed_at_once(tmp_path):
    run = prepared(RunDirectory(tmp_path / "run"))
    other = RunDirectory(tmp_path / "other")
    RunRecord().with_store(run.store_config).save(other.path)
    for stage in ("sft", "offline"):
        (other.path / "checkpoints").mkdir(exist_ok=True)
        subprocess.run(["cp", "-r", run.path / "checkpoints" / stage, other.path / "checkpoints"], check=True)
    fleet, first_log, second_log = Arrivals(run), tmp_path / "first.log", tmp_path / "second.log"
    allowed = fleet.commit(until_steps=900)
    with learner(run, first_log) as first:
        wait_until(lambda: updates(run) == allowed, first, first_log)
        with learner(other, second_log) as second:
            assert second.wait(timeout=240) == 1
        text = second_log.read_text()
        assert f"process {first.pid}" in text
        assert "trains on this store" in text
        assert first.poll() is None, first_log.read_text()
        first.kill()
        first.wait()
    # The same run: its lock says that the learner before it is dead.
    allowed = fleet.commit(until_steps=1500)
    again_log = tmp_path / "again.log"
    with learner(run, again_log) as again:
        wait_until(lambda: updates(run) == allowed, again, again_log)
        assert f"process {first.pid}, is dead" in again_log.read_text()
        again.send_signal(signal.SIGTERM)
        assert again.wait(timeout=120) == 130, again_log.read_text()
    assert not any(line.startswith("Traceback") for line in again_log.read_text().splitlines())
