"""A host answers no questions: it has no terminal, or nobody sits there."""

import builtins
import contextlib
from collections.abc import Iterator


class NobodyAnswers(EOFError):
    """A driver asked for a line; what Python raises, too, where standard input is closed."""


@contextlib.contextmanager
def nobody_answers(who: str = "a robot host") -> Iterator[None]:
    """`input()` raises `NobodyAnswers` in the meantime, in every thread, instead of waiting for ever."""

    def refuse(prompt: object = "", /) -> str:
        raise NobodyAnswers(
            f"{who} has nobody at a terminal to answer {str(prompt).strip()!r}: do what it asks for beforehand (a "
            "device is calibrated with lerobot-calibrate)"
        )

    before, builtins.input = builtins.input, refuse
    try:
        yield
    finally:
        builtins.input = before
