"""A robot host that cannot start was started again for ever, and nobody named its log: a wrong setting ends the run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lwd.cli.main import dispatch
from lwd.errors import ProcessFailed
from lwd.fleet import supervisor as supervisor_module
from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig
from lwd.recipes.run_directory import RunDirectory

from ..tiny_run import commit, make_data

FOREVER = "import time\nwhile True: time.sleep(1)"


def python(name: str, code: str, **options) -> ProcessSpec:
    return ProcessSpec(name=name, command=(sys.executable, "-S", "-c", code), **options)


def supervise(run: Path, *specs: ProcessSpec) -> list[str]:
    events: list[str] = []
    config = SupervisorConfig(run=run, groups=tuple((spec,) for spec in specs), embedded_bus=False)
    Supervisor(config, on_event=events.append).run()
    return events


@pytest.mark.parametrize("status", [78, 2])
def test_a_wrong_setting_ends_the_run_and_is_printed(status, tmp_path):
    said = "lwd robot: gym 'Nope-v0' is not known: check its id"
    host = python("host-0", f"print('INFO: 4 robots')\nprint({said!r})\nraise SystemExit({status})")
    with pytest.raises(ProcessFailed) as failed:
        supervise(tmp_path, python("learner", FOREVER), host)
    assert str(failed.value) == f"host-0 cannot start: {said} (more in {tmp_path / 'logs' / 'host-0.log'})"
    assert (tmp_path / "logs" / "host-0.log").read_text().count("INFO") == 1


def test_a_process_that_works_for_a_while_each_time_says_why_it_ends(tmp_path, monkeypatch):
    """Its failures are not in a row, so the reason was never printed."""
    monkeypatch.setattr(supervisor_module, "_FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(supervisor_module, "_STABLE_S", 0.1)
    host = python("host-0", "import time; time.sleep(0.2); raise ValueError('the camera is unplugged')")
    events = supervise(tmp_path, host, python("learner", "import time; time.sleep(1)", ends_run=True))
    failures = [event for event in events if event.startswith("host-0 ended with status 1")]
    assert "\n" not in failures[0]
    assert "failure 2. It is tried again, 30 s apart at most, until it works or you stop the run" in failures[1]
    assert f"The end of {tmp_path / 'logs' / 'host-0.log'}:" in failures[1]
    assert "the camera is unplugged" in failures[1]


@pytest.mark.parametrize("verb", ["robot", "coordinator", "learner", "console"])
def test_the_fleets_processes_say_by_their_status_that_a_setting_is_wrong(verb, tmp_path, capsys):
    (tmp_path / "file").write_text("no run")
    assert dispatch([verb, "--run", str(tmp_path / "file")]) == 78
    assert "is a file: give a directory with --run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "words", "said"),
    [
        ("--robot-options", "--gim Nope-v0", "lwd robot: there is no option --gim; did you mean --gym?"),
        ("--robot-options", "--gym 'Nope-v0", "No closing quotation"),
        ("--robot-options", "--help", "lwd robot: --help is no option of a process"),
        ("--learner-options", "--prefix-cash 20", "there is no option --prefix-cash; did you mean --prefix-cache?"),
    ],
)
def test_wrong_words_for_the_processes_are_refused_before_anything_starts(option, words, said, tmp_path, capsys):
    assert dispatch(["up", "--run", str(tmp_path), f"{option}={words}"]) == 1
    error = capsys.readouterr().err
    assert f"{option} is" in error
    assert said in error
    assert not (tmp_path / "logs").exists()


@pytest.mark.faults
def test_a_real_fleet_with_wrong_robot_options_ends_with_the_reason(tmp_path):
    run = RunDirectory(tmp_path / "run")
    commit(run, make_data())
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def lwd(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "lwd", *words, "--run", str(run.path), "--budget", "smoke"]
        return subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)

    for stage in ("sft", "offline"):
        done = lwd(stage)
        assert done.returncode == 0, done.stderr
    done = lwd("up", "--robots", "2", "--robot-options=--gym Nope-v0")
    assert done.returncode == 1, done.stderr
    assert "host-0 cannot start: lwd robot: gym 'Nope-v0' is not known" in done.stderr
    assert f"(more in {run.path / 'logs' / 'host-0.log'})" in done.stderr.replace("\n", "")
    assert "everything is stopped" in done.stderr
    assert "starting it again" not in done.stderr
