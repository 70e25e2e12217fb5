"""Verbs that leave at once what the real ones leave after minutes: checkpoints, metrics, fleet episodes, results.

They are started as the engine starts the real ones, with the same command lines, and write through the same code.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

from lwd.data.store import open_store
from lwd.evaluation.experiment.training import KEPT
from lwd.learner.checkpoint import Progress
from lwd.recipes.reproduce.registry import Registry
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Outcome

from ...evaluation.synthetic import FleetPlan, evaluation, write_fleet, write_metrics

STAGES = {"sft": "sft", "offline": "offline", "up": "online"}
REGISTRY = Registry()


class Ended:
    """A process that has ended already."""

    def __init__(self, status: int) -> None:
        self._status = status

    def poll(self) -> int | None:
        return self._status

    def interrupt(self) -> None:
        return None

    def wait(self) -> int:
        return self._status


class Working(Ended):
    """A process that works until it is interrupted, and then saves."""

    def __init__(self) -> None:
        super().__init__(130)
        self.interrupted = False

    def poll(self) -> int | None:
        return self._status if self.interrupted else None

    def interrupt(self) -> None:
        self.interrupted = True


@dataclass
class FakeVerbs:
    """Starts verbs; call it as the engine's `start`."""

    rate: Callable[[str], float] = lambda method: 0.5
    """Method -> success of its policies."""
    slow: str | None = None
    """A verb that does not end by itself."""
    interrupted: str | None = None
    """A verb that somebody else interrupts."""
    broken: str | None = None
    """A method whose offline stage diverges."""
    calls: list[tuple[str, ...]] = field(default_factory=list)

    def __call__(self, arguments: Sequence[str], log: Path) -> Ended:
        self.calls.append(tuple(arguments))
        verb = arguments[0]
        given = dict(pairwise(arguments))
        if verb == self.slow:
            return Working()
        if verb == self.interrupted:
            return Ended(130)
        if verb == "offline" and self.broken is not None and given.get("--method") == self.broken:
            log.write_text(f"Traceback ...\nlwd offline: {log.parent}: loss/value is nan at update 7\n")
            return Ended(1)
        if verb == "evaluate":
            self._evaluate(arguments, given)
        elif verb == "data":
            open_store(Path(given["--run"]) / "store")
        else:
            self._train(STAGES[verb], Path(given["--run"]))
        return Ended(0)

    def of(self, verb: str) -> list[tuple[str, ...]]:
        return [call for call in self.calls if call[0] == verb]

    def _train(self, stage: str, run: Path) -> None:
        assert (run / "store").is_dir()
        progress = Progress(stage=stage, update=2_000, snapshot=1, policy_version=0, finished=True)
        RunDirectory(run).checkpoints(stage).save(progress, policy=b"policy", value=None, state={}, config={})
        write_metrics(run, stage, KEPT)
        if stage == "online":
            plans = [
                FleetPlan(outcome=Outcome.SUCCESS if place % 3 else Outcome.TIME_LIMIT, interventions=place % 2)
                for place in range(40)
            ]
            write_fleet(run, plans)

    def _evaluate(self, arguments: Sequence[str], given: dict[str, str]) -> None:
        assert Path(arguments[1]).exists()
        tasks = arguments[arguments.index("--tasks") + 1 :]
        rates = dict.fromkeys(tasks, self.rate(given["--method"]))
        result = evaluation(
            given["--method"],
            rates,
            episodes=int(given["--episodes"]),
            world=given["--world"],
            base_seed=int(given["--seed"]),
        )
        result.save(Path(given["--out"]))
