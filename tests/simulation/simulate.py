"""One seeded run: chaos, then a quiet world in which everything must come right by itself."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from unittest import mock

from tests.simulation.actors import Fleet
from tests.simulation.invariants import InvariantBroken, Ledger
from tests.simulation.scheduler import Actor
from tests.simulation.world import Settings, World

from lwd.data.log import LogEntry, LogWriter

REGRESSIONS = Path(__file__).parent / "regressions"
_LOOK_EVERY = 100
_REDELIVER_EVERY = 500


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of a run."""

    steps: int
    digest: str
    versions: int
    episodes: int
    """Acknowledged ones."""
    kills: int


class SimulationFailed(AssertionError):
    """A promise was broken; the message says how to see it again."""

    def __init__(self, seed: int, error: BaseException, world: World) -> None:
        super().__init__(f"seed {seed}: {error!r}; last steps:\n" + "\n".join(world.trace.last(60)))
        self.seed = seed
        self.reason = repr(error)
        self.settings = world.settings
        self.head = world.trace.head[:60]


def simulate(seed: int, settings: Settings | None = None) -> Outcome:
    """Run one seed to its end.

    Raises:
        SimulationFailed: if an invariant is broken, or if something raises that should not.
    """
    settings = settings or Settings.of_seed(seed)
    with running(settings, seed) as (world, ledger, fleet):
        fleet.to_record = settings.episodes
        fleet.start()

        world.scheduler.choose = until_quiet(world, ledger, fleet)
        try:
            world.scheduler.run()
            ledger.check_end()
        except Exception as error:
            raise SimulationFailed(seed, error, world) from error
        return Outcome(
            steps=world.trace.steps,
            digest=world.trace.digest,
            versions=len(ledger.log()),
            episodes=len(ledger.acknowledged),
            kills=world.kills,
        )


def until_quiet(world: World, ledger: Ledger, fleet: Fleet) -> Callable[[], Actor | None]:
    """Return a choice that draws until the faults have ended and everything is where it belongs."""
    start = world.trace.steps

    def choose() -> Actor | None:
        steps = world.trace.steps - start
        if steps % _LOOK_EVERY == 0:
            ledger.check_now()
            there = world.s3.elsewhere is None
            if not world.chaos and there and fleet.to_record == 0 and not ledger.unfinished() and not ledger.spooled():
                return None
        if world.chaos and steps >= world.settings.chaos_steps:
            world.chaos = False
        if steps > world.settings.chaos_steps + world.settings.heal_steps:
            raise InvariantBroken(
                f"not quiet after {steps} steps: {fleet.to_record} to record, "
                f"{ledger.unfinished()} unfinished, {ledger.spooled()} in spools"
            )
        if steps % _REDELIVER_EVERY == 0:
            world.bus.redeliver()
        return world.next_actor()

    return choose


@contextmanager
def running(settings: Settings, seed: int) -> Iterator[tuple[World, Ledger, Fleet]]:
    """A world around the product, with a ledger of its promises."""
    world = World(settings, seed)
    ledger = Ledger(world=world)
    world.on_effect = ledger.watch_effect
    commit = LogWriter.commit

    def watched(writer: LogWriter, entry: LogEntry) -> bool:
        won = commit(writer, entry)
        if won:
            ledger.won(entry)
        return won

    with world.installed(), mock.patch.object(LogWriter, "commit", watched):
        yield world, ledger, Fleet(world, ledger)


def save_regression(failure: SimulationFailed) -> Path:
    """Write a failing seed down, so that the suite replays it for ever after."""
    REGRESSIONS.mkdir(exist_ok=True)
    path = REGRESSIONS / f"{failure.seed}.json"
    content = {
        "seed": failure.seed,
        "reason": failure.reason,
        "settings": asdict(failure.settings),
        "trace_head": failure.head,
    }
    path.write_text(json.dumps(content, indent=1) + "\n")
    return path


def load_regression(path: Path) -> tuple[int, Settings]:
    """Read what `save_regression` wrote."""
    content = json.loads(path.read_text())
    return content["seed"], Settings(**content["settings"])
