"""Sit at a desk as an operator of a fleet: a script that helps robots which ask for it, or a person with a device.

It takes a robot's lease like a person at the console, drives it over the message bus, and hands it back; needs no store
and no console. Several may run; each robot has one operator at a time. Ctrl-C hands a robot back that a script drives;
one that a person drives holds, until somebody takes it over and hands it back.
"""

import asyncio
import contextlib
import logging
import signal
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Annotated, Any

import tyro

from lwd.cli.options import RunOption, run_at
from lwd.cli.services import NOTED_SERVICES, ServiceOptions
from lwd.errors import ConfigError
from lwd.fleet.bus_config import BusConfig
from lwd.fleet.coordinator_process import bus_of
from lwd.fleet.desk import Desk
from lwd.fleet.json_options import json_object
from lwd.fleet.no_terminal import nobody_answers
from lwd.fleet.shift import help_the_fleet, look_after
from lwd.operators.protocol import Operator
from lwd.operators.scripted import ScriptedHelper
from lwd.types import Embodiment


def run(
    run: RunOption = Path("runs/demo"),
    name: Annotated[str, tyro.conf.arg(help="who; it is recorded with each step that they drive")] = "operator",
    scripted: Annotated[
        bool,
        tyro.conf.arg(help="help whichever robot of the simulated scene asks, with the expert that knows its state"),
    ] = False,
    give_up_after: Annotated[
        int, tyro.conf.arg(help="control periods without a new sub-step after which the script says: failure")
    ] = 200,
    teleop: Annotated[
        str | None,
        tyro.conf.arg(metavar="TYPE", help="LeRobot's device, such as so101_leader or gamepad; None: no device"),
    ] = None,
    teleop_arguments: Annotated[
        str, tyro.conf.arg(metavar="JSON", help="LeRobot's own settings of it: port, id, ...")
    ] = "{}",
    events: Annotated[
        str | None,
        tyro.conf.arg(
            metavar="JSON",
            help="a second device, with its type, that says how episodes end, for those that cannot (leader arms); "
            "None: the device says it, or nobody",
        ),
    ] = None,
    robot: Annotated[
        str | None, tyro.conf.arg(metavar="ID", help="robot that the device drives; None: none, with --scripted")
    ] = None,
    where: ServiceOptions = NOTED_SERVICES,
) -> None:
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if scripted == (teleop is not None) or (teleop is None) != (robot is None):
        raise ConfigError("give either --scripted, or --teleop TYPE and --robot ID")
    directory = run_at(run, where)
    bus = bus_of(directory.path, directory.bus())
    with contextlib.suppress(asyncio.CancelledError):
        if teleop is None or robot is None:
            from lwd.robots.sim.oracle import SceneExpert

            asyncio.run(_help(bus, name, ScriptedHelper(SceneExpert(), give_up_after=give_up_after)))
        else:
            device = {**json_object(teleop_arguments, "teleop_arguments"), "type": teleop}
            second = None if events is None else json_object(events, "events")
            asyncio.run(_teleoperate(bus, name, robot, device, second))


async def _help(bus: BusConfig, name: str, helper: Operator) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with Desk.open(bus, name) as desk:
        await help_the_fleet(desk, helper, stop)


async def _teleoperate(
    bus: BusConfig, name: str, robot_id: str, device: Mapping[str, Any], events: Mapping[str, Any] | None
) -> None:
    from lwd.operators.lerobot import LeRobotOperator
    from lwd.robots.lerobot_devices import make_teleoperator

    def connect(embodiment: Embodiment) -> AbstractContextManager[Operator]:
        second = None if events is None else make_teleoperator(events)
        # It is connected by its first episode, in here: whatever it had opened by then is closed.
        return contextlib.closing(LeRobotOperator(make_teleoperator(device), embodiment, events=second))

    # Cancelled, not asked to stop: what was driven must hold at once. Ctrl-C like that, too: a second one would
    # interrupt the closing of a device.
    if (task := asyncio.current_task()) is not None:
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    with nobody_answers("lwd operator"):
        await _sit_down(bus, name, robot_id, connect)


async def _sit_down(
    bus: BusConfig, name: str, robot_id: str, connect: Callable[[Embodiment], AbstractContextManager[Operator]]
) -> None:
    async with Desk.open(bus, name) as desk:
        await look_after(desk, robot_id, connect, asyncio.Event())
