"""Work that needs simulator or networks, in processes of its own: the console stays small, and goes on answering."""

import asyncio
import os
import sys
from collections import OrderedDict

from lwd.errors import ServiceError

_WITHIN_S = 120.0
_KEEP = 16


class HeavyWork:
    """Runs one module at a time and keeps what the last ones wrote."""

    def __init__(self) -> None:
        self._one = asyncio.Lock()
        self._kept: OrderedDict[tuple[str, ...], bytes] = OrderedDict()

    async def output(self, module: str, *arguments: str) -> bytes:
        """Return what `python -m module arguments` writes.

        Raises:
            ServiceError: if it fails; with the last line of what it complains.
        """
        call = (module, *arguments)
        async with self._one:
            if call in self._kept:
                self._kept.move_to_end(call)
                return self._kept[call]
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", *call),
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
            while len(self._kept) > _KEEP:
                self._kept.popitem(last=False)
            return output
