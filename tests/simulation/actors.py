"""The processes of the simulated fleet. Their loops are those of the real processes, over the real parts."""

import contextlib
import hashlib
from collections.abc import Callable

import numpy as np
from tests.simulation.invariants import Ledger
from tests.simulation.scheduler import Process
from tests.simulation.world import World, drive

from lwd.data.episode_file import write_episode
from lwd.data.log import LogReader
from lwd.data.validation import EpisodeLimits
from lwd.errors import ServiceError, StoreError
from lwd.fleet.coordinator import Coordinator, candidate_of
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool
from lwd.types import Controller, Episode, EpisodeInfo, Outcome, Source

_ADOPT_EVERY_S = 30.0
_RECONCILE_S = 10.0
_BATCH = 4
LIMITS = EpisodeLimits()


class Fleet:
    """The processes of one world, and what robots still have to record."""

    def __init__(self, world: World, ledger: Ledger) -> None:
        self.world = world
        self.ledger = ledger
        self.to_record = 0
        """Episodes that no robot has finished yet."""
        self._recorded = 0

    def start(self, hosts: int = 2, coordinators: int = 2, *, visitors: bool = True) -> None:
        """Start the processes; visitors are the operator who revokes and the reader."""
        shared = self.world.settings.shared_directory
        for number in range(coordinators):
            self.world.start(f"coordinator-{number}", "shared" if shared else f"cloud-{number}", self.coordinator)
        for number in range(hosts):
            machine = "shared" if shared else f"edge-{number}"
            self.world.disk(machine)
            self.world.start(f"host-{number}", machine, self.host(number))
        if not visitors:
            return
        self.world.start("operator", "shared" if shared else "desk", self.operator)
        self.world.start("reader", "shared" if shared else "learner", self.reader)

    def host(self, number: int) -> Callable[[Process], None]:
        """A robot host: one robot, its spool and its shipper (as HostNetwork runs it)."""

        def main(process: Process) -> None:
            robot_id = f"robot-{number}"
            spool = self._claimed(process, robot_id)
            shipper = Shipper(self._until_it_works(self.world.open_store), spool, {robot_id})
            drive(shipper.adopt())
            self.world.spawn(process, "log", lambda: self._follow(shipper))
            next_adoption_s = self.world.now_s + _ADOPT_EVERY_S
            while True:
                if self.to_record > 0:
                    self._record(shipper, robot_id)
                with contextlib.suppress(StoreError):
                    drive(shipper.upload())
                with contextlib.suppress(ServiceError):
                    drive(shipper.announce(self.world.bus))  # type: ignore[arg-type]
                if self.world.now_s > next_adoption_s:
                    drive(shipper.adopt())
                    next_adoption_s = self.world.now_s + _ADOPT_EVERY_S
                self.world.sleep(1.0)

        return main

    def coordinator(self, process: Process) -> None:
        """As the process of the coordinator: list now and then, serve announcements, write the index when idle."""
        coordinator = self._until_it_works(lambda: Coordinator(self.world.open_store(), LIMITS))
        next_listing_s = 0.0
        while True:
            try:
                if self.world.now_s >= next_listing_s:
                    found = coordinator.unprocessed()
                    for start in range(0, len(found), _BATCH):
                        self._process(coordinator, found[start : start + _BATCH])
                    next_listing_s = self.world.now_s + _RECONCILE_S
                received = self.world.bus.fetch(_BATCH)
                if received:
                    self._process(coordinator, [candidate_of(item) for item in received])
                    for item in received:
                        self.world.bus.acknowledge(item)
                if (index := coordinator.due_index()) is not None:
                    index.write()
                self.world.sleep(0.25 if not received else 0.0)
            except (ServiceError, StoreError):
                self.world.sleep(0.5)

    def operator(self, process: Process) -> None:
        """Revokes a committed episode now and then, through a log reader and writer of its own."""
        while True:
            self.world.sleep(5.0 + 20.0 * self.world.random.random())
            try:
                coordinator = Coordinator(self.world.open_store(), LIMITS)
                names = sorted(coordinator.reader.snapshot.episodes)
                if names:
                    self.revoke(coordinator, names[self.world.below(len(names))])
            except StoreError:
                continue

    def revoke(self, coordinator: Coordinator, identity: str) -> None:
        coordinator.revoke([identity])
        self.ledger.revoked.add(identity)

    def reader(self, process: Process) -> None:
        """Follows the log as learners do; sometimes begins again, with or without the index."""
        reader = self._until_it_works(lambda: Reader(self))
        while True:
            try:
                if self.world.random.random() < 0.1:
                    reader = Reader(self)
                    if self.world.random.random() < 0.5:
                        reader.join()
                reader.poll()
                reader.fetch()
            except StoreError:
                pass
            self.world.sleep(self.world.random.random() * 2)

    def _claimed(self, process: Process, robot_id: str) -> Spool:
        root = self.world.disk(process.machine).root / "spool"

        def claim() -> Spool:
            spool = Spool(root)
            # The kernel releases the lock of a dead process, also of one that dies while it claims.
            process.at_death.insert(0, spool.close)
            try:
                spool.claim(robot_id)
            except (ServiceError, StoreError):
                # A real host ends here, and the lock with it.
                spool.close()
                raise
            return spool

        return self._until_it_works(claim)

    def _record(self, shipper: Shipper, robot_id: str) -> None:
        self.to_record -= 1
        number, self._recorded = self._recorded, self._recorded + 1
        good = self.world.random.random() > 0.15
        made = make_episode(number, robot_id, good=good)
        while True:
            try:
                drive(shipper.spool(made))
                break
            except StoreError:
                self.world.sleep(1.0)
        # From here on the episode must not get lost.
        self.ledger.acknowledged[made.info.episode_id] = hashlib.sha256(write_episode(made)).hexdigest()
        if not good:
            self.ledger.bad.add(made.info.episode_id)

    def _follow(self, shipper: Shipper) -> None:
        while True:
            with contextlib.suppress(StoreError):
                drive(shipper.follow_log())
            self.world.sleep(2.0)

    def _process(self, coordinator: Coordinator, candidates: list) -> None:
        result = coordinator.process(candidates)
        self.ledger.committed(entry.episode_id for entry in result.committed)

    def _until_it_works(self, attempt: Callable[[], object]):
        while True:
            try:
                return attempt()
            except (ServiceError, StoreError):
                self.world.sleep(1.0)


