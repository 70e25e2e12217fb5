"""Which recordings a store has already, whatever they were called when they were imported."""

from collections import defaultdict
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lwd.data.episode_file import read_episode
from lwd.data.frames import decode_frame
from lwd.data.lerobot.content import is_numbered, numbers_digest, numbers_of_id
from lwd.data.lerobot.importing import WORLD, ImportSettings, Planned
from lwd.data.lerobot.layout import stride_for
from lwd.data.lerobot.recording import control_steps
from lwd.data.lerobot.task_names import TaskNames
from lwd.data.log import EpisodeEntry, LogReader
from lwd.data.store import ObjectStore, directory_of
from lwd.errors import ConfigError
from lwd.pictures import fitted
from lwd.recipes.run_directory import RunDirectory

if TYPE_CHECKING:
    from lwd.data.lerobot.source import LeRobotSource

_ALIKE = 12.0
"""Mean difference of 255 up to which two frames are one, each encoded in its own way."""


class KnownRecordings:
    """The recordings of a run's store, and those that an import is about to bring."""

    def __init__(self, run: RunDirectory) -> None:
        """Read the log; a store that does not exist is not made.

        Raises:
            StoreError: if the log cannot be read.
        """
        directory = directory_of(run.store_config)
        self._store: ObjectStore | None = None
        self._reader: LogReader | None = None
        self._by_numbers: dict[str, list[EpisodeEntry]] = defaultdict(list)
        self._numbered: dict[tuple[int, str], list[EpisodeEntry]] = defaultdict(list)
        """Of older versions, whose ids say nothing of their content: by steps and instruction."""
        self._coming: dict[str, str] = {}
        self.tasks = TaskNames()
        """Names of the run's tasks, and of those that come."""
        if directory is not None and not Path(directory).exists():
            return
        self._store = run.store()
        self._reader = LogReader(self._store)
        self._reader.load_index()
        self._reader.poll()
        entries = [item.entry for item in self._reader.snapshot.episodes.values()]
        self.tasks = TaskNames((entry.task, entry.instruction) for entry in entries)
        for entry in entries:
            if entry.world != WORLD:
                continue
            if (numbers := numbers_of_id(entry.episode_id)) is not None:
                self._by_numbers[numbers].append(entry)
            elif is_numbered(entry.episode_id):
                self._numbered[entry.steps, entry.instruction].append(entry)

    def compared(self, item: Planned, source: "LeRobotSource", settings: ImportSettings) -> Planned:
        """Return the plan with where its recording is already, or why it cannot be told.

        Raises:
            StoreError: if a stored episode cannot be read.
        """
        identity = item.info.identity
        if (first := self._coming.get(identity)) is not None:
            return replace(item, there=first)
        if self._reader is not None and self._reader.knows(identity):
            return self._compared_by_id(item, self._reader)
        found = [
            entry
            for entry in self._candidates(item)
            if (entry.robot_id == settings.name or not settings.named)
            and self._same_pictures(entry, item, source, settings)
        ]
        if found:
            return _with_the_same_said(item, found)
        self._coming[identity] = identity
        return item

    def _compared_by_id(self, item: Planned, reader: LogReader) -> Planned:
        there = reader.find(item.info.identity)
        if there is None:
            return replace(
                item,
                problems=(f"{item.info.identity} was revoked in this store: choose another --name",),
                conflict=True,
            )
        if numbers_of_id(item.info.episode_id) != item.numbers and self._numbers(there.entry) != item.numbers:
            return replace(
                item,
                problems=(
                    f"{item.info.identity} is in the store with other numbers or another task: import it into another "
                    "run, or without the column in which lwd left its description",
                ),
                conflict=True,
            )
        return _with_the_same_said(item, [there.entry])

    def _candidates(self, item: Planned) -> list[EpisodeEntry]:
        numbered = self._numbered.get((item.steps, item.info.instruction), [])
        return [*self._by_numbers.get(item.numbers, []), *(e for e in numbered if self._numbers(e) == item.numbers)]

    def _numbers(self, entry: EpisodeEntry) -> str:
        assert self._store is not None
        episode = read_episode(self._store.get(entry.key))
        return numbers_digest(episode.states_TS, episode.actions_TA, episode.info.instruction)

    def _same_pictures(
        self, entry: EpisodeEntry, item: Planned, source: "LeRobotSource", settings: ImportSettings
    ) -> bool:
        """Compare a few frames: LeRobot's tools may encode them anew, and take other statistics."""
        if entry.episode_id.endswith(item.info.episode_id[-26:]) or not source.layout.cameras:
            return True
        assert self._store is not None
        stored = read_episode(self._store.get(entry.key))
        numbers = control_steps(item.recording, stride_for(source.layout.fps, settings.control_hz)).frame_of_T
        for camera in source.layout.cameras:
            for step in sorted({0, item.steps // 2, item.steps}):
                if camera.name not in stored.images:
                    return False
                ours = decode_frame(stored.images[camera.name][step])
                try:
                    (theirs,) = source.frames(item.recording.index, camera, (numbers[step],))
                except ConfigError:
                    return False
                off = np.abs(fitted(theirs, ours.shape[:2]).astype(int) - ours.astype(int))
                if off.mean() > _ALIKE:
                    return False
        return True


def _with_the_same_said(item: Planned, found: list[EpisodeEntry]) -> Planned:
    """Refuse to pass over an episode of which other things were said: that is not what was asked for."""
    said = (item.info.outcome, item.info.source, item.human_steps)
    found = sorted(found, key=lambda entry: entry.robot_id != item.info.robot_id)
    for entry in found:
        if (entry.outcome, entry.source, entry.human_steps) == said:
            return replace(item, there=entry.identity)
    entry = found[0]
    human = f" with {entry.human_steps} human steps" if entry.human_steps != item.human_steps else ""
    ours = f" with {item.human_steps}" if human else ""
    return replace(
        item,
        problems=(
            f"episode {entry.identity} is in the store as {entry.source}, {entry.outcome}{human}, not as "
            f"{item.info.source}, {item.info.outcome}{ours}: revoke the old ones (lwd data revoke --robot "
            f"{entry.robot_id}) and import with another --name",
        ),
        conflict=True,
    )
