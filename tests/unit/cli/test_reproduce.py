"""`lwd reproduce`: the plan in words, and progress on terminals and in logs."""

import io
from pathlib import Path

import pytest
from rich.console import Console

from lwd.cli import reproduce
from lwd.cli.main import dispatch
from lwd.recipes.reproduce.engine import Status

STATE = Status(
    finished=3,
    planned=75,
    running=(("train qam-offline-seed0", 90.0, 180.0), ("train fql-offline-seed0", 30.0, None)),
    left_s=7200.0,
    stopping=False,
)


def test_the_plan_has_a_total(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["reproduce", "all", "--plan", "--root", str(tmp_path), "--out", str(tmp_path / "out")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("small: 0 of ")
    assert next(line for line in lines if line.startswith("total")).rstrip().endswith("hours")
    assert any(line.split()[:3] == ["sft", "sft", "3"] for line in lines)
    assert not list(tmp_path.iterdir())


def test_a_plan_of_an_unmeasured_budget_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["reproduce", "table1", "--plan", "--budget", "full", "--root", str(tmp_path)]) == 0
    total = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("total"))
    assert total.rstrip().endswith("unknown")


def test_no_cores_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert dispatch(["reproduce", "table1", "--jobs", "0", "--root", str(tmp_path)]) == 1
    assert "jobs is 0" in capsys.readouterr().err


def test_progress_on_a_terminal() -> None:
    screen = io.StringIO()
    with reproduce._Watch(Console(file=screen, force_terminal=True, width=100)) as watch:
        watch(STATE)
    text = screen.getvalue()
    assert "3/75 cells" in text
    assert "2.0 h left" in text
    assert "train qam-offline-seed0" in text
    assert "of about 3.0" in text


def test_progress_in_a_log_is_a_line_a_minute() -> None:
    log = io.StringIO()
    with reproduce._Watch(Console(file=log, force_terminal=False, width=200)) as watch:
        watch(STATE)
        watch(STATE)
    (line,) = log.getvalue().strip().splitlines()
    assert line.startswith("3/75 cells, 2.0 h left; train qam-offline-seed0 1.5 min")
