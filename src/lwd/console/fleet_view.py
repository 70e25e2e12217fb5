"""What the console knows of the fleet: the newest heartbeat, state of control and pose frame of each robot."""

import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lwd.fleet.messages import ControlState, CoordinatorHeartbeat, HostHeartbeat, LearnerHeartbeat, RobotStatus

OFFLINE_S = 3.0
"""A host that was silent for so long is offline."""
_ORDER = ("help", "fault", "human", "paused", "stopped", "autonomous", "idle", "offline")
"""Robots that need somebody come first."""


@dataclass(frozen=True, kw_only=True)
class Value:
    """What a robot's state was worth to the value network."""

    episode_id: str
    step: int
    value: float


@dataclass(kw_only=True)
class _Robot:
    robot_id: str
    host_id: str = ""
    status: RobotStatus | None = None
    control: ControlState | None = None
    control_s: float = 0.0
    value: Value | None = None


class FleetView:
    """Filled by the bus's messages; read by everybody who watches."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._robots: dict[str, _Robot] = {}
        self._hosts: dict[str, tuple[float, HostHeartbeat]] = {}
        self._learner: tuple[float, LearnerHeartbeat] | None = None
        self._coordinator: tuple[float, CoordinatorHeartbeat] | None = None
        self._values = {"of": "", "note": ""}
        self.stop: Callable[[], dict[str, Any]] = lambda: {"active": [], "hosts": [], "trouble": ""}
        """Whether somebody stopped all robots (`EmergencyStop.view`)."""

    @property
    def robot_ids(self) -> list[str]:
        return sorted(self._robots)

    def on_host(self, beat: HostHeartbeat) -> None:
        self._hosts[beat.host_id] = (self._clock(), beat)
        present = {status.robot_id: status for status in beat.robots}
        for robot_id, status in present.items():
            self._robot(robot_id).status = status
            self._robot(robot_id).host_id = beat.host_id
        for robot in self._robots.values():
            if robot.host_id == beat.host_id and robot.robot_id not in present:
                robot.status = None

    def on_control(self, state: ControlState) -> None:
        robot = self._robot(state.robot_id)
        robot.host_id, robot.control, robot.control_s = state.host_id, state, self._clock()

    def on_learner(self, beat: LearnerHeartbeat) -> None:
        self._learner = (self._clock(), beat)

    def on_coordinator(self, beat: CoordinatorHeartbeat) -> None:
        self._coordinator = (self._clock(), beat)

    def on_values(self, values: Mapping[str, Value], *, of: str, note: str) -> None:
        """New values.

        Args:
            of: which network they are of.
            note: why there are none.
        """
        for robot_id, value in values.items():
            self._robot(robot_id).value = value
        self._values = {"of": of, "note": note}

    def control(self, robot_id: str) -> ControlState | None:
        """Return who controls a robot, as far as is known."""
        robot = self._robots.get(robot_id)
        return None if robot is None else robot.control

    def held_by(self, client_id: str) -> list[str]:
        """Return the robots whose lease a client holds."""
        return [
            robot.robot_id
            for robot in self._robots.values()
            if robot.control is not None and robot.control.client_id == client_id
        ]

    def snapshot(self) -> dict[str, Any]:
        """Return everything as JSON; robots that need somebody come first, longest waiting first."""
        stop = self.stop()
        stopped = frozenset(host["host_id"] for host in stop["hosts"])
        rows = [self._row(robot, stopped) for robot in self._robots.values()]
        rows.sort(key=lambda row: (_ORDER.index(row["state"]), -row["help_for_s"], row["robot_id"]))
        return {
            "robots": rows,
            "hosts": [
                {"age_s": round(self._clock() - at_s, 2), **beat.model_dump(mode="json", exclude={"robots"})}
                for at_s, beat in self._hosts.values()
            ],
            "learner": self._beat(self._learner),
            "coordinator": self._beat(self._coordinator),
            "values": self._values,
            "stop": stop,
        }

    def _beat(self, known: tuple[float, LearnerHeartbeat | CoordinatorHeartbeat] | None) -> dict[str, Any] | None:
        if known is None:
            return None
        at_s, beat = known
        return {"age_s": round(self._clock() - at_s, 2), **beat.model_dump(mode="json")}

    def _row(self, robot: _Robot, stopped: frozenset[str]) -> dict[str, Any]:
        status, control = robot.status, robot.control
        waits_s = 0.0
        if control is not None and control.help_reason:
            waits_s = control.help_for_s + self._clock() - robot.control_s
        return {
            "robot_id": robot.robot_id,
            "host_id": robot.host_id,
            "state": self._state(robot, stopped),
            "task": status.task if status else "",
            "instruction": status.instruction if status else "",
            "episode_id": status.episode_id if status else "",
            "step": status.step if status else 0,
            "time_limit": status.time_limit if status else 0,
            "control_hz": status.control_hz if status else 0.0,
            "embodiment": status.embodiment if status else "",
            "axes": [axis.model_dump(mode="json") for axis in status.axes] if status else [],
            "policy_version": status.policy_version if status else -1,
            "sub_step_scores": list(status.sub_step_scores) if status else [],
            "acted_by_human": bool(status and status.human),
            "phase": control.phase if control else "autonomous",
            "lease": control.lease if control else 0,
            "operator_id": control.operator_id if control else "",
            "client_id": control.client_id if control else "",
            "reason": control.reason if control else "",
            "help_reason": control.help_reason if control else "",
            "help_for_s": round(waits_s, 1),
            "label": control.label if control else "",
            "waits": bool(control and control.waits),
            "fault": control.fault if control else "",
            "value": asdict(robot.value) if robot.value else None,
        }

    def _state(self, robot: _Robot, stopped: frozenset[str]) -> str:
        at_s, _ = self._hosts.get(robot.host_id, (0.0, None))
        if self._clock() - at_s > OFFLINE_S:
            return "offline"
        if robot.host_id in stopped:
            return "stopped"
        control = robot.control
        if control is not None and control.fault:
            return "fault"
        if control is not None and control.phase != "autonomous":
            return control.phase
        if robot.status is None:
            return "idle"
        return "help" if control is not None and control.help_reason else "autonomous"

    def _robot(self, robot_id: str) -> _Robot:
        return self._robots.setdefault(robot_id, _Robot(robot_id=robot_id))
