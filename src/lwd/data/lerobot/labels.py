"""How the episodes of a dataset ended, from what its owner says; what nobody says is unlabelled, never guessed."""

import codecs
import csv
import io
import json
import math
import re
from collections.abc import Collection, Iterable, Mapping
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

    Columns are separated by commas, semicolons or tabs; the text is UTF-8, UTF-16 with its mark, or Latin-1, as
    spreadsheets write them.

    Raises:
        ConfigError: if the file cannot be read, or a line of it means nothing.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"labels {path} cannot be read ({error.strerror}): check the path") from error
    text, labels = _text(path, data), dict[int, Outcome]()
    for where, index, value in _json_labels(path, text) if path.suffix.lower() == ".json" else _csv_labels(path, text):
        try:
            number, outcome = _episode(index), outcome_of(value)
        except ValueError as error:
            raise ConfigError(f"labels {path}, {where}: {error}; correct it") from error
        if labels.setdefault(number, outcome) is not outcome:
            raise ConfigError(f"labels {path}, {where}: episode {number} has two different labels; keep one")
    if not labels:
        raise ConfigError(f"labels {path} has no label: write one line for each episode, or leave --labels out")
    return labels


def require_episodes(path: Path, labels: Mapping[int, Outcome], episodes: Collection[int]) -> None:
    """Check that labels are of episodes that there are.

    Args:
        episodes: their own numbers.
    Raises:
        ConfigError: naming the numbers that are none.
    """
    if unknown := sorted(set(labels) - set(episodes)):
        listed = ", ".join(map(str, unknown[:10])) + (" ..." if len(unknown) > 10 else "")
        there = f"{min(episodes)} to {max(episodes)}" if episodes else "none"
        raise ConfigError(
            f"labels {path}: {listed} {'is no episode' if len(unknown) == 1 else 'are no episodes'} of the dataset (it "
            f"has {len(episodes)}, {there}): correct the numbers, they count from 0"
        )


def _episode(index: str) -> int:
    if not re.fullmatch(r"[0-9]{1,12}", text := index.strip(), re.ASCII):
        raise ValueError(f"{index[:100]!r} is no number of an episode")
    return int(text)


def _text(path: Path, data: bytes) -> str:
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        kind = "utf-16"
    elif b"\0" in data:
        raise ConfigError(f"labels {path} is no text (or UTF-16 without its mark): save it as UTF-8")
    else:
        kind = "utf-8-sig"
    try:
        return data.decode(kind)
    except UnicodeDecodeError as error:
        if kind == "utf-16":
            raise ConfigError(f"labels {path} is damaged UTF-16 ({error.reason}): save it as UTF-8") from error
    # What a label means is said in ASCII; other columns may hold names.
    return data.decode("latin-1")


def _json_labels(path: Path, text: str) -> Iterable[tuple[str, str, Any]]:
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError as error:
        raise ConfigError(f"labels {path} is no JSON ({error}): correct it") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ConfigError(f'labels {path} is no JSON object: write {{"0": true, "1": false}}')
    return [(f"episode {index}", index, value) for index, value in pairs]


def _csv_labels(path: Path, text: str) -> Iterable[tuple[str, str, Any]]:
    text = text.lstrip("\r\n")
    header = text.splitlines()[0] if text else ""
    between = max((",", ";", "\t"), key=header.count)
    lines = csv.reader(io.StringIO(text, newline=""), delimiter=between, skipinitialspace=True, strict=True)
    try:
        names = [name.strip().lower() for name in next(lines, [])]
        labelled = [place for place, name in enumerate(names) if name in ("success", "outcome")]
        if names.count("episode") != 1 or len(labelled) != 1:
            raise ConfigError(
                f"labels {path} has the columns {names}; it needs episode, and success or outcome, each once"
            )
        found = []
        for line in lines:
            where = f"line {lines.line_num}"
            if not any(cell.strip() for cell in line):
                continue
            if len(line) != len(names):
                raise ConfigError(f"labels {path}, {where}: it has {len(line)} columns, the first line {len(names)}")
            found.append((where, line[names.index("episode")], line[labelled[0]]))
    except csv.Error as error:
        raise ConfigError(f"labels {path}, line {lines.line_num}: {error}; correct it") from error
    return found
