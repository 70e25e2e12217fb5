"""A log that a stranger cannot fill: of lines that come from one place in the code, few in a while."""

import logging
import threading
import time
from collections.abc import Callable

_LINES = 5
_WHILE_S = 10.0
_PLACES = 256


class LogLimit(logging.Filter):
    """Lets five lines of one place through in ten seconds; the next line after that says how many were left out."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._lock = threading.Lock()
        self._places: dict[tuple[str, str, int], tuple[float, int]] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        place = (record.name, record.pathname, record.lineno)
        with self._lock:
            now_s = self._clock()
            begun_s, count = self._places.get(place, (now_s, 0))
            left_out = 0
            if now_s - begun_s >= _WHILE_S:
                left_out, begun_s, count = max(0, count - _LINES), now_s, 0
            if place not in self._places and len(self._places) >= _PLACES:
                self._places.clear()
            self._places[place] = (begun_s, count + 1)
        if left_out:
            record.msg = f"{record.getMessage()} ({left_out} more such lines were left out)"
            record.args = None
        return count < _LINES
