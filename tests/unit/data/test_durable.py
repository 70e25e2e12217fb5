"""Durable local writes: whole or not at all, and clear words when the disk is full."""

import errno
import os
from pathlib import Path

import pytest

from lwd.data import durable
from lwd.errors import StoreError


def test_a_new_file_is_never_overwritten(tmp_path):
    path = tmp_path / "deep" / "down" / "file"
    assert durable.write_new(path, b"one")
    assert not durable.write_new(path, b"two")
    assert path.read_bytes() == b"one"
    assert [item.name for item in path.parent.iterdir()] == ["file"]


def test_replace_swaps_the_whole_file_and_sets_its_mode(tmp_path):
    path = tmp_path / "file"
    durable.replace(path, b"one", mode=0o600)
    durable.replace(path, b"two", mode=0o600)
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("write", [durable.write_new, durable.replace])
def test_a_full_disk_is_explained_and_leaves_no_rubbish(tmp_path, monkeypatch, write):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "file"
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StoreError, match=r"no space left to write .*file: free space"):
        write(path, b"x" * 1000)
    assert list(tmp_path.iterdir()) == []


def test_a_directory_in_the_way_is_explained(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StoreError, match="check the path"):
        durable.write_new(tmp_path / "file" / "below", b"x")


def test_a_directory_that_somebody_else_made_is_synced_once_before_it_is_relied_on(tmp_path, monkeypatch):
    events = []
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(str(Path(f"/proc/self/fd/{fd}").readlink())), sync(fd))[1]
    )
    (tmp_path / "made").mkdir()
    durable.write_new(tmp_path / "made" / "one", b"x")
    durable.write_new(tmp_path / "made" / "two", b"x")
    assert events[0] == str(tmp_path)
    assert events.count(str(tmp_path)) == 1


def test_what_was_read_lasts_and_a_quiet_directory_is_not_synced_again(tmp_path, monkeypatch):
    durable.write_new(tmp_path / "here" / "one", b"x")
    changed_s = (tmp_path / "here").stat().st_mtime
    events = []
    monkeypatch.setattr(os, "fsync", lambda fd: events.append(Path(f"/proc/self/fd/{fd}").readlink()))
    monkeypatch.setattr(durable.time, "time_ns", lambda: int((changed_s + 1) * 1e9))
    durable.settle(tmp_path / "here")
    durable.settle(tmp_path / "here")
    assert events == [tmp_path / "here"]
    (tmp_path / "here" / "two").write_bytes(b"x")
    os.utime(tmp_path / "here", (changed_s + 2, changed_s + 2))
    durable.settle(tmp_path / "here")
    assert events == [tmp_path / "here"] * 2


def test_a_directory_that_just_changed_is_synced_every_time(tmp_path, monkeypatch):
    durable.write_new(tmp_path / "one", b"x")
    events = []
    monkeypatch.setattr(os, "fsync", events.append)
    monkeypatch.setattr(durable.time, "time_ns", lambda: tmp_path.stat().st_mtime_ns)
    for _ in range(3):
        durable.settle(tmp_path)
    assert len(events) == 3


def test_every_write_is_synced_before_it_is_visible(tmp_path, monkeypatch):
    durable.ensure_directory(tmp_path)
    events = []
    sync, link = os.fsync, os.link
    monkeypatch.setattr(
        os, "fsync", lambda fd: (events.append(str(Path(f"/proc/self/fd/{fd}").readlink())), sync(fd))[1]
    )
    monkeypatch.setattr(os, "link", lambda a, b: (events.append("link"), link(a, b))[1])
    durable.write_new(tmp_path / "file", b"x")
    assert [event.rpartition("/")[2][:5] for event in events[:2]] == [".tmp-", "link"]
    assert events[2] == str(tmp_path)
