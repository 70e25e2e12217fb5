"""Whether a robot, an environment or a data set is what a run is about, and in which order it has its numbers.

Vectors, their entries and cameras are matched by name, never by count: two vectors of the same length say nothing of
being the same. Whatever has the same names in another order is read in the run's order.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypeVar

import numpy as np

from lwd.errors import ConfigError
from lwd.types import Embodiment, FloatArray, TokenSpec

_Picture = TypeVar("_Picture")
_RATIO_TOLERANCE = 0.01
"""How far the proportions of two pictures may be apart: sides are whole pixels."""
_RATE_TOLERANCE = 1e-6
_COUNTED = re.compile(r"(.*?)(\d+)")


@dataclass(frozen=True, kw_only=True)
class Match:
    """How a robot's (or a data set's) numbers become a run's, and back. See `match`."""

    state_order: tuple[int, ...]
    """For each entry of the run's state, its position in the other's."""
    action_order: tuple[int, ...]
    """For each entry of the run's action, its position in the other's."""
    cameras: Mapping[str, str] = field(default_factory=dict)
    """The run's name of each camera -> the other's."""

    def state(self, raw_S: FloatArray) -> FloatArray:
        """Bring the other's states (..., S) into the run's order."""
        return raw_S[..., list(self.state_order)]

    def state_to_robot(self, state_S: FloatArray) -> FloatArray:
        """Bring the run's states (..., S) into the other's order."""
        return state_S[..., np.argsort(self.state_order)]

    def action_from_robot(self, action_A: FloatArray) -> FloatArray:
        """Bring the other's actions (..., A) into the run's order."""
        return action_A[..., list(self.action_order)]

    def action_to_robot(self, action_A: FloatArray) -> FloatArray:
        """Bring the run's actions (..., A) into the other's order."""
        return action_A[..., np.argsort(self.action_order)]

    def images(self, found: Mapping[str, _Picture]) -> dict[str, _Picture]:
        """Give the other's pictures the run's names."""
        return {name: found[theirs] for name, theirs in self.cameras.items()}


def check_names(what: str, names: Sequence[str], size: int) -> None:
    """Check that there are no names, or one for each number.

    Raises:
        ValueError: naming what is wrong.
    """
    if names and (len(names) != size or len(set(names)) != size):
        raise ValueError(f"{what} has {len(names)} names for {size} numbers, or one twice: name each once, or none")


def column_order(what: str, wanted: Sequence[str], found: Sequence[str]) -> tuple[int, ...]:
    """Return the position in `found` of each wanted name; 0, 1, 2, ... where one side has no names.

    Names that only count (motor_0, motor_1, ...) are no names where the other side has others.

    Args:
        what: whose names they are, for the error.
    Raises:
        ConfigError: with both lists, if the names differ.
    """
    if not wanted or not found:
        return tuple(range(len(wanted) or len(found)))
    if len(found) == len(wanted) == len(set(found)) and set(found) == set(wanted):
        places = {name: place for place, name in enumerate(found)}
        return tuple(places[name] for name in wanted)
    if len(found) == len(wanted) and (_only_counts(wanted) or _only_counts(found)):
        return tuple(range(len(wanted)))
    raise ConfigError(
        f"{what} is {_listed(found)}, the run's is {_listed(wanted)}: give what the run is of, or, if these are the "
        "same numbers in the same order, the same names (in the embodiment file of the run)"
    )


def match(run: Embodiment, found: Embodiment) -> Match:
    """Return how `found` (a robot, an environment, a data set) becomes what the run is about.

    Limits of actions are not compared.

    Raises:
        ConfigError: with everything that differs, both values and the remedy.
    """
    if wrong := differences(run, found):
        raise ConfigError(f"{found.name} does not fit embodiment {run.name}: {'; '.join(wrong)}")
    return Match(
        state_order=_state_order(run, found),
        action_order=_action_order(run, found),
        cameras=_counterparts(run.cameras, found.cameras) or {},
    )


def differences(run: Embodiment, found: Embodiment, *, rate: bool = True) -> tuple[str, ...]:
    """Return, a sentence each, in what `found` is not what the run is about; nothing if it fits.

    Tokens and cameras must have the same names, in any order; where each side has one token, its size and the names
    of its entries tell enough. A picture may have another size, not other proportions. Limits are not compared.

    Args:
        rate: whether the control rates are compared.
    """
    sentences = []
    for order in (_state_order, _action_order):
        try:
            order(run, found)
        except ConfigError as error:
            sentences.append(str(error))
    sentences += _camera_differences(run, found)
    if rate and abs(found.control_hz - run.control_hz) > _RATE_TOLERANCE * run.control_hz:
        sentences.append(
            f"the rate is {found.control_hz:g} Hz, the run's is {run.control_hz:g} Hz: set that of the robot or "
            f"environment to {run.control_hz:g} (lwd robot --control-hz {run.control_hz:g}, if that is how many steps "
            f"of it are a second), or use a run whose data were recorded at {found.control_hz:g}"
        )
    return tuple(sentences)


def first_conflict(one: Embodiment, other: Embodiment) -> tuple[str, Any, Any] | None:
    """Return the first field in which two embodiments are not the same to a network, and both values; None if none.

    A network reads its numbers by place: names of entries count, in their order, where both sides have them.
    """
    sides = []
    for this, that in ((one, other), (other, one)):
        named = {token.name for token in that.state_tokens if token.names}
        tokens = tuple(token if token.name in named else replace(token, names=()) for token in this.state_tokens)
        plain = replace(this, state_tokens=tokens, action_names=this.action_names if that.action_names else ())
        # As JSON brings it back: lists for tuples.
        sides.append(json.loads(json.dumps(asdict(replace(plain, recorded_cameras={})))))
    return next(
        ((field, value, sides[1][field]) for field, value in sides[0].items() if value != sides[1][field]), None
    )