class Reader:
    """A reader that reports all it is given to the ledger."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._store = fleet.world.open_store()
        self._log = LogReader(self._store)
        self._delivered = 0

    def join(self) -> None:
        """Begin with the newest index."""
        self._delivered = self._log.load_index()

    def poll(self) -> None:
        """Ask for some or all new entries; after an error the next poll must make up for it."""
        ahead = self._fleet.world.random.choice((None, 1, 3))
        entries = self._log.poll(None if ahead is None else self._log.version + ahead)
        self._fleet.ledger.seen(self._log.snapshot, entries, self._delivered)
        self._delivered = self._log.version

    def fetch(self) -> None:
        """Read one live episode."""
        episodes = self._log.snapshot.episodes
        if episodes:
            names = sorted(episodes)
            entry = episodes[names[self._fleet.world.below(len(names))]].entry
            self._fleet.ledger.read(entry.episode_id, entry.sha256, self._store.get(entry.key))


def make_episode(number: int, robot_id: str, *, good: bool = True) -> Episode:
    """A short episode; a bad one has a state that is not finite."""
    draw = np.random.default_rng(number)
    steps = 3
    states_TS = draw.normal(size=(steps + 1, 2)).astype(np.float32)
    if not good:
        states_TS[1, 0] = np.nan
    return Episode(
        info=EpisodeInfo(
            episode_id=f"episode-{number}",
            robot_id=robot_id,
            embodiment="toy",
            task="reach",
            instruction="go there",
            source=Source.FLEET,
            outcome=Outcome.SUCCESS,
            policy_version=1,
            sub_step_scores=(),
            control_hz=10.0,
            seed=number,
            world="nominal",
            started_at_s=1.0,
            software_version="0",
        ),
        states_TS=states_TS,
        actions_TA=np.zeros((steps, 2), np.float32),
        controllers_T=np.full(steps, Controller.POLICY, np.uint8),
    )
