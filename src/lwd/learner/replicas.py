"""The processes of a group hold one algorithm: they begin alike, stay alike, and are saved as one."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from lwd.algos.protocol import Algorithm, State
from lwd.errors import CheckpointError, ConfigError
from lwd.learner.checkpoint import Progress
from lwd.learner.parallel import Group
from lwd.learner.state_file import load_state_bytes, state_bytes

_GENERATOR = "generator"
_GENERATORS = "generators"
"""Key of every process's generator in the state of a group's checkpoint."""


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a stage begins or continues; rank 0 knows it from its disk, the others from rank 0."""

    progress: Progress
    repeat: list[tuple[int, int]]
    """(update, snapshot) of the looks at the log that are to be repeated."""
    state_file: bytes | None = None
    """The checkpoint's state, None at the stage's beginning."""
    state: State | None = None
    """The same for this process's algorithm, with its own random generator."""


def common_start(group: Group, start: Callable[[], Start] | None, settings: str) -> Start:
    """Wait for all processes, then return rank 0's start in every one.

    Args:
        start: finds it; None in the other processes.
        settings: must be the same in all processes.
    Raises:
        ConfigError: if this process has other settings than rank 0.
        ServiceError: if another process does not answer.
    """
    group.meet()
    found = None if start is None else start()
    header = group.broadcast(None if found is None else _header(found, settings))
    file = group.broadcast(None if found is None else found.state_file)
    content = json.loads(header)
    if content["settings"] != settings:
        raise ConfigError(
            f"learner process {group.rank} has other settings than process 0: start all with the same command line "
            f"({settings} / {content['settings']})"
        )
    state = load_state_bytes(file) if file else None
    if state is not None and group.size > 1:
        generators = state.pop(_GENERATORS)
        state = _with_generator(state, generators[str(group.rank)])
    return Start(
        progress=Progress(**content["progress"]),
        repeat=[(update, snapshot) for update, snapshot in content["repeat"]],
        state=state,
    )


def require_same_weights(group: Group, algorithm: Algorithm) -> None:
    """Compare everything but the random generators over the processes.

    Raises:
        CheckpointError: naming the processes that differ from rank 0.
        ServiceError: if another process does not answer.
    """
    if group.size == 1:
        return
    digest = hashlib.sha256(state_bytes(_without_generators(algorithm.state()))).digest()
    found = group.gather(torch.frombuffer(bytearray(digest), dtype=torch.uint8))
    different = [str(rank) for rank, other in enumerate(found) if not torch.equal(other, found[0])]
    if different:
        raise CheckpointError(
            f"learner process {', '.join(different)} of {group.size} holds other weights than process 0: at the start, "
            "give all of them the same finished stages of the run; later, look for a machine that computes wrongly and "
            "start all again from the last checkpoint"
        )


def state_of_all(group: Group, algorithm: Algorithm) -> State:
    """Return the algorithm's state with every process's random generator."""
    state = algorithm.state()
    if group.size == 1:
        return state
    generators = group.gather(algorithm.generator.get_state())
    return {**state, _GENERATORS: {str(rank): generator for rank, generator in enumerate(generators)}}


def _header(start: Start, settings: str) -> bytes:
    content = {"progress": asdict(start.progress), "repeat": start.repeat, "settings": settings}
    return json.dumps(content).encode()


def _with_generator(node: Any, generator: torch.Tensor) -> Any:
    """The state with another generator wherever it holds one: all parts of an algorithm share one."""
    if not isinstance(node, dict):
        return node
    return {key: generator if key == _GENERATOR else _with_generator(child, generator) for key, child in node.items()}


def _without_generators(node: Any) -> Any:
    if not isinstance(node, dict):
        return node
    return {key: _without_generators(child) for key, child in node.items() if key != _GENERATOR}
