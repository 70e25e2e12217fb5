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
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()

    async def output(self, who: str, module: str, *arguments: str) -> bytes:
        """Return what `python -m module arguments` writes.

        Args:
            who: asks for it; two at a time each.
        Raises:
            HTTPException: 429 if too many wait.
            ServiceError: if it fails; with the last line of what it complains.
        """
        self._quota.enter(who)
        try:
            return await self._output(module, *arguments)
        finally:
            self._quota.leave(who)

    async def _output(self, module: str, *arguments: str) -> bytes:
        call = (module, *arguments)
        async with self._one:
            if call in self._kept:
                self._kept.move_to_end(call)
                return self._kept[call]
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