def _action_order(run: Embodiment, found: Embodiment) -> tuple[int, ...]:
    if run.action_size != found.action_size:
        raise ConfigError(
            f"the action has {found.action_size} numbers ({_listed(found.action_names) or 'without names'}), the run's "
            f"{run.action_size} ({_listed(run.action_names) or 'without names'}): give what the run is of"
        )
    return column_order("the action", run.action_names, found.action_names) or tuple(range(run.action_size))


def _state_order(wanted: Embodiment, other_side: Embodiment) -> tuple[int, ...]:
    """Return, for each entry of the run's state, its position in the other's."""
    run, found = wanted.state_tokens, other_side.state_tokens
    both = f"the state is {_tokens(found)}, the run's is {_tokens(run)}"
    pairs = _counterparts({token.name: token for token in run}, {token.name: token for token in found})
    if pairs is None and len(run) == len(found) == 1:
        # Nothing can be confused: `state` in data is `observation` in an environment.
        pairs = {run[0].name: found[0].name}
    if pairs is None:
        return _flat_order(both, run, found)
    starts = dict(zip((token.name for token in found), np.cumsum([0, *(t.size for t in found)]).tolist(), strict=False))
    theirs = {token.name: token for token in found}
    order: list[int] = []
    for token in run:
        other = theirs[pairs[token.name]]
        if other.size != token.size:
            raise ConfigError(f"{both}: {token.name} must have {token.size} numbers; give what the run is of")
        entries = column_order(f"state {token.name}", token.names, other.names) or range(token.size)
        order += [starts[other.name] + entry for entry in entries]
    return tuple(order)


def _flat_order(both: str, run: Sequence[TokenSpec], found: Sequence[TokenSpec]) -> tuple[int, ...]:
    """Return the order if one side is one vector whose entries have names (a device's joints), else refuse."""
    names = [flat_names(side) for side in (run, found)]
    sizes = [sum(token.size for token in side) for side in (run, found)]
    one = next((side for side in (0, 1) if len((run, found)[side]) == 1), None)
    if one is not None and sizes[0] == sizes[1] and names[one]:
        return column_order("the state", *names) or tuple(range(sizes[0]))
    raise ConfigError(
        f"{both}: vectors are matched by their names; choose those of the run, or name them alike (--state of an "
        "import, FlattenObservation or renamed keys of an environment)"
    )


def flat_names(tokens: Sequence[TokenSpec]) -> tuple[str, ...]:
    """Return the names of a state's entries, with their tokens' where they are not unique; none if one has none."""
    if not all(token.names for token in tokens):
        return ()
    names = tuple(name for token in tokens for name in token.names)
    return names if len(set(names)) == len(names) else tuple(f"{t.name}.{name}" for t in tokens for name in t.names)


def _camera_differences(run: Embodiment, found: Embodiment) -> list[str]:
    pairs = _counterparts(run.cameras, found.cameras)
    if pairs is None:
        return [
            f"the cameras are {_cameras(found.cameras)}, the run's {_cameras(run.cameras)}: name and choose them as "
            "they were recorded"
        ]
    sentences = []
    for name, theirs in pairs.items():
        seen = found.recorded_cameras.get(theirs, found.cameras[theirs])
        wanted = run.recorded_cameras.get(name, run.cameras[name])
        if seen != run.cameras[name] and abs(seen[0] * wanted[1] / (seen[1] * wanted[0]) - 1) > _RATIO_TOLERANCE:
            sentences.append(
                f"camera {theirs} is {_shape(seen)} (height x width), the run's {name} is {_shape(wanted)}: it would "
                f"be squeezed; set the camera to the proportions of {_shape(wanted)}, or say in recorded_cameras of "
                "the run's embodiment file at which size the run's pictures were taken"
            )
    return sentences


def _counterparts(run: Mapping[str, object], found: Mapping[str, object]) -> dict[str, str] | None:
    """Return the other's name for each name of the run's; None if they differ."""
    if set(run) == set(found):
        return {name: name for name in run}
    ours, theirs = {as_recorded(name): name for name in run}, {as_recorded(name): name for name in found}
    if set(ours) != set(theirs) or len(ours) != len(run) or len(theirs) != len(found):
        return None
    return {name: theirs[key] for key, name in ours.items()}


def as_recorded(name: str) -> str:
    """Return what LeRobot calls a Gymnasium environment's key in its data sets."""
    return {"agent_pos": "state", "pixels": "image"}.get(name, name.removeprefix("pixels."))


def _only_counts(names: Sequence[str]) -> bool:
    """Whether names say nothing but their place: motor_0, motor_1, ... (or from 1 on)."""
    parts = [_COUNTED.fullmatch(name) for name in names]
    if not all(parts) or len({part[1] for part in parts if part}) != 1:
        return False
    numbers = [int(part[2]) for part in parts if part]
    return numbers == list(range(numbers[0], numbers[0] + len(numbers))) and numbers[0] in (0, 1)


def _listed(names: Sequence[str]) -> str:
    return f"[{', '.join(names)}]" if names else ""


def _tokens(tokens: Sequence[TokenSpec]) -> str:
    return ", ".join(f"{token.name} ({_listed(token.names) or token.size})" for token in tokens)


def _cameras(cameras: Mapping[str, tuple[int, int]]) -> str:
    return ", ".join(f"{name} {_shape(cameras[name])}" for name in sorted(cameras)) or "none"


def _shape(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"
