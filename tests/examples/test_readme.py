"""The README's commands exist: every `lwd` line parses, every `make` target is there, every path it links to."""

import functools
import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lwd.cli.main import VERBS, dispatch
from lwd.recipes.scene import recipe

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
CODE = "\n".join(re.findall(r"^```bash\n(.*?)^```", README, re.MULTILINE | re.DOTALL))
COMMANDS = [shlex.split(line, comments=True) for line in CODE.splitlines()]
LWD = [words[1:] for words in COMMANDS if words[:1] == ["lwd"]]
MAKE = sorted({words[1] for words in COMMANDS if words[:1] == ["make"]} | set(re.findall(r"`make (\w[\w-]*)", README)))
INLINE_LWD = sorted(set(re.findall(r"`lwd ([a-z][^`]*)`", README)))


def verb_of(words: list[str]) -> str | None:
    return next((" ".join(words[:n]) for n in (2, 1) if " ".join(words[:n]) in VERBS), None)


def test_the_commands_are_found() -> None:
    assert len(LWD) >= 10
    assert {"demo", "test", "learn", "faults", "bench"} <= set(MAKE)


@pytest.mark.parametrize("words", LWD, ids=" ".join)
def test_command_line_parses(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """The real command line, up to the call of the verb, which only notes what it was called with."""
    verb = verb_of(words)
    assert verb is not None
    module = importlib.import_module(VERBS[verb].module)
    calls = []

    @functools.wraps(module.run)
    def noted(*args: object, **options: object) -> None:
        calls.append((args, options))

    monkeypatch.setattr(module, "run", noted)
    assert dispatch(words) == 0
    assert len(calls) == 1


@pytest.mark.parametrize("verb", sorted({verb for words in LWD if (verb := verb_of(words))}))
def test_help_names_the_options(verb: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit) as stopped:
        dispatch([*verb.split(), "--help"])
    assert stopped.value.code == 0
    known = set(re.findall(r"--[a-z][a-z-]*", capsys.readouterr().out))
    used = {word for words in LWD if verb_of(words) == verb for word in words if word.startswith("--")}
    assert used <= known


def test_the_command_is_installed_and_lists_every_verb() -> None:
    listed = subprocess.run([sys.executable, "-m", "lwd", "--help"], capture_output=True, text=True, check=True).stdout
    assert all(f"\n  {verb} " in listed for verb in VERBS)


def test_every_verb_is_explained_once() -> None:
    first_cells = re.findall(r"^\| (`lwd .*?) \|", README, re.MULTILINE)
    explained = [name for cell in first_cells for name in re.findall(r"`lwd ([^`]+)`", cell)]
    assert sorted(explained) == sorted(VERBS)


@pytest.mark.parametrize("text", INLINE_LWD)
def test_inline_command_names_a_verb(text: str) -> None:
    assert verb_of(text.split()) is not None


@pytest.mark.parametrize("target", MAKE)
def test_make_target_exists(target: str) -> None:
    makefile = (ROOT / "Makefile").read_text()
    assert re.search(rf"^{re.escape(target)}:", makefile, re.MULTILINE)
    assert re.search(rf"^\.PHONY:.*\b{re.escape(target)}\b", makefile, re.MULTILINE)


def test_the_demos_numbers_are_the_recipes() -> None:
    full = recipe("full")
    episodes = len(full.data.tasks) * sum(full.data.counts().values())
    assert f"make {episodes:,} episodes" in README
    assert f"{full.sft.updates:,} updates" in README
    assert f"{full.offline.updates:,} updates" in README
    assert f"{full.fleet.robots} robots work for {full.fleet.env_steps:,} control steps" in README
    assert f"{full.evaluation_episodes} episodes on each of {len(full.data.tasks)} tasks" in README


def test_make_variables_exist() -> None:
    named = set(re.findall(r"\b([A-Z]{3,})=", " ".join(re.findall(r"`make [^`]+`", README))))
    assert named == {"BUDGET", "PYTHON", "RUN"}
    assert named <= set(re.findall(r"^([A-Z]+) \?=", (ROOT / "Makefile").read_text(), re.MULTILINE))


@pytest.mark.parametrize("path", sorted(set(re.findall(r"\]\(([^)#:]+)\)", README))))
def test_linked_file_exists(path: str) -> None:
    assert (ROOT / path).exists()
