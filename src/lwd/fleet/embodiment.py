"""What the episodes of a fleet are checked against: a built-in embodiment, or one described in a JSON file.

Nothing here loads a simulator or torch: a coordinator needs neither.
"""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from lwd.data.log import LogReader
from lwd.data.plain_file import read_plain_file
from lwd.data.store import ObjectStore
from lwd.errors import ConfigError
from lwd.matching import check_names
from lwd.robots.sim import SIMULATED, TASKS
from lwd.types import Embodiment, TokenSpec

_MAX_BYTES = 1 << 20


class _Token(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    size: int = Field(gt=0)
    names: tuple[str, ...] = ()


class _EmbodimentFile(BaseModel):
    """The fields of `lwd.types.Embodiment`, as a file of the operator's gives them."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: str = Field(min_length=1)
    control_hz: float = Field(gt=0)
    state_tokens: tuple[_Token, ...] = Field(min_length=1)
    action_low: tuple[float, ...] = Field(min_length=1)
    action_high: tuple[float, ...]
    cameras: dict[str, tuple[int, int]] = Field(default_factory=dict)
    action_names: tuple[str, ...] = ()
    recorded_cameras: dict[str, tuple[int, int]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _named(self) -> Self:
        check_names("action_names", self.action_names, len(self.action_low))
        for token in self.state_tokens:
            check_names(f"state token {token.name}", token.names, token.size)
        return self


def fleet_embodiment(given: str) -> Embodiment:
    """Return the embodiment of a fleet.

    Args:
        given: the name of a built-in embodiment, or the path of a JSON file (it ends in .json) with the fields of
            `lwd.types.Embodiment`.
    Raises:
        ConfigError: if it is not known, or the file is wrong.
    """
    return read_embodiment(Path(given)) if given.endswith(".json") else built_in(given)


def first_embodiment(store: ObjectStore) -> str | None:
    """Return the name of the embodiment of the store's first episode, None if there is none.

    Raises:
        StoreError: if the store cannot be read.
    """
    for entry in LogReader(store).poll(up_to=1):
        for episode in entry.added:
            return episode.embodiment
    return None


def built_in(name: str) -> Embodiment:
    """Return a built-in embodiment.

    Raises:
        ConfigError: if there is none of that name.
    """
    if name not in SIMULATED:
        raise ConfigError(
            f"embodiment {name!r} is not built in (those are: {', '.join(SIMULATED)}): describe it with "
            "--embodiment FILE.json"
        )
    return SIMULATED[name]


def built_in_time_limits(embodiment: Embodiment) -> dict[str, int] | None:
    """Return the tasks of a built-in embodiment with their time limits in control steps; None for any other."""
    if SIMULATED.get(embodiment.name) != embodiment:
        return None
    return {task.name: task.time_limit for task in TASKS.values()}


def read_embodiment(path: Path) -> Embodiment:
    """Read an embodiment from a JSON file.

    Raises:
        ConfigError: if the file cannot be read or a field is wrong.
    """
    data = read_plain_file(path, max_bytes=_MAX_BYTES)
    if data is None:
        raise ConfigError(f"embodiment {path} cannot be read (there is no such file): check the path")
    return parse_embodiment(data, str(path))


def embodiment_json(embodiment: Embodiment) -> bytes:
    """Return an embodiment as the JSON that `parse_embodiment` reads."""
    return json.dumps(asdict(embodiment), indent=2).encode()


def parse_embodiment(data: bytes, path: str) -> Embodiment:
    """Read an embodiment from JSON.

    Args:
        path: where it comes from, for the error.
    Raises:
        ConfigError: if a field is wrong.
    """
    try:
        found = _EmbodimentFile.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(map(str, first["loc"])) or "the file"
        raise ConfigError(f"embodiment {path}: {field} is wrong ({first['msg']}): correct it") from error
    low, high = found.action_low, found.action_high
    if len(low) != len(high) or not all(a < b for a, b in zip(low, high, strict=True)):
        raise ConfigError(f"embodiment {path}: action_low {low} must lie below action_high {high} in every column")
    return Embodiment(
        name=found.name,
        control_hz=found.control_hz,
        state_tokens=tuple(TokenSpec(**token.model_dump()) for token in found.state_tokens),
        action_low=low,
        action_high=high,
        cameras=found.cameras,
        action_names=found.action_names,
        recorded_cameras=found.recorded_cameras,
    )
