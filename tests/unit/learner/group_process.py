"""One process of a learner group, started by test_parallel.py:

    python -m tests.unit.learner.group_process SCENARIO DIRECTORY

with its place in the group in the environment. What it found goes to DIRECTORY/rank-R.json.
"""

import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from lwd.algos.optimization import OptimizerStep
from lwd.data import outage as outages
from lwd.data.store import DirectoryStore
from lwd.errors import CheckpointError, ConfigError, LWDError, NonFiniteLoss, ServiceError, StoreError
from lwd.learner.online import OnlineLimits, OnlineStage
from lwd.learner.parallel import Group, group_from_environment
from lwd.learner.replicas import require_same_weights
from lwd.types import Source

from ...toy_learner import Fleet, Site, build, random_batch, rows

Found = dict[str, Any]
BATCH = 16
TIMEOUT_S = float(os.environ.get("GROUP_TIMEOUT_S", "120"))


def numbers(parameters) -> list[float]:
    return torch.cat([parameter.detach().flatten() for parameter in parameters]).tolist()


def own(whole, rank: int):
    return rows(whole, slice(rank * BATCH, (rank + 1) * BATCH))


# ---- one update --------------------------------------------------------------------------------------------------


def updates(group: Group, directory: Path) -> Found:
    """The mathematics: every process holds the same weights, and they are those of the whole batch."""
    return {
        "primitives": primitives(group),
        "weighted": [weighted_step(group, counts) for counts in ((3, 5), (0, 5), (4, 0), (0, 0))],
        "critic": critic_updates(group),
        "lwd": whole_updates(group),
        "non_finite": non_finite(group),
        "other_weights": other_weights(group),
    }


def primitives(group: Group) -> Found:
    return {
        "means": group.means({"a": float(group.rank), "b": 3.0}),
        "minima": group.minima(5 + group.rank, 9 - group.rank),
        "any": group.any(group.rank == 1, False),
        "bytes": [group.broadcast(data if group.leads else None).hex() for data in (b"", b"ab\0c")],
        "gathered": [part.tolist() for part in group.gather(torch.tensor([group.rank, 7]))],
    }


def weighted_step(group: Group, counts: tuple[int, int]) -> Found:
    """A mean over another number of terms in each process, one parameter without a gradient anywhere."""
    torch.manual_seed(5)
    weight, unused = nn.Parameter(torch.randn(3)), nn.Parameter(torch.ones(2))
    terms = [torch.randn(count, 3) for count in counts]
    step = OptimizerStep(
        [weight, unused], learning_rate=0.1, weight_decay=0.5, sum_over_processes=group.sum_over_processes
    )
    mine = terms[group.rank]
    results = []
    for _ in range(3):
        loss = (mine @ weight).square().mean() if len(mine) else torch.zeros(())
        results.append(list(step(loss, "loss", weight=len(mine))))
    return {"steps": results, "weight": weight.tolist(), "unused": unused.tolist()}


def critic_updates(group: Group) -> list[float]:
    algorithm = build(group, critic_learning_rate=1e-3, temperature=0.1)
    for update in range(5):
        algorithm.update_critic(own(random_batch(2 * BATCH, seed=update), group.rank))
    return numbers([*algorithm.critic.parameters(), *algorithm.target_critic.parameters()])


def whole_updates(group: Group) -> Found:
    algorithm = build(
        group,
        temperature="auto",
        spread_every=2,
        actor_every=2,
        reference_learning_rate=1e-3,
        policy_polyak_rate=0.2,
    )
    metrics = []
    for update in range(6):
        batch = own(random_batch(2 * BATCH, seed=update), group.rank)
        if update == 3 or (update in (1, 2) and group.rank == 1):
            batch = replace(batch, imitable_BH=torch.zeros_like(batch.imitable_BH))
        metrics.append(algorithm.update(batch))
    networks = (algorithm.policy, algorithm.averaged_policy, algorithm.reference, algorithm.critic)
    return {
        "weights": numbers(p for network in networks for p in network.parameters()),
        "spread": algorithm.spread.value,
        "metrics": metrics,
        "generator": algorithm.generator.get_state().tolist(),
    }


