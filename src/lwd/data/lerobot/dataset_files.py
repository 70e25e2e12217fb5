"""Whether the directory of a LeRobot dataset is whole, before LeRobot's loader looks for what is missing on the hub."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from lwd.errors import ConfigError

_REMEDY = "copy or download the whole dataset again (a recording that was broken off must be finalized by its recorder)"
OLD_VERSION = "v2.1"
"""Converted in a copy."""
_INDEX = ("episode_index", "dataset_from_index", "dataset_to_index")
_MAX_INFO_BYTES = 1 << 24


def dataset_version(root: Path) -> str:
    """Return the version that a dataset's meta/info.json states.

    Raises:
        ConfigError: naming the file, if it is missing or damaged, or the version is not known.
    """
    path = root / "meta" / "info.json"
    info = _info(path)
    version = str(info.get("codebase_version", ""))
    if version != OLD_VERSION and not version.startswith("v3."):
        raise ConfigError(
            f"{path}: codebase_version is {version or 'missing'}; versions {OLD_VERSION} and v3 are known: convert the "
            "dataset with LeRobot's tools"
        )
    for name, right in (
        ("fps", lambda value: value > 0),
        ("features", lambda value: isinstance(value, dict) and value),
    ):
        try:
            fine = bool(right(info[name]))
        except (KeyError, TypeError):
            fine = False
        if not fine:
            raise ConfigError(f"{path}: {name} is {str(info.get(name, 'missing'))[:100]}: {_REMEDY}")
    return version


def require_whole(root: Path) -> None:
    """Check that a dataset of version 3 has its index, its tasks and the tables that its index names.

    Videos are left to the episodes that need them: one that is missing keeps those out, not the others.

    Raises:
        ConfigError: naming the first file that is missing or damaged.
    """
    info = _info(root / "meta" / "info.json")
    _require_parquet(root / "meta" / "tasks.parquet", ("task_index",))
    index = sorted((root / "meta" / "episodes").glob("**/*.parquet"))
    if not index:
        raise ConfigError(f"{root / 'meta' / 'episodes'} holds no index of the episodes: {_REMEDY}")
    for path in index:
        _require_parquet(path, _INDEX)
    tables = list(_named_tables(root, index, str(info.get("data_path") or "")))
    tables += sorted((root / "data").glob("**/*.parquet"))
    if not tables:
        raise ConfigError(f"{root / 'data'} holds no table of frames: {_REMEDY}")
    for path in dict.fromkeys(tables):
        _require_parquet(path, ())


def _info(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > _MAX_INFO_BYTES:
            raise ConfigError(f"{path} has {path.stat().st_size} bytes, more than a description has: {_REMEDY}")
        info = json.loads(path.read_bytes())
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): give the directory of a whole dataset") from error
    except ValueError as error:
        raise ConfigError(f"{path} is damaged (no JSON: {error}): {_REMEDY}") from error
    if not isinstance(info, dict):
        raise ConfigError(f"{path} is damaged (no JSON object): {_REMEDY}")
    return info


def _require_parquet(path: Path, columns: tuple[str, ...]) -> None:
    try:
        schema = pq.ParquetFile(path).schema_arrow
    except OSError as error:
        missing = isinstance(error, FileNotFoundError)
        raise ConfigError(f"{path} {'is missing' if missing else 'cannot be read'}: {_REMEDY}") from error
    except pa.ArrowException as error:
        reason = str(error).splitlines()[0][:150]
        raise ConfigError(f"{path} is damaged ({reason}): {_REMEDY}") from error
    if lacking := [name for name in columns if name not in schema.names]:
        raise ConfigError(f"{path} is damaged (it has no column {lacking[0]}): {_REMEDY}")


def _named_tables(root: Path, index: list[Path], template: str) -> Iterator[Path]:
    names = ("data/chunk_index", "data/file_index")
    for path in index:
        if not template or not set(names) <= set(pq.ParquetFile(path).schema_arrow.names):
            continue
        for chunk, file in pq.read_table(path, columns=list(names)).to_pandas().itertuples(index=False):
            yield root / template.format(chunk_index=int(chunk), file_index=int(file))
