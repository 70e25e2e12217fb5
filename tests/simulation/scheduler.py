"""A deterministic scheduler: threads of which exactly one runs, handing a baton to each other.

Product code runs unchanged in the threads. It comes back here at every call to the world (store, disk, bus,
sleep), and the scheduler decides who goes on. So a run is a function of its decisions alone, and a process can
die between any two effects it has.
"""

import hashlib
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

_TRACE_HEAD = 400
_TRACE_TAIL = 400
_UNWIND_WITHIN_S = 60.0


class Killed(BaseException):
    """Ends the threads of a process that died; nothing that they call has an effect any more."""


@dataclass(kw_only=True)
class Process:
    """What dies together: threads and memory. Its disk stays."""

    name: str
    machine: str
    incarnation: int
    alive: bool = True
    at_death: list[Callable[[], None]] = field(default_factory=list)
    """What the kernel does for a dead process, such as releasing its locks."""
    memory: set[Any] = field(default_factory=set)
    """What module-level variables of the product hold in it."""
    names_given: int = 0
    """Counter behind the process's temporary file names and random identifiers."""


@dataclass(kw_only=True, eq=False)
class Actor:
    """One thread of a process."""

    name: str
    process: Process
    baton: threading.Lock
    wake_s: float = 0.0
    done: bool = False
    thread: threading.Thread | None = None


class Trace:
    """What happened, as a hash of everything and as text of the beginning and the end."""

    def __init__(self) -> None:
        self.steps = 0
        self.head: list[str] = []
        self.tail: deque[str] = deque(maxlen=_TRACE_TAIL)
        self._hash = hashlib.blake2b(digest_size=16)

    def add(self, who: str, what: str) -> None:
        line = f"{self.steps} {who}: {what}"
        self.steps += 1
        self._hash.update(line.encode())
        self._hash.update(b"\n")
        if len(self.head) < _TRACE_HEAD:
            self.head.append(line)
        else:
            self.tail.append(line)

    def last(self, count: int) -> list[str]:
        """Return the newest lines."""
        return [*self.head, *self.tail][-count:]

    @property
    def digest(self) -> str:
        return self._hash.hexdigest()


class Scheduler:
    """Runs one actor at a time. `choose` says which one is next; None gives the baton back to `run`'s caller."""

    def __init__(self, trace: Trace) -> None:
        self.actors: list[Actor] = []
        self.choose: Callable[[], Actor | None] = lambda: None
        self.error: BaseException | None = None
        """What ended an actor other than its death: a bug in the product or a broken invariant."""
        self._trace = trace
        self._main = threading.Lock()
        self._main.acquire()
        self._current: Actor | None = None
        self._deciding = False
        self._by_thread: dict[int, Actor] = {}

    @property
    def here(self) -> Actor | None:
        """The actor that is running in this thread; None in other threads, and while the scheduler decides."""
        return None if self._deciding else self._by_thread.get(threading.get_ident())

    @property
    def current(self) -> Actor | None:
        """The actor that has the baton, or had it last."""
        return self._current

    def spawn(self, process: Process, name: str, work: Callable[[], None]) -> Actor:
        """Add a thread to a process; it waits until it is chosen."""
        actor = Actor(name=name, process=process, baton=threading.Lock())
        actor.baton.acquire()
        actor.thread = threading.Thread(target=self._live, args=(actor, work), name=name, daemon=True)
        self.actors.append(actor)
        actor.thread.start()
        return actor

    def pause(self, what: str) -> None:
        """Let somebody else go first, perhaps. Called before every effect and after every answer.

        Raises:
            Killed: if the process died meanwhile; then the effect does not happen.
        """
        actor = self.here
        if actor is None:
            return
        if not actor.process.alive:
            raise Killed
        self._trace.add(actor.name, what)
        chosen = self._decide()
        # First: the one who dies unwinds at once, and chooses again when it is gone.
        if not actor.process.alive:
            raise Killed
        if chosen is not actor:
            self._hand_to(chosen)
            actor.baton.acquire()
            if not actor.process.alive:
                raise Killed

    def run(self) -> None:
        """Let the actors run until `choose` returns None.

        Raises:
            BaseException: what ended an actor, if it did not just die.
        """
        chosen = self._decide()
        if chosen is not None:
            self._hand_to(chosen)
            self._main.acquire()
        if self.error is not None:
            raise self.error

    def kill(self, process: Process) -> None:
        """End a process between two effects; its threads are gone when this returns (but for the caller's own)."""
        process.alive = False
        here = self._by_thread.get(threading.get_ident())
        for actor in [item for item in self.actors if item.process is process and item is not here]:
            actor.baton.release()
            assert actor.thread is not None
            actor.thread.join(_UNWIND_WITHIN_S)
            assert actor.done, f"{actor.name} does not die"
        for action in process.at_death:
            action()
        process.at_death.clear()

    def _decide(self) -> Actor | None:
        if self.error is not None:
            return None
        self._deciding = True
        try:
            return self.choose()
        except BaseException as error:
            self.error = error
            return None
        finally:
            self._deciding = False

    def _live(self, actor: Actor, work: Callable[[], None]) -> None:
        actor.baton.acquire()
        self._by_thread[threading.get_ident()] = actor
        if actor.process.alive:
            try:
                work()
            except Killed:
                pass
            except BaseException as error:
                self.error = self.error or error
        actor.done = True
        self.actors.remove(actor)
        del self._by_thread[threading.get_ident()]
        # Not if `kill` let it unwind: then the killer still has the baton.
        if self._current is actor:
            self._hand_to(self._decide())

    def _hand_to(self, chosen: Actor | None) -> None:
        self._current = chosen
        (self._main if chosen is None else chosen.baton).release()
