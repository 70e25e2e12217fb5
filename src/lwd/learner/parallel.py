"""Several processes that train as one: who they are, and what they agree on.

Started by `lwd learner --processes` (`lwd.recipes.learner_processes`). Everything that decides what a process does next
(stop, save, which snapshot) is agreed on here, because a process that decided alone would leave the others waiting.
Only tensors of numbers travel: nothing is unpickled, so a peer cannot run code here.
"""

import atexit
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor

from lwd.errors import ConfigError, ServiceError, exit_status
from lwd.learner.rendezvous import member_from_environment, open_store, require_private_sockets

TIMEOUT_S = 180.0
"""Of one collective: longer than the slowest save or upload of rank 0, for which the others wait."""
JOIN_TIMEOUT_S = 3600.0
"""Of the first meeting: every host fills its replay before."""


class Group:
    """The processes that compute every update together; `ALONE` is the group of one.

    Every method is a collective: all processes call it, in the same order. A process that died or hangs makes it raise
    within the time limit.
    """

    def __init__(self, *, rank: int = 0, size: int = 1, device_group: "dist.ProcessGroup | None" = None) -> None:
        self.rank = rank
        self.size = size
        self._device_group = device_group
        """NCCL, for tensors on GPUs; everything else goes through the default group (gloo)."""
        self.broken = False
        """Whether a collective failed: another process ended or hangs."""

    @property
    def leads(self) -> bool:
        """Whether this process writes: checkpoints, journal, metrics, policies."""
        return self.rank == 0

    @property
    def sum_over_processes(self) -> Callable[[Tensor], None] | None:
        """What an algorithm needs to train in this group; None in a group of one."""
        return self.sum if self.size > 1 else None

    def sum(self, tensor: Tensor) -> None:
        """Add a tensor up over all processes, in place.

        Raises:
            ServiceError: if another process does not answer.
        """
        if self.size == 1:
            return
        group = self._device_group if tensor.is_cuda else None
        with self._naming_this_process("sum up tensors"):
            dist.all_reduce(tensor, dist.ReduceOp.SUM, group=group)
            if tensor.is_cuda:
                # NCCL returns before it is done: a failure must come up here, not in some later copy.
                torch.cuda.current_stream(tensor.device).synchronize()

    def means(self, values: Mapping[str, float]) -> dict[str, float]:
        """Return the means of named numbers; the names are the same in every process."""
        if self.size == 1:
            return dict(values)
        total = torch.tensor(list(values.values()), dtype=torch.float64)
        self.sum(total)
        return dict(zip(values, (total / self.size).tolist(), strict=True))

    def minima(self, *values: int) -> list[int]:
        """Return the smallest of each number over the processes."""
        return self._reduce("agree on numbers", values, dist.ReduceOp.MIN)

    def any(self, *flags: bool) -> list[bool]:
        """Return for each flag whether it is set in some process."""
        return [bool(flag) for flag in self._reduce("agree on what to do next", flags, dist.ReduceOp.MAX)]

    def broadcast(self, data: bytes | None) -> bytes:
        """Return rank 0's bytes in every process; the others pass None."""
        if self.size == 1:
            return data or b""
        length = torch.tensor([len(data or b"")], dtype=torch.int64)
        with self._naming_this_process("receive from rank 0"):
            dist.broadcast(length, src=0)
            if not length:
                return b""
            buffer = torch.empty(int(length), dtype=torch.uint8)
            if data:
                buffer.copy_(torch.frombuffer(bytearray(data), dtype=torch.uint8))
            dist.broadcast(buffer, src=0)
        return buffer.numpy().tobytes()

    def gather(self, tensor: Tensor) -> list[Tensor]:
        """Return every process's tensor (same shape and type, on the CPU) in the order of ranks."""
        if self.size == 1:
            return [tensor]
        parts = [torch.empty_like(tensor) for _ in range(self.size)]
        with self._naming_this_process("gather tensors"):
            dist.all_gather(parts, tensor)
        return parts

    def meet(self, timeout_s: float = JOIN_TIMEOUT_S) -> None:
        """Wait until all processes are here; for work that takes each of them another time.

        Raises:
            ServiceError: naming the processes that did not come.
        """
        if self.size == 1:
            return
        with self._naming_this_process("wait for the others"):
            dist.monitored_barrier(timeout=timedelta(seconds=timeout_s), wait_all_ranks=True)

    def _reduce(self, what: str, values: Sequence[int], operation: "dist.ReduceOp.RedOpType") -> list[int]:
        if self.size == 1:
            return [int(value) for value in values]
        tensor = torch.tensor([int(value) for value in values], dtype=torch.int64)
        with self._naming_this_process(what):
            dist.all_reduce(tensor, operation)
        return [int(value) for value in tensor.tolist()]

    @contextmanager
    def _naming_this_process(self, what: str) -> Iterator[None]:
        try:
            yield
        except RuntimeError as error:  # also torch.distributed's own errors
            self.broken = True
            reason = str(error).strip().splitlines()[0]
            raise ServiceError(
                f"learner process {self.rank} of {self.size} could not {what}: another one ended or does not answer "
                f"({reason}). Look for the first error among the processes' outputs; all continue from the last "
                "checkpoint when they are started again"
            ) from error


ALONE = Group()


@contextmanager
def group_from_environment(device: str, *, timeout_s: float = TIMEOUT_S) -> Iterator[tuple[Group, str]]:
    """Join the group that `lwd learner --processes` started this process for; yield it and this process's device.

    A process that is in no group gets `ALONE` and the device as given. `cuda` becomes the GPU of this process's place
    on its machine.

    Raises:
        ConfigError: if torchrun started this process, or the group could be reached from other than private networks.
        ServiceError: if the others cannot be met.
    """
    member = member_from_environment()
    if member is None:
        yield ALONE, device
        return
    limit = timedelta(seconds=timeout_s)
    store = open_store(member, timeout_s)
    try:
        dist.init_process_group("gloo", store=store, rank=member.rank, world_size=member.size, timeout=limit)
    except (RuntimeError, ValueError) as error:
        raise ServiceError(
            f"learner process {member.rank} of {member.size} cannot meet the others ({str(error).splitlines()[0]}): "
            "look for the first error among the processes' outputs"
        ) from error
    try:
        require_private_sockets(member)
        device_group = None
        if device == "cuda":
            device = f"cuda:{member.local_rank}"
            _set_gpu(member.local_rank)
        if device.startswith("cuda"):
            device_group = dist.new_group(backend="nccl", timeout=limit)
        group = Group(rank=member.rank, size=member.size, device_group=device_group)
        yield group, device
    except BaseException as error:
        # Whoever leaves with an error of its own leaves others behind, which still wait for it.
        atexit.register(_end_at_once, exit_status(error))
        raise
    if group.broken:
        atexit.register(_end_at_once, 1)
    else:
        dist.destroy_process_group()


def _end_at_once(status: int) -> None:
    """End a process whose group did not end in order: gloo's threads may wait for a peer, and their end may abort."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _set_gpu(index: int) -> None:
    try:
        torch.cuda.set_device(index)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(
            f"GPU {index} of this host cannot be used ({reason}): start as many --processes as there are "
            "GPUs, or use --device cpu"
        ) from error
