"""What travels over the bus. Unknown fields are refused; nothing here is needed to keep an episode safe."""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lwd.data.episode_file import NAME_PATTERN, episode_key
from lwd.data.policies import LAST_VERSION, require_policy_key
from lwd.driving import Direction, Driving

SHA256_PATTERN = r"^[0-9a-f]{64}$"


class Message(BaseModel):
    """Base of all messages."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class EpisodeAnnouncement(Message):
    """A robot uploaded an episode."""

    episode_id: str = Field(pattern=NAME_PATTERN)
    robot_id: str = Field(pattern=NAME_PATTERN)
    key: str = Field(max_length=1024)
    sha256: str = Field(pattern=SHA256_PATTERN)
    bytes: int = Field(gt=0)
    uploaded_at_s: float
    """Unix time."""

    @model_validator(mode="after")
    def _own_key(self) -> Self:
        if self.key != (own := episode_key(self.robot_id, self.episode_id)):
            raise ValueError(f"key is {self.key!r}; the episode of this robot and id is stored under {own!r}")
        return self


class SnapshotAnnouncement(Message):
    """The coordinator committed a snapshot version."""

    version: int = Field(ge=0)
    epoch: int = Field(ge=0)
    episodes: int = Field(ge=0)
    committed_at_s: float


class PolicyPointer(Message):
    """A hint that there is a newer policy. What it is says its manifest in the store."""

    version: int = Field(ge=0, le=LAST_VERSION)
    key: str = Field(max_length=1024)
    sha256: str = Field(pattern=SHA256_PATTERN)
    update: int = Field(ge=0)
    snapshot: int = Field(ge=0)
    published_at_s: float

    @model_validator(mode="after")
    def _own_key(self) -> Self:
        require_policy_key(self.version, self.key)
        return self


class LearnerHeartbeat(Message):
    """Where the learner stands; robot hosts slow down by it."""

    time_s: float
    stage: str
    update: int = Field(ge=0)
    snapshot: int = Field(ge=0)
    policy_version: int = Field(ge=-1)
    env_steps: int = Field(ge=0)
    """Fleet steps in the learner's replay."""
    env_steps_allowed: int | None = Field(default=None, ge=0)
    """Fleet steps that the log may hold for now; then hosts begin no new episodes of simulated robots. None: no
    limit."""
    real_env_steps_allowed: int | None = Field(default=None, ge=0)
    """The same for real robots."""


class AxisStatus(Message):
    """One number of a robot's action, as much of it as an operator's page needs (`lwd.driving.DriveAxis`)."""

    label: str = Field(max_length=64)
    absolute: bool
    minus: Direction | None = None
    plus: Direction | None = None


class RobotStatus(Message):
    """One robot of a host."""

    robot_id: str = Field(pattern=NAME_PATTERN)
    task: str
    instruction: str
    episode_id: str
    step: int = Field(ge=0)
    policy_version: int = Field(ge=-1)
    human: bool
    """Whether the last step was a human's."""
    sub_step_scores: tuple[float, ...]
    time_limit: int = Field(default=0, ge=0)
    """Control steps after which the episode ends; 0: not told."""
    control_hz: float = Field(default=0.0, ge=0)
    embodiment: str = Field(default="", max_length=256)
    axes: tuple[AxisStatus, ...] = Field(default=(), max_length=4096)
    """What `jog` deflects."""


class HostHeartbeat(Message):
    """One robot host and its robots."""

    host_id: str = Field(pattern=NAME_PATTERN)
    time_s: float
    state: Literal["waiting for a policy", "running", "waiting for the learner", "spool full", "stopping"]
    env_steps: int = Field(ge=0)
    """Steps since the host started."""
    episodes: int = Field(ge=0)
    spooled: int = Field(ge=0)
    """Episodes in the spool: not yet known to be committed."""
    spooled_bytes: int = Field(default=0, ge=0)
    oldest_s: float = Field(default=0.0, ge=0)
    """For how long the oldest of them has waited."""
    error: str = Field(default="", max_length=500)
    """Why nothing is shipped, or why no episode begins; empty while all is well."""
    policy_version: int = Field(ge=-1)
    """Newest version loaded."""
    robots: tuple[RobotStatus, ...]


class CoordinatorHeartbeat(Message):
    """The coordinator is alive."""

    time_s: float
    epoch: int = Field(ge=0)
    version: int = Field(ge=0)
    episodes: int = Field(ge=0)
    quarantined: int = Field(ge=0)


class WatchRequest(Message):
    """A console looks at the fleet; it repeats this every second, and hosts forget it after three."""

    console_id: str = Field(pattern=NAME_PATTERN)
    robots: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = Field(max_length=4096)
    """Whose poses to send; of all others only the state of control."""
    hz: float = Field(gt=0, le=50)
    """Pose frames per second, at most."""
    views: tuple[Annotated[str, Field(pattern=NAME_PATTERN)], ...] = Field(default=(), max_length=4096)
    """Whose `OperatorView` to send, too."""
    view_hz: float = Field(default=50, gt=0, le=50)
    """Views per second, at most; twice the robot's control rate is enough for whoever drives it."""


ControlVerb = Literal[
    "take", "resume", "pause", "drive", "jog", "keep", "release", "success", "failure", "discard", "undo", "abandon"
]