def non_finite(group: Group) -> Found:
    algorithm = build(group, temperature=0.1)
    before = numbers(algorithm.critic.parameters())
    batch = random_batch(BATCH, seed=group.rank)
    if group.rank == 1:
        batch.return_B[0] = torch.nan
    try:
        algorithm.update(batch)
    except NonFiniteLoss as error:
        return {"error": str(error), "unchanged": numbers(algorithm.critic.parameters()) == before}
    return {"error": "none"}


def other_weights(group: Group) -> str:
    algorithm = build(group, temperature=0.1)
    require_same_weights(group, algorithm)
    if group.rank == 1:
        with torch.no_grad():
            next(algorithm.policy.parameters()).add_(1e-6)
    try:
        require_same_weights(group, algorithm)
    except CheckpointError as error:
        return str(error)
    return "none"


# ---- the online stage --------------------------------------------------------------------------------------------


class GatedStore(DirectoryStore):
    """A store that hands out no episode while its gate is closed."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.gate = threading.Event()
        self.gate.set()

    def get(self, key: str) -> bytes:
        if key.startswith("episodes/"):
            assert self.gate.wait(timeout=60)
        return super().get(key)


def files(stage: OnlineStage) -> dict[str, str]:
    found = stage.checkpoints.latest()
    assert found is not None
    return {name: (found.directory / name).read_bytes().hex() for name in ("state.safetensors", "policy.safetensors")}


def online(group: Group, directory: Path) -> Found:
    """A stage that follows a growing log, is killed, repeats its updates, and stops when one process wants to."""
    site = Site(directory, Fleet(DirectoryStore(directory / "store")))
    if group.leads:
        site.fleet.commit(Source.DEMONSTRATION)
        site.fleet.commit()
    group.meet()
    store = GatedStore(directory / "store")
    stage = site.learner(group=group, store=store)
    results = stage.run()
    seen: list[tuple[int, int]] = []

    def train(to: int) -> None:
        while stage.progress.update < to:
            assert next(results) is not None
            seen.append((stage.progress.update, stage.progress.snapshot))

    train(4)
    if group.leads:
        site.fleet.commit()
        site.fleet.commit()
    if group.rank == 1:
        store.gate.clear()  # its downloads take until update 35
    train(20)
    stage.save()
    train(35)
    store.gate.set()
    wait_until(group, lambda: stage.reader.prepared)
    train(45)
    if group.leads:
        site.fleet.commit()
    train(55)
    wait_until(group, lambda: stage.reader.prepared)
    train(75)
    stage.save()
    whole = files(stage)
    abandon(stage, results)
    group.meet()
    if group.leads:
        shutil.rmtree(stage.checkpoints.directory / "update-000000075")
    group.meet()

    # Killed before the second checkpoint was saved: the same again, from the first one.
    stage = site.learner(group=group)
    resumed_at = stage.progress.update
    results = stage.run(stop=lambda: group.rank == 1 and stage.progress.update == 75)
    repeated = [(stage.progress.update, stage.progress.snapshot) for result in results if result is not None]
    again = files(stage)
    abandon(stage, results)
    found = {
        "seen": seen,
        "repeated": repeated,
        "resumed_at": resumed_at,
        "same_bytes": again == whole,
        "finished": stage.progress.finished,
        "published": site.published,
    }

    group.meet()
    return found | begin_differently(group, site)


class FailingStore(DirectoryStore):
    """A store that answers no request for an episode while it fails."""

    failing = False

    def get(self, key: str, *, max_bytes: int | None = None) -> bytes:
        if self.failing and key.startswith("episodes/"):
            raise StoreError("503 Service Unavailable")
        return super().get(key, max_bytes=max_bytes)


def outage(group: Group, directory: Path) -> Found:
    """One process cannot download for a while: all train on, on the snapshot that all have, and change together."""
    outages.FIRST_REST_S, outages.MOST_REST_S = 0.01, 0.05
    site = Site(directory, Fleet(DirectoryStore(directory / "store")))
    if group.leads:
        site.fleet.commit(Source.DEMONSTRATION)
        site.fleet.commit()
    group.meet()
    store = FailingStore(directory / "store")
    stage = site.learner(group=group, store=store)
    results = stage.run()
    next(results)
    store.failing = group.rank == 1
    group.meet()
    if group.leads:
        site.fleet.commit()
    begun_s, seen = time.monotonic(), set()
    # A failed download is tried five times, for 1.5 s, before it counts.
    while group.minima(time.monotonic() - begun_s < 4.0)[0]:
        next(results)
        seen.add(stage.progress.snapshot)
    during = stage.progress.update
    store.failing = False
    deadline_s = time.monotonic() + 60
    while stage.progress.snapshot < 3:
        assert time.monotonic() < deadline_s
        next(results)
    found = {"seen": sorted(seen), "during": during, "after": (stage.progress.update, stage.progress.snapshot)}
    stage.save()  # compares the weights
    abandon(stage, results)
    group.meet()
    return found


def begin_differently(group: Group, site: Site) -> Found:
    """One process has other settings; it ends, and the others must not wait for it."""
    begun_s = time.monotonic()
    try:
        stage = site.learner(group=group, limits=OnlineLimits(publish_every=10 + group.rank))
    except ConfigError as error:
        return {"other_settings": str(error)}
    except ServiceError as error:
        return {"left_alone": str(error), "left_alone_s": time.monotonic() - begun_s}
    abandon(stage, iter(()))
    return {}


def wait_until(group: Group, condition: Callable[[], bool]) -> None:
    """Wait until a condition holds in every process."""
    deadline_s = time.monotonic() + 60
    while not group.minima(condition())[0]:
        assert time.monotonic() < deadline_s
        time.sleep(0.01)


def abandon(stage: OnlineStage, results) -> None:
    stage.save = lambda: None  # type: ignore[method-assign]
    if hasattr(results, "close"):
        results.close()
    stage.reader.close()
    stage.batches.close()


# ---- lost processes ----------------------------------------------------------------------------------------------


def lost(group: Group, directory: Path) -> Found:
    """Rank 1 gets the signal in SIGNAL in its third update; the others say how long they waited for it."""
    algorithm = build(group, temperature=0.1)
    for update in range(5):
        if update == 3 and group.rank == 1:
            os.kill(os.getpid(), getattr(signal, os.environ["SIGNAL"]))
        begun_s = time.monotonic()
        try:
            algorithm.update(random_batch(BATCH, seed=group.rank))
        except LWDError as error:
            waited_s = time.monotonic() - begun_s
            return {"update": update, "kind": type(error).__name__, "error": str(error), "waited_s": waited_s}
    return {}


# ---- what a group listens on ---------------------------------------------------------------------------------------


def idle(group: Group, directory: Path) -> Found:
    """Meet, say so, wait to be told to go on, and train."""
    algorithm = build(group, temperature=0.1)
    algorithm.update(random_batch(BATCH, seed=group.rank))
    (directory / f"joined-{group.rank}").touch()
    deadline_s = time.monotonic() + 120
    while not (directory / "go").exists():
        assert time.monotonic() < deadline_s
        time.sleep(0.05)
    algorithm.update(random_batch(BATCH, seed=group.rank))
    return {}


SCENARIOS = {"updates": updates, "online": online, "lost": lost, "idle": idle, "outage": outage}

if __name__ == "__main__":
    torch.set_num_threads(1)
    name, where = sys.argv[1], Path(sys.argv[2])
    with group_from_environment("cpu", timeout_s=TIMEOUT_S) as (joined, _):
        result = SCENARIOS[name](joined, where)
        (where / f"rank-{joined.rank}.json").write_text(json.dumps(result))
        if "other_settings" in result:
            sys.exit(1)  # with its error, as the verb does, while the others wait
