"""The console's audit log: two consoles, a disk that is full, lines that somebody changed or cut off."""

import json
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lwd.console.audit import MAX_WAITING, AuditLog
from lwd.console.audit_anchor import AuditAnchors, verify
from lwd.console.audit_file import FIRST, chain
from lwd.data.store import DirectoryStore


def rows(path: Path) -> list[dict[str, object]]:
    """Return the lines of a log whose chain holds."""
    with path.open("rb") as file:
        return [json.loads(line) for line, _ in chain(file, FIRST, 0)]


def write_lines(path: Path, who: str, count: int) -> None:
    log = AuditLog(path)
    for number in range(count):
        log.append(who, "take", number=number)
        if number % 8 == 0:
            time.sleep(0.001)
    assert log.flush(30.0)
    log.close()


def test_audit_log_of_two_consoles_is_one_chain(tmp_path):
    path = tmp_path / "console" / "audit.jsonl"
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=write_lines, args=(path, who, 200)) for who in ("ada", "bob")]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
        assert writer.exitcode == 0
    found = rows(path)
    for who in ("ada", "bob"):
        assert [row["number"] for row in found if row["who"] == who] == list(range(200))
    assert len(found) == 400
    assert not list(path.parent.glob("audit.jsonl.changed*"))


_FULL = """
import resource, sys, time
from pathlib import Path
from lwd.console.audit import AuditLog
path = Path(sys.argv[1])
log = AuditLog(path)
log.append("ada", "login")
assert log.flush(10)
# As a full disk does: the next write is a short one, those after it fail.
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 40, hard))
size = path.stat().st_size
started_s = time.monotonic()
for number in range(5000):
    log.append("ada", "take", number=number)
assert time.monotonic() - started_s < 5, "somebody waited for the disk"
assert not log.flush(1.0)
assert path.stat().st_size == size, "half a line is in the log"
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
assert log.flush(30.0)
log.append("ada", "release")
log.close()
"""


def test_audit_log_on_a_full_disk_makes_nobody_wait_and_keeps_its_chain(tmp_path):
    path = tmp_path / "console" / "audit.jsonl"
    done = subprocess.run(
        [sys.executable, "-c", _FULL, str(path)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("\n") < 5
    found = rows(path)
    assert [row["number"] for row in found if row["what"] == "take"] == list(range(MAX_WAITING))
    assert [row["count"] for row in found if row["what"] == "lines lost"] == [5000 - MAX_WAITING]
    assert found[-1]["what"] == "release"


@pytest.mark.parametrize(
    "change",
    [
        lambda lines: [*lines[:1], json.dumps({**json.loads(lines[1]), "who": "eve"}), *lines[2:]],
        lambda lines: [*lines[:1], *lines[2:]],
        lambda lines: ["not JSON", *lines],
        lambda lines: ["[" * 100_000, *lines],
        lambda lines: ["x" * (2 << 20), *lines],
    ],
)
def test_audit_log_that_was_changed_is_kept_aside_and_a_new_one_begins(tmp_path, caplog, change):
    path = tmp_path / "console" / "audit.jsonl"
    write_lines(path, "ada", 4)
    changed = "\n".join(change(path.read_text().splitlines())) + "\n"
    path.write_text(changed)
    write_lines(path, "bob", 1)
    (aside,) = path.parent.glob("audit.jsonl.changed-*")
    assert aside.read_text() == changed
    assert [(row["who"], row["what"]) for row in rows(path)] == [("console", "log begun anew"), ("bob", "take")]
    assert aside.name in caplog.text
    assert "somebody changed the file" in caplog.text or "longer than" in caplog.text


def test_audit_log_that_is_changed_while_a_console_writes_it_is_noticed(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for number in range(4):
        log.append("ada", "take", number=number)
    assert log.flush()
    path.write_bytes(b"".join(path.read_bytes().splitlines(keepends=True)[:2]))
    log.append("ada", "release")
    assert log.flush()
    log.close()
    assert [row["what"] for row in rows(path)] == ["log begun anew", "release"]


def test_audit_log_whose_end_was_cut_off_shows_in_the_store(tmp_path):
    path, store = tmp_path / "audit.jsonl", DirectoryStore(tmp_path / "store")
    log = AuditLog(path)
    for number in range(4):
        log.append("ada", "take", number=number)
    assert log.flush()
    anchors = AuditAnchors(log, lambda: store)
    anchors.anchor()
    anchors.anchor()
    log.append("ada", "release")
    log.close()
    assert len(list(store.list("audit"))) == 1
    assert verify(path, store) == []
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:3]))
    assert verify(path, store) == ["audit.jsonl has 3 lines, and had 4: its end was cut off"]
    AuditLog(path).close()
    path.unlink()
    write_lines(path, "eve", 5)
    (finding,) = verify(path, store)
    assert "had 4 lines, and is not here" in finding
    # Whoever makes the same chain with another last line.
    path.write_bytes(b"".join(whole[:3]))
    write_lines(path, "eve", 1)
    assert verify(path, store) == ["audit.jsonl: line 4 is another one than it was"]
