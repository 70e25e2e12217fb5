"""How regular is the control rate at 30 Hz, and how much do commands jump between chunks?

Three hosts drive one arm in real time for a while: the bare loop (actions that are there already), a policy in the same
process that is asked when its chunk is used up, and the same policy asked ahead (`lwd robot --predict-ahead`). Run it
on a machine that does nothing else:

    python -m benchmarks.control_rate [--seconds 20] [--width 2048] [--horizon 30]
"""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch

from lwd.fleet.ahead import ChunkAhead
from lwd.fleet.release import LoadedPolicy
from lwd.models.instruction import InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.robots.pacing import Pacer
from lwd.robots.session import EpisodeSession
from lwd.types import Embodiment, FloatArray, Observation, Source, StepResult, Task, TokenSpec

HZ = 30.0
JOINTS = 7
ARM = Embodiment(
    name="arm",
    control_hz=HZ,
    state_tokens=(TokenSpec(name="state", size=JOINTS),),
    action_low=(-1.0,) * JOINTS,
    action_high=(1.0,) * JOINTS,
)
TASK = Task(
    name="move",
    instructions=("move",),
    heldout_instructions=(),
    sub_steps=(),
    time_limit=10**9,
    long_horizon=True,
)


class PacedArm:
    """Joints that follow their targets, at a real control rate; notes when every period began."""

    embodiment = ARM

    def __init__(self) -> None:
        self.pacer = Pacer(HZ)
        self.began_s: list[float] = []

    def reset(self, task: Task, seed: int) -> Observation:
        self._position = np.random.default_rng(seed).uniform(-0.5, 0.5, JOINTS)
        self.pacer.begin()
        return self._observe()

    def step(self, action: FloatArray) -> StepResult:
        self.began_s.append(time.perf_counter())
        self._position += 0.3 * (np.clip(action, -1, 1) - self._position)
        self.pacer.wait()
        return StepResult(observation=self._observe(), outcome=None, sub_step_scores=())

    def hold(self) -> None: ...

    def privileged(self) -> Mapping[str, Any]:
        return {}

    def close(self) -> None: ...

    def _observe(self) -> Observation:
        return Observation(state=self._position.astype(np.float32))


class SmoothPolicy:
    """Thinks as long as a network, and gives chunks as a trained policy's are: smooth, towards a goal of its noise.

    An untrained network's chunks are noise from step to step, so a jump at their seams would mean nothing.
    """

    embodiment = ARM

    def __init__(self, network: SmallVLA) -> None:
        self.network = network
        self.horizon = network.horizon

    def act(
        self, observations: Sequence[Observation], instructions: Sequence[str], *, generator: torch.Generator
    ) -> FloatArray:
        self.network.act(observations, instructions, generator=generator)
        goal_A = 0.5 * torch.randn(JOINTS, generator=generator).numpy()
        position_A = observations[0].state
        share_H = 1 - np.exp(-np.arange(1, self.horizon + 1) / 10)
        chunk_HA = position_A + share_H[:, None] * (goal_A - position_A)
        return chunk_HA[None].astype(np.float32)


def measure(policy: SmoothPolicy, seconds: float, mode: str, left: int) -> dict[str, float]:
    """Drive the arm for a while; return the jitter of its periods and the jumps of its commands."""
    arm = PacedArm()
    session = EpisodeSession(
        arm, TASK, "move", seed=0, robot_id="arm", source=Source.FLEET, policy_version=0, world="real"
    )
    generator = torch.Generator().manual_seed(0)
    loaded = LoadedPolicy(version=0, policy=policy)
    first = policy.act([session.observation], ["move"], generator=generator)[0]
    took_s = _inference_s(policy, session)
    ahead = ChunkAhead(left, generator, seam="fade") if mode == "ahead" else None
    seams: list[int] = []
    for _ in range(round(seconds * HZ)):
        plans = session.plans
        if mode == "bare" and session.needs_chunk:
            session.load_chunk(first)
        elif ahead is not None:
            ahead.update(session, loaded)
            if session.needs_chunk and not ahead.fill(session):
                session.load_chunk(policy.act([session.observation], ["move"], generator=generator)[0])
        elif session.needs_chunk:
            session.load_chunk(policy.act([session.observation], ["move"], generator=generator)[0])
        if session.plans != plans and session.steps:
            seams.append(session.steps)
        session.step()
    if ahead is not None:
        ahead.close()
    actions_TA = session.truncate().actions_TA
    late_s = np.abs(np.diff(arm.began_s) - 1 / HZ)
    jump_T = np.abs(np.diff(actions_TA, axis=0)).max(axis=1)
    inside = np.ones(len(jump_T), bool)
    inside[np.array(seams) - 1] = False
    return {
        "jitter_p99_ms": 1e3 * float(np.quantile(late_s, 0.99)),
        "jitter_max_ms": 1e3 * float(late_s.max()),
        "overruns": float(arm.pacer.overruns),
        "seam_jump_p50": float(np.median(jump_T[~inside])),
        "seam_jump_max": float(jump_T[~inside].max()),
        "in_chunk_step_p99": float(np.quantile(jump_T[inside], 0.99)),
        "inference_ms": 1e3 * took_s,
    }


def _inference_s(policy: SmoothPolicy, session: EpisodeSession) -> float:
    times = []
    for _ in range(5):
        begun_s = time.perf_counter()
        policy.act([session.observation], ["move"], generator=torch.Generator().manual_seed(1))
        times.append(time.perf_counter() - begun_s)
    return float(np.median(times))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--width", type=int, default=2048, help="of the action expert: sets how long it thinks")
    parser.add_argument("--horizon", type=int, default=30)
    parser.add_argument("--left", type=int, default=15, help="actions left when the next chunk is asked for")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = VLAConfig(horizon=options.horizon, expert_width=options.width)
    statistics = StateStatistics(mean=(0.0,) * JOINTS, std=(1.0,) * JOINTS)
    policy = SmoothPolicy(SmallVLA(ARM, config, statistics, InstructionEncoder()))
    found = {mode: measure(policy, options.seconds, mode, options.left) for mode in ("bare", "same process", "ahead")}
    bare_ms = found["bare"]["jitter_p99_ms"]
    # The fade makes steps inside a chunk larger: what the policy's own steps are is seen where nothing fades.
    own_step = found["same process"]["in_chunk_step_p99"]
    for result in found.values():
        result["jitter_p99_of_bare"] = result["jitter_p99_ms"] / bare_ms
        result["seam_p50_of_own_step_p99"] = result["seam_jump_p50"] / own_step
        result["fade_p99_of_own_step_p99"] = result["in_chunk_step_p99"] / own_step
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
