"""Runs a fleet of real processes on loopback and collects what its members saw."""

import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import numpy.typing as npt
from benchmarks.fleet_plan import Phase, Plan, phase_file, read_lines, ready_file, stop_file

from lwd.data import durable
from lwd.data.store import StoreConfig
from lwd.fleet.nats_server import NatsServer
from lwd.fleet.process import spawn, stop_all

_READY_WITHIN_S = 180.0
FloatVector = npt.NDArray[np.float64]


def quantile(latencies_s: FloatVector, level: float) -> float:
    """Return a quantile that was measured: no interpolation, and infinite ones count."""
    return float(np.quantile(latencies_s, level, method="higher"))


@dataclass(frozen=True, kw_only=True)
class PhaseResult:
    """Latencies of one phase, in seconds."""

    phase: Phase
    produced: int
    lost: int
    """Episodes that could not be sampled when the run's patience ended; their latency counts as infinite."""
    duplicates: int
    """Episodes that reached the learner's replay more than once."""
    episode_s: FloatVector
    """Produced -> sampleable, one per episode."""
    policy_s: FloatVector
    """Published -> loaded, one per policy and robot."""
    policies: int
    late_s: float
    """The most that the generator itself was behind its schedule."""
    snapshots: int
    """Versions that held these episodes."""
    drained_per_s: float
    """Episodes that became sampleable per second, from the phase's begin until the last one."""


class FleetRun:
    """A fleet that is ready; `phase` runs one stretch of its schedule."""

    def __init__(self, plan: Plan, children: dict[str, "Popen[bytes]"]) -> None:
        self.plan = plan
        self._children = children
        self._phases = 0

    def phase(self, name: str, *, period_s: float, duration_s: float, patience_s: float = 60.0) -> PhaseResult:
        """Let every robot end one episode per `period_s` for `duration_s`; wait until all can be sampled."""
        phase = Phase(
            name=name, number=self._phases, period_s=period_s, duration_s=duration_s, begins_at_s=time.time() + 0.5
        )
        self._phases += 1
        expected = {due.episode_id for due in self.plan.schedule(phase)}
        durable.replace(phase_file(self.plan.path, phase.number), json.dumps(asdict(phase)).encode())
        ends_at_s = phase.begins_at_s + duration_s
        self._sleep(ends_at_s - time.time())
        while time.time() < ends_at_s + patience_s:
            sampleable = {line.get("episode_id") for line in read_lines(self.plan.path, "learner")}
            if expected <= sampleable and self._policies_loaded(ends_at_s):
                break
            self._sleep(0.5)
        return self._result(phase, expected)

    def _sleep(self, seconds: float) -> None:
        """Sleep; fail when a child has died."""
        deadline_s = time.monotonic() + seconds
        while True:
            check(self.plan, self._children)
            if (left_s := deadline_s - time.monotonic()) <= 0:
                return
            time.sleep(min(left_s, 0.5))

    def _policies_loaded(self, before_s: float) -> bool:
        published = [v for v, at_s in self._published().items() if at_s < before_s]
        return all(max(loaded, default=-1) >= max(published) for loaded in self._loaded().values())

    def _published(self) -> dict[int, float]:
        lines = read_lines(self.plan.path, "learner")
        return {int(line["version"]): float(line["published_s"]) for line in lines if "published_s" in line}  # type: ignore[call-overload, arg-type]

    def _loaded(self) -> dict[str, dict[int, float]]:
        """Return host -> version -> when it was loaded."""
        loaded: dict[str, dict[int, float]] = {}
        for line in self._host_lines():
            if "loaded_s" in line:
                loaded.setdefault(line["host"], {})[line["version"]] = line["loaded_s"]
        return loaded

    def _host_lines(self) -> Iterator[dict[str, Any]]:
        for process in range(self.plan.host_processes):
            yield from read_lines(self.plan.path, f"hosts-{process}")

    def _result(self, phase: Phase, expected: set[str]) -> PhaseResult:
        produced = {line["episode_id"]: line for line in self._host_lines() if line.get("phase") == phase.number}
        seen: dict[str, list[dict[str, Any]]] = {}
        for line in read_lines(self.plan.path, "learner"):
            if line.get("episode_id") in expected:
                seen.setdefault(str(line["episode_id"]), []).append(line)
        episode_s = np.array(
            [
                seen[name][0]["sampleable_s"] - line["produced_s"] if name in seen else np.inf
                for name, line in produced.items()
            ]
        )
        policy_s, policies = self._policy_latencies(phase)
        last_s = max((lines[0]["sampleable_s"] for lines in seen.values()), default=np.inf)
        return PhaseResult(
            phase=phase,
            produced=len(expected),
            lost=len(expected - set(seen)),
            duplicates=sum(len(lines) - 1 for lines in seen.values()),
            episode_s=episode_s,
            policy_s=policy_s,
            policies=policies,
            late_s=max((line["late_s"] for line in produced.values()), default=0.0),
            snapshots=len({lines[0]["snapshot"] for lines in seen.values()}),
            drained_per_s=len(seen) / (last_s - phase.begins_at_s),
        )

    def _policy_latencies(self, phase: Phase) -> tuple[FloatVector, int]:
        ends_at_s = phase.begins_at_s + phase.duration_s
        published = {v: at_s for v, at_s in self._published().items() if phase.begins_at_s <= at_s < ends_at_s}
        loaded = self._loaded()
        latencies_s: list[float] = []
        for version, published_s in published.items():
            for host in range(self.plan.hosts):
                # A host that skipped a version has what it was for once it has a newer one.
                newer = [at_s for v, at_s in loaded.get(f"host-{host:04d}", {}).items() if v >= version]
                latency_s = min(newer, default=np.inf) - published_s
                latencies_s += [latency_s] * len(self.plan.robots_of(host))
        return np.array(latencies_s), len(published)


