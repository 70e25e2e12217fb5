"""A whole fleet of four robots under `lwd up --console`, and one operator's shift in a real browser (`make e2e`).

Set LWD_E2E_PICTURES to a directory to keep the screenshots.
"""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lwd.data.episode_file import read_episode
from lwd.data.log import LogReader
from lwd.data.store import open_store
from lwd.fleet.process import spawn, stop
from lwd.types import Controller, Outcome

from ..nats_servers import free_port
from ..served_console import opened_by_link

pytestmark = pytest.mark.e2e
WEB = Path(__file__).parents[2] / "web"
LWD = (sys.executable, "-m", "lwd")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run whose offline stages are finished."""
    run = tmp_path_factory.mktemp("run") / "run"
    if prepared := os.environ.get("LWD_E2E_RUN"):
        shutil.copytree(prepared, run)
        return run
    for stage in (["data", "generate"], ["sft"], ["offline"]):
        subprocess.run([*LWD, *stage, "--run", str(run), "--budget", "smoke"], check=True)
    return run


@pytest.fixture(scope="module")
def url(run) -> Iterator[str]:
    port = free_port()
    command = [*LWD, "up", "--run", str(run), "--budget", "smoke", "--robots", "4", "--env-steps", "100000000"]
    process = spawn([*command, "--console", "--console-port", str(port)], log=run / "up.log")
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process, patience_s=60)


def test_an_operators_shift(run, url, tmp_path):
    pictures = Path(os.environ.get("LWD_E2E_PICTURES", tmp_path))
    pictures.mkdir(parents=True, exist_ok=True)
    wait_for(run, url)
    result = subprocess.run(
        ["node", "e2e/console.mjs", url, str(pictures)],
        cwd=WEB,
        env={**os.environ, "LWD_LINKS_OF": str(run), "LWD_PYTHON": sys.executable},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr + result.stdout
    measured = json.loads(result.stdout)
    print(json.dumps(measured, indent=1))
    # Every robot moves; how fast, drawn in software beside its own fleet, says nothing (benchmarks.console does).
    assert min(measured["pose_updates_per_s"].values()) > 0
    assert measured["second_operator"] == "local controls this robot: ask them to release it"
    assert measured["export_bytes"] > 10_000
    # What the person did is in a committed snapshot, with their name and the executed actions.
    store = open_store(run / "store")
    reader = LogReader(store)
    reader.poll()
    committed = reader.find(f"{measured['driven']['robot_id']}/{measured['driven']['episode_id']}")
    assert committed.entry.outcome is Outcome.SUCCESS
    episode = read_episode(store.get(committed.entry.key))
    human_T = episode.controllers_T == Controller.HUMAN
    assert human_T.all()
    assert (abs(episode.actions_TA).max(axis=1) > 0).all()
    assert set(episode.info.operator_ids) == {"local"}


def wait_for(run: Path, url: str) -> None:
    deadline_s = time.monotonic() + 180
    while True:
        assert time.monotonic() < deadline_s, "no fleet"
        with contextlib.suppress(httpx.HTTPError), opened_by_link(run, url) as client:
            while time.monotonic() < deadline_s:
                if sum(bool(robot["task"]) for robot in client.get("/api/fleet").json()["robots"]) == 4:
                    return
                time.sleep(0.5)
        time.sleep(0.5)
