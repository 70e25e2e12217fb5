"""LeRobot datasets into a run's store, and out of it: by the same road as all data."""

import hashlib
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from lwd.data import durable
from lwd.data.episode_file import read_episode
from lwd.data.leases import SnapshotLease
from lwd.data.lerobot.columns import ValueOf
from lwd.data.lerobot.exporting import export_episodes
from lwd.data.lerobot.importing import EMBODIMENT_FILE, ImportSettings, Planned, episode_of, plan, with_frames_judged
from lwd.data.lerobot.recording import Recording
from lwd.data.log import EpisodeEntry, LogReader
from lwd.data.selection import Selection
from lwd.data.store import ObjectStore
from lwd.data.validation import EpisodeLimits
from lwd.errors import ConfigError, EpisodeRejected, ObjectExists, StoreError
from lwd.fleet.embodiment import embodiment_json, first_embodiment
from lwd.fleet.ingest import ingest
from lwd.recipes.in_order import in_order
from lwd.recipes.lerobot_known import KnownRecordings
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Embodiment, Episode, FloatArray

if TYPE_CHECKING:
    from lwd.data.lerobot.source import LeRobotSource

Progress = Callable[[int, int], None]


@dataclass(frozen=True, kw_only=True)
class Survey:
    """What an import of one dataset would bring."""

    embodiment: Embodiment
    planned: tuple[Planned, ...]

    @property
    def accepted(self) -> tuple[Planned, ...]:
        """What comes in and is new."""
        return tuple(item for item in self.planned if not item.problems and item.there is None)

    @property
    def there(self) -> tuple[Planned, ...]:
        """What is already in the store, or twice in what is imported now."""
        return tuple(item for item in self.planned if item.there is not None)

    @property
    def refused(self) -> tuple[Planned, ...]:
        return tuple(item for item in self.planned if item.problems)


@dataclass(kw_only=True)
class Imported:
    """What an import brought."""

    committed: list[EpisodeEntry] = field(default_factory=list)
    refused: list[tuple[Planned, str]] = field(default_factory=list)
    """Accepted by the survey, and damaged where only reading all of it tells; with the reason."""
    quarantined: list[tuple[str, str]] = field(default_factory=list)
    """(key, reason)."""


def survey(
    source: "LeRobotSource",
    embodiment: Embodiment,
    settings: ImportSettings,
    known: KnownRecordings,
    *,
    progress: Progress | None = None,
) -> Survey:
    """Check every episode without writing anything: the same for a dry run and before an import.

    Numbers, texts and labels are checked as the store's own validation does; of the pictures the first and the last one
    of each camera are decoded.

    Args:
        known: what the store has; it learns what this survey accepts, so give the next dataset the same one.
    """
    planned: list[Planned] = []
    source.read_for(embodiment)

    def judged(named: tuple[Recording, str]) -> Planned:
        recording, task = named
        item = plan(recording, source.layout, embodiment, settings, task=task)
        return item if item.problems else with_frames_judged(item, source, embodiment, settings)

    # Names are given in the dataset's order, whichever thread is first.
    named = ((recording, known.tasks.name(recording.instruction or "-")) for recording in source.recordings())
    for item in in_order(judged, named):
        planned.append(item if item.problems else known.compared(item, source, settings))
        if progress is not None:
            progress(len(planned), source.episodes)
    return Survey(embodiment=embodiment, planned=tuple(planned))


