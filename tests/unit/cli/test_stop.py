"""`lwd stop` where something is missing: what can be stopped is, and nothing is said to hold that did not say so."""

from pathlib import Path

import pytest

from lwd.cli.main import dispatch
from lwd.fleet.stop_files import StopFiles
from lwd.fleet.stop_messages import words_of


def test_stop_names_a_run_that_is_not_there(tmp_path, capsys):
    assert dispatch(["stop", "--run", str(tmp_path / "none")]) == 1
    assert "is not there: give its directory with --run" in capsys.readouterr().err


def test_stop_without_bus_and_hosts_counts_for_who_starts_next_and_does_not_pass_for_done(tmp_path, capsys):
    # What else is wrong in the run does not matter.
    (tmp_path / "run.json").write_text("garbage")
    words = ["stop", "--run", str(tmp_path), "--within", "0.5", "--name", "ada"]
    assert dispatch([*words, "--reason", "smoke"]) == 1
    said = capsys.readouterr()
    assert said.out == "no host answered: one that starts now starts stopped\n"
    assert "run.json" in said.err
    assert "not everybody could be told" in said.err
    assert words_of(StopFiles(tmp_path).read().active) == "stopped by ada: smoke"

    assert dispatch([*words, "--release"]) == 1
    assert "reason is empty: say with --reason why" in capsys.readouterr().err
    assert dispatch([*words, "--release", "--reason", "looked"]) == 1
    assert "released: stopped by ada: smoke\n" in capsys.readouterr().out
    assert not StopFiles(tmp_path).read().active


def test_stop_names_files_that_cannot_be_written(tmp_path: Path, capsys):
    (tmp_path / "stop").touch()
    assert dispatch(["stop", "--run", str(tmp_path), "--within", "0.2"]) == 1
    assert str(tmp_path / "stop") in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--name", "a b"), ("--reason", "\x1b[2J"), ("--reason", "x" * 201)])
def test_stop_refuses_words_that_a_terminal_would_obey(tmp_path, capsys, option, value):
    assert dispatch(["stop", "--run", str(tmp_path), option, value]) == 1
    error = capsys.readouterr().err
    assert option.removeprefix("--") in error
    assert "\x1b" not in error
