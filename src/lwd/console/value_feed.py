"""Values of what robots see now, for whoever watches the fleet; a process beside the console computes them."""

import asyncio
import contextlib
import json
import logging
import os
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, ValidationError

from lwd.console.fleet_view import FleetView, Value
from lwd.errors import ServiceError
from lwd.fleet.messages import OperatorView

VALUES_HZ = 1.0
_IDLE_S = 60.0
"""Unwatched for so long, the process ends: it holds a few hundred MB."""
_TRY_AGAIN_S = 60.0
_ANSWER_WITHIN_S = 60.0
_MAX_LINE = 1 << 20
_MAX_ROBOTS = 256

_logger = logging.getLogger(__name__)


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    values: tuple[float | None, ...]
    of: str
    note: str


class ValueFeed:
    """Asks for the values of the newest views, one question at a time, and writes them into the fleet's view."""

    def __init__(self, run: Path, view: FleetView) -> None:
        self._run = run
        self._view = view
        self._views: dict[str, OperatorView] = {}
        self._new = asyncio.Event()
        self._process: asyncio.subprocess.Process | None = None
        self._next_try_s = -float("inf")

    @property
    def wants_views(self) -> bool:
        """Whether hosts need to send any: not while there is nobody to value them."""
        return time.monotonic() >= self._next_try_s

    def on_view(self, view: OperatorView) -> None:
        """A robot's newest state; beyond 256 robots, those that came first are valued."""
        if view.robot_id in self._views or len(self._views) < _MAX_ROBOTS:
            self._views[view.robot_id] = view
            self._new.set()

    async def run(self) -> None:
        """Value what comes, until cancelled."""
        try:
            while True:
                try:
                    async with asyncio.timeout(_IDLE_S):
                        await self._new.wait()
                except TimeoutError:
                    await self._end()
                    continue
                self._new.clear()
                views, self._views = self._views, {}
                try:
                    await self._value(list(views.values()))
                except ServiceError as error:
                    _logger.warning("no values on the wall: %s; trying again in %.0f s", error, _TRY_AGAIN_S)
                    self._next_try_s = time.monotonic() + _TRY_AGAIN_S
                    self._view.on_values({}, of="", note=str(error))
                    await self._end()
                await asyncio.sleep(1 / VALUES_HZ)
        finally:
            await self._end()

    async def _value(self, views: list[OperatorView]) -> None:
        if not self.wants_views:
            return
        robots = [
            {"embodiment": view.embodiment, "state": view.state, "instruction": view.instruction} for view in views
        ]
        answer = await self._ask({"robots": robots})
        if len(answer.values) != len(views):
            raise ServiceError(f"the value process gives {len(answer.values)} values for {len(views)} robots")
        values = {
            view.robot_id: Value(episode_id=view.episode_id, step=view.step, value=value)
            for view, value in zip(views, answer.values, strict=True)
            if value is not None
        }
        self._view.on_values(values, of=answer.of, note=answer.note)

    async def _ask(self, question: dict[str, Any]) -> _Answer:
        process = await self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_ANSWER_WITHIN_S):
                process.stdin.write(json.dumps(question).encode() + b"\n")
                await process.stdin.drain()
                line = await process.stdout.readline()
        except TimeoutError as error:
            raise ServiceError(f"the value process did not answer within {_ANSWER_WITHIN_S:g} s") from error
        except ConnectionError as error:
            raise ServiceError("the value process has ended; its output is in the console's log") from error
        except ValueError as error:
            raise ServiceError(f"the value process says more than {_MAX_LINE} bytes at once") from error
        if not line:
            raise ServiceError("the value process has ended; its output is in the console's log")
        try:
            return _Answer.model_validate_json(line)
        except ValidationError as error:
            raise ServiceError("the value process gives no values; its output is in the console's log") from error

    async def _started(self) -> asyncio.subprocess.Process:
        if self._process is None:
            # It ends with its input, so also when this process is killed. What it complains of goes where we log.
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lwd.console.valuing", str(self._run)),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
                limit=_MAX_LINE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        return self._process

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
