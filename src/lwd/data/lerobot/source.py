"""A LeRobotDataset on this disk or on the hub, read through LeRobot's own loader."""

import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from lerobot.datasets.dataset_metadata import LeRobotDatasetMetadata
from lerobot.datasets.dataset_reader import DatasetReader
from lerobot.datasets.lerobot_dataset import LeRobotDataset
from lerobot.datasets.video_utils import decode_video_frames
from lerobot.scripts.convert_dataset_v21_to_v30 import convert_dataset

from lwd.data.lerobot.content import pictures_digest
from lwd.data.lerobot.dataset_files import OLD_VERSION, dataset_version, require_whole
from lwd.data.lerobot.episode_index import Span, row_problems, spans_of, unnamed_rows
from lwd.data.lerobot.importing import EMBODIMENT_FILE
from lwd.data.lerobot.labels import outcome_of_column
from lwd.data.lerobot.layout import DESCRIPTION, Camera, DatasetLayout, layout_of
from lwd.data.lerobot.pauses import exported_gaps
from lwd.data.lerobot.recording import Recording
from lwd.data.steps import BoolArray
from lwd.errors import ConfigError
from lwd.types import ByteArray, Embodiment, FloatArray, Outcome

_DECODED_AT_ONCE = 32
"""Frames of a video that are in memory at a time."""
_TOLERANCE_S = 1e-4
_HUB_ID = re.compile(r"\w[\w.-]*/\w[\w.-]*")
_BACKEND = "pyav"
"""Comes with LeRobot; torchcodec needs FFmpeg's libraries installed beside it."""


