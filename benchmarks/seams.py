"""How much commands jump where one chunk follows another, for a trained policy: cut, faded, guided (by what is left).

The simulated scene, one robot; a chunk is asked for when LEFT actions are left, and is there DELAY steps later, as if
it had been predicted meanwhile. Needs a trained policy:

    python -m benchmarks.seams POLICY.safetensors [--episodes 24] [--left 3] [--delay 2]
"""

import argparse
import json
from pathlib import Path
from typing import Literal

import numpy as np
import torch

from lwd.models.checkpoint import load_vla
from lwd.models.flow_policy import FlowPolicy
from lwd.robots.session import EpisodeSession
from lwd.robots.sim import TASKS, make_robot
from lwd.robots.sim.robot import SceneRobot
from lwd.types import FloatArray, Outcome, Source

Mode = Literal["cut", "fade", "guided"]
MODES: tuple[Mode, ...] = ("cut", "fade", "guided")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policy", type=Path)
    parser.add_argument("--episodes", type=int, default=24)
    parser.add_argument("--left", type=int, default=3, help="actions left when the next chunk is asked for")
    parser.add_argument("--delay", type=int, default=2, help="steps that a prediction takes")
    options = parser.parse_args()
    if not 0 < options.delay <= options.left:
        parser.error(f"--delay is {options.delay}; it must be 1 to --left, {options.left}")
    torch.set_num_threads(1)
    policy = load_vla(options.policy)
    robot = make_robot()
    found = {mode: measure(policy, robot, mode, options) for mode in MODES}
    print(json.dumps({"horizon": policy.horizon, "left": options.left, "delay": options.delay, **found}, indent=1))


def measure(policy: FlowPolicy, robot: SceneRobot, mode: Mode, options: argparse.Namespace) -> dict[str, float]:
    """Return jumps at the seams beside steps inside chunks, and the share of episodes that succeed."""
    seams: list[float] = []
    inside: list[float] = []
    successes = 0
    for number in range(options.episodes):
        task = tuple(TASKS.values())[number % len(TASKS)]
        session = EpisodeSession(
            robot,
            task,
            task.instructions[0],
            seed=number,
            robot_id="arm",
            source=Source.ROLLOUT,
            policy_version=0,
            world="nominal",
        )
        joined = run_episode(session, policy, mode, options.left, options.delay, torch.Generator().manual_seed(number))
        # The hand opens and shuts by steps of its own.
        steps_T = np.abs(np.diff(session.episode().actions_TA[:, :4], axis=0)).max(axis=1)
        at_seam_T = np.zeros(len(steps_T), bool)
        at_seam_T[[step - 1 for step in joined if 0 < step <= len(steps_T)]] = True
        seams += steps_T[at_seam_T].tolist()
        inside += steps_T[~at_seam_T].tolist()
        successes += session.outcome is Outcome.SUCCESS
    own = float(np.quantile(inside, 0.99))
    return {
        "seams": len(seams),
        "in_chunk_p99": own,
        "seam_p50_of_it": float(np.quantile(seams, 0.5)) / own,
        "seam_p99_of_it": float(np.quantile(seams, 0.99)) / own,
        "success": successes / options.episodes,
    }


def run_episode(
    session: EpisodeSession, policy: FlowPolicy, mode: Mode, left: int, delay: int, generator: torch.Generator
) -> list[int]:
    """Run an episode to its end; return the steps at which a new chunk began to act."""

    def act() -> FloatArray:
        return policy.act([session.observation], [session.instruction], generator=generator)[0]

    session.load_chunk(act())
    joined: list[int] = []
    while not session.done:
        while session.queued > left and not session.done:
            session.step()
        if session.done:
            break
        if mode == "guided":
            chunk_HA = policy.continue_chunk(
                session.observation, session.instruction, session.queue_OA, frozen=delay, generator=generator
            )
        else:
            chunk_HA = act()
        for _ in range(delay):
            if not session.done:
                session.step()
        if session.done:
            break
        joined.append(session.steps)
        if mode == "cut":
            session.load_chunk(chunk_HA[delay:])
        else:
            session.join_chunk(chunk_HA, executed=delay)
    return joined


if __name__ == "__main__":
    main()
