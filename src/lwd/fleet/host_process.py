"""The process of a robot host: builds robots and network, runs until told to stop, leaves nothing behind."""

import contextlib
import logging
import re
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch

from lwd.data.episode_file import NAME_PATTERN
from lwd.data.policies import MAX_POLICY_BYTES, fetch_base
from lwd.data.store import StoreConfig
from lwd.errors import ConfigError
from lwd.fleet.ahead import Seam
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.console_link import ConsoleLink
from lwd.fleet.coordinator_process import bus_of, store_of
from lwd.fleet.edge import EdgeSettings, FleetRobot, RobotHost
from lwd.fleet.host_network import HostNetwork
from lwd.fleet.liveness import alive
from lwd.fleet.metrics_file import MetricsFile
from lwd.fleet.no_terminal import nobody_answers
from lwd.fleet.policy_trial import ProcessTrial, Trial, TrialLimits
from lwd.fleet.release import PolicyFollower, PolicyLoader
from lwd.fleet.shipper import Shipper
from lwd.fleet.spool import Spool, SpoolLimits
from lwd.fleet.stop_files import StopFiles, StopFileThread
from lwd.fleet.stop_latch import StopLatch
from lwd.fleet.stop_signal import StopSignal
from lwd.models.checkpoint import PolicyReader, require_embodiment
from lwd.models.protocol import Policy
from lwd.operators.help import StuckRule
from lwd.operators.protocol import Operator
from lwd.operators.remote import RemoteOperator
from lwd.operators.scripted import ScriptedOperator
from lwd.robots.protocol import Robot, driving_of, no_success_test, tells_success
from lwd.robots.sim import TASKS, make_robot, task_named
from lwd.types import Task

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RobotSpec:
    """One robot of a host."""

    robot_id: str
    world: str = "nominal"


@dataclass(frozen=True, kw_only=True)
class RobotHostConfig:
    """Settings of a robot host's process."""

    run: Path
    """Run directory: spool and metrics go there; store and bus are its own unless given."""
    host_id: str
    robots: tuple[RobotSpec, ...]
    store: StoreConfig | None = None
    """None: RUN/store."""
    bus: BusConfig | None = None
    """None: the embedded server's, from RUN/nats/url."""
    embodiment: str = "ogbench-scene"
    tasks: tuple[str, ...] = ()
    """Empty: all tasks of the embodiment."""
    task_weights: Mapping[str, float] = field(default_factory=dict)
    """Share of the episodes by task; empty: the tasks take turns."""
    operator: Literal["scripted", "none"] = "scripted"
    operator_patience: int = 40
    operator_allowed_fraction: float = 0.4
    help_patience: int = 60
    """Control steps without a new sub-step after which a robot asks for a person at the console."""
    seed: int = 0
    max_env_steps: int | None = None
    max_episodes: int | None = None
    predict_ahead: int = 0
    """Actions left in a chunk when the next one is predicted in the background; 0: when none is left."""
    seam: Seam = "guided"
    """How a chunk that was predicted ahead follows the one before."""
    max_policies: int = 3
    """Policy versions in memory at a time, besides one that worked and is kept to go back to."""
    max_policy_bytes: int = MAX_POLICY_BYTES
    """A larger policy file is not downloaded; less keeps a small robot computer from running out of memory."""
    trial_limits: TrialLimits = field(default_factory=TrialLimits)
    """What a version may use in its trial, before robots act with it."""
    heartbeat_s: float = 1.0
    spool_limits: SpoolLimits = field(default_factory=SpoolLimits)
    drain_s: float = 30.0
    """How long to wait for commits after a limit was reached; what remains stays in the spool."""
    stop_drain_s: float = 5.0
    """The same after a signal to stop."""

    def __post_init__(self) -> None:
        names = [robot.robot_id for robot in self.robots]
        if not names or len(set(names)) != len(names):
            raise ConfigError(f"robots are {names}; a host needs at least one, each with its own id")
        for name in (self.host_id, *names):
            if not re.fullmatch(NAME_PATTERN, name):
                raise ConfigError(f"{name!r} is no name of a host or robot: use letters, digits, '-', '_' and '.'")
        if self.max_policies < 1:
            raise ConfigError(f"max_policies is {self.max_policies}; it must be at least 1")
        for task, share in self.task_weights.items():
            if task not in (self.tasks or TASKS) or not share >= 0:
                raise ConfigError(f"task_weights[{task!r}] is {share}; name a task of this host, with a share >= 0")
        if self.task_weights and not any(self.task_weights.values()):
            raise ConfigError("task_weights add up to 0; give at least one task a positive share")


RobotMaker = Callable[[RobotSpec], tuple[Robot, Operator | None]]


def simulated_robots(config: RobotHostConfig) -> RobotMaker:
    """Return what makes the robots of a host that simulates."""

    # Here, not above: real robots need no simulator.
    from lwd.robots.sim.oracle import SceneExpert

    def make(spec: RobotSpec) -> tuple[Robot, Operator | None]:
        robot = make_robot(config.embodiment, spec.world)
        if config.operator == "none":
            return robot, None
        operator = ScriptedOperator(
            SceneExpert(),
            patience=config.operator_patience,
            allowed_fraction=config.operator_allowed_fraction,
        )
        return robot, operator

    return make


