"""Which robot imported data sets are of, and the limits of its actions."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from lwd.data.lerobot.action_limits import read_limits
from lwd.data.lerobot.importing import EMBODIMENT_FILE, ImportSettings, Planned
from lwd.data.lerobot.layout import derived_embodiment, mismatches, stride_for
from lwd.data.validation import ACTION_TOLERANCE
from lwd.errors import ConfigError
from lwd.fleet.embodiment import first_embodiment, parse_embodiment, read_embodiment
from lwd.recipes.run_directory import RunDirectory
from lwd.types import Embodiment, FloatArray

if TYPE_CHECKING:
    from lwd.data.lerobot.source import LeRobotSource

_EXAMPLES = 3


@dataclass(frozen=True, kw_only=True)
class OutsideLimits:
    """A column of the action that goes beyond its limits, in which episodes."""

    column: str
    low: float
    high: float
    values: tuple[float, ...]
    """The furthest; three at most."""
    frames: int
    episodes: tuple[str, ...]


def embodiment_for(
    run: RunDirectory,
    sources: "Sequence[LeRobotSource]",
    settings: ImportSettings,
    *,
    given: Path | None,
    image_size: tuple[int, int] | None,
    limits: Path | None = None,
    widen: bool = False,
) -> Embodiment:
    """Return the robot that the datasets' episodes are of.

    The given file counts, else the run's own, else what our exporter left, else what the features and all actions tell.

    Args:
        limits: file with limits of the action's columns, in place of derived ones or, wider, of the run's.
        widen: make the run's limits so wide that what was recorded is within, but for glitches.
    Raises:
        ConfigError: if a file is wrong, or the limits of a run would change under what was trained in it.
    """
    known = _known(run, sources[0], given)
    if known is None:
        return _derived(sources, settings, image_size=image_size, limits=limits)
    low, high = np.array(known.action_low), np.array(known.action_high)
    if limits is not None:
        for column, (lowest, highest) in read_limits(limits, known.action_names, known.action_size).items():
            low[column], high[column] = lowest, highest
    if widen:
        recorded = _derived(sources, settings, image_size=image_size, limits=None, like=known)
        low, high = np.minimum(low, recorded.action_low), np.maximum(high, recorded.action_high)
    changed = replace(known, action_low=tuple(low.tolist()), action_high=tuple(high.tolist()))
    if changed != known:
        _require_widened(run, known, changed)
    return changed


def outside_limits(planned: Sequence[Planned], embodiment: Embodiment) -> list[OutsideLimits]:
    """Return the columns of the action that go beyond their limits, with the values and their episodes."""
    low_A, high_A = np.array(embodiment.action_low), np.array(embodiment.action_high)
    slack_A = ACTION_TOLERANCE * (high_A - low_A)
    values: dict[int, list[float]] = {}
    episodes: dict[int, list[str]] = {}
    for item in planned:
        actions_NA = item.recording.actions_NA
        if actions_NA.shape[1] != embodiment.action_size:
            continue
        outside_NA = (actions_NA < low_A - slack_A) | (actions_NA > high_A + slack_A)
        for column in np.flatnonzero(outside_NA.any(axis=0)).tolist():
            values.setdefault(column, []).extend(actions_NA[outside_NA[:, column], column].tolist())
            episodes.setdefault(column, []).append(item.info.episode_id)
    return [
        OutsideLimits(
            column=f"{column}" + (f" ({embodiment.action_names[column]})" if embodiment.action_names else ""),
            low=float(low_A[column]),
            high=float(high_A[column]),
            values=tuple(sorted(set(found), key=lambda value: -abs(value))[:_EXAMPLES]),
            frames=len(found),
            episodes=tuple(episodes[column]),
        )
        for column, found in sorted(values.items())
    ]


def _known(run: RunDirectory, source: "LeRobotSource", given: Path | None) -> Embodiment | None:
    if given is not None:
        return read_embodiment(given)
    if (own := run.own_embodiment()) is not None:
        return own
    # Opening the store of a run that does not exist would make it.
    if run.path.exists() and first_embodiment(run.store()) is not None:
        return run.embodiment()
    if (left := source.embodiment_json()) is not None:
        return parse_embodiment(left, f"{source.name}/{EMBODIMENT_FILE}")
    return None


def _derived(
    sources: "Sequence[LeRobotSource]",
    settings: ImportSettings,
    *,
    image_size: tuple[int, int] | None,
    limits: Path | None,
    like: Embodiment | None = None,
) -> Embodiment:
    """Describe the robot of the first dataset, with limits from the actions of all."""
    first = sources[0]
    control_hz = first.layout.fps / stride_for(first.layout.fps, settings.control_hz)
    wanted = like or first.layout.as_embodiment(name=first.robot_type or first.name, control_hz=control_hz)
    actions: list[FloatArray] = []
    for source in sources:
        source.read_for(wanted)
        # What does not fit is said episode by episode.
        if not mismatches(source.layout, wanted, wanted.control_hz):
            actions.append(source.actions())
    action = first.layout.action
    return derived_embodiment(
        first.layout,
        np.concatenate(actions) if actions else np.zeros((0, action.size), np.float32),
        name=wanted.name,
        control_hz=wanted.control_hz,
        image_size=image_size,
        limits=None if limits is None else read_limits(limits, action.names, action.size),
    )


def _require_widened(run: RunDirectory, known: Embodiment, changed: Embodiment) -> None:
    """Limits are the scale of what a network learned, and every stored episode is within them."""
    if any(a > b for a, b in zip(changed.action_low, known.action_low, strict=True)) or any(
        a < b for a, b in zip(changed.action_high, known.action_high, strict=True)
    ):
        raise ConfigError(
            f"limits {list(changed.action_low)} to {list(changed.action_high)} are narrower than the run's, "
            f"{list(known.action_low)} to {list(known.action_high)}: its episodes may be outside; use another run"
        )
    trained = run.path / "checkpoints"
    if trained.is_dir() and any(trained.iterdir()):
        raise ConfigError(
            f"{run.path} has policies, which were trained for its limits: import all data sets into another run "
            "(lwd data import --lerobot DIR DIR ...)"
        )
    if run.path.exists() and run.own_embodiment() is None and first_embodiment(run.store()) is not None:
        raise ConfigError(f"the limits of {known.name} are built in: use another run for other limits")
