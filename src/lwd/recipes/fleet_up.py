"""A fleet on one machine: which processes `lwd up` starts, and with which commands."""

import asyncio
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass

from lwd.commands import missing_extra
from lwd.errors import ConfigError
from lwd.fleet.bus import Bus
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.nats_server import require_free_port
from lwd.fleet.supervisor import ProcessSpec, Supervisor, SupervisorConfig
from lwd.recipes.advice import require_robot_kind
from lwd.recipes.budget import Budget
from lwd.recipes.method_name import MethodName
from lwd.recipes.methods import METHODS
from lwd.recipes.run_directory import RunDirectory
from lwd.robots.protocol import no_success_test
from lwd.robots.sim import world_named

# Small matrices: a second thread per process costs more than it gives (measured in facts and docs/recipe.md).
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_BUS_WITHIN_S = 20.0


@dataclass(frozen=True, kw_only=True)
class FleetUp:
    """What `lwd up` starts."""

    budget: Budget
    robots: int
    hosts: int | None = None
    """Processes that the robots are packed into; None: one per core besides the learner's."""
    env_steps: int
    world: str
    seed: int = 0
    method: MethodName = "lwd"
    quantile_level: float | None = None
    """Of the method `constant_level`."""
    device: str = "cpu"
    nats_port: int | None = None
    console_port: int | None = None
    """Loopback port of the operators' console; None: no console."""
    robot_options: tuple[str, ...] = ()
    """Further words of every `lwd robot` command, such as --gym and its environment."""
    learner_options: tuple[str, ...] = ()
    """Further words of the `lwd learner` command, such as --prefix-cache and its size."""

    def __post_init__(self) -> None:
        if self.robots < 1:
            raise ConfigError(f"robots is {self.robots}; a fleet has at least one")
        if self.hosts is not None and not 1 <= self.hosts <= self.robots:
            raise ConfigError(f"hosts is {self.hosts}; use 1 to {self.robots}, the number of robots")
        if self.env_steps < 1:
            raise ConfigError(f"env_steps is {self.env_steps}; it must be positive")
        world_named(self.world)


def run_fleet(run: RunDirectory, fleet: FleetUp, *, on_event: Callable[[str], None]) -> None:
    """Run the fleet until its learner is done or it is stopped.

    Raises:
        CheckpointError: if the stages before are not finished.
        ConfigError: if the bus's settings are wrong.
        PortInUse: if the embedded bus's port is taken.
        ServiceError: if a bus elsewhere is not there or refuses us, or if a process fails for good.
    """
    bus = run.bus()
    if bus is not None and bus.holds_secret:
        raise ConfigError(
            "nats_url holds a token or password, which the fleet's processes cannot be told safely: "
            "put it into a file for --nats-credentials"
        )
    config = SupervisorConfig(
        run=run.path, groups=processes(run, fleet), embedded_bus=bus is None, nats_port=fleet.nats_port
    )
    require_robot_kind(run.path, run.own_embodiment(), fleet.robot_options)
    run.finished("sft", "sft")
    if METHODS[fleet.method].offline:
        run.finished("offline", "offline")
    if fleet.console_port is not None:
        if importlib.util.find_spec("fastapi") is None:
            raise ConfigError(f"{missing_extra('the console', 'fastapi', ['console'])}; or leave --console out")
        require_free_port(fleet.console_port)
    if bus is not None:
        asyncio.run(_require_bus(bus))
    if any(word.partition("=")[0] == "--lerobot" for word in fleet.robot_options):
        # The hosts' own warnings are in their logs.
        on_event(no_success_test("a LeRobot robot"))
    run.write_config("fleet", asdict(fleet))
    Supervisor(config, on_event=on_event).run()


async def _require_bus(bus: BusConfig) -> None:
    """Fail here, with the reason, rather than in the logs of every process."""
    await (await Bus.connect(bus, name="lwd up", timeout_s=_BUS_WITHIN_S)).close()


def processes(run: RunDirectory, fleet: FleetUp) -> tuple[tuple[ProcessSpec, ...], ...]:
    """Return coordinator, learner, robot hosts and the console, in the order in which they start."""
    lwd = (sys.executable, "-m", "lwd")
    where = ("--run", str(run.path))
    coordinator = ProcessSpec(name="coordinator", command=(*lwd, "coordinator", *where), environment=_ONE_THREAD)
    learner = ProcessSpec(
        name="learner",
        command=(
            *(*lwd, "learner", *where, "--budget", fleet.budget),
            *("--seed", str(fleet.seed), "--device", fleet.device, "--env-steps", str(fleet.env_steps)),
            *("--method", fleet.method),
            *(() if fleet.quantile_level is None else ("--quantile-level", str(fleet.quantile_level))),
            *fleet.learner_options,
        ),
        # Other failures are of its own making (diverged, wrong settings): repeating them helps nobody.
        restart="temporary",
        ends_run=True,
        # An update of a large policy takes its time.
        restart_frozen_after_s=1800.0,
        environment=_ONE_THREAD,
    )
    count = fleet.hosts or max(1, min((os.cpu_count() or 2) - 1, fleet.robots))
    names = [f"robot-{index:02d}" for index in range(fleet.robots)]
    hosts = tuple(
        ProcessSpec(
            name=f"host-{index}",
            command=(
                *(*lwd, "robot", *where, "--host", f"host-{index}", "--world", fleet.world),
                *("--seed", str(fleet.seed * 1000 + index), "--robots", *names[index::count]),
                *fleet.robot_options,
            ),
            environment=_ONE_THREAD,
            restart_frozen_after_s=None,
        )
        for index in range(count)
    )
    if fleet.console_port is None:
        return ((coordinator,), (learner,), hosts)
    console = ProcessSpec(
        name="console",
        command=(*lwd, "console", *where, "--port", str(fleet.console_port)),
        environment=_ONE_THREAD,
    )
    return ((coordinator,), (learner,), hosts, (console,))
