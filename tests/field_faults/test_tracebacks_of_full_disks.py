"""`lwd report` and `lwd evaluate` on a full or read-only disk ended in a traceback: one line says what to do."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from lwd.cli.main import dispatch
from lwd.errors import os_error_in_words
from lwd.models.checkpoint import policy_bytes
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.robots.sim import TASKS
from lwd.robots.sim.embodiments import STATE_EMBODIMENT


def small_policy() -> bytes:
    known = {text: [0.0] * EMBEDDING_SIZE for task in TASKS.values() for text in task.instructions}
    size = STATE_EMBODIMENT.state_size
    config = VLAConfig(horizon=5, token_width=4, context_size=16, expert_width=16, expert_depth=1, flow_steps=2)
    statistics = StateStatistics(mean=(0.0,) * size, std=(1.0,) * size)
    return policy_bytes(SmallVLA(STATE_EMBODIMENT, config, statistics, InstructionEncoder(known)))


def _fill(disk: Path) -> None:
    with contextlib.suppress(OSError), (disk / "filler").open("ab", buffering=0) as file:
        while True:
            file.write(b"\0" * 4096)


@pytest.fixture(params=["full", "read-only"])
def run(tmp_path, request) -> Iterator[Path]:
    """A run on a disk that takes nothing."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1024k", "tmpfs", str(disk)]
    if (mounted := subprocess.run(mount, capture_output=True, text=True, check=False)).returncode != 0:
        pytest.skip(f"no right to mount a small file system here: {mounted.stderr.strip()}")
    try:
        run = disk / "run"
        run.mkdir()
        (run / "config.json").write_text(json.dumps({"note": "a run"}))
        (run / "policy.safetensors").write_bytes(small_policy())
        if request.param == "full":
            _fill(disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        yield run
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)


def one_line(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    assert dispatch(words) == 1
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("lwd ")]
    assert len(lines) == 1
    return lines[0]


def test_a_report_says_where_and_what_to_do(run, capsys):
    said = one_line(["report", str(run)], capsys)
    assert str(run / "report.html") in said
    assert "free space on its disk" in said or "make its file system writable" in said


def test_an_evaluation_says_where_and_what_to_do(run, capsys):
    words = [
        "evaluate",
        str(run / "policy.safetensors"),
        "--episodes",
        "1",
        "--tasks",
        "press_button",
        "--workers",
        "0",
    ]
    said = one_line(words, capsys)
    assert str(run / "policy.jsonl") in said
    assert "free space on its disk" in said or "make its file system writable" in said


def test_any_error_of_the_system_is_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("no directory")
    (tmp_path / "store").mkdir()
    words = ["data", "copy", "--from", str(tmp_path / "store"), "--to", str(tmp_path / "file" / "there")]
    assert str(tmp_path / "file") in one_line(words, capsys)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(28, "No space left on device"), "free space on the disk of the run, or of temporary files (TMPDIR)"),
        (OSError(28, "No space left on device", "/a/b"), "No space left on device (/a/b): free space on its disk"),
        (OSError(30, "Read-only file system", "/a/b"), "(/a/b): make its file system writable, or give another path"),
        (PermissionError(13, "Permission denied", "/a/b"), "(/a/b): change its permissions, or run the command as"),
        (FileNotFoundError(2, "No such file or directory", "/a/b"), "No such file or directory (/a/b): check the path"),
        (OSError("the cable"), "the cable: check the path, its disk or the network"),
    ],
)
def test_every_error_of_the_system_has_a_remedy(error, words):
    assert words in os_error_in_words(error)


def test_a_reader_that_closes_the_pipe_gets_no_traceback():
    """As in `lwd ... | head`."""
    reader, writer = os.pipe()
    os.close(reader)
    code = "from lwd.cli.main import VERBS, main; main()"
    command = [sys.executable, "-c", code, "bus", "rights", "--role", "coordinator", "--user", "c"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")
