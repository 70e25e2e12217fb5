"""Nothing of a run listens where another machine could reach it."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lwd.fleet.process import spawn, stop
from lwd.learner.interfaces import interface_of, listening_addresses, loopback_interface
from lwd.recipes.run_directory import RunDirectory
from lwd.recipes.stages import run_offline, run_sft

from ..listening import family, listening
from ..nats_servers import free_port
from ..served_console import served_console
from ..tiny_run import RECIPE, commit, make_data

LWD = (sys.executable, "-m", "lwd")


def wait_until(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    deadline_s = time.monotonic() + 240
    while not condition():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline_s, log.read_text()
        time.sleep(0.2)


def others(found) -> list:
    """What is not loopback."""
    return [item for item in found if not item[1].is_loopback]


@pytest.mark.parametrize(
    ("host", "kind"), [("127.0.0.1", socket.AF_INET), ("0.0.0.0", socket.AF_INET), ("::", socket.AF_INET6)]
)
def test_listening_sockets_are_found(host, kind):
    """Guards the tests below: an open one would show."""
    with socket.socket(kind) as server:
        server.bind((host, 0))
        server.listen()
        expected = (host, server.getsockname()[1])
        assert expected in [(str(address), port) for address, port in listening_addresses()]
        assert expected in [(str(address), port) for _, address, port in listening(os.getpid())]
    assert loopback_interface() == "lo"
    for address, _ in listening_addresses():
        assert not address.is_loopback or interface_of(address) == "lo"


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> RunDirectory:
    run = RunDirectory(tmp_path_factory.mktemp("run") / "run")
    commit(run, make_data())
    run_sft(run, RECIPE.sft, seed=3)
    run_offline(run, RECIPE.offline, seed=3)
    return run


@pytest.mark.attacks
def test_listening_sockets_of_a_whole_fleet_are_loopback(run, measured, tmp_path):
    """`lwd up` with its bus, coordinator, two learner processes, robots and console."""
    console, log = free_port(), tmp_path / "up.log"
    options = ("--budget", "smoke", "--robots", "2", "--hosts", "1", "--env-steps", "1000000")
    words = ("up", "--run", str(run.path), *options, "--console", "--console-port", str(console))
    process = spawn([*LWD, *words, "--learner-options=--processes 2"], log=log)
    journal = run.path / "checkpoints" / "online" / "snapshots.jsonl"
    try:
        # The learner's processes have met, and the console serves.
        wait_until(lambda: console in [port for _, _, port in listening(process.pid)], process, log)
        wait_until(journal.exists, process, log)
        found = listening(process.pid)
        members = len(family(process.pid))
    finally:
        stop(process, patience_s=60)
    assert others(found) == []
    # Bus, console, and a socket of gloo in each of the learner's processes.
    assert len({name for name, _, _ in found}) >= 4, found
    measured("listening sockets of lwd up", f"{len(found)} of {members} processes, all loopback", "loopback only")


@pytest.mark.attacks
def test_listening_sockets_of_a_console_are_loopback(run, measured):
    with served_console(run.path):
        found = listening(os.getpid())
    assert found
    assert others(found) == []
    measured("listening sockets of lwd console", f"{len(found)}, all loopback", "loopback only")
