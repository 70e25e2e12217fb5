"""The simulated world of one run: machines with disks and clocks, an S3 service or a shared directory, a bus.

The product's code is real. Replaced are only the modules through which it looks outside: `os` (disk.py),
`obstore` (network.py), `time`, `uuid` and `asyncio.to_thread` of the modules that use them.
"""

import asyncio
import heapq
import importlib
import itertools
import logging
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Coroutine, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

from tests.simulation.disk import Disk, DiskHooks
from tests.simulation.network import SimulatedBus, SimulatedS3
from tests.simulation.scheduler import Actor, Process, Scheduler, Trace

from lwd.data import durable, log
from lwd.data.run_store import STORE_NOTE, RunStore
from lwd.data.store import DirectoryStore, ObjectStore, RemoteStore
from lwd.errors import StoreError

_PRODUCT = (
    *("lwd.data.durable", "lwd.data.quarantine", "lwd.data.store", "lwd.data.log", "lwd.data.log_index"),
    *("lwd.data.identity", "lwd.data.log_head", "lwd.data.run_store", "lwd.data.held_directory"),
    *("lwd.fleet.coordinator", "lwd.fleet.judging", "lwd.fleet.shipper", "lwd.fleet.rejected"),
    *("lwd.fleet.spool", "lwd.fleet.spool_files"),
)
_EPOCH_S = 1.7e9
_INDEX_EVERY = 3
_MEMORY = Path("/dev/shm")
FAULTS = (
    *("request lost", "answer lost", "request delayed", "conflict", "message lost", "message doubled"),
    *("disk full", "process dies", "power cut", "clock jumps", "stream deleted", "index damaged", "index lost"),
    "store swapped",
)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How bad a world is. `of_seed` draws it, so that some worlds are calm and some have one fault only."""

    shared_directory: bool
    """The store is a directory that all processes share on one machine, not S3."""
    create_only: bool = True
    """False: the S3 service ignores the condition (a test of the tests)."""
    faults: dict[str, float] = field(default_factory=dict)
    """Probability at every place where the fault could strike."""
    stickiness: float = 0.5
    """How likely the running thread goes on: high values find long races, low values tight ones."""
    episodes: int = 10
    chaos_steps: int = 2000
    """After so many steps the faults end, and everything must come right by itself."""
    heal_steps: int = 15_000

    @classmethod
    def of_seed(cls, seed: int) -> "Settings":
        draw = random.Random(f"settings {seed}")
        rates = {
            **dict.fromkeys(("request lost", "answer lost", "request delayed", "conflict"), 0.06),
            **dict.fromkeys(("message lost", "message doubled"), 0.2),
            "disk full": 0.03,
            "process dies": 0.004,
            "power cut": 0.01,
            **dict.fromkeys(("clock jumps", "stream deleted", "index damaged", "index lost"), 0.001),
            "store swapped": 0.002,
        }
        chosen = {name: rate * draw.choice((0.0, 0.3, 1.0, 2.0)) for name, rate in rates.items()}
        return cls(
            shared_directory=draw.random() < 0.35,
            faults=chosen,
            stickiness=draw.choice((0.0, 0.5, 0.8, 0.95)),
            episodes=draw.randint(4, 12),
        )


class World:
    """Everything outside the product, and the scheduler. Use as `with world.installed():`."""

    def __init__(self, settings: Settings, seed: int) -> None:
        self.settings = settings
        self.random = random.Random(f"world {seed}")
        self.trace = Trace()
        self.scheduler = Scheduler(self.trace)
        self.now_s = 0.0
        self.chaos = True
        self.kills = 0
        self._stopping = False
        self.on_effect: Callable[[str, str], None] = lambda call, path: None
        """Called before every effect on a disk, with the path: where invariants look."""
        self.armed: dict[str, int] = {}
        """Faults that must strike at their next occasion (state machine)."""
        base = _MEMORY if _MEMORY.is_dir() else None
        self._root = Path(tempfile.mkdtemp(prefix="lwd-simulation-", dir=base))
        self._clock_offset_s: dict[str, float] = {}
        self._machines: set[str] = set()
        self._incarnations = itertools.count(1)
        self._events: list[tuple[float, int, str, Callable[[], None]]] = []
        self._event_count = itertools.count()
        self.processes: list[Process] = []
        self.disks: dict[str, Disk] = {}
        self.s3 = SimulatedS3(self, create_only=settings.create_only)
        self.bus = SimulatedBus(self)
        self._hooks = DiskHooks(
            disk_of=self._disk_of,
            inside=lambda: self.scheduler.here is not None,
            before=self._before_effect,
            full=lambda: self.strikes("disk full"),
            now_s=self.wall_s,
        )

    # ---- what network and disks ask -------------------------------------------------------------------------

    def pause(self, what: str) -> None:
        self.scheduler.pause(what)

    def strikes(self, fault: str) -> bool:
        if self.armed.get(fault, 0) > 0:
            self.armed[fault] -= 1
            return True
        rate = self.settings.faults.get(fault, 0.0) if self.chaos else 0.0
        return rate > 0 and self.random.random() < rate

    def later(self, action: Callable[[], None], within_s: float = 20.0, name: str = "late request") -> None:
        due_s = self.now_s + self.random.random() * within_s
        heapq.heappush(self._events, (due_s, next(self._event_count), name, action))

    def wall_s(self) -> float:
        here = self.scheduler.here
        offset_s = 0.0 if here is None else self._clock_offset_s.get(here.process.machine, 0.0)
        return _EPOCH_S + self.now_s + offset_s

    def below(self, count: int) -> int:
        return self.random.randrange(count)

    # ---- what actors ask ------------------------------------------------------------------------------------

    def sleep(self, seconds: float) -> None:
        """Let simulated time pass for the calling thread."""
        here = self.scheduler.here
        if here is not None:
            here.wake_s = self.now_s + seconds
            self.pause(f"sleep {seconds:.2f}")

    def start(self, name: str, machine: str, main: Callable[[Process], None]) -> Process:
        """Start a process; one that dies comes back, as under a supervisor."""
        self._machines.add(machine)
        process = Process(name=name, machine=machine, incarnation=next(self._incarnations))

        def restart() -> None:
            if not self._stopping:
                self.later(lambda: self.start(name, machine, main), name=f"start {name}")

        process.at_death.append(lambda: self.processes.remove(process))
        process.at_death.append(restart)
        self.processes.append(process)
        self.spawn(process, "main", lambda: main(process))
        return process

    def spawn(self, process: Process, name: str, work: Callable[[], None]) -> Actor:
        return self.scheduler.spawn(process, f"{process.name}#{process.incarnation}/{name}", work)

    def disk(self, machine: str) -> Disk:
        if machine not in self.disks:
            base = self._root / machine
            self.disks[machine] = Disk(base / "disk", base / "grave")
        return self.disks[machine]

    def open_store(self) -> ObjectStore:
        """Open the store as a process would: in a run, whose directory is on its machine's disk."""
        store: ObjectStore
        if self.settings.shared_directory:
            store = _Watched(self, DirectoryStore(self.disk("shared").root / "store"))
        else:
            store = RemoteStore(object(), "s3://simulated")  # type: ignore[arg-type]
        here = self.scheduler.here
        return store if here is None else RunStore(store, self._run_of(here.process.machine))

    def _run_of(self, machine: str) -> Path:
        run = self.disk(machine).root / "run"
        durable.ensure_directory(run)  # a power cut must not make the machine forget what it knows
        return run

    def stored(self) -> dict[str, bytes]:
        """All objects as they are, seen from outside the world."""
        if not self.settings.shared_directory:
            return {key: item.data for key, item in self.s3.objects.items()}
        root = self.disk("shared").root / "store"
        return {
            str(path.relative_to(root)): path.read_bytes()
            for path in sorted(root.rglob("*"))
            if path.is_file() and not durable.is_temporary(path.name)
        }

    # ---- time and chance ------------------------------------------------------------------------------------

    def next_actor(self) -> Actor | None:
        """Draw who goes on; the scheduler's `choose` in a seeded run."""
        self.now_s += self.random.random() * 0.02
        if self.chaos:
            self._strike()
        self.deliver()
        ready = [actor for actor in self.scheduler.actors if actor.wake_s <= self.now_s]
        while not ready:
            waiting = [actor.wake_s for actor in self.scheduler.actors] + [event[0] for event in self._events[:1]]
            self.now_s = max(self.now_s, min(waiting))
            self.deliver()
            ready = [actor for actor in self.scheduler.actors if actor.wake_s <= self.now_s]
        running = self.scheduler.current
        if running in ready and self.random.random() < self.settings.stickiness:
            return running
        return ready[self.random.randrange(len(ready))]

    def deliver(self) -> None:
        """Let everything happen that is due."""
        while self._events and self._events[0][0] <= self.now_s:
            _, _, name, action = heapq.heappop(self._events)
            self.trace.add("world", name)
            action()

    def _strike(self) -> None:
        if self.processes and self.strikes("process dies"):
            self.kill(self.processes[self.below(len(self.processes))])
        for machine in sorted(self.disks):
            # A power cut matters while something is not on the disk yet.
            if self.disks[machine].unsettled and self.strikes("power cut"):
                self.cut_power(machine)
        if self.processes and self.strikes("clock jumps"):
            machine = self.processes[self.below(len(self.processes))].machine
            self.set_clock(machine, self.random.choice((-3600.0, 0.0, 3600.0)))
        if not self.settings.shared_directory and self.s3.elsewhere is None and self.strikes("store swapped"):
            self.swap_store()
        if self.strikes("stream deleted"):
            self.trace.add("world", "stream deleted")
            self.bus.lose_everything()
        if self.strikes("index damaged"):
            self.damage_index()
        if self.strikes("index lost") and not self.settings.shared_directory:
            for key in [key for key in self.s3.objects if key.startswith("index/")]:
                del self.s3.objects[key]

    def swap_store(self) -> None:
        """Let the bucket's name resolve to an empty one for a while, once every machine knows the store."""
        if all((self._run_of(machine) / STORE_NOTE).exists() for machine in sorted(self._machines)):
            self.trace.add("world", "another store")
            self.s3.elsewhere = {}
            due_s = self.now_s + 5.0 + 35.0 * self.random.random()
            heapq.heappush(self._events, (due_s, next(self._event_count), "the store is back", self._swap_back))

    def _swap_back(self) -> None:
        self.s3.elsewhere = None

    def set_clock(self, machine: str, offset_s: float) -> None:
        """Let a machine's wall clock be wrong."""
        self.trace.add("world", f"clock of {machine} is {offset_s:+.0f} s off")
        self._clock_offset_s[machine] = offset_s

    def skip_to_next_event(self) -> None:
        """Let time pass until something happens by itself (a process starts, a late request arrives)."""
        if self._events:
            self.now_s = max(self.now_s, self._events[0][0])
            self.deliver()

    def kill(self, process: Process) -> None:
        self.kills += 1
        self.trace.add("world", f"kill {process.name}")
        self.scheduler.kill(process)

    def cut_power(self, machine: str) -> None:
        """All processes of the machine die, and its disk forgets what was not synced."""
        self.trace.add("world", f"power cut at {machine}")
        for process in [item for item in self.processes if item.machine == machine]:
            self.kill(process)
        self.disks[machine].cut_power(self.random)

    def damage_index(self) -> None:
        """Put a torn object where the newest index would be."""
        if self.settings.shared_directory:
            return
        known = sorted(key for key in self.s3.objects if key.startswith("index/"))
        if known:
            self.trace.add("world", f"damage {known[-1]}")
            self.s3.damage(known[-1])

    # ---- taking the product's place in the real world -------------------------------------------------------

    @contextmanager
    def installed(self) -> Iterator["World"]:
        """Put the world around the product until the block ends."""
        replacements = {
            "time": _Namespace(
                time,
                time=self.wall_s,
                time_ns=lambda: int(self.wall_s() * 1e9),
                monotonic=lambda: self.now_s,
                sleep=self.sleep,
            ),
            "uuid": _Namespace(uuid, uuid4=self._uuid4),
            "asyncio": _Namespace(asyncio, to_thread=self._to_thread),
            "threading": _Namespace(threading, Lock=lambda: _CooperativeLock(self)),
            "obstore": self.s3,
        }
        loggers = logging.getLogger("lwd")
        level = loggers.level
        with ExitStack() as stack:
            for name in _PRODUCT:
                module = importlib.import_module(name)
                for attribute, replacement in replacements.items():
                    if hasattr(module, attribute):
                        stack.enter_context(mock.patch.object(module, attribute, replacement))
            stack.enter_context(mock.patch.object(log, "INDEX_EVERY", _INDEX_EVERY))
            stack.enter_context(mock.patch.object(durable, "_lasting", _OfProcess(self)))
            # Real directories have real times of change: only without this memory is a seed a run.
            stack.enter_context(mock.patch.object(durable, "_settled", _Forgetful()))
            stack.enter_context(self._hooks.installed())
            loggers.setLevel(logging.CRITICAL)
            try:
                yield self
            finally:
                self._stopping = True
                for process in list(self.processes):
                    self.scheduler.kill(process)
                loggers.setLevel(level)
                shutil.rmtree(self._root, ignore_errors=True)

    async def _to_thread(self, function: Callable[..., Any], *args: Any) -> Any:
        result = function(*args)
        # The loop comes back to the coroutine later than the thread ended.
        self.pause("resumed")
        return result

    def _uuid4(self) -> uuid.UUID:
        here = self.scheduler.here
        if here is None:
            return uuid.uuid4()
        here.process.names_given += 1
        return uuid.UUID(int=(here.process.incarnation << 64) + here.process.names_given)

    def _disk_of(self, path: str) -> Disk | None:
        if not path.startswith(str(self._root)):
            return None
        return self.disks.get(path[len(str(self._root)) + 1 :].partition("/")[0])

    def _before_effect(self, call: str, path: str) -> None:
        self.pause(f"{call} {path[len(str(self._root)) + 1 :]}")
        self.on_effect(call, path)


