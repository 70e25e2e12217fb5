"""Before robots get a policy it is loaded and asked for a chunk in a process of its own, which may hang, die or swell.

Bytes go there by a pipe; the answer is one line of JSON. The process (`lwd.fleet.trial_process`) has no connection to
store or bus and no credentials. It stays for the next version, because importing torch takes seconds.
"""

import contextlib
import hashlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lwd.data.policies import fetch_base
from lwd.data.store import ObjectStore
from lwd.errors import CheckpointError, ServiceError
from lwd.models.checkpoint import base_of
from lwd.models.file_settings import EmbodimentSettings
from lwd.types import Embodiment

_GIB = 2**30
_MAX_ANSWER_BYTES = 16 * 2**10
_START_S = 120.0
"""To import torch, on a machine that has much else to do."""
READY = b"ready\n"
"""What the process says first."""
_KEPT_BELOW_BYTES = 256 * 2**20
"""After a larger policy the process ends, so that a host holds no second copy of it."""
_POLICIES_PER_PROCESS = 1000
"""Then a new one is started: whatever the allocator kept in pieces is given back."""
_ENVIRONMENT = frozenset(
    {
        *("PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "HOME", "LANG", "LC_ALL", "TMPDIR"),
        *("HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "TRANSFORMERS_CACHE", "TRANSFORMERS_OFFLINE", "XDG_CACHE_HOME"),
    }
)
"""What the process gets of this one's environment: where libraries and caches are, and nothing secret."""

_logger = logging.getLogger(__name__)


class Trial(Protocol):
    """Tries a version before a robot acts with it."""

    def try_policy(self, data: bytes) -> None:
        """Load a policy and act with it.

        Raises:
            CheckpointError: if robots must not act with it.
            StoreError: if what it needs besides cannot be had now.
            ServiceError: if nothing can be tried now.
        """

    def close(self) -> None:
        """Give everything back; a trial that runs is ended."""


@dataclass(frozen=True, kw_only=True)
class TrialLimits:
    """What a version may use in its trial."""

    seconds: float = 60.0
    """To load and to act; `seconds_per_gib` more for each GiB of the file and its base."""
    seconds_per_gib: float = 20.0
    act_seconds: float = 10.0
    """Of one core, for one chunk of every robot of the host."""
    spare_bytes: int = _GIB
    """Memory besides four times the file and its base: their bytes, tensors, network and its first weights."""


class TrialRequest(BaseModel):
    """One line to the process; the policy's bytes follow it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    bytes: int = Field(ge=0)
    embodiments: tuple[EmbodimentSettings, ...]
    """Of the host's robots, one each."""
    instruction: str
    """For a policy that knows none."""
    bases: str
    """Directory of frozen backbones."""
    seconds: float
    memory_bytes: int


class TrialAnswer(BaseModel):
    """One line from the process."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    error: str = Field(default="", max_length=4096)
    """Why robots must not act with it."""
    act_s: float = 0.0


class ProcessTrial:
    """Tries policies of LWD's format in a process that is kept warm, and started again when it hangs or dies."""

    def __init__(
        self,
        store: ObjectStore,
        bases: Path,
        embodiments: Sequence[Embodiment],
        *,
        instruction: str = "",
        limits: TrialLimits | None = None,
    ) -> None:
        """Start the process, which imports while the host starts.

        Args:
            store: has the frozen backbones that policy files leave out.
            bases: directory in which those are kept.
            embodiments: of the host's robots, one each.
        """
        self._store, self._bases = store, bases
        self._embodiments = tuple(EmbodimentSettings.model_validate(asdict(one)) for one in embodiments)
        self._instruction = instruction
        self._limits = limits or TrialLimits()
        self._lock = threading.Lock()
        self._closed = False
        self._tried = 0
        self._late: set[str] = set()
        """Hashes of policies whose trial did not end in time once."""
        self._process: subprocess.Popen[bytes] | None = self._start()
        self._ready = False

    @property
    def pid(self) -> int | None:
        """Of the process, None where there is none."""
        return None if self._process is None else self._process.pid

    def try_policy(self, data: bytes) -> None:
        base = base_of(data)
        weight = len(data)
        if base is not None:
            # Here, not there: that process has no store.
            weight += len(fetch_base(self._store, base, self._bases))
        seconds = self._limits.seconds + self._limits.seconds_per_gib * weight / _GIB
        request = TrialRequest(
            bytes=len(data),
            embodiments=self._embodiments,
            instruction=self._instruction,
            bases=str(self._bases),
            seconds=seconds,
            memory_bytes=self._limits.spare_bytes + 4 * weight,
        )
        answer = self._asked(request, data)
        if answer is None:
            # It died, maybe of something else (a machine that is short of memory): once more, in a new one.
            answer = self._asked(request, data)
        if answer is None:
            raise CheckpointError("its trial ended the process twice: too much memory, or a damaged file")
        self._tried += 1
        if weight > _KEPT_BELOW_BYTES or self._tried % _POLICIES_PER_PROCESS == 0:
            self._end()
        if answer.error:
            raise CheckpointError(answer.error)
        if answer.act_s > self._limits.act_seconds:
            raise CheckpointError(
                f"its trial took {answer.act_s:.1f} s to act for {len(self._embodiments)} robots, more than "
                f"{self._limits.act_seconds:.1f} s"
            )

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._end()

    def _asked(self, request: TrialRequest, data: bytes) -> TrialAnswer | None:
        """Send a policy and wait for the answer, None if the process died.

        Raises:
            CheckpointError: if there is none in time for the second time.
            ServiceError: if there is none in time, the process does not start, or the host stops.
        """
        with self._lock:
            self._require_open()
            if self._process is None:
                self._process, self._ready = self._start(), False
            process = self._process
        if not self._ready:
            self._ready = _exchange(process, b"", b"", _START_S) == READY
            if not self._ready:
                self._end()
                self._require_open()
                raise ServiceError(f"the process to try policies in did not start within {_START_S:.0f} s")
        begun_s = time.monotonic()
        line = _exchange(process, request.model_dump_json().encode() + b"\n", data, request.seconds)
        try:
            return TrialAnswer.model_validate_json(line)
        except ValidationError:
            self._end()
        self._require_open()
        if time.monotonic() - begun_s < request.seconds:
            return None
        if (sha256 := hashlib.sha256(data).hexdigest()) in self._late:
            raise CheckpointError(f"its trial did not end within {request.seconds:.0f} s, twice")
        self._late.add(sha256)
        raise ServiceError(f"its trial did not end within {request.seconds:.0f} s: it hangs, or the machine is busy")

    def _require_open(self) -> None:
        if self._closed:
            raise ServiceError("the host stops: no policy is tried")

    def _start(self) -> subprocess.Popen[bytes]:
        environment = {name: value for name, value in os.environ.items() if name in _ENVIRONMENT}
        # Beside the robots' thread on the same cores.
        for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
            environment[name] = "1"
        try:
            return subprocess.Popen(
                [sys.executable, "-m", "lwd.fleet.trial_process"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                # Ctrl-C at the terminal is the host's business.
                start_new_session=True,
            )
        except OSError as error:
            raise ServiceError(f"no process to try policies in can be started: {error.strerror}") from error

    def _end(self) -> None:
        with self._lock:
            process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()


def _exchange(process: subprocess.Popen[bytes], line: bytes, data: bytes, seconds: float) -> bytes:
    """Send a line and data, and return the line that comes back; a process that is late is killed."""
    assert process.stdin is not None
    assert process.stdout is not None
    timer = threading.Timer(seconds, process.kill)
    timer.daemon = True
    timer.start()
    try:
        process.stdin.write(line)
        process.stdin.write(data)
        process.stdin.flush()
        return process.stdout.readline(_MAX_ANSWER_BYTES)
    except (OSError, ValueError):
        return b""  # it died, or was closed meanwhile
    finally:
        timer.cancel()
