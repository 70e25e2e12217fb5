"""The `lwd data` verbs on a real store: what they print, what they change, and how they refuse."""

import json
import os
import re
import time
from pathlib import Path

import duckdb
import pytest

from lwd.cli import data_index
from lwd.cli.main import dispatch
from lwd.data.quarantine import quarantine
from lwd.data.revocation import newest_log
from lwd.data.store import DirectoryStore
from lwd.data.validation import EpisodeLimits
from lwd.fleet.ingest import ingest
from lwd.types import Outcome

from ..data.episodes import EMBODIMENT, episode

NOON_S = 1764072000.0
"""2025-11-25T12:00:00Z."""


@pytest.fixture
def run(tmp_path) -> Path:
    """Twelve episodes of two robots, one an hour from noon on; robot-1 fails from 15:00 on."""
    made = [
        episode(
            number,
            robot_id=f"robot-{number % 2}",
            task="reach" if number < 8 else "push",
            outcome=Outcome.FAILURE if number % 2 and number >= 3 else Outcome.SUCCESS,
            started_at_s=NOON_S + 3600.0 * number,
            policy_version=number // 4,
        )
        for number in range(12)
    ]
    ingest(DirectoryStore(tmp_path / "run" / "store"), made, EpisodeLimits(embodiment=EMBODIMENT), batch=6)
    return tmp_path / "run"


def store_of(run: Path) -> DirectoryStore:
    return DirectoryStore(run / "store")


def live(run: Path) -> list[int]:
    return [int(name.rpartition("-")[2]) for name in newest_log(store_of(run)).snapshot.episodes]


def output(capsys, *words: object) -> str:
    """Run a command that must succeed; return what it printed, in one line."""
    assert dispatch([str(word) for word in words]) == 0, capsys.readouterr().err
    return re.sub(r"\s+", " ", capsys.readouterr().out)


def rows(capsys, *words: object):
    return json.loads(output(capsys, *words, "--json"))