@contextmanager
def fleet(
    *, robots: int, store: StoreConfig | None = None, robots_per_host: int = 16, publish_every_s: float = 10.0
) -> Iterator[FleetRun]:
    """Start NATS, coordinator, learner and robot hosts; stop them all in the end.

    Args:
        store: a directory on the local disk if None.
    """
    with ExitStack() as stack:
        run = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="lwd-bench-", ignore_cleanup_errors=True)))
        store = store or StoreConfig(url=str(run / "store"))
        plan = Plan(
            run=str(run),
            robots=robots,
            store_url=store.url,
            store_options=dict(store.options),
            robots_per_host=robots_per_host,
            publish_every_s=publish_every_s,
        )
        plan.save()
        stack.enter_context(NatsServer(run / "nats"))
        children: dict[str, Popen[bytes]] = {}
        stack.callback(lambda: stop_all(list(children.values()), patience_s=30.0))
        stack.callback(stop_file(run).touch)
        children["coordinator"] = start(plan, "coordinator")
        children["learner"] = start(plan, "learner")
        for process in range(plan.host_processes):
            children[f"hosts-{process}"] = start(plan, "hosts", process)
        wait_until_ready(plan, children, [name for name in children if name != "coordinator"])
        yield FleetRun(plan, children)


def start(plan: Plan, role: str, number: int = 0) -> "Popen[bytes]":
    """Start a child in its role."""
    command = [sys.executable, "-m", "benchmarks.fleet_child", role, plan.run, str(number)]
    root = str(Path(__file__).parent.parent)
    return spawn(command, log=plan.path / f"{role}-{number}.log", environment={"PYTHONPATH": _with_path(root)})


def wait_until_ready(plan: Plan, children: dict[str, "Popen[bytes]"], names: Sequence[str]) -> None:
    """Wait for children to say that they are ready."""
    deadline_s = time.monotonic() + _READY_WITHIN_S
    while missing := [name for name in names if not ready_file(plan.path, name).exists()]:
        check(plan, children)
        if time.monotonic() > deadline_s:
            raise TimeoutError(f"not ready within {_READY_WITHIN_S:g} s: {', '.join(missing)}")
        time.sleep(0.1)


def check(plan: Plan, children: dict[str, "Popen[bytes]"]) -> None:
    """Fail with the end of its log when a child has died."""
    for name, child in children.items():
        if child.poll() is not None:
            logs = "\n".join(f"{p.name}: {p.read_text(errors='replace')[-1500:]}" for p in plan.path.glob("*.log"))
            raise RuntimeError(f"{name} ended with status {child.returncode}; the ends of the logs:\n{logs}")


def _with_path(root: str) -> str:
    inherited = os.environ.get("PYTHONPATH")
    return os.pathsep.join([root, *([inherited] if inherited else [])])
