"""Audit lines of what was refused: the first at once, repetitions together, so that refusals cost next to nothing."""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lwd.console.audit import AuditLog

_TOGETHER_S = 10.0
_KINDS = 256
_OTHERS = "(others)"


@dataclass(kw_only=True)
class _Kind:
    since_s: float
    more: int
    details: dict[str, Any]


class Refusals:
    """Writes one line per person, deed and reason in ten seconds; a later line says how many more there were."""

    def __init__(self, audit: AuditLog, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._audit = audit
        self._clock = clock
        self._kinds: dict[tuple[str, str, str], _Kind] = {}

    async def note(self, who: str, what: str, refused: str, **details: Any) -> None:
        """Write a refusal down, or count it; only the first of its kind waits for the disk."""
        key = (who, what, refused)
        if key not in self._kinds and len(self._kinds) >= _KINDS:
            # Names are what strangers say: as many as they like.
            key, details = (_OTHERS, what, ""), {}
        if (kind := self._kinds.get(key)) is not None:
            kind.more += 1
            kind.details = details
            return
        self._kinds[key] = _Kind(since_s=self._clock(), more=0, details=details)
        await asyncio.to_thread(self._write, key, details)

    async def run(self) -> None:
        """Write the counts down when they are due, until cancelled."""
        while True:
            await asyncio.sleep(1)
            await asyncio.to_thread(self.flush, self._due())

    def close(self) -> None:
        """Write down what was counted."""
        self.flush(self._due(everything=True))

    def flush(self, due: list[tuple[tuple[str, str, str], _Kind]]) -> None:
        for key, kind in due:
            if kind.more:
                self._write(key, {**kind.details, "count": kind.more})

    def _due(self, *, everything: bool = False) -> list[tuple[tuple[str, str, str], _Kind]]:
        before_s = self._clock() - _TOGETHER_S
        due = [(key, kind) for key, kind in self._kinds.items() if everything or kind.since_s <= before_s]
        for key, _ in due:
            del self._kinds[key]
        return due

    def _write(self, key: tuple[str, str, str], details: dict[str, Any]) -> None:
        who, what, refused = key
        self._audit.append(who, what, refused=refused, **details)
