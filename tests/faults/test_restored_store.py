"""A store that was restored from an older copy is not rewritten in silence, at no start."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lwd.data.identity import found_store
from lwd.data.log import LogReader, log_key
from lwd.data.run_store import open_run_store
from lwd.data.store import DirectoryStore
from lwd.errors import ResumeError, StoreError
from lwd.recipes.accepted_store import accept_store
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Source

from ..toy_learner import Fleet, Site
from .servers import environment

STARTS = 4


def content(store: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(store)): path.read_bytes()
        for path in store.rglob("*")
        if path.is_file() and "probe" not in path.parts
    }


def fleet_of(run: Path, episodes: int) -> Fleet:
    store = open_run_store(run, None)
    found_store(store)
    fleet = Fleet(store)
    fleet.commit(Source.DEMONSTRATION)
    for _ in range(episodes - 1):
        fleet.commit()
    return fleet


def test_restored_older_store_is_refused_by_every_coordinator_start(tmp_path):
    fleet = fleet_of(tmp_path, 3)
    shutil.copytree(tmp_path / "store", tmp_path / "backup")
    for _ in range(4):
        fleet.commit()
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(tmp_path / "backup", tmp_path / "store")
    # An upload that waits for its commit.
    shutil.copy(tmp_path / "store/episodes/r1/episode-002.arrow", tmp_path / "store/episodes/r1/episode-777.arrow")
    before = content(tmp_path / "store")
    for _ in range(STARTS):
        ended = subprocess.run(
            [sys.executable, "-m", "lwd", "coordinator", "--run", str(tmp_path)],
            env={**os.environ, **environment()},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert ended.returncode == 75, ended.stderr
        assert "ends before version 7" in ended.stderr
        assert "Traceback" not in ended.stderr
        assert content(tmp_path / "store") == before


@pytest.mark.parametrize("forked", [False, True], ids=["shorter", "forked"])
def test_restored_older_store_is_refused_by_a_learner_that_continues(tmp_path, forked):
    """The checkpoint knows its last log entry, also where the run's own note is lost."""
    fleet = fleet_of(tmp_path / "run", 3)
    site = Site(tmp_path / "run", fleet)
    stage = site.learner()
    results = stage.run()
    while stage.progress.update < 5:
        next(results)
    fleet.commit()
    while stage.progress.update < 15:
        next(results)
    assert stage.progress.snapshot == 4
    stage.save()
    results.close()
    stage.reader.close()
    stage.batches.close()
    bare = DirectoryStore(tmp_path / "run" / "store")
    (bare.root / log_key(4)).unlink()
    (tmp_path / "run" / "known-log.json").unlink()
    if forked:
        site.fleet = other = Fleet(bare)
        other.count = 50
        other.commit()
        other.commit()
    site.fleet.store = bare
    before = content(bare.root)
    for _ in range(STARTS):
        with pytest.raises((ResumeError, StoreError), match="snapshot 4") as found:
            site.learner()
        assert "--accept-restored" in str(found.value)
    assert content(bare.root) == before


def test_accepted_older_store_begins_the_online_stage_again(tmp_path):
    fleet = fleet_of(tmp_path, 5)
    online = tmp_path / "checkpoints" / "online"
    checkpoints = RunDirectory(tmp_path).checkpoints("online")
    from lwd.learner.checkpoint import Progress

    reader = LogReader(fleet.store)
    reader.poll()
    progress = Progress(
        stage="online", update=7, snapshot=5, policy_version=0, finished=False, snapshot_sha256=reader.sha256
    )
    checkpoints.save(progress, policy=b"p", value=None, state={}, config={})
    (tmp_path / "store" / log_key(5)).unlink()
    accepted = accept_store(RunDirectory(tmp_path), "somebody")
    assert (accepted.version, accepted.known_version) == (5, 5)
    (aside,) = accepted.set_aside
    assert (aside / "update-000000007").is_dir()
    assert not online.exists()
    row = json.loads((tmp_path / "accepted-stores.jsonl").read_text())
    assert (row["who"], row["version"]) == ("somebody", 5)
    # What fits is kept.
    accepted = accept_store(RunDirectory(tmp_path), "somebody")
    assert accepted.set_aside == ()