class LeRobotSource:
    """One dataset of version 3; version 2.1 is converted in a temporary copy by LeRobot's converter.

    Raises:
        ConfigError: if it cannot be read, or a named feature is missing.
    """

    def __init__(
        self, given: str, *, state: Sequence[str] = (), controller: str | None = None, label: str | None = None
    ) -> None:
        self._copy: tempfile.TemporaryDirectory[str] | None = None
        root = Path(given) if Path(given).is_dir() else None
        if root is None and not _HUB_ID.fullmatch(given):
            raise ConfigError(
                f"{given!r} is no directory, nor an id on the hub (USER/NAME): give the directory of a dataset, which "
                "holds meta/info.json"
            )
        self.name = (root.resolve().name if root else given.rpartition("/")[2]) or "dataset"
        try:
            self._meta, self._frames, self._root = self._of_hub(given) if root is None else self._of_directory(root)
        except ConfigError:
            self.close()
            raise
        except Exception as error:  # whatever LeRobot, the hub's client and Arrow raise
            self.close()
            reason = str(error).strip().splitlines()[0][:300] if str(error).strip() else type(error).__name__
            raise ConfigError(
                f"LeRobot cannot open {given!r} ({reason}): give the directory of a whole dataset, or its id on the hub"
            ) from error
        meta = self._meta
        self._state, self._controller = tuple(state), controller
        self._layout: DatasetLayout | None = None
        self.robot_type = str(meta.robot_type or "")
        self._label = label
        if label is not None and label not in meta.features and label not in meta.episodes.column_names:
            raise ConfigError(
                f"label column {label!r} is neither a feature ({', '.join(meta.features)}) nor kept by episode"
            )
        # Rows as Arrow gives them: no tensors, no pictures.
        self._rows = self._frames.with_format("arrow")
        lines = () if meta.episodes is None else meta.episodes
        self._spans = spans_of(lines, rows=len(self._rows), fps=float(meta.fps), video_keys=meta.video_keys)
        self._line = {span.index: span.line for span in self._spans}
        self._tasks = dict(zip(meta.tasks["task_index"].tolist(), map(str, meta.tasks.index), strict=True))

    @property
    def layout(self) -> DatasetLayout:
        """What of it becomes episodes.

        Raises:
            ConfigError: if a feature is missing, or cannot be used.
        """
        if self._layout is None:
            self.read_for(None)
        assert self._layout is not None
        return self._layout

    def read_for(self, run: Embodiment | None) -> None:
        """From now on read numbers and cameras as a run has them: its tokens, its order, its names.

        Raises:
            ConfigError: if a feature is missing, or cannot be used.
        """
        meta = self._meta
        self._layout = layout_of(
            meta.features, float(meta.fps), state=self._state, controller=self._controller, label=self._label, run=run
        )

    @property
    def episodes(self) -> int:
        """How many there are; their own numbers are in `Recording.index`."""
        return len(self._spans)

    @property
    def indices(self) -> frozenset[int]:
        """The episodes' own numbers."""
        return frozenset(span.index for span in self._spans)

    @property
    def notes(self) -> tuple[str, ...]:
        """What was noticed that belongs to no episode."""
        column = self._rows.select_columns(["episode_index"])[:]["episode_index"]
        note = unnamed_rows(self._spans, np.asarray(column.to_numpy()).astype(np.int64))
        return () if note is None else (f"{self.name}: {note}",)

    def embodiment_json(self) -> bytes | None:
        """Return the description of the robot that our exporter left, if any."""
        path = self._root / EMBODIMENT_FILE
        return path.read_bytes() if path.is_file() else None

    def actions(self) -> FloatArray:
        """Return (N, A), all recorded actions, in the run's order."""
        key = self.layout.action.key
        try:
            return self.layout.action_of(_matrix(self._rows.select_columns([key])[:][key]))
        except Exception as error:
            raise self._unreadable(f"column {key}", error) from error

    def recordings(self) -> Iterator[Recording]:
        """Yield the numbers of every episode, in their order."""
        for span in self._spans:
            try:
                recording = self._recording(span)
            except ConfigError:
                raise
            except Exception as error:  # whatever Arrow and NumPy say to columns that are not what the features tell
                raise self._unreadable(f"episode {span.index}", error) from error
            yield recording

    def frames(self, index: int, camera: Camera, wanted: Sequence[int]) -> Iterator[ByteArray]:
        """Yield frames of one episode and camera, (height, width, 3) uint8.

        Args:
            wanted: numbers of frames within the episode, increasing.
        Raises:
            ConfigError: if they cannot be decoded.
        """
        try:
            yield from self._decoded(index, camera, wanted)
        except Exception as error:  # LeRobot's own, FFmpeg's, the file system's
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise ConfigError(
                f"frames of camera {camera.name} cannot be decoded in episode {index} ({reason}): is it complete?"
            ) from error

    def _decoded(self, index: int, camera: Camera, wanted: Sequence[int]) -> Iterator[ByteArray]:
        line = self._line[index]
        if camera.key not in self._meta.video_keys:
            first, pictures = int(line["dataset_from_index"]), self._frames.select_columns([camera.key])
            for number in wanted:
                yield _picture(pictures[first + number][camera.key].numpy())
            return
        chunk, file = (int(line[f"videos/{camera.key}/{part}"]) for part in ("chunk_index", "file_index"))
        path = self._root / self._meta.video_path.format(video_key=camera.key, chunk_index=chunk, file_index=file)
        if not path.is_file():
            raise FileNotFoundError(f"{path.relative_to(self._root)} is missing; copy the whole dataset again")
        begin_s = float(line[f"videos/{camera.key}/from_timestamp"])
        for start in range(0, len(wanted), _DECODED_AT_ONCE):
            times_s = [begin_s + number / self.layout.fps for number in wanted[start : start + _DECODED_AT_ONCE]]
            decoded = decode_video_frames(path, times_s, _TOLERANCE_S, _BACKEND, return_uint8=True)
            for frame in decoded.numpy():
                yield _picture(frame)

    def _unreadable(self, what: str, error: Exception) -> ConfigError:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        return ConfigError(
            f"{what} of {self.name} cannot be read ({type(error).__name__}: {reason}): compare its files below data/ "
            "with the features in meta/info.json, or take them from a whole copy"
        )

    def close(self) -> None:
        """Remove the converted copy, if there is one."""
        if self._copy is not None:
            self._copy.cleanup()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _of_directory(self, root: Path) -> tuple[LeRobotDatasetMetadata, Any, Path]:
        """Open a directory; LeRobot's own way would look for what is missing in it on the hub, as local/NAME."""
        if dataset_version(root) == OLD_VERSION:
            root = self._converted(root)
        require_whole(root)
        meta = LeRobotDatasetMetadata(f"local/{self.name}", root=root)
        reader = DatasetReader(meta, root, None, _TOLERANCE_S, _BACKEND, None, None, return_uint8=True)
        reader.load_and_activate()
        return meta, reader.hf_dataset, root

    def _of_hub(self, given: str) -> tuple[LeRobotDatasetMetadata, Any, Path]:
        dataset = LeRobotDataset(given, video_backend=_BACKEND, return_uint8=True)
        root = Path(dataset.root)
        dataset_version(root)
        require_whole(root)
        return dataset.meta, dataset.hf_dataset, root

    def _converted(self, root: Path) -> Path:
        """Convert a copy: LeRobot's converter moves the original aside."""
        self._copy = tempfile.TemporaryDirectory(prefix="lwd-lerobot-")
        copy = Path(self._copy.name) / root.resolve().name
        shutil.copytree(root, copy)
        logging.getLogger(__name__).info("%s has version 2.1: LeRobot converts a copy", root)
        convert_dataset(f"local/{copy.name}", root=copy, push_to_hub=False)
        return copy

    def _recording(self, span: Span) -> Recording:
        first = min(max(span.first, 0), len(self._rows))
        table: pa.Table = self._rows[0:1].slice(0, 0) if span.problems else self._rows[first : span.end]
        layout = self.layout
        problems = [*span.problems, *row_problems(table, span, layout.fps)]
        instruction, notes = self._instruction(table)
        try:
            outcome = self._outcome(table, span.line)
        except ValueError as error:
            raise ConfigError(f"episode {span.index}, label column {self._label!r}: {error}") from error
        human_N = None
        if layout.controller is not None:
            human_N = (_matrix(table[layout.controller])[:, 0] > 0).astype(np.uint8)
        description = ""
        if DESCRIPTION in table.column_names and table.num_rows:
            description = str(table[DESCRIPTION][0].as_py() or "")
        return Recording(
            index=span.index,
            instruction=instruction,
            states_NS=layout.state_of(
                np.concatenate([_matrix(table[column.key], column.size) for column in layout.state], axis=1)
            ),
            actions_NA=layout.action_of(_matrix(table[layout.action.key], layout.action.size)),
            human_N=human_N,
            outcome=outcome,
            times_s_N=_times_s(table),
            gap_N=_exported_gaps(table) if description else None,
            description=description,
            notes=notes,
            problems=tuple(problems),
            pictures=pictures_digest(self._pictures(span.index, table)),
        )

    def _instruction(self, table: pa.Table) -> tuple[str, tuple[str, ...]]:
        """Return the task string of the first frame, which counts, and a note of what other frames say."""
        numbers = list(dict.fromkeys(table["task_index"].to_pylist()))
        said = [self._tasks.get(number, "") for number in numbers]
        others = ", ".join(repr(text) for text in said[1:5]) + (" ..." if len(said) > 5 else "")
        note = (f"later frames have {others} as their task; the first frame's counts",) if len(said) > 1 else ()
        return said[0] if said else "", note

    def _pictures(self, index: int, table: pa.Table) -> dict[str, list[bytes | float]]:
        """Return what is known of an episode's pictures without decoding them, by feature."""
        found: dict[str, list[bytes | float]] = {}
        for camera in self.layout.cameras:
            if camera.key in self._meta.video_keys:
                found[camera.key] = list(self._statistics.get((index, camera.key), ()))
            else:
                encoded = table[camera.key].combine_chunks()
                encoded = encoded.storage if isinstance(encoded, pa.ExtensionArray) else encoded
                found[camera.key] = [bytes(picture["bytes"] or b"") for picture in encoded.to_pylist() if picture]
        return found

    @cached_property
    def _statistics(self) -> dict[tuple[int, str], list[float]]:
        """Mean and deviation of each colour, by episode and camera; LeRobot leaves them out of what it loads."""
        found: dict[tuple[int, str], list[float]] = {}
        for path in sorted((self._root / "meta" / "episodes").glob("**/*.parquet")):
            names = set(pq.read_schema(path).names)
            keys = [key for key in self._meta.video_keys if f"stats/{key}/mean" in names]
            wanted = [
                f"stats/{key}/{kind}" for key in keys for kind in ("mean", "std") if f"stats/{key}/{kind}" in names
            ]
            for row in pq.read_table(path, columns=["episode_index", *wanted]).to_pylist():
                for key in keys:
                    values = [row.get(f"stats/{key}/{kind}") for kind in ("mean", "std")]
                    found[int(row["episode_index"]), key] = (
                        np.array([value for value in values if value is not None], dtype=np.float64).ravel().tolist()
                    )
        return found

    def _outcome(self, table: pa.Table, episode: Mapping[str, Any]) -> Outcome:
        if self._label is None:
            return Outcome.UNLABELLED
        if self._label not in table.column_names:
            return outcome_of_column([episode[self._label]])
        values = table[self._label].to_pylist()
        return outcome_of_column(value[0] if isinstance(value, list) else value for value in values)


def _exported_gaps(table: pa.Table) -> BoolArray | None:
    return exported_gaps(_matrix(table["controller"])) if "controller" in table.column_names else None


def _times_s(table: pa.Table) -> npt.NDArray[np.float64] | None:
    return table["timestamp"].to_numpy().astype(np.float64) if "timestamp" in table.column_names else None


def _matrix(column: pa.ChunkedArray, width: int = 1) -> FloatArray:
    """Return a column of numbers or lists as (rows, width) float32.

    Args:
        width: where there are no rows to tell it.
    """
    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type.storage_type)
    if isinstance(array, pa.ExtensionArray):
        array = array.storage
    rows = len(array)
    while pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
    # Booleans have no view without a copy, and gaps become NaN, which the check reports.
    values = np.asarray(array.to_numpy(zero_copy_only=False), dtype=np.float32)
    return values.reshape(rows, -1) if rows else values.reshape(0, width)


def _picture(frame: np.ndarray[Any, Any]) -> ByteArray:
    """Return LeRobot's (3, height, width), uint8 or floats in [0, 1], as (height, width, 3) uint8."""
    if frame.dtype != np.uint8:
        frame = np.rint(np.clip(frame, 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(frame.transpose(1, 2, 0))