def refused(capsys, *words: object) -> str:
    assert dispatch([str(word) for word in words]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "Traceback" not in captured.err
    return captured.err


def test_a_robot_is_revoked_since_a_time_after_a_look(run, capsys):
    words = ("data", "revoke", "--run", run, "--robot", "robot-1", "--since", "2025-11-25T15:00Z")
    look = output(capsys, *words, "--dry-run")
    assert "push 2 40" in look
    assert "reach 3 60" in look
    assert "all 5 100" in look
    assert "5 of 12 episodes at version 2 next: the same command without --dry-run" in look
    assert live(run) == list(range(12))
    done = output(capsys, *words, "--reason", "gripper slips")
    assert "all 5 100 version 3 revokes 5 episodes next: lwd data list" in done
    assert live(run) == [0, 1, 2, 4, 6, 8, 10]
    assert "nothing to revoke: no episode of version 3 fulfils" in output(capsys, *words)
    (version,) = rows(capsys, "data", "snapshots", "--run", run, "--revocations")
    assert (version["version"], version["reason"], len(version["revoked"])) == (3, "gripper slips", 5)
    found = rows(capsys, "data", "list", "--run", run, "--revoked", "--task", "push")
    assert [(row["episode_id"], row["reason"], row["revoked_version"]) for row in found] == [
        ("episode-9", "gripper slips", 3),
        ("episode-11", "gripper slips", 3),
    ]


@pytest.mark.parametrize(
    ("conditions", "left"),
    [
        (["--until", "2025-11-25 14:00"], range(2, 12)),
        (["--since", str(NOON_S + 3600 * 8)], range(8)),
        (["--policy-version", "2", "--robot", "robot-0"], [*range(8), 9, 11]),
        (["--episode", "episode-3", "episode-4"], [0, 1, 2, *range(5, 12)]),
    ],
)
def test_other_conditions(run, conditions, left, capsys):
    output(capsys, "data", "revoke", "--run", run, *conditions)
    assert live(run) == list(left)


@pytest.mark.parametrize(
    ("conditions", "explanation"),
    [
        ([], "nothing says which episodes: give --robot"),
        (["--since", "last tuesday"], "since 'last tuesday' is no time"),
        (["--until", "1764072000000"], "in milliseconds it would be 2025-11-25T12:00:00Z"),
        (["--since", "2025-11-26", "--until", "2025-11-25"], "is not before until"),
        (["--episode", "episode-99"], "episode episode-99 is not in the log"),
    ],
)
def test_what_cannot_be_meant_is_refused_and_revokes_nothing(run, conditions, explanation, capsys):
    assert explanation in refused(capsys, "data", "revoke", "--run", run, *conditions)
    assert newest_log(store_of(run)).version == 2


def test_snapshots_and_list_show_the_newest_and_say_how_many_there_are(run, capsys):
    shown = output(capsys, "data", "snapshots", "--run", run, "--last", "1")
    assert re.search(r" 2 20\d\d-\d\d-\d\dT[\d:]+Z 1 6 120", shown)
    assert "1 of 2 versions; version 2 holds 12 episodes, 240 steps; 0 are revoked" in shown
    shown = output(capsys, "data", "list", "--run", run, "--robot", "robot-0", "--limit", "2")
    assert "episode-8 robot-0 push 2025-11-25T20:00:00Z fleet success 2 20 " in shown
    assert "2 of 6 matching episodes, 120 steps in all; --limit 0 shows all" in shown
    assert len(rows(capsys, "data", "list", "--run", run)) == 12
    assert "last is -1" in refused(capsys, "data", "snapshots", "--run", run, "--last", "-1")
    assert "limit is -1" in refused(capsys, "data", "list", "--run", run, "--limit", "-1")


def test_quarantine_shows_reasons(run, capsys):
    assert "0 objects are quarantined" in output(capsys, "data", "quarantine", "--run", run)
    quarantine(store_of(run), "episodes/robot-1/x.arrow", "states is not finite at [red]")
    shown = output(capsys, "data", "quarantine", "--run", run)
    assert "episodes/robot-1/x.arrow states is not finite at [red] 1 objects are quarantined" in shown
    (record,) = rows(capsys, "data", "quarantine", "--run", run)
    assert record["reason"] == "states is not finite at [red]"


def sql_of(text: str) -> str:
    """The statement of the documented `duckdb -c "..."` line."""
    (statement,) = re.findall(r'^duckdb -c "(.*)"$', text, re.MULTILINE)
    return statement


def test_the_documented_line_queries_the_index(run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    output(capsys, "data", "revoke", "--run", run, "--episode", "episode-1")
    output(capsys, "data", "index", "--run", run, "--out", "episodes.parquet")
    found = duckdb.sql(sql_of(data_index.__doc__)).fetchall()
    assert found == [("push", 4, 0.5), ("reach", 7, 4 / 7)]
    # What an operator asks for: who, when, how much help.
    query = """SELECT robot_id, policy_version, count(*), sum(steps), sum(human_steps) > 0,
        min(to_timestamp(started_at_s)) FROM 'episodes.parquet' GROUP BY ALL ORDER BY ALL"""
    assert [row[:5] for row in duckdb.sql(query).fetchall()] == [
        ("robot-0", 0, 2, 40, True),
        ("robot-0", 1, 2, 40, True),
        ("robot-0", 2, 2, 40, True),
        ("robot-1", 0, 1, 20, True),
        ("robot-1", 1, 2, 40, True),
        ("robot-1", 2, 2, 40, True),
    ]


def test_the_index_in_the_store_is_the_newest_snapshot_and_may_be_written_again(run, capsys):
    for _ in range(2):
        said = output(capsys, "data", "index", "--run", run)
        assert "12 episodes of version 2: index/000000000002.parquet" in said
    output(capsys, "data", "revoke", "--run", run, "--robot", "robot-1")
    output(capsys, "data", "index", "--run", run)
    newest = max((run / "store" / "index").iterdir())
    statement = re.sub(r"'episodes.parquet'", f"'{newest}'", sql_of(data_index.__doc__))
    assert duckdb.sql(statement).fetchall() == [("push", 2, 1.0), ("reach", 4, 1.0)]
    assert newest_log(store_of(run)).version == 3


def test_retain_shows_first_and_removes_with_apply(run, capsys):
    output(capsys, "data", "revoke", "--run", run, "--robot", "robot-1")
    path = run / "store" / "log" / "000000000003.json"
    eight_days_ago_s = time.time() - 8 * 86_400
    os.utime(path, (eight_days_ago_s, eight_days_ago_s))
    count = len(list(run.glob("store/episodes/*/*")))
    words = ("data", "retain", "--run", run)
    shown = output(capsys, *words)
    assert "would go objects size why revoked episodes 6 " in shown
    assert "would be removed; 0 are kept for readers next: the same command with --apply" in shown
    assert len(list(run.glob("store/episodes/*/*"))) == count == 12
    assert rows(capsys, *words, "--revoked-days", "9")["removals"] == []
    assert "revoked 7 days ago or earlier, no reader may need them" in output(capsys, *words, "--apply")
    assert len(list(run.glob("store/episodes/*/*"))) == 6
    assert "0 objects, 0 B removed" in output(capsys, *words, "--apply")
    assert "keep_policies is 0" in refused(capsys, *words, "--keep-policies", "0")


def test_copy_backs_up_and_restores(run, tmp_path, capsys):
    backup, restored = tmp_path / "backup", tmp_path / "again" / "store"
    said = output(capsys, "data", "copy", "--from", run / "store", "--to", backup)
    assert "is at version 2 with 12 episodes: 14 objects copied" in said
    assert "0 objects copied (0 B), 14 were there" in output(
        capsys, "data", "copy", "--from", run / "store", "--to", backup, "--verify"
    )
    output(capsys, "data", "copy", "--from", backup, "--to", restored)
    assert live(tmp_path / "again") == list(range(12))
    assert "there is no directory" in refused(capsys, "data", "copy", "--from", tmp_path / "typo", "--to", backup)
    assert not (tmp_path / "typo").exists()
    wrong = ("data", "copy", "--from", run / "store", "--to", "s3://b/p", "--to-option", "endpoint")
    assert "to_option 'endpoint' is not NAME=VALUE" in refused(capsys, *wrong)


@pytest.mark.parametrize("verb", ["revoke", "snapshots", "list", "quarantine", "index", "retain"])
def test_a_run_without_a_store_is_named_and_not_made(verb, tmp_path, capsys):
    assert f"there is no run {tmp_path / 'typo'}" in refused(capsys, "data", verb, "--run", tmp_path / "typo")
    assert not (tmp_path / "typo").exists()
    (tmp_path / "empty").mkdir()
    assert "run `lwd data generate" in refused(capsys, "data", verb, "--run", tmp_path / "empty")
    (tmp_path / "file").write_text("no run")
    assert "is a file" in refused(capsys, "data", verb, "--run", tmp_path / "file")
