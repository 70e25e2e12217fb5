"""Somebody else's code: whatever it raises is a fault of one robot, with the reason, never the end of its host."""

import signal
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt

from lwd.errors import LWDError, RobotFault

_SHOWN = 500
"""Characters of what foreign code says; some put whole arrays into a message."""


class Foreign:
    """A `with` around a call of foreign code.

    Raises:
        RobotFault: for anything that it raises, SystemExit and panics of extensions among it. Our own errors pass, and
            so does a KeyboardInterrupt, where a person's Ctrl-C would be one: a host has a handler of its own.
    """

    def __init__(self, what: str) -> None:
        """
        Args:
            what: is called, such as "reset of task push".
        """
        self._what = what

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None or isinstance(error, LWDError):
            return
        if isinstance(error, KeyboardInterrupt) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            return
        raise RobotFault(f"{self._what} raised {said(error)}") from error


def said(error: BaseException) -> str:
    """Return an error's type and what it says, also where it cannot say it."""
    try:
        text = str(error)
    except Exception:  # of foreign code, also this
        text = "(its text cannot be had)"
    return f"{type(error).__name__}: {shown(text)}" if text else type(error).__name__


def shown(text: str) -> str:
    """Return a text at a length that fits into a message."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def as_array(value: Any, what: str) -> npt.NDArray[Any]:
    """Return foreign numbers as an array; of torch's tensors a copy, wherever they lie.

    Raises:
        RobotFault: if they are none; the message begins with `what`.
    """
    with Foreign(f"reading {what}"):
        array = np.asarray(value.cpu() if hasattr(value, "cpu") else value)
    if array.dtype.kind not in "biuf":
        raise RobotFault(f"{what} is {shown(repr(value))}: no numbers")
    return array