def import_dataset(
    run: RunDirectory, source: "LeRobotSource", found: Survey, settings: ImportSettings, *, progress: Progress
) -> Imported:
    """Commit what a survey accepted. Repeating it commits nothing twice, so an interrupted import continues.

    Nothing is written, not even the robot's description, before the first episode is read and whole.

    Raises:
        ConfigError: if an episode's object is in the store with other content.
        StoreError: if the store cannot be written; what was committed stays.
    """
    result = Imported()

    def read(item: Planned) -> tuple[Planned, Episode | str]:
        try:
            return item, episode_of(item, source, found.embodiment, settings)
        except (ConfigError, EpisodeRejected) as error:
            return item, str(error)

    def episodes() -> Iterator[Episode]:
        for done, (item, episode) in enumerate(in_order(read, found.accepted), start=1):
            if isinstance(episode, str):
                result.refused.append((item, episode))
            else:
                yield episode
            progress(done, len(found.accepted))

    whole = episodes()
    if (first := next(whole, None)) is None:
        return result
    store = run.store()
    if run.own_embodiment() != found.embodiment and not _is_of_the_run(run, store, found.embodiment):
        durable.replace(run.embodiment_path, embodiment_json(found.embodiment))
    try:
        batch = ingest(store, chain([first], whole), EpisodeLimits(embodiment=found.embodiment), batch=16)
    except ObjectExists as error:
        raise ConfigError(f"{error}; it was imported with other settings: choose another --name") from error
    result.committed, result.quarantined = batch.committed, batch.quarantined
    return result


def export_dataset(
    run: RunDirectory,
    root: Path,
    *,
    snapshot: int | None,
    selection: Selection,
    lossless: bool,
    value: ValueOf | None,
    like: Path | None = None,
    progress: Progress,
) -> int:
    """Write the selected episodes of a snapshot as a LeRobotDataset; nothing is left behind if that fails.

    Args:
        like: directory of a dataset whose features it gets; None: LWD's own choice.
    Returns:
        the number of episodes.
    Raises:
        ConfigError: if nothing is selected, or the directory exists.
        StoreError: if an episode cannot be read.
    """
    store = run.store()
    # Taken first: from here on retention leaves what the snapshot needs.
    with SnapshotLease(store, snapshot):
        reader = LogReader(store)
        reader.poll(up_to=snapshot)
        entries = selection.of(reader.snapshot.episodes.values())
        if not entries:
            raise ConfigError(f"no episode of snapshot {reader.version} fulfils the conditions: try lwd data list")
        embodiment = run.embodiment()
        if root.exists():
            raise ConfigError(f"{root} exists: give a directory that does not")
        # Whole or not at all: written beside it, then renamed.
        unfinished = root.with_name(f".{root.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            count = export_episodes(
                unfinished,
                _fetched(store, entries),
                embodiment,
                lossless=lossless,
                value=value,
                like=like,
                on_written=lambda done: progress(done, len(entries)),
            )
            durable.replace(unfinished / EMBODIMENT_FILE, embodiment_json(embodiment))
            durable.move(unfinished, root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return count


def value_of(path: Path) -> ValueOf:
    """Return what evaluates a value network's file along an episode: the mean of its distribution.

    Raises:
        CheckpointError: if the file cannot be read.
    """
    # Here, not above: an import needs no networks.
    import torch

    from lwd.evaluation.episode_observations import episode_observations
    from lwd.models.checkpoint import load_value
    from lwd.models.instruction import InstructionEncoder

    network, instructions = load_value(path), InstructionEncoder()

    def value(episode: Episode) -> FloatArray:
        observations = episode_observations(episode, network.embodiment, instructions)
        with torch.no_grad():
            probs_TK, atoms_K = network.value_probs(observations)
        mean_T: FloatArray = (probs_TK @ atoms_K).numpy()
        return mean_T

    return value


def _fetched(store: ObjectStore, entries: Iterable[EpisodeEntry]) -> Iterator[Episode]:
    for entry in entries:
        data = store.get(entry.key)
        if (digest := hashlib.sha256(data).hexdigest()) != entry.sha256:
            raise StoreError(
                f"episode {entry.identity} has sha256 {digest[:12]}, the log says {entry.sha256[:12]}: revoke it, or "
                f"restore {entry.key} from a copy of the store"
            )
        yield read_episode(data)


def _is_of_the_run(run: RunDirectory, store: ObjectStore, embodiment: Embodiment) -> bool:
    return first_embodiment(store) is not None and run.embodiment() == embodiment
