"""The spool: nothing leaves it by accident, and one robot belongs to one process."""

import subprocess
import sys

import pytest

from lwd.errors import ServiceError
from lwd.fleet.spool import Spool


def test_episodes_stay_until_they_are_removed(tmp_path):
    spool = Spool(tmp_path)
    spool.claim("robot-1")
    first = spool.add("robot-1", "e1", b"one")
    spool.add("robot-1", "e2", b"two")
    assert first.key == "episodes/robot-1/e1.arrow"
    assert first.read()[0] == b"one"
    # As after a crash: another object over the same directory.
    assert [item.episode_id for item in Spool(tmp_path).pending()] == ["e1", "e2"]
    spool.remove(first)
    assert [item.episode_id for item in spool.pending()] == ["e2"]


def test_a_rejected_episode_is_kept_aside_with_its_reason(tmp_path):
    spool = Spool(tmp_path)
    spool.claim("robot-1")
    spool.reject(spool.add("robot-1", "e1", b"one"), "steps is 0")
    assert spool.pending() == []
    assert (tmp_path / "robot-1" / "rejected" / "e1.arrow").read_bytes() == b"one"
    assert (tmp_path / "robot-1" / "rejected" / "e1.txt").read_text() == "steps is 0"


def test_claiming_counts_starts_and_removes_rubbish_of_a_crash(tmp_path):
    spool = Spool(tmp_path)
    assert spool.claim("robot-1") == 0
    spool.close()
    rubbish = tmp_path / "robot-1" / ".tmp-1-0-e1.arrow"
    rubbish.write_bytes(b"half")
    assert spool.pending() == []
    assert Spool(tmp_path).claim("robot-1") == 1
    assert not rubbish.exists()


def test_two_processes_cannot_run_one_robot(tmp_path):
    code = (
        "import pathlib, sys, time; from lwd.fleet.spool import Spool\n"
        "Spool(pathlib.Path(sys.argv[1])).claim('robot-1'); print('claimed', flush=True); time.sleep(60)"
    )
    other = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert other.stdout.readline() == b"claimed\n"
        with pytest.raises(ServiceError, match="robot 'robot-1' is run by another process"):
            Spool(tmp_path).claim("robot-1")
    finally:
        other.kill()
        other.communicate()
    # The kernel releases the robot of a killed process.
    assert Spool(tmp_path).claim("robot-1") == 1
