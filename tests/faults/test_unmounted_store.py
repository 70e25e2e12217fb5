"""A store that is unmounted under a running fleet: nothing is written into the mount point, nothing is lost."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .servers import environment

pytestmark = pytest.mark.faults

AWAY_S = 8.0
"""Longer than every process looks at the store; in the attack it was 20 s."""


def run_unmounted(kind: str, run: Path, *before: str) -> str:
    ended = subprocess.run(
        [*before, sys.executable, "-m", "tests.faults.unmounted_fleet", kind, str(run), str(AWAY_S)],
        env={**os.environ, **environment()},
        capture_output=True,
        text=True,
        timeout=1000,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr[-8000:]
    print(ended.stdout)
    return ended.stdout


def test_unmounted_store_by_rename_loses_no_episode(tmp_path):
    assert "accepted" in run_unmounted("renamed", tmp_path)


def test_unmounted_store_by_mount_loses_no_episode(tmp_path):
    unshare = shutil.which("unshare")
    if unshare is None or shutil.which("mount") is None:
        pytest.skip("a mount of its own needs the commands `unshare` and `mount` (util-linux)")
    own = [unshare, "--mount", "--map-root-user"] if os.geteuid() else [unshare, "--mount"]
    probe = subprocess.run(
        [*own, "mount", "--bind", str(tmp_path), str(tmp_path)], capture_output=True, text=True, check=False
    )
    if probe.returncode != 0:
        pytest.skip(f"no right to mount in a namespace of its own here: {probe.stderr.strip()}")
    assert "accepted" in run_unmounted("mounted", tmp_path, *own)
