"""Offline data into a run's store: made, validated and committed like the fleet's."""

from collections.abc import Callable, Iterable
from contextlib import suppress
from queue import Empty, Queue
from threading import Event, Thread

from lwd.data.log import LogReader
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError, EpisodeRejected
from lwd.fleet.embodiment import first_embodiment
from lwd.fleet.ingest import ingest
from lwd.recipes.advice import require_simulated
from lwd.recipes.offline_data import (
    CompositionRow,
    OfflineDataConfig,
    composition,
    draw_composition,
    generate_offline_data,
)
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.sim import make_robot
from lwd.types import Episode, EpisodeInfo


def generate_into(
    run: RunDirectory,
    config: OfflineDataConfig,
    *,
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[CompositionRow, ...]:
    """Make what the run's store lacks of the configured data; return the composition of all its data.

    Raises:
        ConfigError: if the run is another robot's.
        EpisodeRejected: if an episode failed validation; it lies in the store's quarantine.
        StoreError: if the store cannot be written; what was committed stays.
    """
    require_simulated(run.path, run.own_embodiment())
    store = run.store()
    if (there := first_embodiment(store)) not in (None, config.embodiment):
        raise ConfigError(f"run {run.path} has episodes of {there}, not of {config.embodiment}: give another --run")
    reader = LogReader(store)
    reader.poll()
    committed = frozenset(item.entry.episode_id for item in reader.snapshot.episodes.values())
    waiting: Queue[Episode | None] = Queue(maxsize=256)
    producer = _Producer(config, committed, waiting, workers, progress)
    producer.start()
    try:
        limits = EpisodeLimits(embodiment=make_robot(config.embodiment).embodiment)
        result = ingest(store, iter(waiting.get, None), limits)
    finally:
        producer.stop()
    if producer.error is not None:
        raise producer.error
    if result.quarantined:
        raise EpisodeRejected(f"{len(result.quarantined)} episodes were refused: {result.quarantined}")
    rows = composition(list(_described(run)))
    draw_composition(rows, run.path / "composition.png")
    return rows


class _Producer(Thread):
    """Makes episodes while the caller commits them."""

    def __init__(
        self,
        config: OfflineDataConfig,
        committed: frozenset[str],
        waiting: "Queue[Episode | None]",
        workers: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        super().__init__(name="offline data", daemon=True)
        self._arguments = (config, committed, workers, progress)
        self._waiting = waiting
        self._stopped = Event()
        self.error: BaseException | None = None

    def run(self) -> None:
        config, committed, workers, progress = self._arguments
        try:
            generate_offline_data(config, self._put, existing=committed, workers=workers, progress=progress)
        except BaseException as error:  # raised again in the caller's thread
            self.error = error
        finally:
            self._waiting.put(None)

    def stop(self) -> None:
        """End soon: nobody takes episodes any more."""
        self._stopped.set()
        while self.is_alive():
            with suppress(Empty):
                self._waiting.get(timeout=0.1)

    def _put(self, episode: Episode) -> None:
        if self._stopped.is_set():
            raise _Stopped
        self._waiting.put(episode)


class _Stopped(Exception):
    """A way out of the making of episodes; never seen outside."""


def _described(run: RunDirectory) -> Iterable[tuple[EpisodeInfo, int]]:
    reader = LogReader(run.store())
    reader.poll()
    for item in reader.snapshot.episodes.values():
        entry = item.entry
        info = EpisodeInfo(
            episode_id=entry.episode_id,
            robot_id=entry.robot_id,
            embodiment=entry.embodiment,
            task=entry.task,
            instruction=entry.instruction,
            source=entry.source,
            outcome=entry.outcome,
            policy_version=entry.policy_version,
            sub_step_scores=entry.sub_step_scores,
            control_hz=entry.control_hz,
            seed=0,
            world=entry.world,
            started_at_s=entry.started_at_s,
            software_version="",
        )
        yield info, entry.steps
