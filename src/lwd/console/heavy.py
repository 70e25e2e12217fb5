"""Work that needs simulator or networks, in processes of its own, at the lowest priority: the console goes on."""

import asyncio
import os
import sys
from collections import OrderedDict

from lwd.console.lanes import Quota
from lwd.errors import ServiceError

_WITHIN_S = 120.0
_KEEP = 16
_KEEP_BYTES = 1 << 28


class HeavyWork:
    """Runs one module at a time and keeps what the last ones wrote."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()
        self._quota = Quota("replays", everybody=8, each=2)
        self._running: dict[tuple[str, ...], asyncio.Task[bytes]] = {}
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()

    async def output(self, who: str, module: str, *arguments: str) -> bytes:
        """Return what `python -m module arguments` writes.

        Args:
            who: asks for it; two different ones at a time each.
        Raises:
            HTTPException: 429 if too many wait.
            ServiceError: if it fails; with the last line of what it complains.
        """
        call = (module, *arguments)
        if call in self._kept:
            self._kept.move_to_end(call)
            return self._kept[call]
        if call not in self._running:
            self._quota.enter(who)
            self._running[call] = task = asyncio.create_task(self._output(call))
            task.add_done_callback(lambda done: self._over(who, call, done))
        # Others may wait for the same: it goes on when one of them leaves.
        return await asyncio.shield(self._running[call])

    async def close(self) -> None:
        """End what runs."""
        running = tuple(self._running.values())
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)

    def _over(self, who: str, call: tuple[str, ...], task: asyncio.Task[bytes]) -> None:
        del self._running[call]
        self._quota.leave(who)
        # Looked at, also if nobody waits for it any more: else asyncio complains of it in the log.
        if not task.cancelled():
            task.exception()

    async def _output(self, call: tuple[str, ...]) -> bytes:
        module = call[0]
        async with self._one:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "lwd.console.niced", *call),
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.PIPE,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
            try:
                async with asyncio.timeout(_WITHIN_S):
                    output, complaint = await process.communicate()
            except TimeoutError as error:
                raise ServiceError(f"{module} took longer than {_WITHIN_S:g} s") from error
            finally:
                if process.returncode is None:
                    process.kill()
                    await process.wait()
            if process.returncode != 0:
                last = complaint.decode(errors="replace").strip().splitlines()[-1:]
                raise ServiceError(f"{module} failed: {' '.join(last) or process.returncode}")
            self._kept[call] = output
            while len(self._kept) > _KEEP or sum(map(len, self._kept.values())) > _KEEP_BYTES:
                self._kept.popitem(last=False)
            return output
