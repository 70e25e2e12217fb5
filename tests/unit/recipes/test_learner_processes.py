"""What `lwd learner --processes` does when its processes end, one way or another."""

import json
import sys
import threading
import time
from pathlib import Path

import pytest

from lwd.errors import ConfigError, ProcessFailed, ServiceError
from lwd.learner.rendezvous import VARIABLE
from lwd.recipes import learner_processes
from lwd.recipes.learner_processes import LearnerProcesses, run_processes


@pytest.fixture(autouse=True)
def short_waits(monkeypatch):
    monkeypatch.setattr(learner_processes, "_GRACE_S", 0.3)
    monkeypatch.setattr(learner_processes.Backoff, "failed", _no_rest(learner_processes.Backoff.failed))


def _no_rest(failed):
    return lambda self: min(0.01, failed(self))


def command(body: str) -> list[str]:
    """A process that notes its place, and then does what the test says with `rank` and `start` (from 1)."""
    code = (
        "import json, os, pathlib, signal, sys, time\n"
        f"member = json.loads(os.environ[{VARIABLE!r}])\n"
        "rank, notes = member['rank'], pathlib.Path(sys.argv[1])\n"
        "notes = notes / f'{rank}.jsonl'\n"
        "with notes.open('a') as file: file.write(json.dumps(member) + '\\n')\n"
        "start = len(notes.read_text().splitlines())\n" + body
    )
    return [sys.executable, "-c", code]


def places(notes: Path, rank: int) -> list[dict]:
    return [json.loads(line) for line in (notes / f"{rank}.jsonl").read_text().splitlines()]


def run(notes: Path, body: str, *, stop=lambda: False, **settings) -> list[str]:
    events: list[str] = []
    group = LearnerProcesses(**({"processes": 2} | settings))
    run_processes(group, [*command(body), str(notes)], stop=stop, on_event=events.append)
    return events


def test_each_process_gets_its_place_in_a_private_directory(tmp_path):
    assert run(tmp_path, "assert os.stat(member['directory']).st_mode & 0o777 == 0o700") == []
    (first,), (second,) = places(tmp_path, 0), places(tmp_path, 1)
    assert (first["rank"], second["rank"], first["size"], second["local_rank"]) == (0, 1, 2, 1)
    assert first["directory"] == second["directory"]
    assert not Path(first["directory"]).exists()


def test_a_killed_process_ends_the_others_and_all_start_anew_elsewhere(tmp_path):
    body = "if start == 1 and rank == 1: os.kill(os.getpid(), 9)\nif start == 1: time.sleep(60)"
    begun_s = time.monotonic()
    (event,) = run(tmp_path, body)
    assert time.monotonic() - begun_s < 50
    assert "process 1 was killed by signal 9" in event
    assert "(restart 1 of 3)" in event
    directories = [place["directory"] for place in places(tmp_path, 0)]
    assert len(set(directories)) == 2
    assert not any(Path(directory).exists() for directory in directories)


def test_restarts_are_bounded(tmp_path):
    with pytest.raises(ServiceError, match=r"process 0 ended with status 75.* after 2 restarts"):
        run(tmp_path, "sys.exit(75)", max_restarts=2)
    assert len(places(tmp_path, 0)) == 3


def test_an_error_of_its_own_is_not_repeated(tmp_path):
    """The others only say that it is gone."""
    with pytest.raises(ProcessFailed, match="process 1 ended with status 1"):
        run(tmp_path, "sys.exit(1 if rank == 1 else 75)")
    assert len(places(tmp_path, 0)) == 1


def test_a_stop_reaches_all(tmp_path):
    body = "signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))\ntime.sleep(60)"
    stopping = threading.Event()
    threading.Timer(2.0, stopping.set).start()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, body, stop=stopping.is_set)
    assert len(places(tmp_path, 0)) == len(places(tmp_path, 1)) == 1


def test_several_machines_are_told_who_can_do_what(tmp_path):
    (event,) = run(tmp_path, "", hosts=2, host_rank=1, rendezvous="10.1.2.3:29400")
    assert event.startswith("whoever reaches 10.1.2.3:29400")
    assert "put weights of their own into the policy that robots get" in event
    assert [places(tmp_path, rank)[0]["local_rank"] for rank in (2, 3)] == [0, 1]
    assert places(tmp_path, 2)[0] == {"rank": 2, "size": 4, "local_rank": 0, "address": "10.1.2.3", "port": 29400}


@pytest.mark.parametrize(
    ("settings", "explanation"),
    [
        ({"processes": 0}, "processes is 0"),
        ({"hosts": 2}, "rendezvous is missing"),
        ({"rendezvous": "10.0.0.1:29400"}, "rendezvous is given for one host"),
        ({"hosts": 2, "host_rank": 2, "rendezvous": "10.0.0.1:29400"}, "host_rank is 2; with 2 hosts"),
        ({"hosts": 2, "rendezvous": "0.0.0.0:29400"}, "is of every interface"),
        ({"hosts": 2, "rendezvous": "example.com:29400"}, "give ADDRESS:PORT"),
        ({"max_restarts": -1}, "max_restarts is -1"),
    ],
)
def test_wrong_settings_are_explained(settings, explanation):
    with pytest.raises(ConfigError, match=explanation):
        LearnerProcesses(**({"processes": 2} | settings))
