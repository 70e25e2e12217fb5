"""How the processes of a group find each other, also when torchrun starts them again.

torchrun keeps its key-value store over restarts, and torch.distributed then reads the addresses of processes that are
dead (pytorch issue 135712). So each start of a group agrees on a part of the store that nobody has written to.
"""

import hashlib
import json
import os
import time
import uuid
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore  # type: ignore[attr-defined]

from lwd.errors import ServiceError

_LOOK_EVERY_S = 0.05


def torchrun_store(rank: int, size: int, timeout_s: float) -> Store:
    """Connect to the store at MASTER_ADDR and MASTER_PORT, which torchrun serves; without it rank 0 does.

    Raises:
        RuntimeError: if nobody answers there within the time limit.
    """
    served = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        size,
        is_master=rank == 0 and not served,
        timeout=timedelta(seconds=timeout_s),
        wait_for_workers=False,
    )


def fresh_part(store: Store, rank: int, size: int, timeout_s: float) -> Store:
    """Return a part of the store that only the processes of this start of the group use.

    Every process writes a name that nobody had before. Rank 0 proposes the names it finds, which may be those of dead
    processes; the living ones sign a proposal that has their own name; one that all have signed is the group.

    Raises:
        ServiceError: if not all processes have come within the time limit.
    """
    name = uuid.uuid4().hex
    store.set(f"lwd/name/{rank}", name)
    deadline_s = time.monotonic() + timeout_s
    while time.monotonic() < deadline_s:
        if rank == 0:
            store.set("lwd/proposal", json.dumps([_get(store, f"lwd/name/{other}") for other in range(size)]))
        names = json.loads(_get(store, "lwd/proposal") or "[]")
        if len(names) == size and names[rank] == name:
            group = hashlib.sha256(json.dumps(names).encode()).hexdigest()
            signatures = [f"lwd/signature/{group}/{other}" for other in range(size)]
            store.set(signatures[rank], name)
            if rank == 0 and store.check(signatures):
                store.set(f"lwd/agreed/{group}", name)
            if store.check([f"lwd/agreed/{group}"]):
                return PrefixStore(f"lwd/group/{group}", store)
        time.sleep(_LOOK_EVERY_S)
    raise ServiceError(
        f"learner process {rank} of {size} did not meet all the others within {timeout_s:.0f} s: look for the first "
        "error among the processes' outputs, and start all of them with torchrun"
    )


def _get(store: Store, key: str) -> str | None:
    """Return a value without waiting for it."""
    return store.get(key).decode() if store.check([key]) else None
