"""Robots by --gym do the run's task and hear what its data were told: not a second task from the id (row 28).

The last test is the whole path: `lwd robot` with an environment that --import registers, success by a rule,
whole-number actions, and a robot whose environment fails beside one that goes on.
"""

import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace

import gymnasium
import numpy as np
import pytest
from gymnasium import spaces

from lwd.cli.main import dispatch
from lwd.cli.robot import EnvironmentOptions, environment_robots
from lwd.data.log import LogReader
from lwd.data.policies import PolicyPublisher
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.host_process import RobotHostConfig, RobotSpec, run_robot_host
from lwd.fleet.ingest import ingest
from lwd.fleet.known_tasks import KnownTask, known_tasks, named_as_in_run
from lwd.fleet.nats_server import NatsServer
from lwd.models.checkpoint import PolicyReader, policy_bytes
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.session import EpisodeSession
from lwd.types import Episode, Source

from .environments import TASK, Told, robot_of

ACTIONS = spaces.Box(0, 2, (2,), np.int64)
MODULE = '''
import gymnasium, numpy as np
from tests.field_faults.environments import Told

MADE = []

class Lift(Told):
    """The second one of a process is broken."""
    def __init__(self):
        super().__init__(gymnasium.spaces.Box(0, 2, (2,), np.int64), info=lambda _: {})
        MADE.append(self)
        self.number = len(MADE)
    def step(self, action):
        if self.number % 2 == 0:
            raise SystemExit("the window was closed")
        assert self.action_space.contains(action)
        return super().step(action)

gymnasium.register("ImportedLift-v0", entry_point=Lift, max_episode_steps=20)
'''


def episode(task: str, instruction: str, number: int, source: Source = Source.DEMONSTRATION) -> Episode:
    session = EpisodeSession(
        robot_of(Told(ACTIONS), "reward>=1"),
        TASK,
        instruction,
        seed=0,
        robot_id="r",
        source=source,
        policy_version=0 if source is Source.FLEET else -1,
        world="nominal",
        episode_id=f"{task}-{source}-{number}",
    )
    session.load_chunk(np.ones((1, 2), np.float32))
    session.step()
    recorded = session.episode()
    return replace(recorded, info=replace(recorded.info, task=task))


def run_of(path, *said: tuple[str, str]) -> RunDirectory:
    run = RunDirectory(path / "run")
    embodiment = robot_of(Told(ACTIONS)).embodiment
    run.path.mkdir()
    run.embodiment_path.write_text(json.dumps(asdict(embodiment)))
    episodes = [episode(task, text, number) for number, (task, text) in enumerate(said)]
    episodes.append(episode("HalfCheetah", "half cheetah", 99, Source.FLEET))
    assert len(ingest(run.store(), episodes, EpisodeLimits(embodiment=embodiment)).committed) == len(episodes)
    return run


