"""A verb's command line: its options, and what to say about a wrong one. The last line names the nearest right one."""

import contextlib
import difflib
import functools
import io
import itertools
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import tyro

from lwd.errors import ConfigError

_BORDER = "│ "


def parse(name: str, run: Callable[..., None], explanation: str | None, words: Sequence[str]) -> dict[str, Any]:
    """Return the arguments with which to call a verb's `run`.

    Args:
        name: of the verb, such as `data list`.
        explanation: what `--help` shows.
        words: what follows the verb on the command line.
    Raises:
        SystemExit: with status 2 after the error was printed; with 0 after `--help`.
    """

    @functools.wraps(run)
    def bound(**arguments: Any) -> dict[str, Any]:
        return arguments

    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                bound,
                prog=f"lwd {name}",
                description=explanation,
                args=list(words),
                config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitArgPrefixes),
            )
    except SystemExit as end:
        sys.stderr.write(printed.getvalue())
        if end.code:
            print(f"lwd {name}: {_reason(name, run, words, printed.getvalue())}", file=sys.stderr)
        raise


def split_words(option: str, text: str, name: str, run: Callable[..., None]) -> tuple[str, ...]:
    """Return the words of an option that are further options of another verb, once they are known to be right.

    Args:
        option: that holds them, such as --robot-options.
        name: of the other verb.
    Raises:
        ConfigError: saying what is wrong with them.
    """
    try:
        words = tuple(shlex.split(text))
    except ValueError as error:
        raise ConfigError(f"{option} is {text!r} ({error}): quote it as for a shell") from error
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said), contextlib.redirect_stdout(io.StringIO()):
            parse(name, run, None, words)
    except SystemExit as end:
        reason = (said.getvalue().splitlines() or [f"lwd {name}: --help is no option of a process"])[-1]
        raise ConfigError(f"{option} is wrong: {reason}") from end
    return words


def nearest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that a mistyped one is nearest to; None if none is near."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), None)


def _reason(name: str, run: Callable[..., None], words: Sequence[str], box: str) -> str:
    known = _options(name, run)
    given = (word.partition("=")[0] for word in words if re.match(r"--[a-zA-Z]", word))
    if unknown := [option.replace("_", "-") for option in given if option.replace("_", "-") not in known]:
        near = nearest(unknown[0], known)
        hint = f"did you mean {near}?" if near else f"lwd {name} --help lists them"
        return f"there is no option {unknown[0]}; {hint}"
    # The first part of the box, without its title; borders are drawn with other characters where these cannot be shown.
    words_in = re.compile(r".*\w").match
    said = itertools.takewhile(words_in, itertools.dropwhile(lambda line: not words_in(line), box.splitlines()[1:]))
    return f"{' '.join(line.strip(_BORDER) for line in said).rstrip('.:')}; lwd {name} --help explains the options"


def _options(name: str, run: Callable[..., None]) -> set[str]:
    text = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(text):
        parse(name, run, None, ("--help",))
    # Explanations, which name other options, are indented further.
    return set(re.findall(r"^[│ ]{0,3}(?:-h, )?(--[a-z][a-z0-9-]*)", text.getvalue(), re.MULTILINE))
