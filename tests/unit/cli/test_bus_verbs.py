"""`lwd bus rights` and `lwd console audit`: what they print, and with which status they end."""

import json

import pytest

from lwd.cli.main import dispatch
from lwd.console.audit import AuditLog
from lwd.console.audit_anchor import AuditAnchors
from lwd.data.identity import found_store
from lwd.recipes.run_directory import RunDirectory

ROBOT = ["bus", "rights", "--role", "robot", "--user", "u7", "--host", "host-7", "--robots", "arm.7"]


@pytest.mark.parametrize("kind", ["config", "jwt", "nsc"])
def test_rights_are_printed_in_each_format(capsys, kind):
    assert dispatch([*ROBOT, "--format", kind]) == 0
    printed = capsys.readouterr().out
    for subject in ("lwd.heartbeat.host.host-7", "lwd.control.command.arm=7", "_INBOX_u7.>"):
        assert subject in printed
    assert "$KV.lwd.policy" not in printed
    if kind == "jwt":
        assert set(json.loads(printed)) == {"pub", "sub", "resp"}


def test_rights_without_robots_are_refused_by_name(capsys):
    assert dispatch(["bus", "rights", "--role", "robot", "--user", "u7"]) == 1
    assert "robots is empty" in capsys.readouterr().err


def test_audit_log_that_was_cut_is_told_by_the_exit_status(tmp_path, capsys):
    check = ["console", "audit", "--run", str(tmp_path)]
    assert dispatch(check) == 1
    assert "has no audit log" in capsys.readouterr().err
    run = RunDirectory(tmp_path)
    log = AuditLog(tmp_path / "console" / "audit.jsonl")
    for who in ("ada", "bob"):
        log.append(who, "login")
    assert log.flush()
    found_store(run.store())
    AuditAnchors(log, run.store).anchor()
    log.close()
    assert dispatch(check) == 0
    log.path.write_bytes(log.path.read_bytes().splitlines(keepends=True)[0])
    capsys.readouterr()
    assert dispatch(check) == 1
    assert "has 1 lines, and had 2: its end was cut off" in capsys.readouterr().err