class ControlCommand(Message):
    """What an operator wants of one robot; the console has checked who it is."""

    robot_id: str = Field(pattern=NAME_PATTERN)
    verb: ControlVerb
    operator_id: str = Field(pattern=NAME_PATTERN)
    client_id: str = Field(pattern=NAME_PATTERN)
    """Browser tab or device; "abandon" gives up all that it holds."""
    lease: int = Field(default=0, ge=0)
    sequence: int = Field(default=0, ge=0)
    """Counts a lease's `drive` and `jog` commands: an older one never replaces a newer one."""
    action: tuple[float, ...] = Field(default=(), max_length=4096)
    """Of `drive`: in the robot's units. Of `jog`: how far each axis is deflected, in [-1, 1]."""
    request_id: str = Field(default="", max_length=64)
    """Repeated in the answer; empty: no answer is wanted."""
    seen_s: float = Field(default=0.0, ge=0)
    """The newest `robot_time_s` of this robot that its sender saw (`lwd.fleet.command_age`); 0: it does not say."""


class ControlState(Message):
    """Who controls one robot. Sent on every change, after every request, and each second while somebody watches."""

    robot_id: str = Field(pattern=NAME_PATTERN)
    host_id: str = Field(pattern=NAME_PATTERN)
    phase: Literal["autonomous", "paused", "human"]
    lease: int = Field(ge=0)
    """0: nobody holds it."""
    operator_id: str = ""
    client_id: str = ""
    reason: str = Field(default="", max_length=500)
    """Why it is paused."""
    help_reason: str = Field(default="", max_length=500)
    """Why it asks for an operator; empty if it does not."""
    help_for_s: float = Field(default=0.0, ge=0)
    label: str = ""
    """Label that can still be taken back."""
    fault: str = Field(default="", max_length=500)
    """Why it rests; empty if it does not."""
    request_id: str = Field(default="", max_length=64)
    refused: str = Field(default="", max_length=500)
    """Why the request was refused; empty if it was not."""
    waits: bool = False
    """Whether no episode runs, and the next one waits for `resume` or `release`."""
    robot_time_s: float = Field(default=0.0, ge=0)
    """The host's monotonic clock when this was so."""


class OperatorView(Message):
    """What an operator elsewhere needs to drive one robot: `lwd.types.RobotView` without pictures, and who controls."""

    robot_id: str = Field(pattern=NAME_PATTERN)
    embodiment: str = Field(max_length=256)
    control_hz: float = Field(gt=0)
    action_low: tuple[float, ...] = Field(max_length=4096)
    action_high: tuple[float, ...] = Field(max_length=4096)
    episode_id: str
    task: str
    instruction: str
    sub_steps: tuple[str, ...] = Field(max_length=4096)
    time_limit: int = Field(ge=0)
    long_horizon: bool
    step: int = Field(ge=0)
    sub_step_scores: tuple[float, ...] = Field(max_length=4096)
    state: tuple[float, ...] = Field(max_length=65_536)
    privileged: dict[str, bool | int | float | tuple[float, ...]] = Field(max_length=4096)
    """Numbers and vectors of the simulator's state, for scripted experts; empty on real robots."""
    phase: Literal["autonomous", "paused", "human"]
    lease: int = Field(ge=0)
    label: str = ""
    reason: str = Field(default="", max_length=500)
    robot_time_s: float = Field(default=0.0, ge=0)
    """The host's monotonic clock when this was seen."""


def axes_of(driving: Driving) -> tuple[AxisStatus, ...]:
    """Return what an operator's page needs to know of how a robot is driven."""
    return tuple(
        AxisStatus(label=axis.label[:64], absolute=axis.absolute, minus=axis.minus, plus=axis.plus)
        for axis in driving.axes
    )


LEARNER_SUBJECT = "lwd.heartbeat.learner"
COORDINATOR_SUBJECT = "lwd.heartbeat.coordinator"
POLICY_SUBJECT = "lwd.policy"
SNAPSHOT_SUBJECT = "lwd.snapshot"
EPISODE_SUBJECT = "lwd.episodes"
"""Episodes are announced on `lwd.episodes.<robot id>`."""
WATCH_SUBJECT = "lwd.watch"
COMMAND_SUBJECT = "lwd.control.command"
"""Operators' commands are sent on `lwd.control.command.<robot id>`."""
CONTROL_SUBJECT = "lwd.control.state"
POSES_SUBJECT = "lwd.poses"
VIEW_SUBJECT = "lwd.view"
"""Views for operators are sent on `lwd.view.<robot id>`."""


def host_subject(host_id: str) -> str:
    """Return the subject of a host's heartbeat; `lwd.heartbeat.host.*` is all of them."""
    return f"lwd.heartbeat.host.{subject_token(host_id)}"


def episode_subject(robot_id: str) -> str:
    """Return the subject on which a robot announces its episodes."""
    return f"{EPISODE_SUBJECT}.{subject_token(robot_id)}"


def command_subject(robot_id: str) -> str:
    """Return the subject on which a robot takes operators' commands."""
    return f"{COMMAND_SUBJECT}.{subject_token(robot_id)}"


def control_subject(robot_id: str) -> str:
    """Return the subject on which a robot tells who controls it."""
    return f"{CONTROL_SUBJECT}.{subject_token(robot_id)}"


def poses_subject(robot_id: str) -> str:
    """Return the subject of a robot's pose frames (`lwd.fleet.poses`)."""
    return f"{POSES_SUBJECT}.{subject_token(robot_id)}"


def view_subject(robot_id: str) -> str:
    """Return the subject of the views that a robot's host sends to operators (`OperatorView`)."""
    return f"{VIEW_SUBJECT}.{subject_token(robot_id)}"


def subject_token(name: str) -> str:
    """Return a name as one level of a subject: a dot would begin another one.

    Names hold no "=", so that no two of them become the same token.
    """
    return name.replace(".", "=")
