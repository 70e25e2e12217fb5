"""A robot that is not our scene, driven joint by joint in a real browser (`make e2e`).

Set LWD_E2E_PICTURES to a directory to keep the screenshots.
"""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lwd.data.episode_file import read_episode
from lwd.data.store import DirectoryStore
from lwd.fleet.process import spawn, stop
from lwd.types import Controller, Outcome

from ..nats_servers import free_port

pytestmark = pytest.mark.e2e
WEB = Path(__file__).parents[2] / "web"
PER_STEP = 6 / 4 / 20
"""A quarter of the joints' range per second, at 20 Hz."""


@pytest.fixture
def run(tmp_path) -> Iterator[Path]:
    run = tmp_path / "run"
    run.mkdir()
    host = spawn([sys.executable, str(Path(__file__).with_name("two_arms.py")), str(run)], log=tmp_path / "host.log")
    try:
        yield run
    finally:
        stop(host, patience_s=60)


@pytest.fixture
def url(run) -> Iterator[str]:
    port = free_port()
    command = [sys.executable, "-m", "lwd", "console", "--run", str(run), "--port", str(port)]
    url = f"http://127.0.0.1:{port}"
    console = spawn(command, log=run.parent / "console.log")
    try:
        end_s = time.monotonic() + 120
        while True:
            try:
                urllib.request.urlopen(f"{url}/api/session").close()
                break
            except OSError:
                assert time.monotonic() < end_s, (run.parent / "console.log").read_text()
                time.sleep(0.5)
        yield url
    finally:
        stop(console, patience_s=60)


def test_two_arms_are_driven_joint_by_joint(run, url, tmp_path):
    pictures = Path(os.environ.get("LWD_E2E_PICTURES", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    result = subprocess.run(
        ["node", "e2e/any-robot.mjs", url, str(pictures)],
        cwd=WEB,
        env={**os.environ, "LWD_LINKS_OF": str(run), "LWD_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    measured = json.loads(result.stdout)
    joints = {"waist": 0, "fine": 1, "other_arm": 13, "button": 2, "dragged": 9}
    for name, joint in joints.items():
        assert measured[name]["axes"] == [joint]
        assert measured[name]["steps"] >= 5
    assert (measured["fine"]["largest"], measured["dragged"]["largest"]) == (0.3, pytest.approx(0.5, abs=0.05))
    assert measured["frames"] == [0, 5]
    assert measured["hands_off"] == {"steps": 0, "axes": [], "largest": 0}
    store = DirectoryStore(run / "store")
    (entry,) = (item for item in store.list("episodes") if measured["episode_id"] in item.key)
    episode = read_episode(store.get(entry.key))
    assert (episode.info.outcome, set(episode.info.operator_ids)) == (Outcome.FAILURE, {"local"})
    human_T = np.flatnonzero(episode.controllers_T == Controller.HUMAN)
    assert len(human_T) == sum(measured[name]["steps"] for name in joints)
    # Positions, from where the arms were measured, no faster than their keys move them.
    first_A = episode.actions_TA[human_T[0]] - episode.states_TS[human_T[0], :14]
    assert np.abs(first_A).max() <= PER_STEP + 1e-5
    moved_TA = np.abs(np.diff(episode.actions_TA[human_T], axis=0))
    assert 0.9 * PER_STEP < moved_TA.max() <= PER_STEP + 1e-5
    assert set(np.flatnonzero(moved_TA.max(axis=0) > 1e-6)) == set(joints.values())
