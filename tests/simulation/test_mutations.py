"""The simulation finds broken parts: each mutation below breaks one rule of the protocol, and a seed shows it."""

import contextlib
import os
from collections.abc import Callable
from dataclasses import replace
from unittest import mock

import pytest
from tests.simulation.simulate import SimulationFailed, simulate
from tests.simulation.test_simulation import SEEDS
from tests.simulation.world import Settings

from lwd.data import durable, log
from lwd.data.log import LogReader, LogWriter, log_key
from lwd.data.store import get_or_none
from lwd.errors import ObjectExists
from lwd.fleet.coordinator import Coordinator
from lwd.fleet.shipper import Shipper

Patch = Callable[[], contextlib.AbstractContextManager[object]]


def _commits_blindly(coordinator, entries):
    batch = tuple(entries)
    while batch and not coordinator._writer.commit(coordinator._entry(added=batch)):
        coordinator.reader.poll()
    return list(batch)


def _takes_a_lost_race_for_won(writer, entry):
    data = entry.model_dump_json().encode()
    with contextlib.suppress(ObjectExists):
        writer._store.create(log_key(entry.version), data)
    writer._reader.apply(data)
    return True


def _loses_what_it_read(reader, up_to=None):
    entries = []
    while up_to is None or reader.version < up_to:
        data = get_or_none(reader._store, log_key(reader.version + 1))
        if data is None:
            break
        entries.append(reader.apply(data))
    return entries


async def _forgets_at_upload(shipper, item, upload=Shipper._upload):
    await upload(shipper, item)
    if item.uploaded_at_s is not None:
        shipper._spool.remove(item.episode)
        shipper._forget(item)


def _trusts_directories(path):
    if not path.is_dir():
        _trusts_directories(path.parent)
        path.mkdir(exist_ok=True)
        durable.sync_directory(path.parent)


def _names_by_process_id(path, data, mode=0o644):
    """In two containers, process ids and counters are alike."""
    temporary = path.with_name(f".tmp-7-0-{path.name}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    return temporary


HINTS = {
    "a commit is not deduped against the log": 11,
    "containers share the names of temporary files": 9,
    "readers trust what is not on the disk yet": 17,
    "directories that somebody else made are trusted": 53,
}
"""Where it was found before; tried first, to save time."""
MUTATIONS: dict[str, tuple[Patch, dict[str, object]]] = {
    "the store ignores create-only": (contextlib.nullcontext, {"shared_directory": False, "create_only": False}),
    "a commit is not deduped against the log": (
        lambda: mock.patch.object(Coordinator, "_commit", _commits_blindly),
        {},
    ),
    "a lost race is taken for won": (lambda: mock.patch.object(LogWriter, "commit", _takes_a_lost_race_for_won), {}),
    "an episode leaves the spool at its upload": (
        lambda: mock.patch.object(Shipper, "_upload", _forgets_at_upload),
        {},
    ),
    "entries read before an error are lost": (lambda: mock.patch.object(LogReader, "poll", _loses_what_it_read), {}),
    "a damaged index stops everybody": (lambda: mock.patch.object(log, "IndexDamaged", KeyboardInterrupt), {}),
    "the store is never listed": (lambda: mock.patch.object(Coordinator, "unprocessed", return_value=[]), {}),
    "containers share the names of temporary files": (
        lambda: mock.patch.object(durable, "_write_temporary", _names_by_process_id),
        # Nothing but a tight race is needed, and every fault makes it rarer.
        {"shared_directory": True, "faults": {}, "stickiness": 0.0, "episodes": 12, "chaos_steps": 1500},
    ),
    "readers trust what is not on the disk yet": (
        lambda: mock.patch.object(durable, "settle", return_value=None),
        {"shared_directory": True},
    ),
    "a writer does not look at the entry before": (
        lambda: mock.patch.object(LogReader, "require_unchanged", return_value=None),
        {"shared_directory": False, "faults": {"store swapped": 0.01}},
    ),
    "directories are not synced": (lambda: mock.patch.object(durable, "sync_directory", return_value=None), {}),
    "directories that somebody else made are trusted": (
        lambda: mock.patch.object(durable, "_ensure_directory", _trusts_directories),
        # An fsync must fail in the one moment after a directory was made, and the power must go later.
        {
            "shared_directory": False,
            "faults": {"disk full": 0.3, "power cut": 0.02, "process dies": 0.01},
            "chaos_steps": 600,
        },
    ),
}


@pytest.mark.parametrize("name", MUTATIONS)
def test_the_simulation_finds_it(name):
    patch, changes = MUTATIONS[name]
    with patch():
        for seed in (HINTS.get(name, 0), *range(SEEDS)):
            try:
                simulate(seed, replace(Settings.of_seed(seed), **changes))
            except SimulationFailed as failure:
                print(f"{name}: seed {seed}: {failure.reason}")
                return
    pytest.fail(f"{SEEDS} seeds do not notice that {name}")
