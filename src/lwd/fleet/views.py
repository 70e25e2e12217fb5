"""What a robot's own operator sees, as a message for an operator elsewhere, and back."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from lwd.fleet.messages import OperatorView
from lwd.operators.remote import ControlView
from lwd.robots.session import EpisodeSession
from lwd.types import Embodiment, Observation, RobotView, Task, TokenSpec

_MAX_VECTOR = 4096

_Sent = bool | int | float | tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One robot at one moment, taken in the robots' thread: nothing in it changes when the robot goes on."""

    view: RobotView
    embodiment: Embodiment
    episode_id: str
    instruction: str
    time_s: float
    """Of this machine's monotonic clock."""


def scene_of(session: EpisodeSession, embodiment: Embodiment) -> Scene:
    """Return a robot's scene as of now, with everything that its simulator knows."""
    view = session.view
    return Scene(
        view=replace(view, privileged=_numbers(view.privileged)),
        embodiment=embodiment,
        episode_id=session.episode_id,
        instruction=session.instruction,
        time_s=time.monotonic(),
    )


def view_message(scene: Scene, control: ControlView) -> OperatorView:
    """Return the message.

    Raises:
        ValidationError: if a number is not finite.
    """
    view, embodiment = scene.view, scene.embodiment
    return OperatorView(
        robot_id=view.robot_id,
        embodiment=embodiment.name,
        control_hz=embodiment.control_hz,
        action_low=embodiment.action_low,
        action_high=embodiment.action_high,
        episode_id=scene.episode_id,
        task=view.task.name,
        instruction=scene.instruction,
        sub_steps=view.task.sub_steps,
        time_limit=view.task.time_limit,
        long_horizon=view.task.long_horizon,
        step=view.step,
        sub_step_scores=view.sub_step_scores,
        state=tuple(view.observation.state.tolist()),
        privileged=dict(view.privileged),
        phase=control.phase.value,
        lease=control.lease,
        label=control.label,
        reason=control.reason,
        robot_time_s=scene.time_s,
    )


def robot_view(message: OperatorView) -> RobotView:
    """Return what the operator sees; vectors are float64 again, pictures are left out."""
    return RobotView(
        robot_id=message.robot_id,
        task=Task(
            name=message.task,
            instructions=(message.instruction,),
            heldout_instructions=(),
            sub_steps=message.sub_steps,
            time_limit=message.time_limit,
            long_horizon=message.long_horizon,
        ),
        step=message.step,
        observation=Observation(state=np.array(message.state, np.float32)),
        sub_step_scores=message.sub_step_scores,
        privileged={
            name: np.array(value) if isinstance(value, tuple) else value for name, value in message.privileged.items()
        },
    )


def viewed_embodiment(message: OperatorView) -> Embodiment:
    """Return the robot's embodiment, as far as an operator needs it: one token, no cameras."""
    return Embodiment(
        name=message.embodiment,
        control_hz=message.control_hz,
        state_tokens=(TokenSpec(name="state", size=len(message.state)),),
        action_low=message.action_low,
        action_high=message.action_high,
    )


def _numbers(privileged: Mapping[str, Any]) -> dict[str, _Sent]:
    """Copy the numbers and vectors; pictures and whatever else a simulator tells stay where they are."""
    sent: dict[str, _Sent] = {}
    for name, value in privileged.items():
        if isinstance(value, np.bool_ | np.integer | np.floating):
            sent[name] = value.item()
        elif isinstance(value, bool | int | float):
            sent[name] = value
        elif isinstance(value, np.ndarray) and value.ndim == 1 and value.size <= _MAX_VECTOR:
            sent[name] = tuple(map(float, value))
    return sent
