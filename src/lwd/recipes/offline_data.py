"""The offline data set: demonstrations, noisier successes, bad roll-outs and play of the scripted expert.

The composition follows the paper's Table IV in kind: successful demonstrations, roll-outs that succeed and
fail, and play that explores failure. Every episode is a function of its plan entry alone, so a run that was
interrupted, or that used another number of processes, makes the same data.
"""

import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from rich.table import Table

from lwd.errors import ConfigError, LWDError
from lwd.operators.demonstrator import Behaviour, Demonstrator
from lwd.robots.session import EpisodeSession
from lwd.robots.sim import TASKS, make_robot, task_named
from lwd.types import Episode, EpisodeInfo, Outcome, Source

if TYPE_CHECKING:
    from lwd.robots.sim.oracle import SceneExpert
    from lwd.robots.sim.robot import SceneRobot

Kind = Literal["demonstration", "rollout_success", "rollout_failure", "play"]

BEHAVIOURS: dict[Kind, Behaviour] = {
    "demonstration": Behaviour(action_noise=0.1, aim_error_probability=0.12),
    "rollout_success": Behaviour(action_noise=0.3, aim_error_probability=0.4, lapse_probability=0.01),
    "rollout_failure": Behaviour(action_noise=0.5, aim_error_probability=0.6, lapse_probability=0.05),
    "play": Behaviour(action_noise=0.3, lapse_probability=0.02, wander_steps=40),
}
SOURCES: dict[Kind, Source] = {
    "demonstration": Source.DEMONSTRATION,
    "rollout_success": Source.ROLLOUT,
    "rollout_failure": Source.ROLLOUT,
    "play": Source.PLAY,
}
ATTEMPTS = 50
"""Starts tried until an episode of a kind comes out as that kind asks (success or not)."""
EPOCH_S = 1_767_225_600.0
"""2026-01-01; recorded start times follow from the plan, so that a repeated run makes the same bytes."""


class OfflineDataError(LWDError):
    """An episode of the wanted kind could not be made."""


@dataclass(frozen=True, kw_only=True)
class OfflineDataConfig:
    """How much of each kind, per task."""

    tasks: tuple[str, ...] = tuple(TASKS)
    demonstrations_per_task: int = 40
    rollout_successes_per_task: int = 40
    rollout_failures_per_task: int = 16
    play_per_task: int = 6
    embodiment: str = "ogbench-scene"
    world: str = "nominal"
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.tasks:
            raise ConfigError("tasks is empty; name at least one task")
        for name in self.tasks:
            task_named(name)
        for field, value in self.counts().items():
            if value < 0:
                raise ConfigError(f"the number of {field} episodes per task is {value}; it must not be negative")

    def counts(self) -> dict[Kind, int]:
        return {
            "demonstration": self.demonstrations_per_task,
            "rollout_success": self.rollout_successes_per_task,
            "rollout_failure": self.rollout_failures_per_task,
            "play": self.play_per_task,
        }


def smoke_config() -> OfflineDataConfig:
    """A few episodes, for checks that everything runs."""
    return OfflineDataConfig(
        demonstrations_per_task=2, rollout_successes_per_task=1, rollout_failures_per_task=1, play_per_task=1
    )


@dataclass(frozen=True, kw_only=True)
class PlannedEpisode:
    """One entry of the plan; everything the episode depends on."""

    kind: Kind
    task: str
    index: int
    world: str
    seed: int

    @property
    def episode_id(self) -> str:
        name = f"offline-{self.kind}-{self.task}-{self.world}-s{self.seed}-{self.index:05d}"
        return name.replace("_", "-")

    def attempt_seed(self, attempt: int) -> int:
        digest = hashlib.sha256(f"{self.episode_id}/{attempt}".encode()).digest()
        return int.from_bytes(digest[:4], "big") >> 1


def plan(config: OfflineDataConfig) -> tuple[PlannedEpisode, ...]:
    """Return every episode that the configuration asks for."""
    return tuple(
        PlannedEpisode(kind=kind, task=task, index=index, world=config.world, seed=config.seed)
        for kind, count in config.counts().items()
        for index in range(count)
        for task in config.tasks
    )


def make_episode(planned: PlannedEpisode, robot: "SceneRobot", expert: "SceneExpert") -> Episode:
    """Make one planned episode: starts are drawn until it succeeds, or fails, as its kind asks.

    Raises:
        OfflineDataError: if no start did.
    """
    task = task_named(planned.task)
    wants_success = planned.kind in ("demonstration", "rollout_success")
    for attempt in range(ATTEMPTS):
        seed = planned.attempt_seed(attempt)
        instruction = task.instructions[seed % len(task.instructions)]
        operator = Demonstrator(expert, BEHAVIOURS[planned.kind], distractions=tuple(TASKS.values()))
        session = EpisodeSession(
            robot,
            task,
            instruction,
            seed=seed,
            robot_id=f"offline-{SOURCES[planned.kind].value}",
            source=SOURCES[planned.kind],
            policy_version=-1,
            world=planned.world,
            operator=operator,
            episode_id=planned.episode_id,
            started_at_s=EPOCH_S + planned.index,
        )
        while not session.done:
            session.step()
        if (session.outcome is Outcome.SUCCESS) == wants_success:
            return session.episode()
    raise OfflineDataError(f"{planned.episode_id}: no {planned.kind} in {ATTEMPTS} attempts; soften its behaviour")


