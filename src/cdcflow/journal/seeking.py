"""Finds places in a journal by time, without reading its rows but for the last step."""

import bisect
import contextlib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.journal.frame import Kind
from cdcflow.journal.layout import Segment, segments
from cdcflow.journal.reader import Reader
from cdcflow.journal.segment import BadFrame, SegmentFile


def offset_at(path: Path, moment: int) -> int:
    """The offset of the first change committed at or after a moment, in microseconds since 1970; the
    journal's end where there is none. Commit times rise but for the clock's own jumps.

    Raises JournalError where there is no journal.
    """
    with Reader(path) as reader:
        end = reader.head().offset
        found = segments(path)
        # The segment before the first that begins too late may hold it.
        begins = bisect.bisect_left(found, moment, key=_first_time)
        for segment in found[max(begins - 1, 0) :]:
            frame = _frame_at(segment, moment, end)
            if frame is not None:
                return min(_change_at(reader, frame, moment), end)
        return end


def _first_time(segment: Segment) -> int:
    """The first commit time of a segment; later than any where it holds no change."""
    with contextlib.suppress(FileNotFoundError, BadFrame), contextlib.closing(_open(segment)) as file:
        for frame in file.frames(segment.base, check=False):
            if frame.prefix.kind == Kind.CHANGES:
                return int(frame.header["times"][0])
    return 1 << 62


def _frame_at(segment: Segment, moment: int, end: int) -> int | None:
    """The offset of the first frame with a change at or after the moment."""
    # What stands behind the end is being written, or is what a crash has left.
    with contextlib.suppress(FileNotFoundError, BadFrame), contextlib.closing(_open(segment)) as file:
        for frame in file.frames(segment.base, check=False):
            if frame.prefix.base >= end:
                return None
            if frame.prefix.kind == Kind.CHANGES and frame.header["times"][1] >= moment:
                return int(frame.prefix.base)
    return None


def _open(segment: Segment) -> SegmentFile:
    return SegmentFile(segment.path)


def _change_at(reader: Reader, offset: int, moment: int) -> int:
    (batch, *_) = reader.read(offset, max_changes=1, max_bytes=1)
    found = []
    for group in batch.groups:
        late = pc.greater_equal(group.meta("commit_time").cast(pa.int64()), moment)
        rows = group.meta("index").filter(late)
        found += [rows[0].as_py()] if len(rows) else []
    return offset + min(found, default=0)