@pytest.fixture
def lift(tmp_path, monkeypatch):
    (tmp_path / "imported_lift.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    yield
    gymnasium.registry.pop("ImportedLift-v0", None)
    __import__("sys").modules.pop("imported_lift", None)


def options(**given: object) -> EnvironmentOptions:
    unset = {
        "imports": ("imported_lift",), "arguments": "{}", "driving": None, "success": "terminated",
        "instruction": None, "time_limit": None, "control_hz": None,
    }  # fmt: skip
    return EnvironmentOptions(**{**unset, **given})  # type: ignore[arg-type]


def test_the_runs_only_task_is_the_environments(tmp_path, lift, caplog):
    run = run_of(
        tmp_path, ("lift_the_cube", "Lift the cube."), ("lift_the_cube", "Lift the cube."), ("lift_the_cube", "lift it")
    )
    _, (task,) = environment_robots("ImportedLift-v0", None, run, options(), ())
    assert (task.name, task.instructions, task.time_limit) == ("lift_the_cube", ("Lift the cube.", "lift it"), 20)
    assert not caplog.records


def test_with_several_one_is_chosen_and_all_are_listed(tmp_path, lift, caplog):
    run = run_of(tmp_path, ("lift_the_cube", "Lift the cube."), ("push_it", "Push it."))
    with pytest.raises(ConfigError, match=r"2 tasks: choose .*--tasks: lift_the_cube \('Lift the cube.'\), push_it"):
        environment_robots("ImportedLift-v0", None, run, options(), ())
    _, (task,) = environment_robots("ImportedLift-v0", None, run, options(), ("push_it",))
    assert (task.name, task.instructions) == ("push_it", ("Push it.",))
    _, (task,) = environment_robots("ImportedLift-v0", None, run, options(instruction="Lift the cube."), ())
    assert (task.name, task.instructions) == ("lift_the_cube", ("Lift the cube.",))
    with pytest.raises(ConfigError, match="this environment does one: name one"):
        environment_robots("ImportedLift-v0", None, run, options(), ("push_it", "lift_the_cube"))
    assert not caplog.records


def test_what_the_policy_never_heard_is_warned_about(tmp_path, lift, caplog):
    run = run_of(tmp_path, ("lift_the_cube", "Lift the cube."))
    with caplog.at_level(logging.WARNING):
        _, (task,) = environment_robots("ImportedLift-v0", None, run, options(instruction="raise the cube"), ())
    assert (task.name, task.instructions) == ("lift_the_cube", ("raise the cube",))
    assert "instruction 'raise the cube' is in no episode of the run" in caplog.text
    assert "the run has lift_the_cube ('Lift the cube.')" in caplog.text
    caplog.clear()
    environment_robots("ImportedLift-v0", None, run, options(instruction="Lift the cube."), ("other",))
    assert "task other is in no episode of the run" in caplog.text


def test_tasks_of_an_environment_are_told_by_their_words():
    """As LeRobot's are, which has names of its own for what a data set says in words."""
    tasks = tuple(
        replace(TASK, name=f"libero_spatial-{number}", instructions=(text,))
        for number, text in enumerate(["pick up the bowl", "open the drawer", "open the drawer"])
    )
    known = (
        KnownTask(name="pick_up_the_bowl", instructions=("Pick up the bowl.",)),
        KnownTask(name="open_the_drawer", instructions=("Open the drawer",)),
    )
    found = named_as_in_run(tasks, known)
    assert found[0] is not None
    assert (found[0].name, found[0].instructions) == ("pick_up_the_bowl", ("Pick up the bowl.",))
    assert found[1:] == (None, None)


@pytest.mark.parametrize("words", [("--success", "x"), ("--time-limit", "3"), ("--import", "x"), ("--driving", "{}")])
def test_an_option_that_would_be_ignored_is_refused(tmp_path, words, capsys):
    run = run_of(tmp_path, ("lift_the_cube", "Lift the cube."))
    assert dispatch(["robot", "--run", str(run.path), *words]) != 0
    assert f"{words[0]} means nothing without --gym and --lerobot-env" in capsys.readouterr().err


@contextmanager
def committing(run: RunDirectory) -> Iterator[None]:
    """A bus, a policy, and somebody who commits what arrives."""
    embodiment = run.embodiment()
    config = VLAConfig(horizon=5, token_width=4, context_size=16, expert_width=16, expert_depth=1)
    policy = SmallVLA(embodiment, config, StateStatistics(mean=(0.0,) * 3, std=(1.0,) * 3))
    PolicyPublisher(run.store()).publish(policy_bytes(policy), update=0, snapshot=1)
    over = threading.Event()

    def commit() -> None:
        coordinator = Coordinator(run.store(), EpisodeLimits(embodiment=embodiment))
        while not over.wait(0.05):
            coordinator.process(coordinator.unprocessed())

    thread = threading.Thread(target=commit)
    with NatsServer(run.path / "nats"):
        thread.start()
        try:
            yield
        finally:
            over.set()
            thread.join()


def of_the_fleet(run: RunDirectory) -> set[tuple[str, str, str, str]]:
    reader = LogReader(run.store())
    reader.poll()
    entries = [item.entry for item in reader.snapshot.episodes.values()]
    return {
        (entry.robot_id, entry.task, entry.instruction, entry.outcome)
        for entry in entries
        if entry.robot_id in ("well", "broken")
    }


EXPECTED = {("well", "lift_the_cube", "Lift the cube.", "success")}


def test_a_robot_fails_and_the_other_ones_episodes_come_in(tmp_path, lift, keep_signals, caplog):
    run = run_of(tmp_path, ("lift_the_cube", "Lift the cube."))
    make, tasks = environment_robots("ImportedLift-v0", None, run, options(success="reward>=3"), ())
    config = RobotHostConfig(
        run=run.path,
        host_id="host",
        embodiment="told",
        robots=(RobotSpec(robot_id="well"), RobotSpec(robot_id="broken")),
        operator="none",
        max_episodes=2,
    )
    with committing(run):
        # Read here: a trial in a process of its own takes its time, and is not what this is about.
        run_robot_host(config, make=make, tasks=tasks, load=PolicyReader(lambda sha256: run.path / sha256))
    assert of_the_fleet(run) == EXPECTED
    assert "robot broken: step of task lift_the_cube raised SystemExit: the window was closed" in caplog.text
    assert known_tasks(run.store()) == (KnownTask(name="lift_the_cube", instructions=("Lift the cube.",)),)


@pytest.mark.faults
def test_the_same_by_the_command(tmp_path, lift, keep_signals):
    run = run_of(tmp_path, ("lift_the_cube", "Lift the cube."))
    words = ["robot", "--run", str(run.path), "--gym", "ImportedLift-v0", "--import", "imported_lift"]
    words += ["--robots", "well", "broken", "--success", "reward>=3", "--operator", "none", "--max-episodes", "3"]
    with committing(run):
        assert dispatch(words) == 0
    assert of_the_fleet(run) == EXPECTED
