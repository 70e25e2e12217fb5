"""`lwd learner --processes 2` on a tiny run: one snapshot, one checkpoint, and what signals and kills do."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest

from lwd.data.policies import newest_policy
from lwd.learner.checkpoint import STATE
from lwd.learner.rendezvous import VARIABLE
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import run_offline, run_sft
from lwd.types import Episode

from ...tiny_run import RECIPE, as_fleet, commit, copy_of, make_data


@pytest.fixture(scope="module")
def episodes() -> list[Episode]:
    return make_data()


@pytest.fixture(scope="module")
def with_offline(episodes, tmp_path_factory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("run") / "offline")
    commit(run, episodes)
    run_sft(run, RECIPE.sft, seed=3)
    run_offline(run, RECIPE.offline, seed=3)
    return run


class Fleet:
    """Commits the episodes again and again under new names, as one version each time."""

    def __init__(self, run: RunDirectory, episodes: list[Episode]) -> None:
        self._run, self._episodes = run, [as_fleet(episode) for episode in episodes]
        self.steps = self.versions = 0

    def commit(self, until_steps: int) -> None:
        new = []
        while self.steps < until_steps:
            for episode in self._episodes:
                name = f"{episode.info.episode_id}-{self.steps}"
                new.append(replace(episode, info=replace(episode.info, episode_id=name)))
                self.steps += episode.steps
        commit(self._run, new)
        self.versions += 1


@contextmanager
def learner(run: RunDirectory, output: Path, *, env_steps: int, restarts: int = 0) -> Iterator[subprocess.Popen[bytes]]:
    command = (sys.executable, "-m", "lwd", "learner", "--processes", "2", "--max-restarts", str(restarts))
    options = ("--run", str(run.path), "--budget", "smoke", "--no-bus", "--env-steps", str(env_steps))
    with output.open("ab") as log:
        process = subprocess.Popen(
            [*command, *options, "--arena-directory", str(run.path / "arena")],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
    try:
        yield process
    finally:
        # Its children go with it.
        process.kill()
        process.wait()


def ranks(learner: subprocess.Popen[bytes]) -> dict[int, int]:
    """Rank -> process id of the living processes of the group."""
    found = {}
    try:
        children = Path(f"/proc/{learner.pid}/task/{learner.pid}/children").read_text().split()
        for pid in children:
            variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            name = f"{VARIABLE}=".encode()
            members = [value.removeprefix(name) for value in variables if value.startswith(name)]
            found |= {json.loads(member)["rank"]: int(pid) for member in members}
    except OSError:
        return {}
    return found


def position(run: RunDirectory) -> tuple[int, int]:
    """(update, snapshot) of the last look at the log."""
    path = run.path / "checkpoints" / "online" / "snapshots.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    row = json.loads(lines[-1]) if lines else {"update": -1, "snapshot": -1}
    return row["update"], row["snapshot"]


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], output: Path) -> None:
    deadline_s = time.monotonic() + 180
    while not condition():
        assert process.poll() is None, output.read_text()
        assert time.monotonic() < deadline_s, output.read_text()
        time.sleep(0.05)


def others_run(learner: subprocess.Popen[bytes], killed: dict[int, int]) -> bool:
    """Whether both processes were started anew."""
    now = ranks(learner)
    return len(now) == 2 and not {*now.values()} & {*killed.values()}


def allowed(steps: int) -> int:
    """Updates of the smoke budget."""
    return int(0.02 * (steps - 500))


def test_two_processes_follow_the_log_and_stop_together(with_offline, episodes, tmp_path):
    run, output = copy_of(with_offline, tmp_path / "run"), tmp_path / "output"
    fleet = Fleet(run, episodes)
    fleet.commit(until_steps=900)
    with learner(run, output, env_steps=100_000) as process:
        wait_until(lambda: position(run) == (allowed(fleet.steps), 2), process, output)
        fleet.commit(until_steps=1500)
        wait_until(lambda: position(run) == (allowed(fleet.steps), 3), process, output)
        os.kill(ranks(process)[1], signal.SIGTERM)
        process.wait(timeout=120)
    found = run.checkpoints("online").latest()
    assert found is not None, output.read_text()
    progress = found.progress
    assert (progress.update, progress.snapshot, progress.processes) == (allowed(fleet.steps), 3, 2)
    assert not progress.finished
    assert found.state()["generators"].keys() == {"0", "1"}
    # In order, and not because the other one was gone.
    assert process.returncode == 130
    text = output.read_text()
    assert "lwd learner: stopped; the same command continues where it was" in text, text
    assert "lwd learner: learner process" not in text
    assert list((run.path / "arena").iterdir()) == []  # nameless files


@pytest.mark.faults
def test_after_kill_9_all_processes_start_again_and_continue(with_offline, episodes, tmp_path):
    run, output = copy_of(with_offline, tmp_path / "run"), tmp_path / "output"
    fleet = Fleet(run, episodes)
    fleet.commit(until_steps=900)
    with learner(run, output, env_steps=100_000) as process:
        wait_until(lambda: position(run) == (allowed(fleet.steps), 2), process, output)
        os.kill(ranks(process)[0], signal.SIGTERM)
        process.wait(timeout=120)
    saved = run.checkpoints("online").latest()
    assert saved is not None

    with learner(run, output, env_steps=1500, restarts=2) as process:
        fleet.commit(until_steps=1200)
        wait_until(lambda: position(run) == (allowed(fleet.steps), 3), process, output)
        for rank in (1, 0):
            killed = ranks(process)
            os.kill(killed[rank], signal.SIGKILL)
            wait_until(partial(others_run, process, killed), process, output)
        fleet.commit(until_steps=1500)
        assert process.wait(timeout=180) == 0, output.read_text()
    text = output.read_text()
    assert "another one ended or does not answer" in text
    assert "process 1 was killed by signal 9" in text
    assert "(restart 2 of 2)" in text
    found = run.finished("online", "up")
    assert (found.progress.update, found.progress.snapshot) == (allowed(1500), 4)
    manifest = newest_policy(run.store())
    assert manifest is not None
    assert manifest.update == allowed(1500)
    # No checkpoint was saved after the one of the first life.
    assert manifest.algorithm_state is not None
    assert manifest.algorithm_state.update == saved.progress.update
    assert manifest.algorithm_state.sha256 == saved.sha256[STATE]
