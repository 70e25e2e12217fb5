"""An unknown verb or option: the last line says so, and names the nearest that there is."""

import importlib
import os
import subprocess
import sys

import pytest

from lwd.cli.main import VERBS, dispatch
from lwd.cli.parsing import _options


@pytest.mark.parametrize(
    ("words", "last"),
    [
        (["evalute"], "lwd: there is no verb 'evalute'; did you mean `lwd evaluate`?"),
        (["data", "lst"], "lwd: there is no verb 'data lst'; did you mean `lwd data list`?"),
        (["repot", "runs/demo"], "lwd: there is no verb 'repot runs/demo'; did you mean `lwd report`?"),
        (["bench"], "lwd: there is no verb 'bench'; there are: `lwd bench learner`, `lwd bench fleet`"),
        (["xyzzy"], "lwd: there is no verb 'xyzzy'; `lwd` alone lists them"),
        (["stop", "--resaon", "x"], "lwd stop: there is no option --resaon; did you mean --reason?"),
        (["stop", "--nats_ulr=x"], "lwd stop: there is no option --nats-ulr; did you mean --nats-url?"),
        (["stop", "--frobnicate"], "lwd stop: there is no option --frobnicate; lwd stop --help lists them"),
        (["stop", "now"], "lwd stop: Unrecognized options: now; lwd stop --help explains the options"),
    ],
)
def test_the_last_line_names_the_nearest(words, last, capsys):
    try:
        status = dispatch(words)
    except SystemExit as end:
        status = end.code
    captured = capsys.readouterr()
    assert (status, captured.out) == (2, "")
    assert captured.err.splitlines()[-1] == last


def test_it_is_the_last_line_at_a_terminal_that_shows_no_boxes():
    command = [sys.executable, "-m", "lwd", "stop", "--resaon", "x"]
    ascii_only = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | ascii_only)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1] == "lwd stop: there is no option --resaon; did you mean --reason?"


def test_options_are_those_that_the_verb_takes():
    assert {"--run", "--release", "--reason", "--name", "--within", "--nats-url", "--store", "--help"} <= _options(
        "stop", importlib.import_module(VERBS["stop"].module).run
    )