def _robot_and_expert(embodiment: str, world: str) -> "tuple[SceneRobot, SceneExpert]":
    # Here, not above: recipes are read where no simulator is installed, too.
    from lwd.robots.sim.oracle import SceneExpert

    return make_robot(embodiment, world), SceneExpert()


_worker: "tuple[SceneRobot, SceneExpert] | None" = None


def _start_worker(embodiment: str, world: str) -> None:
    global _worker
    # A pool's workers hold both ends of the pipe that their work comes through: they would wait for ever for a parent
    # that is gone.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C reaches every process of the group; the pool would print a traceback of a worker that is still starting.
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        _worker = _robot_and_expert(embodiment, world)
    finally:
        signal.signal(signal.SIGINT, previous)


def _end_with_parent() -> None:
    if (parent := multiprocessing.parent_process()) is not None:
        parent.join()
        os._exit(1)


def _work(batch: Sequence[PlannedEpisode]) -> list[Episode]:
    assert _worker is not None
    return [make_episode(planned, *_worker) for planned in batch]


def _batches(planned: Sequence[PlannedEpisode], size: int) -> Iterator[Sequence[PlannedEpisode]]:
    for start in range(0, len(planned), size):
        yield planned[start : start + size]


def generate_offline_data(
    config: OfflineDataConfig,
    emit: Callable[[Episode], None],
    *,
    existing: Collection[str] = (),
    workers: int = 2,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[EpisodeInfo, ...]:
    """Make the episodes that are not there yet and hand each to `emit`, in this process.

    Args:
        existing: ids of episodes that are already stored; they are not made again.
        workers: processes; 0 makes everything in this one.
        progress: called with (episodes made, episodes to make).
    Returns:
        the metadata of the episodes made now.
    Raises:
        OfflineDataError: if an episode could not be made.
    """
    todo = [planned for planned in plan(config) if planned.episode_id not in set(existing)]
    made: list[EpisodeInfo] = []

    def take(episode: Episode) -> None:
        emit(episode)
        made.append(episode.info)
        if progress is not None:
            progress(len(made), len(todo))

    if workers == 0:
        robot, expert = _robot_and_expert(config.embodiment, config.world)
        for planned in todo:
            take(make_episode(planned, robot, expert))
        return tuple(made)

    # A fork would carry the parent's threads and torch state along; each worker computes on one thread.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with ProcessPoolExecutor(
        workers,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_start_worker,
        initargs=(config.embodiment, config.world),
    ) as pool:
        batches = _batches(todo, 4)
        running: set[Future[list[Episode]]] = set()
        try:
            while True:
                # Only a few batches wait at a time, so memory does not grow with the plan.
                while len(running) < 3 * workers and (batch := next(batches, None)) is not None:
                    running.add(pool.submit(_work, batch))
                if not running:
                    return tuple(made)
                finished, running = wait(running, return_when=FIRST_COMPLETED)
                for future in finished:
                    for episode in future.result():
                        take(episode)
        finally:
            # Whoever is stopped does not wait for batches that nobody will take.
            pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True, kw_only=True)
class CompositionRow:
    """One row of the composition table."""

    name: str
    episodes: int
    hours: float


def composition(episodes: Sequence[tuple[EpisodeInfo, int]]) -> tuple[CompositionRow, ...]:
    """Sum (metadata, control steps) pairs by source and outcome, as the paper's Table IV does."""
    kinds: dict[str, Callable[[EpisodeInfo], bool]] = {
        "Demonstrations (success)": lambda i: i.source is Source.DEMONSTRATION,
        "Roll-outs, success": lambda i: i.source is Source.ROLLOUT and i.outcome is Outcome.SUCCESS,
        "Roll-outs, failure": lambda i: i.source is Source.ROLLOUT and i.outcome is not Outcome.SUCCESS,
        "Play (failure)": lambda i: i.source is Source.PLAY,
        "Fleet": lambda i: i.source is Source.FLEET,
    }
    rows = []
    for name, belongs in kinds.items():
        members = [(info, steps) for info, steps in episodes if belongs(info)]
        hours = sum(steps / info.control_hz for info, steps in members) / 3600
        if members:
            rows.append(CompositionRow(name=name, episodes=len(members), hours=hours))
    return tuple(rows)


def composition_table(rows: Sequence[CompositionRow]) -> Table:
    """Return a table with episodes, hours and each row's share of the hours."""
    total = sum(row.hours for row in rows)
    table = Table(title="Offline data", show_footer=True)
    table.add_column("Source", footer="Total")
    table.add_column("Episodes", justify="right", footer=str(sum(row.episodes for row in rows)))
    table.add_column("Hours", justify="right", footer=f"{total:.2f}")
    table.add_column("Share", justify="right", footer="100 %")
    for row in rows:
        table.add_row(row.name, str(row.episodes), f"{row.hours:.2f}", f"{row.hours / total:.0%}")
    return table


def draw_composition(rows: Sequence[CompositionRow], path: Path) -> None:
    """Draw hours per source as horizontal bars into a PNG file."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 0.6 * len(rows) + 1.2), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    positions = np.arange(len(rows))[::-1]
    axes.barh(positions, [row.hours for row in rows], color="#5b7fb5")
    axes.set_yticks(positions, [row.name for row in rows])
    for position, row in zip(positions, rows, strict=True):
        axes.annotate(f" {row.hours:.2f} h, {row.episodes} episodes", (row.hours, position), va="center")
    axes.set_xlabel("hours")
    axes.margins(x=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
