"""A small real robot and policy for tests of the fleet: a point mass that must be steered to a goal."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from lwd.batch import ObservationBatch
from lwd.errors import ActionRejected, CheckpointError
from lwd.types import Embodiment, FloatArray, Observation, Outcome, StepResult, Task, TokenSpec

EMBODIMENT = Embodiment(
    name="point-mass",
    control_hz=20.0,
    state_tokens=(
        TokenSpec(name="position", size=2),
        TokenSpec(name="velocity", size=2),
        TokenSpec(name="goal", size=2),
    ),
    action_low=(-1.0, -1.0),
    action_high=(1.0, 1.0),
)


def task(name: str, time_limit: int) -> Task:
    return Task(
        name=name,
        instructions=("go to the goal", "reach the goal"),
        heldout_instructions=("find the goal",),
        sub_steps=("half way", "at the goal"),
        time_limit=time_limit,
        long_horizon=False,
    )


TASKS = (task("near", 60), task("far", 120))


class PointMassRobot:
    """x'' = a - x' / 2, integrated over one control period per step."""

    embodiment = EMBODIMENT

    def __init__(self) -> None:
        self.closed = False
        self.holds = 0

    def reset(self, task: Task, seed: int) -> Observation:
        random = np.random.default_rng(seed)
        angle = random.uniform(0, 2 * np.pi)
        distance = 1.0 if task.name == "near" else 2.5
        self._goal = distance * np.array([np.cos(angle), np.sin(angle)])
        self._position = random.normal(size=2) * 0.05
        self._velocity = np.zeros(2)
        self._start = float(np.linalg.norm(self._goal - self._position))
        self._task, self._step = task, 0
        self._half_way = False
        return self._observe()

    def step(self, action: FloatArray) -> StepResult:
        if action.shape != (2,) or not np.isfinite(action).all():
            raise ActionRejected(f"action is {action}; expected 2 finite numbers")
        period_s = 1 / EMBODIMENT.control_hz
        acceleration = 8 * np.clip(action, -1, 1) - self._velocity / 2
        self._velocity = self._velocity + period_s * acceleration
        self._position = self._position + period_s * self._velocity
        self._step += 1
        left = float(np.linalg.norm(self._goal - self._position))
        self._half_way = self._half_way or left < self._start / 2
        outcome = None
        if left < 0.1:
            outcome = Outcome.SUCCESS
        elif self._step >= self._task.time_limit:
            outcome = Outcome.TIME_LIMIT
        return StepResult(
            observation=self._observe(),
            outcome=outcome,
            sub_step_scores=(float(self._half_way), float(outcome is Outcome.SUCCESS)),
        )

    def hold(self) -> None:
        self.holds += 1

    def privileged(self) -> Mapping[str, Any]:
        return {"goal": self._goal}

    def close(self) -> None:
        self.closed = True

    def _observe(self) -> Observation:
        state = np.concatenate([self._position, self._velocity, self._goal])
        return Observation(state=state.astype(np.float32))


class SteeringPolicy:
    """A flow whose every noise ends in the same chunk: a damped pull towards the goal."""

    embodiment = EMBODIMENT
    horizon = 5

    def __init__(self, gain: float) -> None:
        self.gain = gain
        self.batches: list[int] = []

    def encode(self, observation: ObservationBatch) -> Tensor:
        position, velocity, goal = observation.state_BS.split(2, dim=1)
        action = (self.gain * (goal - position) - velocity).clamp(-1, 1)
        return action[:, None, :].expand(-1, self.horizon, -1)

    def velocity(self, context: Tensor, noisy_chunk_BHA: Tensor, flow_time_B: Tensor) -> Tensor:
        return (context - noisy_chunk_BHA) / (1 - flow_time_B[:, None, None])

    def act(
        self, observations: Sequence[Observation], instructions: Sequence[str], *, generator: torch.Generator
    ) -> FloatArray:
        self.batches.append(len(observations))
        states = torch.from_numpy(np.stack([observation.state for observation in observations]))
        batch = ObservationBatch(state_BS=states, instruction_BE=torch.zeros(len(states), 1))
        context = self.encode(batch)
        noise = torch.randn(context.shape, generator=generator)
        return (noise + self.velocity(context, noise, torch.zeros(len(states)))).numpy()


def policy_bytes(gain: float) -> bytes:
    return save({"gain": torch.tensor(gain)})


def load_policy(data: bytes) -> SteeringPolicy:
    try:
        tensors = load(data)
    except SafetensorError as error:
        raise CheckpointError(str(error)) from error
    if "gain" not in tensors:
        raise CheckpointError("no gain in this policy")
    return SteeringPolicy(float(tensors["gain"]))
