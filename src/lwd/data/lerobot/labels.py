"""How the episodes of a dataset ended, from what its owner says; what nobody says is unlabelled, never guessed."""

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from lwd.errors import ConfigError
from lwd.types import Outcome

_WORDS = {
    **{outcome.value: outcome for outcome in Outcome},
    "true": Outcome.SUCCESS,
    "1": Outcome.SUCCESS,
    "false": Outcome.FAILURE,
    "0": Outcome.FAILURE,
    "": Outcome.UNLABELLED,
    "nan": Outcome.UNLABELLED,
    "null": Outcome.UNLABELLED,
}


def outcome_of(value: Any) -> Outcome:
    """Return what one label means: a boolean, a number (above 0: success), the name of an outcome, or nothing.

    Raises:
        ValueError: if it means nothing to us.
    """
    if value is None:
        return Outcome.UNLABELLED
    if isinstance(value, (bool, int, float)):
        number = float(value)
        if math.isnan(number):
            return Outcome.UNLABELLED
        return Outcome.SUCCESS if number > 0 else Outcome.FAILURE
    found = _WORDS.get(str(value).strip().lower())
    if found is None:
        raise ValueError(f"{str(value)[:100]!r} is no label: use true, false, or one of {', '.join(Outcome)}")
    return found


def outcome_of_column(values: Iterable[Any]) -> Outcome:
    """Return what a column says about one episode, from its values frame by frame.

    Words must agree. Of numbers one above 0 is enough: rewards and success flags are zero before the end.

    Raises:
        ValueError: if they contradict each other, or mean nothing.
    """
    values = list(values)
    known = {found for found in map(outcome_of, values) if found is not Outcome.UNLABELLED}
    if not known:
        return Outcome.UNLABELLED
    if any(isinstance(value, str) for value in values):
        if len(known) > 1:
            raise ValueError(f"its labels contradict each other: {', '.join(sorted(known))}")
        return known.pop()
    return Outcome.SUCCESS if Outcome.SUCCESS in known else Outcome.FAILURE


def read_labels(path: Path) -> Mapping[int, Outcome]:
    """Read labels by episode index: JSON {"0": true, ...}, or CSV with the columns episode and success (or outcome).

    Raises:
        ConfigError: if the file cannot be read, or a line of it means nothing.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise ConfigError(f"labels {path} cannot be read ({error.strerror}): check the path") from error
    labels: dict[int, Outcome] = {}
    for where, index, value in _json_labels(path, text) if path.suffix == ".json" else _csv_labels(path, text):
        try:
            number, outcome = int(index), outcome_of(value)
        except ValueError as error:
            raise ConfigError(f"labels {path}, {where}: {error}; correct it") from error
        if labels.setdefault(number, outcome) is not outcome:
            raise ConfigError(f"labels {path}, {where}: episode {number} has two different labels; keep one")
    return labels


def _json_labels(path: Path, text: str) -> Iterable[tuple[str, str, Any]]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise ConfigError(f"labels {path} is no JSON ({error}): correct it") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ConfigError(f'labels {path} is no JSON object: write {{"0": true, "1": false}}')
    return [(f"episode {index}", index, value) for index, value in pairs]


def _csv_labels(path: Path, text: str) -> Iterable[tuple[str, str, Any]]:
    rows = csv.DictReader(io.StringIO(text), skipinitialspace=True)
    names = rows.fieldnames or ()
    label = next((name for name in ("success", "outcome") if name in names), None)
    if "episode" not in names or label is None:
        raise ConfigError(f"labels {path} has the columns {list(names)}; it needs episode, and success or outcome")
    return [(f"line {number}", row["episode"] or "", row[label]) for number, row in enumerate(rows, start=2)]
