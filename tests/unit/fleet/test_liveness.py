"""Processes whose main loop stands still: how they report, when the supervisor says so, and what it does."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from lwd.fleet import frozen, liveness
from lwd.fleet.frozen import FrozenWatch, process_state
from lwd.fleet.liveness import Pulse
from lwd.fleet.process import spawn
from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig

REPORTS = "import time\nfrom lwd.fleet.liveness import alive\nwhile True: alive(); time.sleep(0.05)"


def supervise(run: Path, code: str, *, limit_s: float | None = None, until) -> list[str]:
    """Run one process under a supervisor until `until(events, supervisor)` says so."""
    events: list[str] = []
    spec = ProcessSpec(name="child", command=(sys.executable, "-c", code), restart_frozen_after_s=limit_s)
    supervisor = Supervisor(SupervisorConfig(run=run, groups=((spec,),), embedded_bus=False), on_event=events.append)

    def watch() -> None:
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s and not until(events):
            time.sleep(0.05)
        supervisor.stop()

    watcher = threading.Thread(target=watch)
    watcher.start()
    supervisor.run()
    watcher.join()
    return events


def pid_of(events: list[str]) -> int:
    return int(events[0].rpartition("pid ")[2].rstrip(")"))


def test_a_frozen_process_is_named_and_left_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "FROZEN_AFTER_S", 1.0)
    stopped: list[int] = []

    def until(events: list[str]) -> bool:
        if events and not stopped and (tmp_path / "ready").exists():
            stopped.append(pid_of(events))
            os.kill(stopped[0], signal.SIGSTOP)
        if any("is frozen" in event for event in events) and len(stopped) == 1:
            time.sleep(2.5)  # it is said again, at growing intervals
            os.kill(stopped[0], signal.SIGCONT)
            stopped.append(0)
        return any("goes on" in event for event in events)

    code = REPORTS.replace("while", f"open({str(tmp_path / 'ready')!r}, 'w')\nwhile")
    events = supervise(tmp_path, code, limit_s=None, until=until)
    said = [event for event in events if "is frozen" in event]
    assert 2 <= len(said) <= 4, events
    assert "child (pid " in said[0]
    assert "no sign of life from its main loop for 1 s; it is stopped: by SIGSTOP or Ctrl-Z" in said[0]
    assert any(event.startswith("child goes on, after") for event in events)
    assert len([event for event in events if event.startswith("started")]) == 1


def test_a_process_that_stays_frozen_is_killed_and_started_again(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "FROZEN_AFTER_S", 0.5)
    code = (
        "import os, signal\nfrom lwd.fleet.liveness import alive\nalive()\n"
        f"if not os.path.exists({str(tmp_path / 'once')!r}):\n"
        f"    open({str(tmp_path / 'once')!r}, 'w')\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n" + REPORTS
    )
    events = supervise(
        tmp_path, code, limit_s=1.5, until=lambda events: sum(event.startswith("started") for event in events) > 1
    )
    assert any("child is killed: it has stood still for" in event for event in events)
    assert any("child ended with status -9; starting it again" in event for event in events)


def test_a_process_that_never_reports_is_not_taken_for_frozen(tmp_path, monkeypatch):
    monkeypatch.setattr(frozen, "FROZEN_AFTER_S", 0.2)
    begun_s = time.monotonic()
    events = supervise(
        tmp_path, "import time; time.sleep(60)", limit_s=0.4, until=lambda _: time.monotonic() - begun_s > 2
    )
    assert [event.split()[0] for event in events] == ["started", "everything"]


def test_what_is_said_and_when():
    watch = FrozenWatch()
    said = [watch.look(os.getpid(), float(second), reported=True) for second in range(200)]
    assert [second for second, event in enumerate(said) if event] == [20, 40, 80, 160]
    assert "it computes" in said[20] or "it sleeps" in said[20]
    assert watch.frozen
    assert watch.look(os.getpid(), 0.0, reported=True) == "goes on, after 199 s"
    assert not watch.frozen
    assert watch.look(os.getpid(), 0.0, reported=True) is None


def test_the_state_of_a_process_is_the_kernels():
    assert process_state(os.getpid()) == "R"
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        os.kill(sleeper.pid, signal.SIGSTOP)
        deadline_s = time.monotonic() + 30
        while process_state(sleeper.pid) != "T":
            assert time.monotonic() < deadline_s
    finally:
        sleeper.kill()
        sleeper.wait()
    assert process_state(sleeper.pid) == ""


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(liveness, "_reporter", None)


def test_nobody_supervises_this_process(fresh, monkeypatch):
    """Nor does a number in the environment that is not such a pipe: nothing is written there."""
    liveness.alive()
    assert liveness.handed_on() == ({}, ())
    read, write = os.pipe()
    try:
        for value in ("", "x:y", "99999:1", f"{write}:1"):
            monkeypatch.setattr(liveness, "_reporter", None)
            monkeypatch.setenv(liveness.VARIABLE, value)
            liveness.alive()
            assert liveness.VARIABLE not in os.environ
        os.set_blocking(read, False)
        with pytest.raises(BlockingIOError):
            os.read(read, 1)
    finally:
        os.close(read)
        os.close(write)


def test_a_child_reports_in_place_of_its_parent(tmp_path):
    """As rank 0 of a learner group does."""
    pulse = Pulse()
    parent = (
        "import sys, time\nfrom lwd.fleet.liveness import handed_on\nfrom lwd.fleet.process import spawn\n"
        "variables, descriptors = handed_on()\n"
        f"spawn([sys.executable, '-c', {REPORTS!r}], log=None, environment=variables, pass_fds=descriptors)\n"
        "time.sleep(60)"
    )
    log = tmp_path / "log"
    process = spawn([sys.executable, "-c", parent], log=log, environment=pulse.environment, pass_fds=(pulse.write_end,))
    pulse.started()
    try:
        deadline_s = time.monotonic() + 30
        while not (pulse.silent_s() < 0.5 and pulse.reported):
            assert time.monotonic() < deadline_s, log.read_text()
            time.sleep(0.05)
    finally:
        process.kill()
        process.wait()
        pulse.close()
