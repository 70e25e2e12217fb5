"""The `lwd` command: overview, help, exit statuses and what goes to which stream."""

import importlib
import importlib.util
import re
import subprocess
import sys
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import get_type_hints

import pytest

from lwd.cli import main
from lwd.cli.main import VERBS, Verb, dispatch
from lwd.errors import (
    BusRefused,
    ConfigError,
    LeaseTaken,
    NonFiniteLoss,
    ResumeError,
    ServiceError,
    StoreError,
    StoreUnsafe,
)


def test_the_overview_names_every_verb(capsys):
    assert dispatch([]) == 0
    output = capsys.readouterr().out
    for name, verb in VERBS.items():
        assert re.search(rf"^  {name} +{re.escape(verb.summary)}$", output, re.MULTILINE)
    assert dispatch(["--help"]) == 0
    assert capsys.readouterr().out == output


@pytest.mark.parametrize("words", [["frobnicate"], ["data"], ["data", "destroy"], ["--run", "x"]])
def test_an_unknown_verb_shows_the_overview_as_an_error(words, capsys):
    assert dispatch(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert f"there is no verb {' '.join(words)!r}" in captured.err
    assert "data generate" in captured.err


def test_the_overview_needs_no_heavy_import():
    """`lwd --help` answers at once: torch, mujoco and the rest load when a verb needs them."""
    code = (
        "import sys; from lwd.cli.main import dispatch; dispatch([]);"
        "print({'torch', 'mujoco', 'matplotlib', 'transformers', 'pyarrow'} & sys.modules.keys())"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout.endswith("set()\n")


def help_of(name: str, capsys: pytest.CaptureFixture[str]) -> str:
    with pytest.raises(SystemExit) as stopped:
        dispatch([*name.split(), "--help"])
    assert stopped.value.code == 0
    return capsys.readouterr().out


def rows_of(text: str) -> dict[str, str]:
    """Option -> explanation; a long option has its explanation on the next line."""
    rows: dict[str, str] = {}
    for line in (line.strip("│| ") for line in text.splitlines()):
        if begin := re.match(r"(-h, --help|--[a-z][a-z-]*|[A-Z]+$|[A-Z]+(?=  ))", line):
            _, _, explanation = line.partition("  ")
            rows[begin[0]] = explanation.strip()
        elif rows and line:
            rows[next(reversed(rows))] += line
    return rows


def options_in(hint: object) -> int:
    """How many options a parameter of a verb is: a group of options is a dataclass."""
    if hint is type(None):  # what the verb returns
        return 0
    return len(fields(hint)) if is_dataclass(hint) else 1


@pytest.mark.parametrize("name", VERBS)
def test_every_option_of_every_verb_is_explained(name, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    module = importlib.import_module(VERBS[name].module)
    text = help_of(name, capsys)
    assert module.__doc__.splitlines()[0] in text
    rows = rows_of(text)
    assert rows.pop("-h, --help") == "show this help message and exit"
    assert len(rows) == sum(options_in(hint) for hint in get_type_hints(module.run).values()), rows.keys()
    for option, explanation in rows.items():
        words = re.sub(r"\((default|required).*\)", "", explanation)
        assert len(words.strip()) > 5, f"lwd {name} {option} is not explained: {explanation!r}"
        if "(default: None)" in explanation:
            assert "None:" in explanation, f"lwd {name} {option} does not say what None means"


def test_a_wrong_option_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        dispatch(["report", "some/run", "--frobnicate"])
    assert stopped.value.code == 2
    assert "frobnicate" in capsys.readouterr().err


def fail(error: BaseException):
    """Pretend that a verb's work ends so."""

    def run() -> None:
        raise error

    return run


@pytest.fixture
def verb(monkeypatch):
    """A verb `try` whose work is given by the test."""

    def make(run) -> None:
        monkeypatch.setitem(VERBS, "try", Verb("lwd.cli.options", "tried"))
        monkeypatch.setattr(importlib.import_module("lwd.cli.options"), "run", run, raising=False)

    return make


def test_an_error_that_we_explain_is_one_message_and_status_1(verb, capsys):
    verb(fail(ConfigError("hosts is 0; use 1 to 4")))
    assert dispatch(["try"]) == 1
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "lwd try: hosts is 0; use 1 to 4\n")


def test_ctrl_c_is_status_130_and_says_that_the_same_command_continues(verb, capsys):
    verb(fail(KeyboardInterrupt()))
    assert dispatch(["try"]) == 130
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "\nlwd try: stopped; the same command continues where it was\n")


def test_an_error_of_ours_is_not_hidden(verb):
    verb(fail(ZeroDivisionError("a bug")))
    with pytest.raises(ZeroDivisionError):
        dispatch(["try"])


def test_verbs_are_files_of_their_own():
    modules = [verb.module for verb in VERBS.values()]
    assert len(set(modules)) == len(modules)
    for module in modules:
        spec = importlib.util.find_spec(module)
        assert spec is not None, module
        assert Path(str(spec.origin)).parent == Path(main.__file__).parent


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (StoreError("503"), 75),
        (ServiceError("no bus"), 75),
        (StoreUnsafe("two writers"), 1),
        (BusRefused("who are you"), 1),
        (LeaseTaken("another learner"), 1),
        (NonFiniteLoss("nan"), 1),
        (ResumeError("other settings"), 1),
    ],
)
def test_a_learners_exit_status_says_whether_to_try_again(error, status, verb, monkeypatch):
    """Its supervisor goes by it; of other verbs an error is 1."""
    verb(fail(error))
    assert dispatch(["try"]) == 1
    assert VERBS["learner"].supervised
    monkeypatch.setitem(VERBS, "try", replace(VERBS["try"], supervised=True))
    assert dispatch(["try"]) == status
