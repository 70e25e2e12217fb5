"""The tasks of a run's episodes, and what robots do that nobody else says the task of: the same."""

import logging
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

from lwd.data.log import LogReader
from lwd.data.store import ObjectStore
from lwd.errors import ConfigError
from lwd.types import Source, Task

_SHOWN = 5
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class KnownTask:
    """A task of a run's episodes."""

    name: str
    instructions: tuple[str, ...]
    """What was said in its episodes, the most frequent first."""

    def __str__(self) -> str:
        more = f" and {len(self.instructions) - 1} more" if len(self.instructions) > 1 else ""
        return f"{self.name} ({self.instructions[0]!r}{more})"


def known_tasks(store: ObjectStore) -> tuple[KnownTask, ...]:
    """Return the tasks of a store's episodes, by name; the fleet's own count only where there are no others.

    Raises:
        StoreError: if the store cannot be read.
    """
    reader = LogReader(store)
    reader.load_index()
    reader.poll()
    entries = [item.entry for item in reader.snapshot.episodes.values()]
    # What robots did under another name by mistake is no reason to go on with it.
    entries = [entry for entry in entries if entry.source is not Source.FLEET] or entries
    said: dict[str, Counter[str]] = {}
    for entry in entries:
        said.setdefault(entry.task, Counter())[entry.instruction] += 1
    return tuple(
        KnownTask(name=name, instructions=tuple(text for text, _ in said[name].most_common())) for name in sorted(said)
    )


def task_of_run(
    otherwise: Task, known: Sequence[KnownTask], *, names: tuple[str, ...] = (), instruction: str | None = None
) -> Task:
    """Return the task of an environment that does one: the run's, as its episodes call it.

    Args:
        otherwise: as the environment is called; it has the time limit, and the words where the run has none.
        names: what was chosen; nothing: the run's only task, or the one that is told by the instruction.
    Raises:
        ConfigError: if several names were chosen, or one must be.
    """
    if len(names) > 1:
        raise ConfigError(f"tasks are {', '.join(names)}; this environment does one: name one")
    by_name = {task.name: task for task in known}
    told = [task for task in known if instruction in task.instructions]
    if names:
        name = names[0]
    elif len(known) == 1:
        name = known[0].name
    elif len(told) == 1:
        name = told[0].name
    elif known:
        raise ConfigError(
            f"the run has {len(known)} tasks: choose the one of this environment with --tasks: {_listed(known)}"
        )
    else:
        name = otherwise.name
    of_run = by_name.get(name)
    said = (
        (instruction,) if instruction is not None else otherwise.instructions if of_run is None else of_run.instructions
    )
    return replace(otherwise, name=name, instructions=said)


def named_as_in_run(tasks: Sequence[Task], known: Sequence[KnownTask]) -> tuple[Task | None, ...]:
    """Return, for each task of an environment, what it is in the run; None: it is none of the run's.

    They are told by their words. Two tasks that say the same are told by nothing.
    """
    by_words = {_words(text): task for task in known for text in task.instructions}
    found = [
        next((by_words[_words(text)] for text in task.instructions if _words(text) in by_words), None) for task in tasks
    ]
    counts = Counter(task.name for task in found if task is not None)
    return tuple(
        None if of_run is None or counts[of_run.name] > 1
        else replace(task, name=of_run.name, instructions=of_run.instructions)
        for task, of_run in zip(tasks, found, strict=True)
    )  # fmt: skip


def warn_of_unknown(tasks: Sequence[Task], known: Sequence[KnownTask]) -> None:
    """Say which tasks and instructions are in no episode: a policy has never heard them, tables have them twice."""
    if not known:
        return
    names = {task.name for task in known}
    heard = {text for task in known for text in task.instructions}
    for task in tasks:
        unheard = [text for text in task.instructions if text not in heard]
        if unheard:
            _logger.warning(
                "task %s: instruction %r is in no episode of the run, so its policy has never heard it; the run has %s "
                "(choose with --tasks or --instruction)",
                task.name, unheard[0], _listed(known),
            )  # fmt: skip
        elif task.name not in names:
            _logger.warning("task %s is in no episode of the run; the run has %s", task.name, _listed(known))


def _words(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _listed(known: Sequence[KnownTask]) -> str:
    more = f" and {len(known) - _SHOWN} more (lwd data list)" if len(known) > _SHOWN else ""
    return ", ".join(str(task) for task in known[:_SHOWN]) + more
