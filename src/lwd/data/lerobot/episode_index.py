"""Which rows of a dataset's table are an episode's, and whether they really are: the index and the rows must agree.

The index (meta/episodes) is written by tools that renumber and merge, so nothing that it says is believed without a
look at the rows themselves.
"""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

_REMEDY = "make the index anew with LeRobot's tools, or get the dataset again"
_VIDEO_SLACK_FRAMES = 1.5
"""Recorders take a video's length from its container, which may be off by a frame."""
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Span:
    """What the index says of one episode."""

    index: int
    """The episode's own number, wherever its line stands in the index."""
    first: int
    """Its first row in the table."""
    end: int
    """The row after its last one."""
    line: Mapping[str, Any]
    """Everything that the index has of it."""
    problems: tuple[str, ...] = ()
    """Why its rows cannot be told."""


def spans_of(lines: Iterable[Mapping[str, Any]], *, rows: int, fps: float, video_keys: Sequence[str]) -> list[Span]:
    """Return the episodes of an index, in its order, each with what is wrong with its range.

    Args:
        lines: of meta/episodes.
        rows: of the whole table.
        fps: frames per second, of the videos, too.
        video_keys: features that lie in video files.
    """
    spans = [
        Span(
            index=int(line["episode_index"]),
            first=int(line["dataset_from_index"]),
            end=int(line["dataset_to_index"]),
            line=line,
        )
        for line in lines
    ]
    counts = Counter(span.index for span in spans)
    shared = _shared(spans, [(span.first, span.end) for span in spans])
    found: list[list[str]] = [
        _range_problems(span, rows, counts[span.index], other) for span, other in zip(spans, shared, strict=True)
    ]
    for key in video_keys:
        for problems, more in zip(found, _video_problems(spans, key, fps), strict=True):
            problems += more
    return [replace(span, problems=tuple(problems)) for span, problems in zip(spans, found, strict=True)]


def row_problems(table: pa.Table, span: Span, fps: float) -> list[str]:
    """Return in words why the rows of a range are not one whole episode, from its first frame on; nothing if they are.

    Pauses between two frames are no problem: time only has to go on.
    """
    where = f"rows {span.first} to {span.end - 1}"
    index_N, frame_N = (_whole_numbers(table, name) for name in ("episode_index", "frame_index"))
    found = []
    if index_N is not None and (wrong_N := index_N != span.index).any():
        row = int(np.argmax(wrong_N))
        found.append(
            f"{where} are not all its own: {int(wrong_N.sum())} say another episode, the first, row "
            f"{span.first + row}, says {index_N[row]} (episode_index)"
        )
    if frame_N is not None and (wrong_N := frame_N != np.arange(len(frame_N))).any():
        row = int(np.argmax(wrong_N))
        found.append(f"{where} do not count from frame 0: row {span.first + row} is frame {frame_N[row]}, not {row}")
    if "timestamp" in table.column_names:
        times_s_N = np.asarray(table["timestamp"].to_numpy(), dtype=np.float64)
        if len(times_s_N) and not abs(times_s_N[0]) < 0.5 / fps:
            found.append(f"{where} do not begin at 0 s but at {times_s_N[0]:g} s (timestamp)")
        elif len(times_s_N) > 1 and not (np.diff(times_s_N) > 0).all():
            row = int(np.argmin(np.diff(times_s_N) > 0)) + 1
            found.append(
                f"time does not go on in {where}: frame {row} is at {times_s_N[row]:g} s, the one before at "
                f"{times_s_N[row - 1]:g} s (timestamp)"
            )
    return [f"{problem}; {_REMEDY}" for problem in found]


def unnamed_rows(spans: Sequence[Span], index_R: IntArray) -> str | None:
    """Return in words which rows of the table no episode of the index has; None: all are some episode's.

    Args:
        index_R: the table's column episode_index.
    """
    named_R = np.zeros(len(index_R), dtype=np.bool_)
    for span in spans:
        named_R[max(span.first, 0) : max(span.end, 0)] = True
    if named_R.all():
        return None
    of = np.unique(index_R[~named_R])
    listed = ", ".join(map(str, of[:10])) + (" ..." if len(of) > 10 else "")
    return f"{int((~named_R).sum())} rows are in no episode of the index (they say episode {listed}): left out"


def _range_problems(span: Span, rows: int, times: int, other: int | None) -> list[str]:
    said, found = f"the index gives it rows {span.first} to {span.end - 1}", []
    if span.end <= span.first:
        found.append(f"the index gives it no rows (from {span.first} to {span.end}, which is left out)")
    elif span.first < 0 or span.end > rows:
        found.append(f"{said}, the table has {rows}")
    elif (length := span.line.get("length")) is not None and int(length) != span.end - span.first:
        found.append(f"{said}, which are {span.end - span.first}, and says that it has {length}")
    if other is not None:
        found.append(f"{said}, some of which it gives to episode {other}, too")
    if times > 1:
        found.append(f"the index has {times} episodes {span.index}")
    return [f"{problem}; {_REMEDY}" for problem in found]


def _video_problems(spans: Sequence[Span], key: str, fps: float) -> list[list[str]]:
    """Return what is wrong with each episode's part of a video: its length, or that another has it, too."""
    at = [
        (float(span.line[f"videos/{key}/from_timestamp"]), float(span.line[f"videos/{key}/to_timestamp"]))
        for span in spans
    ]
    files = [(span.line[f"videos/{key}/chunk_index"], span.line[f"videos/{key}/file_index"]) for span in spans]
    found: list[list[str]] = [[] for _ in spans]
    for problems, span, (begin_s, end_s) in zip(found, spans, at, strict=True):
        frames = (end_s - begin_s) * fps
        if not abs(frames - (span.end - span.first)) < _VIDEO_SLACK_FRAMES:
            problems.append(
                f"the index gives it {begin_s:g} s to {end_s:g} s of the video of {key}, {frames:.1f} frames for "
                f"{span.end - span.first} rows; {_REMEDY}"
            )
    for file in set(files):
        places = [place for place, one in enumerate(files) if one == file]
        parts = [(round(at[place][0] * fps), round(at[place][1] * fps) - 1) for place in places]
        for place, other in zip(places, _shared([spans[place] for place in places], parts), strict=True):
            if other is not None:
                found[place].append(
                    f"the index gives its part of the video of {key} to episode {other}, too; {_REMEDY}"
                )
    return found


def _shared(spans: Sequence[Span], ranges: Sequence[tuple[int, int]]) -> list[int | None]:
    """Return, for each range, the number of an episode with which it has something in common."""
    found: list[int | None] = [None] * len(spans)
    order = sorted((place for place, (first, end) in enumerate(ranges) if first < end), key=lambda place: ranges[place])
    furthest: int | None = None
    for place in order:
        if furthest is not None and ranges[place][0] < ranges[furthest][1]:
            found[place] = spans[furthest].index
            found[furthest] = spans[place].index if found[furthest] is None else found[furthest]
        if furthest is None or ranges[place][1] > ranges[furthest][1]:
            furthest = place
    return found


def _whole_numbers(table: pa.Table, name: str) -> IntArray | None:
    """Return a column of whole numbers; None if there is no such column."""
    if name not in table.column_names:
        return None
    # Gaps become a number that no episode and no frame has.
    column = table[name].fill_null(-1)
    numbers: IntArray = np.asarray(column.to_numpy()).astype(np.int64)
    return numbers
