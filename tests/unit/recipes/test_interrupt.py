"""Signals: a stage ends between two updates, a running step of the demo ends in its own time."""

import os
import signal
import subprocess
import sys
import time

import pytest

from lwd.recipes.interrupt import StopRequest, run_interruptibly

SAVES_FOR_A_WHILE = """
import signal, sys, time
from lwd.recipes.interrupt import StopRequest
with StopRequest() as request:
    print("ready", flush=True)
    while not request.stop:
        time.sleep(0.01)
    time.sleep(0.7)
    print("saved", flush=True)
sys.exit(130)
"""

PARENT = f"""
import sys
from lwd.recipes.interrupt import run_interruptibly
try:
    run_interruptibly((sys.executable, "-c", {SAVES_FOR_A_WHILE!r}))
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_noted_and_the_handlers_come_back(number):
    before = signal.getsignal(number)
    with StopRequest() as request:
        assert not request.stop
        os.kill(os.getpid(), number)
        assert request.stop
    assert signal.getsignal(number) is before


def test_a_second_ctrl_c_interrupts_at_once():
    with StopRequest() as request:
        os.kill(os.getpid(), signal.SIGINT)
        assert request.stop
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_the_exit_status_comes_back():
    assert run_interruptibly((sys.executable, "-c", "raise SystemExit(7)")) == 7


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_step_that_saves_is_waited_for(number):
    """The whole process group gets the signal, as at a terminal; the step gets it once and is not killed."""
    parent = subprocess.Popen([sys.executable, "-c", PARENT], stdout=subprocess.PIPE, text=True, start_new_session=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    began_s = time.monotonic()
    os.killpg(parent.pid, number)
    output, _ = parent.communicate(timeout=30)
    assert output == "saved\ninterrupted\n"
    assert time.monotonic() - began_s > 0.6
