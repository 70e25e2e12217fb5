"""What the console knows of the fleet: the newest heartbeat, state of control and pose frame of each robot."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from lwd.console.claims import Claim
from lwd.fleet.complaints import Complaints
from lwd.fleet.messages import ControlState, CoordinatorHeartbeat, HostHeartbeat, LearnerHeartbeat, RobotStatus

OFFLINE_S = 3.0
"""A host that was silent for so long is offline."""
MAX_ROBOTS, MAX_HOSTS, MAX_ROBOTS_OF_HOST = 4096, 1024, 512
"""What is kept; beyond it, those that are silent are forgotten, and newcomers are not shown."""
_FORGET_EVERY_S = 1.0
_ORDER = ("help", "fault", "human", "paused", "stopped", "autonomous", "idle", "offline")
"""Robots that need somebody come first."""

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Value:
    """What a robot's state was worth to the value network."""

    episode_id: str
    step: int
    value: float


@dataclass(kw_only=True)
class _Robot:
    robot_id: str
    claim: Claim
    heard_s: float
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
        self._complaints = Complaints(_logger)
        self._next_look_s: dict[str, float] = {}

    @property
    def robot_ids(self) -> list[str]:
        return sorted(self._robots)

    def knows(self, robot_id: str) -> bool:
        """Whether a host has told of this robot."""
        return robot_id in self._robots

    def on_host(self, beat: HostHeartbeat) -> None:
        """A host's heartbeat; robots of another host, which it lists as well, stay that one's."""
        if beat.host_id not in self._hosts and not self._has_room_for_host(beat.host_id):
            return
        self._hosts[beat.host_id] = (self._clock(), beat)
        listed = beat.robots[:MAX_ROBOTS_OF_HOST]
        if len(listed) < len(beat.robots):
            self._complaints.warn(
                f"many {beat.host_id}",
                "host %s lists %d robots; the first %d are shown",
                *(beat.host_id, len(beat.robots), len(listed)),
            )
        present = {status.robot_id: status for status in listed}
        for robot_id, status in present.items():
            robot = self._robot(robot_id)
            if robot is not None and self._claims(robot, beat.host_id, speaks=False):
                robot.status = status
        for robot in self._robots.values():
            if robot.robot_id not in present:
                if robot.claim.host_id == beat.host_id:
                    robot.status = None
                robot.claim.release(beat.host_id)

    def on_control(self, state: ControlState) -> bool:
        """A robot tells who controls it. Returns whether it is known, and this host's."""
        robot = self._robot(state.robot_id)
        if robot is None or not self._claims(robot, state.host_id, speaks=True):
            return False
        robot.control, robot.control_s = state, self._clock()
        return True

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
            if (robot := self._robots.get(robot_id)) is not None:
                robot.value = value
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
            "host_id": robot.claim.host_id,
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
            "fault": "; ".join(filter(None, (robot.claim.conflict, control.fault if control else ""))),
            "value": asdict(robot.value) if robot.value else None,
        }

    def _state(self, robot: _Robot, stopped: frozenset[str]) -> str:
        at_s, _ = self._hosts.get(robot.claim.host_id, (-float("inf"), None))
        if self._clock() - at_s > OFFLINE_S:
            return "offline"
        if robot.claim.host_id in stopped:
            return "stopped"
        control = robot.control
        if (control is not None and control.fault) or robot.claim.conflict:
            return "fault"
        if control is not None and control.phase != "autonomous":
            return control.phase
        if robot.status is None:
            return "idle"
        return "help" if control is not None and control.help_reason else "autonomous"

    def _claims(self, robot: _Robot, host_id: str, *, speaks: bool) -> bool:
        before = robot.claim.host_id
        if not robot.claim.take(host_id, speaks=speaks):
            self._complaints.warn(f"claim {robot.robot_id}", "robot %s: %s", robot.robot_id, robot.claim.conflict)
            return False
        if before not in ("", host_id):
            # What another host told of it is not true of this one's.
            robot.status = robot.control = robot.value = None
        robot.heard_s = self._clock()
        return True

    def _robot(self, robot_id: str) -> _Robot | None:
        """Return what is known of a robot; None if there are too many others."""
        robot = self._robots.get(robot_id)
        if robot is None and self._has_room_for_robot(robot_id):
            claim = Claim(OFFLINE_S, self._clock)
            robot = self._robots[robot_id] = _Robot(robot_id=robot_id, claim=claim, heard_s=self._clock())
        return robot

    def _has_room_for_robot(self, robot_id: str) -> bool:
        if len(self._robots) < MAX_ROBOTS:
            return True
        heard_s = {each.robot_id: each.heard_s for each in self._robots.values()} if self._may_forget("robots") else {}
        for each in self._silent(heard_s):
            del self._robots[each]
        if len(self._robots) < MAX_ROBOTS:
            return True
        self._complaints.warn("robots", "robot %s is not shown: there are %d others", robot_id, len(self._robots))
        return False

    def _has_room_for_host(self, host_id: str) -> bool:
        if len(self._hosts) < MAX_HOSTS:
            return True
        heard_s = {name: at_s for name, (at_s, _) in self._hosts.items()} if self._may_forget("hosts") else {}
        for name in self._silent(heard_s):
            del self._hosts[name]
        if len(self._hosts) < MAX_HOSTS:
            return True
        self._complaints.warn("hosts", "host %s is not shown: there are %d others", host_id, len(self._hosts))
        return False

    def _may_forget(self, what: str) -> bool:
        """Whether it is time to look for who is silent: not at each of many newcomers."""
        if self._clock() < self._next_look_s.get(what, -float("inf")):
            return False
        self._next_look_s[what] = self._clock() + _FORGET_EVERY_S
        return True

    def _silent(self, heard_s: Mapping[str, float]) -> list[str]:
        return [name for name, at_s in heard_s.items() if self._clock() - at_s > OFFLINE_S]
