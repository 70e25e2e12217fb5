"""The nouns that every room shares: observations, actions, episodes, embodiments.

Shape suffixes: B batch, H horizon (control steps in a chunk), A action, S state, T steps of an episode.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
ByteArray = npt.NDArray[np.uint8]


class Source(StrEnum):
    """Where an episode comes from (method.md section 4)."""

    DEMONSTRATION = "demonstration"
    ROLLOUT = "rollout"
    PLAY = "play"
    FLEET = "fleet"


class Outcome(StrEnum):
    """How an episode ended. The first three are terminal; TRUNCATED means unknown, and bootstraps.

    UNLABELLED is a recording whose end nobody has judged. Its reward is not known at any step, so no critic learns
    from it; it can be imitated where the user says that it is worth it.
    """

    SUCCESS = "success"
    FAILURE = "failure"
    TIME_LIMIT = "time_limit"
    TRUNCATED = "truncated"
    UNLABELLED = "unlabelled"

    @property
    def terminal(self) -> bool:
        return self in (Outcome.SUCCESS, Outcome.FAILURE, Outcome.TIME_LIMIT)


class Controller(IntEnum):
    """Who chose the action that was executed at a step.

    NOBODY marks a *gap*: no step was made there, and the next row begins at another observation, because the world went
    on meanwhile (a person held the robot, a plan came too late, the recording paused). The row's observation is the
    last one before the gap, as an episode's last row is the last one of all; its action is a filler that was not
    executed.
    """

    POLICY = 0
    HUMAN = 1
    NOBODY = 2


@dataclass(frozen=True, kw_only=True)
class TokenSpec:
    """One group of state entries that a policy embeds as one token, such as one object's pose."""

    name: str
    size: int
    names: tuple[str, ...] = ()
    """Of its entries, in their order; empty where nobody named them."""


@dataclass(frozen=True, kw_only=True)
class Embodiment:
    """What a policy must know about a robot: its state layout, its cameras and its actions."""

    name: str
    control_hz: float
    state_tokens: tuple[TokenSpec, ...]
    action_low: tuple[float, ...]
    action_high: tuple[float, ...]
    cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Camera name -> (height, width) in pixels of its RGB images; empty in state mode."""
    action_names: tuple[str, ...] = ()
    """Of the action's entries, in their order; empty where nobody named them."""
    recorded_cameras: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Camera name -> (height, width) at which it takes its pictures, where `cameras` has other proportions."""

    @property
    def state_size(self) -> int:
        return sum(token.size for token in self.state_tokens)

    @property
    def action_size(self) -> int:
        return len(self.action_low)


@dataclass(frozen=True, kw_only=True)
class Task:
    """One task of an embodiment: its name, its paraphrases and its limits."""

    name: str
    instructions: tuple[str, ...]
    """Paraphrases used for data and deployment."""
    heldout_instructions: tuple[str, ...]
    """Paraphrases that only evaluation uses."""
    sub_steps: tuple[str, ...]
    """Names of the countable sub-steps, in their order."""
    time_limit: int
    """Control steps after which the episode ends with TIME_LIMIT."""
    long_horizon: bool


@dataclass(frozen=True, kw_only=True)
class Observation:
    """What a robot perceives at one control step."""

    state: FloatArray
    """(S,) float32, the concatenation of the embodiment's state tokens."""
    images: Mapping[str, ByteArray] = field(default_factory=dict)
    """Camera name -> (height, width, 3) uint8."""


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """What one executed action led to."""

    observation: Observation
    outcome: Outcome | None
    """None while the episode goes on."""
    sub_step_scores: tuple[float, ...]
    """Per sub-step of the task: 1 done, 0.5 done after a retry, 0 not (yet) done."""
    executed: FloatArray | None = None
    """(A,) what the hardware really executed; None: the action."""


def episode_identity(robot_id: str, episode_id: str) -> str:
    """Return what tells episodes apart: an id alone is the choice of whoever uses it first.

    Neither part holds a slash (`lwd.data.episode_file.NAME_PATTERN`).
    """
    return f"{robot_id}/{episode_id}"


@dataclass(frozen=True, kw_only=True)
class EpisodeInfo:
    """The metadata of an episode: everything but its arrays. Stored in the episode file's schema."""

    episode_id: str
    robot_id: str
    embodiment: str
    task: str
    instruction: str
    source: Source
    outcome: Outcome
    policy_version: int
    """Version of the policy that acted; -1 where none did (demonstrations, play)."""
    sub_step_scores: tuple[float, ...]
    control_hz: float
    seed: int
    world: str
    """Name of the world the robot stood in: "nominal" or the name of a deployment shift."""
    started_at_s: float
    """Unix time."""
    software_version: str
    operator_ids: tuple[str, ...] = ()
    """Who acted from the steps in `operator_steps` on, as long as steps are human; empty where nobody is named."""
    operator_steps: tuple[int, ...] = ()

    @property
    def identity(self) -> str:
        """What tells episodes apart: see `episode_identity`."""
        return episode_identity(self.robot_id, self.episode_id)


@dataclass(frozen=True, kw_only=True)
class Episode:
    """One complete episode of T control steps, gaps included (`Controller.NOBODY`).

    `states_TS` has T + 1 rows: the observation before each action, and the last one after the final action. The rows up
    to a gap are a segment; no transition reaches from one segment into the next.
    Rewards are not stored: they follow from the outcome (1 on the last step of a success, else 0), so a relabelled
    episode has the right rewards by construction.
    """

    info: EpisodeInfo
    states_TS: FloatArray
    """(T + 1, S)."""
    actions_TA: FloatArray
    """(T, A), the actions that were executed."""
    controllers_T: ByteArray
    """(T,) values of Controller."""
    images: Mapping[str, tuple[bytes, ...]] = field(default_factory=dict)
    """Camera name -> T + 1 encoded (PNG or JPEG) frames."""

    @property
    def steps(self) -> int:
        """T, gaps included."""
        return int(self.actions_TA.shape[0])

    @property
    def acted_steps(self) -> int:
        """Control steps that were really made."""
        return int((self.controllers_T != Controller.NOBODY).sum())


@dataclass(frozen=True, kw_only=True)
class RobotView:
    """What an operator sees of a robot before each step."""

    robot_id: str
    task: Task
    step: int
    """Control steps since the episode began."""
    observation: Observation
    sub_step_scores: tuple[float, ...]
    privileged: Mapping[str, Any]
    executed: FloatArray | None = None
    """(A,) the last action of this episode; None before the first, and for operators elsewhere."""


class Intent(StrEnum):
    OBSERVE = "observe"
    HOLD = "hold"
    TAKE_OVER = "take_over"
    LABEL = "label"
    DISCARD = "discard"


@dataclass(frozen=True, kw_only=True)
class Command:
    """An operator's wish for the next step.

    TAKE_OVER executes `action` instead of the policy's; the operator releases the robot by observing again.
    HOLD lets the robot stand still: no step is made, and none recorded.
    LABEL ends the episode with `outcome`; DISCARD ends it, and nothing of it is kept.
    """

    intent: Intent
    action: FloatArray | None = None
    outcome: Outcome | None = None
    operator_id: str = ""
    """Who wishes it; empty where nobody is named."""


OBSERVE = Command(intent=Intent.OBSERVE)
HOLD = Command(intent=Intent.HOLD)