def drive(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine whose awaits never wait: in this world waiting happens inside the calls."""
    try:
        coroutine.send(None)
    except StopIteration as stop:
        return stop.value
    raise AssertionError("the coroutine waits for a real event loop")


class _Namespace:
    """A module with some names replaced."""

    def __init__(self, module: Any, **replaced: Any) -> None:
        self._module = module
        self.__dict__.update(replaced)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)


class _Forgetful(dict[Any, Any]):
    """A dictionary that keeps nothing."""

    def __setitem__(self, key: Any, value: Any) -> None:
        return


class _OfProcess:
    """A set in the memory of the calling process: every one has its own, and loses it when it dies."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._outside: set[Any] = set()

    def __contains__(self, item: Any) -> bool:
        return item in self._set

    def add(self, item: Any) -> None:
        self._set.add(item)

    @property
    def _set(self) -> set[Any]:
        here = self._world.scheduler.here
        return self._outside if here is None else here.process.memory


class _CooperativeLock:
    """A lock whose waiters let the holder go on."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._held = False

    def __enter__(self) -> bool:
        while self._held:
            self._world.pause("wait for a lock")
        self._held = True
        return True

    def __exit__(self, *_: object) -> None:
        self._held = False


class _Watched:
    """A directory store on a network file system: calls fail before or after their effect."""

    def __init__(self, world: World, store: DirectoryStore) -> None:
        self._world = world
        self._store = store

    def create(self, key: str, data: bytes) -> Any:
        self._fail("request lost")
        result = self._store.create(key, data)
        self._fail("answer lost")
        return result

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        self._world.pause(f"read {key}")
        self._fail("request lost")
        return self._store.get(key, max_bytes=max_bytes)

    def list(self, prefix: str, start_after: str = "") -> Any:
        self._world.pause(f"list {prefix}")
        self._fail("request lost")
        for item in self._store.list(prefix, start_after):
            yield item
            self._world.pause(f"listed {item.key}")

    def delete(self, key: str) -> None:
        self._store.delete(key)

    def _fail(self, fault: str) -> None:
        if self._world.strikes(fault):
            raise StoreError(f"simulated: {fault}")
