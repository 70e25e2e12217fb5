"""Append-only arrays that grow in memory or in a file that the system pages in and out."""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from lwd.data import durable
from lwd.errors import ConfigError, ShapeError

ScalarT = TypeVar("ScalarT", bound=np.generic)


class GrowableArray(Generic[ScalarT]):
    """Rows of one shape and type, appended at the end; capacity doubles when it runs out.

    A slice taken from `rows` stays valid and unchanged while rows are appended: rows never move within a
    buffer, and a larger buffer replaces it only for later readers.
    """

    def __init__(
        self,
        row_shape: tuple[int, ...],
        dtype: type[ScalarT],
        *,
        initial_rows: int,
        directory: Path | None = None,
    ) -> None:
        """Reserve `initial_rows` rows, in an anonymous file in `directory` if one is given.

        The file has no name: it disappears with the process, however that ends.

        Raises:
            ConfigError: if initial_rows is below 1.
            StoreError: if the directory cannot be written or has no space for the rows.
        """
        if initial_rows < 1:
            raise ConfigError(f"initial_rows is {initial_rows}; reserve at least one row")
        self._row_shape = row_shape
        self._dtype = np.dtype(dtype)
        self._file: Any = None
        if directory is not None:
            self._directory = directory
            with durable.explained(directory):
                directory.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=directory)  # noqa: SIM115 - lives as long as the array
        self._buffer = self._allocate(initial_rows)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    @property
    def rows(self) -> npt.NDArray[ScalarT]:
        """(length, ...) view of the rows appended so far."""
        return self._buffer[: self._length]

    def append(self, rows: npt.ArrayLike) -> None:
        """Append (n, *row_shape) rows.

        Raises:
            ShapeError: if the rows have another shape.
            StoreError: if the file cannot grow; the array is as it was.
        """
        values = np.asarray(rows, dtype=self._dtype)
        if values.shape[1:] != self._row_shape or values.ndim == 0:
            raise ShapeError(f"rows have shape {values.shape}; expected (n, {self._row_shape})")
        end = self._length + values.shape[0]
        if end > self._buffer.shape[0]:
            capacity = self._buffer.shape[0]
            while capacity < end:
                capacity *= 2
            self._grow(capacity)
        self._buffer[self._length : end] = values
        self._length = end

    def truncate(self, length: int) -> None:
        """Forget the rows from `length` on."""
        self._length = min(self._length, length)

    def close(self) -> None:
        """Release the file; slices taken earlier stay valid until they are dropped."""
        if self._file is not None:
            self._file.close()

    def _allocate(self, capacity: int) -> npt.NDArray[ScalarT]:
        shape = (capacity, *self._row_shape)
        if self._file is None:
            return np.empty(shape, dtype=self._dtype)
        if sys.platform == "linux":
            with durable.explained(self._directory):
                # Real space, not a promise: a write into a map whose disk is full kills the process (SIGBUS).
                os.posix_fallocate(self._file.fileno(), 0, max(1, int(np.prod(shape)) * self._dtype.itemsize))
        # A plain array over the map: indexing np.memmap itself costs several times as much.
        return np.memmap(self._file, dtype=self._dtype, mode="r+", shape=shape).view(np.ndarray)

    def _grow(self, capacity: int) -> None:
        old = self._buffer
        self._buffer = self._allocate(capacity)
        if self._file is None:  # a larger map of the same file already holds the rows
            self._buffer[: self._length] = old[: self._length]
