"""The end of a journal, read backwards: the newest changes first, without reading what lies before them."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from cdcflow.journal.frame import Kind
from cdcflow.journal.layout import Segment, segments
from cdcflow.journal.reader import Reader
from cdcflow.journal.segment import BadFrame, SegmentFile
from cdcflow.model import Batch

#: Changes that are read at once: a stretch is read forwards, since frames do not say where the one before
#: them begins.
STRETCH = 5_000


def backwards(path: Path) -> Iterator[Batch]:
    """The journal's batches, the newest first. Raises JournalError where there is no journal."""
    with Reader(path) as reader:
        end = reader.head().offset
        for segment in reversed(segments(path)):
            for start, stop in _stretches(_frames(segment, end)):
                batches: list[Batch] = []
                while start < stop:
                    batches += reader.read(start, max_changes=stop - start, max_bytes=1 << 30)
                    start = batches[-1].end
                yield from reversed(batches)


def _frames(segment: Segment, end: int) -> list[tuple[int, int]]:
    """Offset and number of changes of each frame that may be read."""
    found = []
    # What stands behind the end is being written; a segment that is gone was removed meanwhile.
    with (
        contextlib.suppress(FileNotFoundError, BadFrame),
        contextlib.closing(SegmentFile(segment.path)) as file,
    ):
        at = 0
        while (prefix := file.prefix(at)) is not None and prefix.end <= end:
            if prefix.kind == Kind.CHANGES:
                found.append((prefix.base, prefix.count))
            at += prefix.size
    return found


def _stretches(frames: list[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Runs of frames, the last first, as (first offset, offset behind the last)."""
    while frames:
        stop = frames[-1][0] + frames[-1][1]
        start = stop
        while frames and stop - start < STRETCH:
            start = frames.pop()[0]
        yield start, stop
