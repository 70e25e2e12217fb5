"""The same world under Hypothesis: any order of rules, and the shortest one that breaks a promise."""

import contextlib

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from tests.simulation.actors import LIMITS, Reader
from tests.simulation.scheduler import Actor
from tests.simulation.simulate import running, until_quiet
from tests.simulation.world import Settings

from lwd.errors import StoreError
from lwd.fleet.coordinator import Coordinator

_SETTINGS = Settings(shared_directory=False, heal_steps=8000, chaos_steps=0)
_PROCESSES = ("coordinator-0", "coordinator-1", "host-0", "host-1")
_CALL_FAULTS = ("request lost", "answer lost", "request delayed", "conflict", "message lost", "message doubled")


class CommitProtocol(RuleBasedStateMachine):
    """Two robot hosts, two coordinators, a reader and an operator who revokes."""

    def __init__(self) -> None:
        super().__init__()
        self._stack = contextlib.ExitStack()
        self.world, self.ledger, self.fleet = self._stack.enter_context(running(_SETTINGS, 0))
        self.world.chaos = False
        self.fleet.start(visitors=False)
        self.readers = [Reader(self.fleet)]

    @rule()
    def write(self):
        self.fleet.to_record += 1

    @rule(name=st.sampled_from(_PROCESSES), thread=st.integers(0, 1), steps=st.integers(1, 40))
    def step(self, name, thread, steps):
        left = steps

        def choose() -> Actor | None:
            nonlocal left
            self.world.now_s += 0.01
            self.world.deliver()
            actors = [actor for actor in self.world.scheduler.actors if actor.process.name == name]
            if left == 0 or not actors:
                return None
            left -= 1
            actor = actors[thread % len(actors)]
            self.world.now_s = max(self.world.now_s, actor.wake_s)
            return actor

        self.world.scheduler.choose = choose
        self.world.scheduler.run()

    @rule(fault=st.sampled_from(_CALL_FAULTS))
    def arm(self, fault):
        """The next call that this can happen to suffers it: announcements dropped or doubled, answers lost, 409."""
        self.world.armed[fault] = 1

    @rule()
    def wait(self):
        self.world.skip_to_next_event()

    @precondition(lambda self: self.world.processes)
    @rule(number=st.integers(0, 3))
    def kill(self, number):
        self.world.kill(self.world.processes[number % len(self.world.processes)])

    @rule(machine=st.sampled_from(("edge-0", "edge-1")))
    def cut_power(self, machine):
        self.world.cut_power(machine)

    @rule(machine=st.sampled_from(("edge-0", "cloud-0")), hours=st.sampled_from((-1, 0, 1)))
    def set_clock(self, machine, hours):
        self.world.set_clock(machine, hours * 3600.0)

    @rule()
    def delete_stream(self):
        self.world.bus.lose_everything()

    @rule()
    def redeliver(self):
        self.world.bus.redeliver()

    @rule()
    def damage_index(self):
        self.world.damage_index()

    @rule(number=st.integers(0, 5))
    def revoke(self, number):
        with contextlib.suppress(StoreError):
            coordinator = Coordinator(self.world.open_store(), LIMITS)
            names = sorted(coordinator.reader.snapshot.episodes)
            if names:
                self.fleet.revoke(coordinator, names[number % len(names)])

    @rule(joins=st.booleans())
    def read(self, joins):
        """All readers poll, and perhaps a new one that begins with the index."""
        if joins:
            self.readers.append(Reader(self.fleet))
            with contextlib.suppress(StoreError):
                self.readers[-1].join()
        for reader in self.readers:
            with contextlib.suppress(StoreError):
                reader.poll()
                reader.fetch()

    @invariant()
    def holds(self):
        self.ledger.check_now()

    def teardown(self):
        """Without further faults everything comes right."""
        with self._stack:
            self.world.armed.clear()
            self.world.scheduler.choose = until_quiet(self.world, self.ledger, self.fleet)
            self.world.scheduler.run()
            self.ledger.check_end()


CommitProtocol.TestCase.settings = settings(
    max_examples=40,
    stateful_step_count=40,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestCommitProtocol = CommitProtocol.TestCase
