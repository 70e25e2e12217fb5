"""How the processes of a group find each other, with what earlier starts have left in the store."""

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta

import pytest
from torch.distributed import PrefixStore, TCPStore

from lwd.errors import ServiceError
from lwd.learner.meeting import fresh_part


@pytest.fixture
def port():
    """Of a store that outlives its users, as torchrun's does."""
    served = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    yield served.port
    del served


def client(port: int) -> TCPStore:
    return TCPStore("127.0.0.1", port, is_master=False, wait_for_workers=False, timeout=timedelta(seconds=20))


def meet(port: int, size: int = 3) -> list[PrefixStore]:
    """One start of the group: all processes at once."""
    with ThreadPoolExecutor(size) as pool:
        return list(pool.map(lambda rank: fresh_part(client(port), rank, size, 30.0), range(size)))


def test_every_start_has_a_part_of_its_own(port):
    for start in range(3):
        parts = meet(port)
        assert not parts[0].check(["address/0"])
        parts[0].set("address/0", f"of start {start}")
        assert [part.get("address/0").decode() for part in parts] == [f"of start {start}"] * 3


@pytest.mark.parametrize("dead", [(0,), (1,), (0, 1), (2, 1)])
def test_processes_that_died_while_they_waited_are_not_met(port, dead):
    """What they wrote stays in the store."""
    meet(port)
    gone = [ThreadPoolExecutor(1) for _ in dead]
    for pool, rank in zip(gone, dead, strict=True):
        with pytest.raises(ServiceError, match=rf"process {rank} of 3 did not meet all the others within 0 s"):
            pool.submit(fresh_part, client(port), rank, 3, 0.3).result()
        pool.shutdown()
    parts = meet(port)
    parts[1].set("key", "value")
    assert [part.get("key") for part in parts] == [b"value"] * 3


def test_one_that_comes_late_is_waited_for(port):
    meet(port, size=2)
    found = []
    first = threading.Thread(target=lambda: found.append(fresh_part(client(port), 0, 2, 30.0)))
    first.start()
    first.join(0.5)
    assert first.is_alive()
    late = fresh_part(client(port), 1, 2, 30.0)
    first.join(30)
    late.set("key", "value")
    assert found[0].get("key") == b"value"
