"""A mistyped --run left an empty run behind (six verbs). Only verbs that begin runs make one."""

import pytest

from lwd.cli.main import dispatch

READ = ("data list", "data snapshots", "data quarantine", "data retain", "data index", "data verify")
WORK = ("sft", "offline", "filtered-bc", "up", "robot", "coordinator", "learner", "console", "operator --scripted")
SMALL = ("console link", "console audit", "console account", "data verify --accept-restored", "stop")


@pytest.mark.parametrize("verb", [*READ, *WORK, *SMALL])
def test_nothing_is_left_and_the_nearest_run_is_named(verb, tmp_path, capsys):
    (tmp_path / "demo").mkdir()
    (tmp_path / "pixels").mkdir()
    wrong = tmp_path / "dmeo"
    assert dispatch([*verb.split(), "--run", str(wrong)]) in (1, 78)
    said = capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["demo", "pixels"]
    if verb == "stop":  # robots must stop: it takes the bus alone, too
        assert f"run {wrong} is not there: give its directory with --run, or the bus with --nats-url" in said
    else:
        assert f"there is no run {wrong} (did you mean {tmp_path / 'demo'}?): give the directory of one" in said


@pytest.mark.parametrize("words", [("--store", "there"), ("--nats-url", "nats://127.0.0.1:1")])
def test_a_run_whose_store_or_bus_is_elsewhere_begins_here(words, tmp_path, capsys, monkeypatch):
    """As on a robot's own computer."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there").mkdir()
    assert dispatch(["robot", "--run", "new", *words]) == 1
    assert "is empty" in capsys.readouterr().err
    assert (tmp_path / "new" / "run.json").exists()
