"""Starts the processes of a learner group as torchrun would, without its agent."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]


def start_group(scenario: str, directory: Path, *, size: int = 2, **environment: str) -> list[subprocess.Popen[str]]:
    """Start all processes of a scenario of tests/unit/learner/group_process.py, by rank."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        **environment,
    }
    command = [sys.executable, "-W", "error", "-m", "tests.unit.learner.group_process", scenario, str(directory)]
    return [
        subprocess.Popen(
            command,
            env=common | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in range(size)
    ]


def run_group(
    scenario: str, directory: Path, *, statuses: tuple[int, int] = (0, 0), timeout_s: float = 180.0, **environment: str
) -> list[dict[str, Any]]:
    """Run a scenario to its end; return what each process found."""
    processes = start_group(scenario, directory, **environment)
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    assert tuple(process.returncode for process in processes) == statuses, outputs
    return [json.loads((directory / f"rank-{rank}.json").read_text()) for rank in range(len(processes))]
