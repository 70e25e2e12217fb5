"""Starts the processes of a learner group as `lwd learner --processes` does, without restarts."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from lwd.learner.rendezvous import Member

ROOT = Path(__file__).parents[1]


def start_group(
    scenario: str,
    directory: Path,
    *,
    size: int = 2,
    address: str | None = None,
    port: int | None = None,
    **environment: str,
) -> list[subprocess.Popen[str]]:
    """Start all processes of a scenario of tests/unit/learner/group_process.py, by rank.

    They meet in a directory, or as several machines do, at the address.
    """
    private = Path(tempfile.mkdtemp()) if address is None else None
    members = [
        Member(rank=rank, size=size, local_rank=rank, directory=private, address=address, port=port)
        for rank in range(size)
    ]
    common = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    command = [sys.executable, "-W", "error", "-m", "tests.unit.learner.group_process", scenario, str(directory)]
    return [
        subprocess.Popen(
            command,
            env=common | member.variables,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for member in members
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
