"""Policy files that a robot must not act with, each with what is said of it."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from lwd.models.best_of_n import BestOfN
from lwd.models.checkpoint import policy_bytes
from lwd.models.critic import CriticConfig, ValueCritic
from lwd.models.instruction import EMBEDDING_SIZE, InstructionEncoder
from lwd.models.normalization import StateStatistics
from lwd.models.vla import SmallVLA, VLAConfig
from lwd.types import Embodiment

from ..point_mass import EMBODIMENT

_STATISTICS = StateStatistics(mean=(0.0,) * 6, std=(1.0,) * 6)


@dataclass(frozen=True, kw_only=True)
class BadPolicy:
    """A file that must be refused, with a reason that matches `reason`."""

    name: str
    reason: str
    make: Callable[[], bytes]
    """Later, when it is needed: some are large."""

    @property
    def data(self) -> bytes:
        return self.make()


def good_policy(seed: int = 0, embodiment: Embodiment = EMBODIMENT) -> bytes:
    return policy_bytes(_network(seed, embodiment, VLAConfig()))


def _network(seed: int, embodiment: Embodiment, config: VLAConfig) -> SmallVLA:
    torch.manual_seed(seed)
    known = {text: np.full(EMBEDDING_SIZE, 0.1, np.float32) for text in ("go to the goal", "reach the goal")}
    return SmallVLA(embodiment, config, _STATISTICS, InstructionEncoder(known))


def best_of(samples: int, flow_steps: int, expert_width: int = 256, expert_depth: int = 1) -> bytes:
    """A best-of-N policy that takes its time, or its memory, when it acts."""
    config = VLAConfig(flow_steps=flow_steps, expert_width=expert_width, expert_depth=expert_depth)
    flow = _network(1, EMBODIMENT, config)
    critic = ValueCritic(EMBODIMENT, CriticConfig(), _STATISTICS, flow.horizon)
    return policy_bytes(BestOfN(flow, critic, samples))


def hanging() -> bytes:
    """Every setting within its limit, and a minute and more for each chunk."""
    return best_of(1024, 1000, expert_width=1024, expert_depth=4)


def described(data: bytes) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """The metadata and the tensors of a good file."""
    size = int.from_bytes(data[:8], "little")
    return json.loads(json.loads(data[8 : 8 + size])["__metadata__"]["lwd"]), load(data)


def rewritten(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A good file with other metadata."""
    metadata, tensors = described(good_policy())
    change(metadata)
    return save(tensors, metadata={"lwd": json.dumps(metadata)})


def retensored(change: Callable[[dict[str, torch.Tensor]], object]) -> bytes:
    """A good file with other tensors."""
    metadata, tensors = described(good_policy())
    change(tensors)
    return save(tensors, metadata={"lwd": json.dumps(metadata)})


