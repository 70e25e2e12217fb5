"""Keeps the embedded NATS server running: restarts with backoff, each with its reason."""

import time
from collections.abc import Callable

from lwd.errors import ServiceError
from lwd.fleet.backoff import Backoff
from lwd.fleet.nats_server import NatsServer

_FIRST_S, _MOST_S = 0.5, 30.0
_STABLE_S = 60.0
"""A server that ran so long has its failures forgiven."""
_REASON_LINES = 3


class KeptServer:
    """Started again when it ends; everybody else waits for the bus, and nothing is lost meanwhile."""

    def __init__(self, server: NatsServer, on_event: Callable[[str], None]) -> None:
        self._server = server
        self._on_event = on_event
        self._backoff = Backoff(first_s=_FIRST_S, most_s=_MOST_S)
        self._was_running = True
        self._started_s = self._start_at_s = 0.0

    def step(self) -> bool:
        """Start the server if it is due. Returns whether it was started."""
        now_s = time.monotonic()
        if self._server.running:
            return False
        if self._was_running:
            self._was_running = False
            if now_s - self._started_s > _STABLE_S:
                self._backoff.succeeded()
            self._rest(f"it ended; the end of its log: {_last_lines(self._server.log_tail())}")
        if now_s < self._start_at_s:
            return False
        try:
            self._server.start()
        except ServiceError as error:
            self._rest(str(error))
            return False
        self._started_s, self._was_running = time.monotonic(), True
        self._on_event(f"nats-server runs again on port {self._server.port}")
        return True

    def _rest(self, reason: str) -> None:
        rest_s = self._backoff.failed()
        self._start_at_s = time.monotonic() + rest_s
        self._on_event(f"nats-server does not run ({reason}); starting it again in {rest_s:.1f} s")


def _last_lines(text: str) -> str:
    return " | ".join(line.strip() for line in text.splitlines()[-_REASON_LINES:] if line.strip())
