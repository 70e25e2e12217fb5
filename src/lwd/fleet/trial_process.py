"""`python -m lwd.fleet.trial_process`: loads policies and acts with them, one after the other, for `ProcessTrial`.

Reads requests from standard input and answers on standard output until that ends. Memory is bounded on Linux, where the
kernel counts a process's private memory (RLIMIT_DATA); elsewhere only time is. Nothing that comes in is unpickled.
"""

import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import numpy as np
import torch

from lwd.data.policies import local_base
from lwd.errors import CheckpointError
from lwd.fleet.policy_trial import READY, TrialAnswer, TrialRequest
from lwd.models.checkpoint import PolicyNetwork, PolicyReader, require_embodiment
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.types import Observation

_MAX_REQUEST_BYTES = 2**24
_NICENESS = 5
"""Robots go first."""
_ALARM_SPARE_S = 10
"""After the time limit: then the host, which kills a late process, is gone itself."""


def serve(requests: IO[bytes], answers: IO[bytes]) -> None:
    """Answer requests until there are no more."""
    reader: PolicyReader | None = None
    answers.write(READY)
    answers.flush()
    while line := requests.readline(_MAX_REQUEST_BYTES):
        request = TrialRequest.model_validate_json(line)
        data = requests.read(request.bytes)
        if len(data) != request.bytes:
            return
        if reader is None:
            reader = PolicyReader(_base_reader(Path(request.bases)))
        answers.write(_tried(reader, request, data).model_dump_json().encode() + b"\n")
        answers.flush()


def _tried(reader: PolicyReader, request: TrialRequest, data: bytes) -> TrialAnswer:
    # Not a handler but the signal's own end of the process: a policy may hang within one call of C.
    signal.alarm(int(request.seconds) + _ALARM_SPARE_S)
    _limit_memory(request.memory_bytes)
    try:
        return TrialAnswer(act_s=try_to_act(reader(data), request))
    except (KeyboardInterrupt, SystemExit):
        raise
    except BaseException as error:
        # Whatever it is: safetensors' panics, for one, are no Exception.
        words = str(error) if isinstance(error, CheckpointError) else f"{type(error).__name__}: {error}"
        return TrialAnswer(error=words[:1000])
    finally:
        _limit_memory(None)
        signal.alarm(0)


def try_to_act(policy: PolicyNetwork, request: TrialRequest) -> float:
    """Act for all robots of the host at once, from an ordinary state and from zeros; return the CPU seconds of zeros.

    Raises:
        CheckpointError: if the policy is of another embodiment, or what it returns is no chunk of finite actions.
    """
    for embodiment in request.embodiments:
        require_embodiment(policy, embodiment.embodiment)
    known = list(policy.instructions.known)
    if not known:
        # Any embedding will do; the sentence encoder takes seconds and half a gigabyte.
        known = [request.instruction]
        policy.instructions = InstructionEncoder({known[0]: np.zeros(EMBEDDING_SIZE, np.float32)})
    robots = max(1, len(request.embodiments))
    size = policy.embodiment.state_size
    images = {name: np.zeros((*shape, 3), np.uint8) for name, shape in policy.embodiment.cameras.items()}
    taken_s = 0.0
    for state in (policy.normalizer.state_mean.numpy().astype(np.float32), np.zeros(size, np.float32)):
        started_s = time.process_time()
        chunks = policy.act(
            [Observation(state=state, images=images)] * robots,
            [known[index % len(known)] for index in range(robots)],
            generator=torch.Generator().manual_seed(0),
        )
        taken_s = time.process_time() - started_s
        wanted = (robots, policy.horizon, policy.embodiment.action_size)
        if chunks.shape != wanted:
            raise CheckpointError(f"it acts with chunks of shape {chunks.shape}, not {wanted}")
        if not np.isfinite(chunks).all():
            raise CheckpointError("it acts with actions that are not finite")
    return taken_s


def _base_reader(directory: Path) -> Callable[[str], bytes]:
    def read(sha256: str) -> bytes:
        if (data := local_base(sha256, directory)) is None:
            raise CheckpointError(f"its backbone {sha256} is not in {directory}")
        return data

    return read


def _limit_memory(more_bytes: int | None) -> None:
    """Allow so much private memory beyond what the process has now; None: any amount."""
    if sys.platform != "linux":
        return
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    soft = hard
    if more_bytes is not None:
        status = Path("/proc/self/status").read_text()
        has_kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmData:"))
        soft = has_kib * 1024 + more_bytes
        if hard != resource.RLIM_INFINITY:
            soft = min(soft, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def main() -> None:
    """Serve the parent's pipes, which no library and no policy gets to see."""
    # Only now: on a busy machine importing would take minutes.
    os.nice(_NICENESS)
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 0)
    os.dup2(nothing, 1)
    serve(requests, answers)


if __name__ == "__main__":
    main()
