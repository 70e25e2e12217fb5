"""Measured speeds as they are kept: a number, and what it is compared with."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from lwd.data import durable


@dataclass(frozen=True, kw_only=True)
class BenchEntry:
    """One measurement."""

    value: float
    unit: str
    baseline: str
    """What the ratio is against."""
    ratio: float


def write_entries(path: Path, entries: Mapping[str, BenchEntry]) -> None:
    """Write results; numbers to four significant digits.

    A name's first part is its group. The groups of `entries` are replaced as a whole; what other benchmarks have
    written about other groups stays.
    """
    groups = {_group(name) for name in entries}
    kept = json.loads(path.read_text()) if path.exists() else {}
    kept = {name: entry for name, entry in kept.items() if _group(name) not in groups}
    rounded = {
        name: asdict(entry) | {"value": float(f"{entry.value:.4g}"), "ratio": float(f"{entry.ratio:.4g}")}
        for name, entry in entries.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    durable.replace(path, (json.dumps(kept | rounded, indent=1) + "\n").encode())


def _group(name: str) -> str:
    return name.partition("/")[0]


def print_entries(entries: Mapping[str, BenchEntry]) -> None:
    """Print a line for each entry."""
    width = max(map(len, entries))
    for name, entry in entries.items():
        print(f"{name:<{width}}  {entry.value:10.4g} {entry.unit:<14} {entry.ratio:6.2f} of {entry.baseline}")
