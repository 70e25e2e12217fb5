"""A full disk: every write says so as StoreError, nothing that was accepted is lost, and freeing space mends it."""

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lwd.cli.main import dispatch
from lwd.data.arena import ReplayArena
from lwd.data.log import LogReader
from lwd.data.validation import EpisodeLimits
from lwd.errors import StoreError
from lwd.fleet.ingest import ingest
from lwd.learner.checkpoint import Checkpoint, CheckpointStore, Progress
from lwd.learner.metrics import MetricsLog
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import Control, run_sft
from lwd.robots.sim.embodiments import STATE_EMBODIMENT

from ...tiny_run import RECIPE, commit, copy_of, make_data


class SmallDisk:
    """A file system of its own, whose size the test chooses."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def resize(self, kib: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kib}k", str(self.path)], check=True)

    def fill(self) -> None:
        """Leave not a byte."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            try:
                while file.write(b"\0" * 4096):
                    pass
            except OSError:
                return

    def free(self) -> None:
        (self.path / "filler").unlink()


@pytest.fixture
def disk(tmp_path) -> Iterator[SmallDisk]:
    path = tmp_path / "disk"
    path.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4096k", "tmpfs", str(path)], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount a small file system here: {mounted.stderr.strip()}")
    yield SmallDisk(path)
    subprocess.run(["umount", "-l", str(path)], check=True)


@pytest.fixture(scope="module")
def episodes():
    return make_data()


def committed_and_intact(run: RunDirectory) -> set[str]:
    """Ids of the committed episodes, after comparing every object with the log's hash."""
    store = run.store()
    reader = LogReader(store)
    reader.poll()
    entries = [item.entry for item in reader.snapshot.episodes.values()]
    for entry in entries:
        assert hashlib.sha256(store.get(entry.key)).hexdigest() == entry.sha256
    return {entry.episode_id for entry in entries}


def test_committed_episodes_survive_and_the_rest_follows(disk, episodes):
    run = RunDirectory(disk.path / "run")
    many = [
        replace(episode, info=replace(episode.info, episode_id=f"{episode.info.episode_id}-{copy}"))
        for copy in range(40)
        for episode in episodes
    ]
    disk.resize(600)
    with pytest.raises(StoreError, match=r"no space left to write .*: free space on its disk"):
        ingest(run.store(), iter(many), EpisodeLimits(), batch=16)
    kept = committed_and_intact(run)
    assert 0 < len(kept) < len(many)
    disk.resize(16_384)
    result = ingest(run.store(), iter(many), EpisodeLimits(), batch=16)
    assert len(result.committed) == len(many) - len(kept)
    assert committed_and_intact(run) == {episode.info.episode_id for episode in many}
    assert not list(run.path.rglob(".tmp-*"))


def test_a_stage_keeps_its_last_checkpoint_and_continues(disk, episodes, tmp_path):
    run = RunDirectory(disk.path / "run")
    commit(run, episodes)
    seen: list[int] = []
    stop = Control(watch=lambda result, _: seen.append(result.update), stop=lambda: len(seen) >= 4)
    run_sft(run, RECIPE.sft, seed=1, control=stop)
    elsewhere = copy_of(run, tmp_path / "elsewhere")

    full = Control(watch=lambda *_: disk.fill())
    with pytest.raises(StoreError, match=r"no space left to write .*checkpoints.*: free space on its disk"):
        run_sft(run, RECIPE.sft, seed=1, control=full)
    found = run.checkpoints("sft").latest()
    assert found is not None
    assert found.progress.update == 4
    assert sorted(path.name for path in found.directory.parent.iterdir()) == ["update-000000004"]

    disk.free()
    resumed = run_sft(run, RECIPE.sft, seed=1)
    undisturbed = run_sft(elsewhere, RECIPE.sft, seed=1)
    assert resumed.progress.finished
    assert (resumed.directory / "state.safetensors").read_bytes() == (
        undisturbed.directory / "state.safetensors"
    ).read_bytes()


def test_metrics_say_that_the_disk_is_full(disk):
    log = MetricsLog(disk.path / "run", "learner", "sft", every=1)
    log.add(1, {"loss/flow": 1.0}, snapshot=1, policy_version=0, extra={})
    disk.fill()

    def train_on() -> None:
        for update in range(2, 100):
            log.add(update, {"loss/flow": 1.0}, snapshot=1, policy_version=0, extra={})

    with pytest.raises(StoreError, match=r"no space left to write .*learner\.jsonl"):
        train_on()
    disk.free()
    log.close()
    # The line that was cut does not spoil the ones that follow.
    again = MetricsLog(disk.path / "run", "learner", "sft", every=1)
    again.add(100, {"loss/flow": 2.0}, snapshot=1, policy_version=0, extra={})
    again.close()
    rows = [json.loads(line) for line in (disk.path / "run" / "metrics" / "learner.jsonl").read_text().splitlines()]
    assert (rows[0]["update"], rows[-1]["update"]) == (1, 100)


def test_the_command_explains_it(disk, capsys):
    disk.resize(64)
    (disk.path / "run").mkdir()
    disk.fill()
    assert dispatch(["sft", "--run", str(disk.path / "run"), "--budget", "smoke"]) == 1
    error = capsys.readouterr().err
    assert "no space left to write" in error
    assert "Traceback" not in error


def test_a_replay_that_outgrows_its_directory_says_so(disk, episodes):
    """And does not die of SIGBUS; what was in it stays, and freeing space mends it."""
    arena = ReplayArena(
        STATE_EMBODIMENT, horizon=5, gamma=0.9, embed=lambda _: np.zeros(2), initial_rows=64, directory=disk.path
    )
    arena.add(episodes[:2])
    disk.fill()
    with pytest.raises(StoreError, match=r"no space left to write .*: free space on its disk"):
        arena.add(episodes[2:])
    assert arena.num_episodes == 2
    disk.free()
    arena.add(episodes[2:])
    assert arena.num_episodes == len(episodes)
    last = int(arena.view.first_row_E[-1])
    np.testing.assert_array_equal(arena.view.states_RS[last:], episodes[-1].states_TS)
    arena.close()


def test_a_checkpoint_that_does_not_fit_leaves_no_rubbish(disk):
    store = CheckpointStore(disk.path / "sft")

    def save(update: int, size: int) -> Checkpoint:
        progress = Progress(stage="sft", update=update, snapshot=1, policy_version=0, finished=False)
        return store.save(progress, policy=os.urandom(size), value=None, state={"updates": update}, config={})

    save(1, 1000)
    with pytest.raises(StoreError, match="no space left"):
        save(2, 8 * 2**20)
    latest = store.latest()
    assert latest is not None
    assert latest.progress.update == 1
    assert [path.name for path in store.directory.iterdir()] == ["update-000000001"]
    assert save(3, 1000).policy_path.stat().st_size == 1000