def reheaded(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A good file with another header before the same tensors."""
    data = good_policy()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    change(header)
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + size :]


def _overlap(header: dict[str, Any]) -> None:
    names = sorted((name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"])
    one, other = (header[name] for name in names[:2])
    begin, end = other["data_offsets"]
    start = one["data_offsets"][0]
    other["data_offsets"] = [start, start + end - begin]


def _filled(name: str, value: float) -> Callable[[dict[str, torch.Tensor]], object]:
    return lambda tensors: tensors[name].fill_(value)


def _with_text(text: str) -> bytes:
    return save(described(good_policy())[1], metadata={"lwd": text})


def bad_settings() -> Iterator[BadPolicy]:
    """Metadata that asks for the wrong thing, or for too much."""

    def case(name: str, reason: str, change: Callable[[dict[str, Any]], object]) -> BadPolicy:
        return BadPolicy(name=name, reason=reason, make=lambda: rewritten(change))

    def config(**changes: object) -> Callable[[dict[str, Any]], object]:
        return lambda metadata: metadata["config"].update(changes)

    yield case("metadata-without-a-kind", "kind is .*Field required", lambda metadata: metadata.pop("kind"))
    yield case("another-format", "has format 'lwd-9'", lambda metadata: metadata.update(format="lwd-9"))
    yield case("a-field-of-nobody", "Extra inputs", lambda metadata: metadata.update(loader="os.system"))
    yield case("horizon-0", r"config\..*horizon is 0", config(horizon=0))
    yield case("a-billion-flow-steps", r"flow_steps is 1000000000", config(flow_steps=10**9))
    yield case("width-60000", r"ask for tensor .* of shape", config(expert_width=60_000))
    yield case("wrong-width", r"ask for tensor .* of shape", config(context_size=32))
    yield case("depth-a-billion", r"expert_depth is 1000000000", config(expert_depth=10**9))
    yield case("width-as-text", r"expert_width is wide", config(expert_width="wide"))
    yield case("guidance-infinite", r"guidance is inf", lambda metadata: metadata.update(guidance=float("inf")))
    yield case("samples-without-a-critic", "samples need a critic", lambda metadata: metadata.update(samples=2))
    yield case("base-elsewhere", "base is ../episodes", lambda metadata: metadata.update(base="../episodes/robot-1/e"))
    yield case(
        "limits-turned-round",
        "action_low must not lie above",
        lambda metadata: metadata["embodiment"].update(action_low=[2.0, 2.0]),
    )
    yield case(
        "a-camera-of-a-terapixel",
        r"cameras.* is 1000000 ",
        lambda metadata: metadata["embodiment"].update(cameras={"c": [10**6, 10**6]}),
    )
    yield case("more-instructions-than-embeddings", "3 instructions", lambda m: m["instructions"].append("fly"))
    yield BadPolicy(
        name="half-json",
        reason="metadata that is no JSON",
        make=lambda: _with_text(json.dumps(described(good_policy())[0])[:200]),
    )
    yield BadPolicy(
        name="a-thousand-brackets",
        reason="no JSON|Extra inputs|format",
        make=lambda: _with_text("[" * 100_000),
    )


def bad_tensors() -> Iterator[BadPolicy]:
    """Numbers that no robot should act by."""
    std, scale = "backbone.normalizer.state_std", "backbone.normalizer.action_scale"
    for name, reason, change in (
        ("nan-weights", "expert.out.weight is not finite", _filled("expert.out.weight", float("nan"))),
        ("infinite-weights", "expert.out.bias is not finite", _filled("expert.out.bias", float("inf"))),
        ("std-0", "state_std has an entry of 0", _filled(std, 0.0)),
        ("std-negative", "state_std has an entry of -1", _filled(std, -1.0)),
        ("other-limits", "action_scale .* are not those", _filled(scale, 100.0)),
        ("a-tensor-too-few", "it holds none", lambda tensors: tensors.pop("expert.out.bias")),
        ("a-tensor-too-many", "of shape none", lambda tensors: tensors.update(extra=torch.zeros(3))),
        ("no-statistics", "lacks backbone.normalizer.state_mean", lambda tensors: tensors.pop(std)),
    ):
        yield BadPolicy(name=name, reason=reason, make=partial(retensored, change))


def bad_files() -> Iterator[BadPolicy]:
    """What is no safetensors file, or says that it holds what it does not."""

    def case(name: str, reason: str, data: bytes) -> BadPolicy:
        return BadPolicy(name=name, reason=reason, make=lambda: data)

    def first(header: dict[str, Any]) -> dict[str, Any]:
        return header["expert.out.bias"]

    good = good_policy()
    yield case("no-safetensors", "is not an intact safetensors file", b"#!/bin/sh\nexit 1\n" * 100)
    yield case("seven-bytes", "it has 7 bytes", b"1234567")
    yield case("header-of-2-to-60-bytes", "its header has 1152921504606846976 bytes", (2**60).to_bytes(8, "little"))
    yield case("cut", "is not an intact safetensors file", good[: len(good) // 2])
    yield case("bytes-behind", "its tensors have", good + b"more")
    yield case("header-of-brackets", "its header is no JSON", (10**6).to_bytes(8, "little") + b"[" * 10**6)
    yield case("header-no-table", "its header is no table", (2).to_bytes(8, "little") + b"[]")
    yield case("overlapping-offsets", "not where the one before ends", reheaded(_overlap))
    yield case("offsets-2-to-62", "data_offsets", reheaded(lambda h: first(h).update(data_offsets=[0, 2**62])))
    yield case("shape-negative", "has shape", reheaded(lambda h: first(h).update(shape=[-1])))
    yield case("shape-larger", "has 40 bytes", reheaded(lambda h: first(h).update(shape=[10**9])))
    yield case("dtype-of-nobody", "has dtype 'F4'", reheaded(lambda h: first(h).update(dtype="F4")))
    yield case("metadata-no-text", "no table of texts", reheaded(lambda h: h.update(__metadata__={"lwd": 3})))


def bad_acts() -> Iterator[BadPolicy]:
    """Files that load, and show what is wrong with them when they act."""
    yield BadPolicy(
        name="other-embodiment",
        reason="trained for control_hz = 50.0",
        make=lambda: good_policy(embodiment=replace(EMBODIMENT, control_hz=50.0)),
    )
    yield BadPolicy(
        name="overflow",
        reason="actions that are not finite",
        make=lambda: retensored(
            lambda tensors: [tensors[name].fill_(3e38) for name in tensors if name.startswith("expert.")]
        ),
    )
    yield BadPolicy(name="a-hang", reason="trial did not end within|to act for", make=hanging)
    yield BadPolicy(name="too-much-memory", reason="memory|alloc", make=lambda: best_of(1024, 4, expert_width=60_000))


def all_bad() -> list[BadPolicy]:
    return [*bad_settings(), *bad_tensors(), *bad_files(), *bad_acts()]
