"""The network between a robot's host and the servers is cut: it goes on collecting, and nothing is lost."""

import json
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from lwd.fleet.process import spawn, stop

from .journal import journal_path, read_journal
from .namespaces import TwoHosts
from .servers import command, environment
from .writers import WriterConfig

WRITER, ROBOTS, PERIOD_S = "writer", 4, 0.1
PATIENCE_S = 300.0


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    hosts = TwoHosts()
    yield hosts
    hosts.remove()


def run_partition(hosts: TwoHosts, run: Path, *, cut_s: float) -> None:
    # As many as take 6 s more than the partition.
    episodes = round((cut_s + 6.0) / PERIOD_S / ROBOTS)
    journal = journal_path(run, WRITER)

    def start(name: str, namespace: str, arguments: list[str], **variables: str) -> subprocess.Popen[bytes]:
        log = run / "logs" / f"{name}.log"
        return spawn(hosts.inside(namespace, arguments), log=log, environment=environment(**variables))

    def wait_until(condition: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + PATIENCE_S
        while not condition():
            assert processes[0].poll() is None, _logs(run)
            assert time.monotonic() < deadline_s, _logs(run)
            time.sleep(0.05)

    settings = {"run": str(run), "writer": WRITER, "episodes": episodes * ROBOTS, "address": hosts.server_address}
    processes = [start("servers", hosts.server, command("servers", **settings))]
    try:
        wait_until((run / "places.json").exists)
        places = json.loads((run / "places.json").read_text())
        variables = places.pop("environment")
        config = WriterConfig(
            run=str(run),
            journal=str(journal),
            name=WRITER,
            robots=ROBOTS,
            episodes=episodes,
            period_s=PERIOD_S,
            **places,
        )
        writer = command("writer", **asdict(config))
        processes.append(start("writer", hosts.robot, writer, **variables))
        wait_until(lambda: len(read_journal(journal)) > 20)

        hosts.cut()
        cut_at_s = time.time()
        journalled = len(read_journal(journal))
        time.sleep(cut_s)
        collected = len(read_journal(journal)) - journalled
        waiting = [path.stem for path in (run / "spool").glob("*/*.arrow")]
        hosts.mend()
        mended_at_s = time.time()

        wait_until(lambda: processes[1].poll() is not None)
        assert processes[1].returncode == 0, _logs(run)
        assert stop(processes[0], patience_s=60.0) == 0, _logs(run)  # the check of everything is in its status
    finally:
        for process in reversed(processes):
            stop(process)

    committed = json.loads((run / "audit.json").read_text())
    times_s = {Path(key).stem: committed_at_s for key, committed_at_s in committed}
    # It was a partition, and the robots did not care.
    assert not [at_s for at_s in times_s.values() if cut_at_s + 1.0 < at_s < mended_at_s]
    assert collected > 0.5 * cut_s / PERIOD_S
    assert len(waiting) >= collected
    assert by_robot(key for key, _ in committed) == by_robot(read_journal(journal))
    first_s = min(at_s for at_s in times_s.values() if at_s > mended_at_s) - mended_at_s
    last_s = max(times_s[name] for name in waiting) - mended_at_s
    print(f"\n{cut_s:g} s partition: {len(waiting)} episodes waited; the first was committed {first_s:.1f} s after it,")
    print(f"the last {last_s:.1f} s after it")


def by_robot(keys: Iterator[str]) -> dict[str, list[str]]:
    """Return the keys of every robot in their order."""
    found = defaultdict(list)
    for key in keys:
        found[key.split("/")[1]].append(key)
    return found


def _logs(run: Path) -> str:
    return "\n".join(f"--- {file.name}\n{file.read_text(errors='replace')[-3000:]}" for file in run.glob("logs/*.log"))


def test_a_short_partition_loses_nothing_and_keeps_the_order(hosts, tmp_path):
    run_partition(hosts, tmp_path, cut_s=8.0)


@pytest.mark.faults
def test_a_minute_of_partition_loses_nothing_and_keeps_the_order(hosts, tmp_path):
    run_partition(hosts, tmp_path, cut_s=60.0)
