"""The spool's budget decides whether an episode may begin; it never refuses or deletes a finished one."""

import shutil

import pytest

from lwd.errors import ConfigError
from lwd.fleet import spool as spool_module
from lwd.fleet.spool import Spool, SpoolLimits

MIB = 2**20


def limited(path, budget_bytes: int) -> Spool:
    spool = Spool(path, SpoolLimits(budget_bytes=budget_bytes, min_free_bytes=0))
    spool.claim("robot-1")
    return spool


def test_a_used_up_budget_is_told_with_the_remedy_and_room_ends_it(tmp_path):
    spool = limited(tmp_path, 10 * MIB)
    episodes = [spool.add("robot-1", f"e{number}", bytes(2 * MIB)) for number in range(3)]
    assert spool.shortage(0) == ""  # 6 MiB used, one of 2 MiB fits
    assert "raise the budget" in spool.shortage(2)  # beside two that run, it does not
    episodes.append(spool.add("robot-1", "e3", bytes(2 * MIB)))
    episodes.append(spool.add("robot-1", "e4", bytes(2 * MIB)))  # a finished one is taken all the same
    assert spool.used_bytes == 10 * MIB
    assert "see why episodes are not committed" in spool.shortage(0)
    for episode in episodes[:2]:
        spool.remove(episode)
    assert spool.shortage(0) == ""
    assert [item.episode_id for item in spool.pending()] == ["e2", "e3", "e4"]


def test_what_an_earlier_process_left_counts_and_rejected_episodes_do_too(tmp_path):
    first = limited(tmp_path, 10 * MIB)
    for number in range(4):
        episode = first.add("robot-1", f"e{number}", bytes(2 * MIB))
    first.reject(episode, "no reason")
    assert first.used_bytes == 8 * MIB
    first.close()
    second = limited(tmp_path, 10 * MIB)
    assert second.used_bytes == 8 * MIB
    assert second.shortage(1) != ""
    shutil.rmtree(tmp_path / "robot-1" / "rejected")  # an operator looked at it
    second.count()
    assert second.used_bytes == 6 * MIB
    assert second.shortage(0) == ""


def test_a_disk_that_others_fill_is_kept_free(tmp_path, monkeypatch):
    spool = Spool(tmp_path, SpoolLimits(budget_bytes=2**40, min_free_bytes=100 * MIB))
    spool.claim("robot-1")
    spool.add("robot-1", "e0", bytes(MIB))
    monkeypatch.setattr(spool_module.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(1, 1, 101 * MIB - 1))
    assert "free space on it" in spool.shortage(0)


def test_wrong_limits_are_refused():
    with pytest.raises(ConfigError, match="budget is 0"):
        SpoolLimits(budget_bytes=0)
    with pytest.raises(ConfigError, match="must not be negative"):
        SpoolLimits(min_free_bytes=-1)


def test_robots_that_nobody_runs_are_found_and_a_running_one_is_not(tmp_path):
    running, other = limited(tmp_path, MIB), Spool(tmp_path)
    (tmp_path / "robot-2").mkdir()
    assert other.unclaimed() == {"robot-2"}
    running.close()
    assert other.unclaimed() == {"robot-1", "robot-2"}
