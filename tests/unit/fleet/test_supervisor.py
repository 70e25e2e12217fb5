"""The supervisor: starts, restarts with backoff, ends runs in order, and never leaves anything running."""

import json
import os
import signal
import sys
import threading
import time
from pathlib import Path

import pytest

from lwd.errors import ConfigError, PortInUse, ServiceError
from lwd.fleet import supervisor as supervisor_module
from lwd.fleet.nats_server import NatsServer, read_url
from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig


def python(name: str, code: str, **options) -> ProcessSpec:
    return ProcessSpec(name=name, command=(sys.executable, "-c", code), **options)


FOREVER = "import time\nwhile True: time.sleep(1)"


def supervise(run: Path, *groups: tuple[ProcessSpec, ...]) -> list[str]:
    events: list[str] = []
    Supervisor(SupervisorConfig(run=run, groups=groups), on_event=events.append).run()
    return events


def test_a_run_ends_with_its_learner_and_stops_groups_in_reverse(tmp_path):
    def until_told(name: str) -> ProcessSpec:
        code = (
            "import pathlib, signal, sys, time\n"
            f"journal = pathlib.Path({str(tmp_path)!r}) / 'order.txt'\n"
            "def end(*_):\n"
            f"    journal.open('a').write('{name}\\n'); sys.exit(0)\n"
            "signal.signal(signal.SIGTERM, end)\n"
            "while True: time.sleep(0.1)"
        )
        return python(name, code)

    learner = python("learner", "import time; time.sleep(2)", restart="temporary", ends_run=True)
    events = supervise(tmp_path, (until_told("coordinator"),), (learner,), (until_told("host"),))
    assert (tmp_path / "order.txt").read_text().split() == ["host", "coordinator"]
    assert events[-2:] == ["learner is done", "everything is stopped"]
    assert (tmp_path / "processes.json").read_text() == "{}"


def test_a_crashing_process_is_restarted_ever_more_slowly(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 0.1)
    learner = python("learner", "import time; time.sleep(3)", ends_run=True)
    events = supervise(tmp_path, (python("host", "raise SystemExit(3)"),), (learner,))
    restarts = [event for event in events if event.startswith("host ended with status 3")]
    assert restarts[0].endswith("starting it again in 0.1 s")
    assert "starting it again in 0.2 s" in restarts[1]
    assert len(restarts) < 7


def test_a_process_that_crashes_again_says_why(tmp_path, monkeypatch):
    """With the end of what its last start wrote, and none of it at the first failure."""
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 0.1)
    learner = python("learner", "import time; time.sleep(3)", ends_run=True)
    host = python("host", "raise ValueError('the camera is unplugged')")
    events = supervise(tmp_path, (host,), (learner,))
    failures = [event for event in events if event.startswith("host ended with status 1")]
    assert "\n" not in failures[0]
    for event in failures[1:]:
        assert "The end of " in event
        assert event.count("the camera is unplugged") == 1
    assert "failure 2. It is tried again, 30 s apart at most, until it works or you stop the run" in failures[1]


@pytest.mark.parametrize("end", ["raise SystemExit(75)", "os.kill(os.getpid(), 9)"])
def test_a_learner_whose_error_may_pass_is_started_again(tmp_path, monkeypatch, end):
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 0.1)
    once = tmp_path / "once"
    code = f"import os\nif not os.path.exists({str(once)!r}):\n    open({str(once)!r}, 'w')\n    {end}"
    learner = python("learner", code, restart="temporary", ends_run=True)
    events = supervise(tmp_path, (python("host", FOREVER),), (learner,))
    assert any("starting it again" in event for event in events)
    assert events[-2:] == ["learner is done", "everything is stopped"]


def test_a_failed_learner_ends_the_run_with_the_end_of_its_log(tmp_path):
    learner = python("learner", "raise ValueError('loss is nan')", restart="temporary", ends_run=True)
    with pytest.raises(ServiceError, match=r"learner ended with status 1(.|\n)*loss is nan"):
        supervise(tmp_path, (python("host", FOREVER),), (learner,))


def test_a_process_that_ignores_sigterm_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(supervisor_module, "_PATIENCE_S", 0.5)
    deaf = python("deaf", f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n{FOREVER}")
    started_s = time.monotonic()
    supervise(tmp_path, (deaf,), (python("learner", "import time; time.sleep(1)", ends_run=True),))
    assert time.monotonic() - started_s < 20


def test_one_supervisor_per_run(tmp_path):
    config = SupervisorConfig(run=tmp_path, groups=((python("a", FOREVER),),))
    first = Supervisor(config)
    with pytest.raises(ServiceError, match="already running under another supervisor"):
        Supervisor(config)
    threading.Timer(0.5, first.stop).start()
    first.run()
    Supervisor(config)


def test_a_taken_port_is_named_before_anything_starts(tmp_path):
    with NatsServer(tmp_path / "other") as other:
        config = SupervisorConfig(run=tmp_path / "run", groups=((python("a", FOREVER),),), nats_port=other.port)
        with pytest.raises(PortInUse, match=str(other.port)):
            Supervisor(config)


def test_names_must_differ(tmp_path):
    with pytest.raises(ConfigError, match="each with its own name"):
        SupervisorConfig(run=tmp_path, groups=((python("a", ""), python("a", "")),))


def test_a_killed_bus_is_started_again_on_its_port_and_listed(tmp_path):
    supervisor = Supervisor(SupervisorConfig(run=tmp_path, groups=((python("a", FOREVER),),)))
    url = read_url(tmp_path / "nats")
    seen: list[int] = []

    def kill_and_watch() -> None:
        deadline_s = time.monotonic() + 30
        while len(seen) < 2 and time.monotonic() < deadline_s:
            pids = tmp_path / "processes.json"
            pid = json.loads(pids.read_text()).get("nats") if pids.exists() else None
            if pid is not None and pid not in seen:
                seen.append(pid)
                if len(seen) == 1:
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        supervisor.stop()

    watcher = threading.Thread(target=kill_and_watch)
    watcher.start()
    supervisor.run()
    watcher.join()
    assert len(seen) == 2
    assert read_url(tmp_path / "nats") == url