def run_robot_host(
    config: RobotHostConfig,
    *,
    make: RobotMaker | None = None,
    tasks: tuple[Task, ...] | None = None,
    load: "PolicyLoader | None" = None,
    trial: Trial | None = None,
) -> None:
    """Run until SIGTERM or SIGINT, or until a limit is reached and its episodes are committed.

    However it ends, every robot and every device of an operator is closed, also where another one fails at it. A second
    signal ends a robot's way to where it is let go. Nothing asks a question at a terminal.

    Args:
        make: builds the robots; simulated ones if None.
        tasks: what the robots do; the embodiment's tasks by their names in the configuration if None.
        load: makes a policy from published bytes; None: reads LWD's policy files.
        trial: tries a version before robots act with it; None: in a process of its own, where `load` is None, too.
    Raises:
        ConfigError: if the store's URL, or a file of the bus's configuration, is wrong.
        ServiceError: if another process runs one of the robots.
        UnknownTask: if a task does not exist.
        RobotFault: if a robot fails again and again.
    """
    # Small networks: a second thread costs more than it gives beside other processes.
    torch.set_num_threads(1)
    stop = _StopFlag()
    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop.set)
    if config.bus is not None:
        config.bus.client_options()
    make = make or simulated_robots(config)
    tasks = tasks or tuple(task_named(name) for name in (config.tasks or tuple(TASKS)))
    spool = Spool(config.run / "spool", config.spool_limits)
    starts = {spec.robot_id: spool.claim(spec.robot_id) for spec in config.robots}
    # Before anything can move: who was stopped starts stopped.
    latch = StopLatch()
    stop_signal = StopSignal(latch, config.host_id)
    stop_files = StopFileThread(StopFiles(config.run), latch)
    units = []
    remotes: dict[str, RemoteOperator] = {}
    devices = contextlib.ExitStack()
    try:
        devices.enter_context(nobody_answers())
        for spec in config.robots:
            robot, operator = make(spec)
            devices.callback(_close, f"robot {spec.robot_id}", robot.close)
            remote = RemoteOperator(
                driving_of(robot),
                otherwise=operator,
                help_rule=StuckRule(patience=config.help_patience),
            )
            devices.callback(_close, f"the operator of robot {spec.robot_id}", remote.close)
            units.append(
                FleetRobot(
                    robot_id=spec.robot_id,
                    robot=robot,
                    world=spec.world,
                    operator=remote,
                    start=starts[spec.robot_id],
                )
            )
            remotes[spec.robot_id] = remote
        if unjudged := [unit.robot_id for unit in units if not tells_success(unit.robot)]:
            _logger.warning("%s", no_success_test(f"robot{'s' if len(unjudged) > 1 else ''} {', '.join(unjudged)}"))
        settings = EdgeSettings(
            tasks=tasks,
            task_weights=config.task_weights,
            seed=config.seed,
            max_env_steps=config.max_env_steps,
            max_episodes=config.max_episodes,
            predict_ahead=config.predict_ahead,
            seam=config.seam,
        )
        console = ConsoleLink(config.host_id, remotes)
        _run(config, units, console, settings, spool, load, trial, stop, latch, stop_files, devices)
    finally:
        stop_files.close()
        stop_signal.close()
        devices.close()
        spool.close()


def _close(what: str, close: Callable[[], None]) -> None:
    """Close something; the others have their turn whatever happens."""
    try:
        close()
    except (Exception, SystemExit):  # of foreign devices and environments, nearly anything
        _logger.exception("%s could not be closed", what)


class _StopFlag:
    """Set by signals. Plain flags: an Event's lock could deadlock within one thread."""

    is_set = False
    is_set_again = False

    def set(self, *_: object) -> None:
        self.is_set_again = self.is_set
        self.is_set = True


def _fitting(load: PolicyLoader, units: list[FleetRobot]) -> PolicyLoader:
    """Refuse a policy of another embodiment before a robot acts with it."""

    def checked(data: bytes) -> Policy:
        policy = load(data)
        for unit in units:
            require_embodiment(policy, unit.robot.embodiment)
        return policy

    return checked


def _run(
    config: RobotHostConfig,
    units: list[FleetRobot],
    console: ConsoleLink,
    settings: EdgeSettings,
    spool: Spool,
    load: "PolicyLoader | None",
    trial: Trial | None,
    stop: "_StopFlag",
    latch: StopLatch,
    stop_files: StopFileThread,
    devices: contextlib.ExitStack,
) -> None:
    store = store_of(config.run, config.store)
    if load is None:
        bases = config.run / "policy-bases"
        load = PolicyReader(lambda sha256: fetch_base(store, sha256, bases))
        trial = trial or ProcessTrial(
            store,
            bases,
            [unit.robot.embodiment for unit in units],
            instruction=settings.tasks[0].instructions[0],
            limits=config.trial_limits,
        )
    network = HostNetwork(
        host_id=config.host_id,
        bus=lambda: bus_of(config.run, config.bus),
        store=store,
        shipper=Shipper(store, spool, {unit.robot_id for unit in units}),
        policies=PolicyFollower(
            store,
            _fitting(load, units),
            max_loaded=config.max_policies,
            max_bytes=config.max_policy_bytes,
            trial=trial,
        ),
        metrics=MetricsFile(config.run, config.host_id),
        heartbeat_s=config.heartbeat_s,
        console=console,
        latch=latch,
    )
    stop_files.report = network.stops.report
    try:
        RobotHost(units, settings, network).run(lambda: stop.is_set, lambda: stop.is_set_again)
    finally:
        # Before the store is waited for: who waits too long is killed.
        devices.close()
        if trial is not None:
            trial.close()
        if not network.drain(10.0, committed=False):
            _logger.error("not all episodes reached the spool: is its disk full?")
        begun_s = time.monotonic()
        # Asked again and again: a signal that comes meanwhile shortens the wait.
        while not network.drain(0.2, committed=True):
            alive()
            if time.monotonic() - begun_s > (config.stop_drain_s if stop.is_set else config.drain_s):
                _logger.warning("%d episodes wait in the spool for the next start", network.waiting)
                break
        network.close()
