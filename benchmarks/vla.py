"""What an update of a LeRobot VLA costs: passes through backbone and expert, the prefix kept or computed anew, memory.

Random networks with the published sizes; no weights are needed. In LeRobot's environment (`make test-lerobot`):

    python -m benchmarks.vla smolvla              # the ratio, measured: about 10 minutes of two cores, 5 GB
    python -m benchmarks.vla pi05 --no-recompute  # forward and one update: about 20 GB

Updates are timed with the prefix computed once and with it looked up (the learner's `--prefix-cache`), in turns.
Without `--no-recompute` the same update is made once more with the prefix computed at every flow step, as by a policy
that keeps nothing between them; all updates are on the same states.
"""

import argparse
import importlib.util
import json
import resource
import statistics
import sys
import tempfile
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lwd.algos.config import LWDConfig
from lwd.algos.lwd import LWD
from lwd.algos.sft import SFT, SFTConfig
from lwd.batch import ObservationBatch, TransitionBatch
from lwd.data.row_table import RowTable
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.flow_policy import VJP
from lwd.models.lerobot.vla import ExpertField, LeRobotVLA

FLOW_STEPS = 10
_TINY = Path(__file__).parents[1] / "tests" / "lerobot" / "tiny_vla.py"


class Passes:
    """Counts and times the passes through a policy's backbone and expert."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.seconds: Counter[str] = Counter()

    def watch(self, policy: LeRobotVLA) -> None:
        """Count every pass of a policy from now on."""
        family = policy._family
        policy._family = _Watched(family, self)  # type: ignore[assignment]

    def clear(self) -> None:
        self.count.clear()
        self.seconds.clear()


class _Watched:
    def __init__(self, family: Any, passes: Passes) -> None:
        self._family, self._passes = family, passes

    def __deepcopy__(self, memo: dict[int, Any]) -> "_Watched":
        return self

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._family, name)
        if name not in ("prefix", "velocity"):
            return method

        def timed(*arguments: Any) -> Any:
            begun = time.perf_counter()
            result = method(*arguments)
            self._passes.count[name] += 1
            self._passes.seconds[name] += time.perf_counter() - begun
            return result

        return timed


class Recomputed(LeRobotVLA):
    """The same policy, which reads the state anew at every flow step."""

    def features(self, observation: ObservationBatch) -> Any:
        return observation

    def field(self, context: Any) -> Any:
        return _RecomputedField(self, context)


class _RecomputedField:
    def __init__(self, policy: Recomputed, observation: ObservationBatch) -> None:
        self._policy, self._observation = policy, observation

    def _fresh(self) -> ExpertField:
        return ExpertField(self._policy, LeRobotVLA.features(self._policy, self._observation))

    def __call__(self, chunk_NBHF: Tensor, flow_time_NB: Tensor, /) -> Tensor:
        if chunk_NBHF.ndim == 3:
            return self._fresh()(chunk_NBHF, flow_time_NB)
        times = flow_time_NB.expand(chunk_NBHF.shape[:2])
        return torch.stack([self._fresh()(chunk, at) for chunk, at in zip(chunk_NBHF, times, strict=True)])

    def linearize(self, chunk_NBHF: Tensor, flow_time_NB: Tensor, /) -> VJP:
        return lambda step, gradient: self._fresh().linearize(chunk_NBHF, flow_time_NB)(step, gradient)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("kind", choices=("smolvla", "pi05", "pi0"))
    parser.add_argument("--batch-size", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=1, help="updates with the prefix looked up, as many without")
    parser.add_argument("--no-recompute", action="store_true", help="leave the second, slow update out")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as directory:
        found = measure(options, Path(directory))
    print(json.dumps(found, indent=2))


def measure(options: argparse.Namespace, directory: Path) -> dict[str, Any]:
    """Return the figures of one policy."""
    tiny = _tiny_module()
    begun = time.perf_counter()
    policy: LeRobotVLA = tiny.tiny_vla(
        options.kind, directory, full_size=not options.tiny, backbone_precision="bfloat16"
    )
    built_s = time.perf_counter() - begun
    backbone = {id(p): p for module in policy._backbone() for p in module.parameters()}
    expert = {id(p): p for p in policy.parameters() if id(p) not in backbone}
    passes = Passes()
    passes.watch(policy)

    policy.precision = "bfloat16"
    states = _observations(policy, tiny.EMBODIMENT, tiny.INSTRUCTIONS, options.batch_size)
    noise = policy.chunk_noise(options.batch_size, torch.Generator().manual_seed(1))
    begun = time.perf_counter()
    with torch.no_grad():
        chunk = policy.sample(states, noise)
    acting = {"seconds": time.perf_counter() - begun, "passes": dict(passes.count), "in": dict(passes.seconds)}
    assert torch.isfinite(chunk).all()

    algorithm = _algorithm(policy, deepcopy(policy), tiny.EMBODIMENT)
    copies = (algorithm.policy, algorithm.reference, algorithm.averaged_policy)
    held = {id(p): p for copy in copies for p in copy.parameters()}
    kept, metrics = _timed_update(algorithm, states, passes)
    result = {
        "policy": options.kind,
        "batch_size": options.batch_size,
        "threads": options.threads,
        "built_s": built_s,
        "weights": {"backbone": _weights(backbone), "expert": _weights(expert)},
        "gigabytes": {
            "policy": _gigabytes({id(p): p for p in policy.parameters()}),
            "policy, reference and average, backbone shared": _gigabytes(held),
            "the same as whole copies": 3 * _gigabytes({id(p): p for p in policy.parameters()}),
            "peak of the process": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        },
        "acting": acting,
        "actor_update": {"seconds": kept, "passes": dict(passes.count), "in": dict(passes.seconds), "metrics": metrics},
    }
    table = _table(policy, directory)
    result["prefix_cache"] = _looked_up(algorithm, states, passes, table, options.turns)
    table.close()
    result["bytes_per_row"] = {
        kind: tiny.tiny_vla(kind, directory, full_size=True, weightless=True, backbone_precision="bfloat16")
        .frozen_prefix()
        .row_bytes
        for kind in tiny.KINDS
    }
    if not options.no_recompute:
        for network in copies:
            network.__class__ = Recomputed
        algorithm.generator.manual_seed(0)
        anew, _ = _timed_update(algorithm, states, passes)
        result["actor_update_recomputed"] = {
            "seconds": anew,
            "passes": dict(passes.count),
            "in": dict(passes.seconds),
            "ratio": anew / kept,
        }
    return result


def _timed_update(algorithm: LWD, states: ObservationBatch, passes: Passes) -> tuple[float, dict[str, float]]:
    passes.clear()
    begun = time.perf_counter()
    metrics = algorithm.update_actor(states)
    seconds = time.perf_counter() - begun
    return seconds, {name: float(value) for name, value in metrics.items()}


def _table(policy: LeRobotVLA, directory: Path) -> RowTable:
    row_bytes = policy.frozen_prefix().row_bytes
    # The fingerprint of weights that were drawn here is nobody's business.
    return RowTable(directory / "0.rows", row_bytes=row_bytes, budget_bytes=100 * row_bytes, content="")


def _looked_up(algorithm: LWD, states: ObservationBatch, passes: Passes, table: RowTable, turns: int) -> dict[str, Any]:
    """Medians of actor and SFT updates, the prefix computed and looked up in turns.

    In seconds of the processor, which other processes take less from than from the clock's.
    """
    imitator = deepcopy(algorithm.reference).requires_grad_(True)
    imitator.train_backbone(False)
    imitation = SFT(imitator, SFTConfig(), torch.Generator().manual_seed(0))
    readers = (algorithm.policy, algorithm.reference, imitator)
    batch = _transitions(algorithm.policy, states)
    seconds: dict[str, list[float]] = {"actor": [], "actor, looked up": [], "sft": [], "sft, looked up": []}
    for turn in range(turns + 1):
        for suffix, rows in (("", None), (", looked up", table)):
            for reader in readers:
                reader.frozen_prefix().keep_in(rows)
            if rows is not None and not len(rows):
                algorithm.reference.features(states)  # which keeps them
            passes.clear()
            begun = time.process_time()
            algorithm.update_actor(states)
            between = time.process_time()
            imitation.update(batch)
            seconds["actor" + suffix].append(between - begun)
            seconds["sft" + suffix].append(time.process_time() - between)
            assert passes.count["prefix"] == (0 if rows is not None else 2)
        if not turn:  # the first one touches memory
            seconds = {name: [] for name in seconds}
    begun = time.perf_counter()
    algorithm.reference.features(states)
    look_up = time.perf_counter() - begun
    for reader in readers:
        reader.frozen_prefix().keep_in(None)
    medians = {name: statistics.median(found) for name, found in seconds.items()}
    return {
        "processor seconds": medians,
        "each": seconds,
        "ratio of actor updates": medians["actor, looked up"] / medians["actor"],
        "ratio of SFT updates": medians["sft, looked up"] / medians["sft"],
        "look-up, seconds": look_up,
    }


def _algorithm(policy: LeRobotVLA, reference: LeRobotVLA, embodiment: Any) -> LWD:
    critic = ValueCritic(embodiment, CriticConfig(), policy.normalizer.statistics, policy.horizon)
    config = LWDConfig(train_backbone=False, temperature=1.0, flow_steps=FLOW_STEPS)
    algorithm = LWD(policy, reference, critic, config, torch.Generator().manual_seed(0))
    for network in (algorithm.policy, algorithm.reference):
        network.precision = "bfloat16"
    return algorithm


def _observations(policy: LeRobotVLA, embodiment: Any, instructions: tuple[str, ...], size: int) -> ObservationBatch:
    rng = np.random.default_rng(0)
    texts = [instructions[index % len(instructions)] for index in range(size)]
    return ObservationBatch(
        state_BS=torch.from_numpy(rng.standard_normal((size, embodiment.state_size), dtype=np.float32)),
        instruction_BE=torch.from_numpy(np.stack([policy.instructions(text) for text in texts])),
        images={
            name: torch.from_numpy(rng.integers(0, 256, (size, *shape, 3), dtype=np.uint8))
            for name, shape in embodiment.cameras.items()
        },
    )


def _transitions(policy: LeRobotVLA, states: ObservationBatch) -> TransitionBatch:
    size, horizon = states.size, policy.horizon
    low, high = (torch.tensor(limits) for limits in (policy.embodiment.action_low, policy.embodiment.action_high))
    mask = torch.ones(size, horizon, dtype=torch.bool)
    return TransitionBatch(
        observation=states,
        action_chunk_BHA=low + (high - low) * torch.rand(size, horizon, low.shape[0]),
        action_mask_BH=mask,
        human_BH=~mask,
        return_B=torch.zeros(size),
        outcome_return_B=torch.zeros(size),
        bootstrap_observation=states,
        bootstrap_discount_B=torch.ones(size),
        task_B=torch.zeros(size, dtype=torch.int64),
        imitable_BH=torch.ones(size, horizon, dtype=torch.bool),
    )


def _weights(parameters: dict[int, Any]) -> int:
    return sum(parameter.numel() for parameter in parameters.values())


def _gigabytes(parameters: dict[int, Any]) -> float:
    return float(sum(parameter.numel() * parameter.element_size() for parameter in parameters.values()) / 1e9)


def _tiny_module() -> ModuleType:
    """The tests' networks; another package of the environment may be called `tests`, so it is loaded by its path."""
    spec = importlib.util.spec_from_file_location("tiny_vla", _TINY)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["tiny_vla"] = module
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    main()
