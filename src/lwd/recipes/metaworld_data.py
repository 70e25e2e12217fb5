"""Offline data of Meta-World's MT10: its scripted experts demonstrate, and act with noise."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from lwd.data import durable
from lwd.data.log import LogReader
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError
from lwd.fleet.coordinator import BatchResult
from lwd.fleet.embodiment import embodiment_json, first_embodiment
from lwd.fleet.ingest import ingest
from lwd.operators.demonstrator import Behaviour, Demonstrator
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.gym import GymRobot
from lwd.robots.metaworld import MetaWorldExpert, make_metaworld
from lwd.robots.session import EpisodeSession
from lwd.types import Episode, Outcome, Source, Task, episode_identity

_EPOCH_S = 1_700_000_000.0
"""When the first episode "began": the same data for every run of the command."""
_ATTEMPTS = 20


@dataclass(frozen=True, kw_only=True)
class MetaWorldData:
    """How much of which kind, per task."""

    demonstrations: int = 10
    rollouts: int = 10
    """With strong noise: some succeed, some fail."""
    pixels: bool = False
    """Whether the robot sees a picture and its hand instead of all poses."""
    demonstration_noise: float = 0.1
    rollout_noise: float = 0.8


def generate_metaworld(
    run: RunDirectory, data: MetaWorldData, tasks: tuple[Task, ...], *, progress: Callable[[int, int], None]
) -> BatchResult:
    """Make what the run's store lacks of the data; an interrupted command continues.

    Raises:
        ConfigError: if the run is another robot's, or an expert fails again and again.
    """
    robot = make_metaworld(tasks, pixels=data.pixels)
    try:
        store = run.store()
        described = run.own_embodiment()
        for there in (first_embodiment(store), None if described is None else described.name):
            if there not in (None, robot.embodiment.name):
                raise ConfigError(f"run {run.path} is of {there!r}: give another --run")
        durable.replace(run.embodiment_path, embodiment_json(robot.embodiment))
        reader = LogReader(store)
        reader.poll()
        wanted = [
            (source, task, index)
            for source, count in ((Source.DEMONSTRATION, data.demonstrations), (Source.ROLLOUT, data.rollouts))
            for index in range(count)
            for task in tasks
        ]

        def episodes() -> Iterator[Episode]:
            for done, (source, task, index) in enumerate(wanted, start=1):
                name = f"mt10-{source}-{task.name}-{index:05d}"
                if not reader.knows(episode_identity(_robot_id(source), name)):
                    noise = data.demonstration_noise if source is Source.DEMONSTRATION else data.rollout_noise
                    yield _episode(robot, task, name, source, noise, started_at_s=_EPOCH_S + index)
                progress(done, len(wanted))

        return ingest(store, episodes(), EpisodeLimits(embodiment=robot.embodiment))
    finally:
        robot.close()


def _robot_id(source: Source) -> str:
    return f"mt10-{source}"


def _episode(robot: GymRobot, task: Task, name: str, source: Source, noise: float, *, started_at_s: float) -> Episode:
    """Record one episode; a demonstration is begun anew until it succeeds."""
    for attempt in range(_ATTEMPTS):
        seed = int.from_bytes(hashlib.sha256(f"{name}/{attempt}".encode()).digest()[:4], "big") >> 2
        session = EpisodeSession(
            robot,
            task,
            task.instructions[seed % len(task.instructions)],
            seed=seed,
            robot_id=_robot_id(source),
            source=source,
            policy_version=-1,
            world="nominal",
            operator=Demonstrator(MetaWorldExpert(), Behaviour(action_noise=noise)),
            episode_id=name,
            started_at_s=started_at_s,
        )
        while not session.done:
            session.step()
        if source is Source.ROLLOUT or session.outcome is Outcome.SUCCESS:
            return session.episode()
    raise ConfigError(f"{name}: the expert failed {_ATTEMPTS} times; lower the noise of demonstrations ({noise})")
