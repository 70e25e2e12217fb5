"""The hostile corpus: every case by name, always the same bytes."""

from functools import cache

from .arrays import columns, gaps, numbers, replaced_arrays, shapes, types
from .case import Case
from .descriptions import fields, json_tricks, labels, paths
from .files import files
from .pictures import pictures

FAMILIES = (
    numbers, shapes, gaps, types, columns, replaced_arrays, fields, labels, json_tricks, paths, pictures, files
)  # fmt: skip


@cache
def corpus() -> tuple[Case, ...]:
    """Return all cases; names are unique."""
    return tuple(case for family in FAMILIES for case in family())
