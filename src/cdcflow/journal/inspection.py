"""Looks at a journal as files: what its segments hold, and whether every byte of them is right.

Both work while a writer is at it; what it is just writing is not reported as damage.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import JournalError
from cdcflow.journal.contents import Tail, decode_batch, defined_relations, following
from cdcflow.journal.frame import Kind
from cdcflow.journal.layout import Segment, read_manifest, segments
from cdcflow.journal.lock import held
from cdcflow.journal.reader import Reader
from cdcflow.journal.segment import BadFrame, Frame, SegmentFile, is_damage
from cdcflow.model import Batch, Position, Relation


@dataclass(frozen=True)
class SegmentInfo:
    """What a segment holds.

    `base`, `end`: its offsets. `frames` counts all kinds, `bytes` is the file's size. Positions and
    commit times (microseconds since 1970) are None without changes. `bad_at` is the first byte that
    cannot be walked over, None where there is none; that the rest is sound takes `verify` to say.
    """

    file: str
    base: int
    end: int
    frames: int
    bytes: int
    first: Position | None
    last: Position | None
    relations: tuple[Relation, ...]
    first_commit_time: int | None
    last_commit_time: int | None
    bad_at: int | None


@dataclass(frozen=True)
class Damage:
    """Something wrong at byte `at` of `segment`. `torn` is the end that a crash leaves: unconfirmed, and
    cut off at the next start."""

    segment: str
    at: int
    message: str
    torn: bool = False


def inspect(path: Path) -> list[SegmentInfo]:
    """The journal's segments, from their frames' headers alone. Raises JournalError where there is no
    journal."""
    with Reader(path) as reader:
        alive = held(path)
        published = reader.head().offset
    found = []
    for segment in segments(path):
        with contextlib.suppress(FileNotFoundError):  # retention was faster
            found.append(_inspect(segment, alive, published))
    return found


def _inspect(segment: Segment, alive: bool, published: int) -> SegmentInfo:
    frames = 0
    end = segment.base
    first: Position | None = None
    last: Position | None = None
    relations: dict[str, Relation] = {}
    times: list[int] = []
    at = 0
    bad_at = None
    with contextlib.closing(SegmentFile(segment.path)) as file:
        try:
            for frame in file.frames(segment.base, check=False):
                at = frame.at
                if frame.prefix.kind == Kind.CHANGES:
                    first = first or Position(*frame.header["first"])
                    last = Position(*frame.header["last"])
                    times += frame.header["times"]
                    times = [min(times), max(times)]
                    relations.update(defined_relations(frame.header))
                frames += 1
                end, at = frame.prefix.end, frame.end_at
        except (BadFrame, KeyError, TypeError, ValueError):  # headers are not checked here
            if not (alive and segment.end is None and end >= published):
                bad_at = at
        size = file.size()
    return SegmentInfo(
        file=segment.path.name,
        base=segment.base,
        end=end,
        frames=frames,
        bytes=size,
        first=first,
        last=last,
        relations=tuple(relations.values()),
        first_commit_time=times[0] if times else None,
        last_commit_time=times[1] if times else None,
        bad_at=bad_at,
    )


def verify(path: Path) -> Iterator[Damage]:
    """Everything that is wrong with the journal, in its order: frames that fail their checksum, offsets
    with gaps, positions that do not increase, rows that do not fit their relation.

    Raises JournalError where there is no journal.
    """
    if read_manifest(path) is None:
        raise JournalError(f"there is no journal at {path}")
    # Looked at before the files, so that what was published by then must be there.
    alive = held(path)
    with Reader(path) as reader:
        published = reader.head().offset
    return _verify(path, published, alive)


def _verify(path: Path, published: int, alive: bool) -> Iterator[Damage]:
    tail: Tail | None = None
    name, size = "", 0
    for segment in segments(path):
        try:
            file = SegmentFile(segment.path)
        except FileNotFoundError:
            continue  # retention was faster
        with contextlib.closing(file):
            if tail is not None and tail.offset != segment.base:
                message = (
                    f"the segment begins with offset {segment.base}, the one before ends at {tail.offset}"
                )
                yield Damage(segment.path.name, 0, message)
                tail = None
            check = _SegmentCheck(segment, file, published, alive)
            yield from check.run(tail)
            tail = check.tail
            name, size = segment.path.name, file.size()
    if tail is not None and tail.offset < published:
        message = f"the journal ends at offset {tail.offset}, but changes up to {published} were published"
        yield Damage(name, size, message)


class _SegmentCheck:
    """Goes through one segment, past what is damaged. `tail` is where it ends, None where that is not
    known because the end is damaged."""

    def __init__(self, segment: Segment, file: SegmentFile, published: int, alive: bool) -> None:
        self._segment = segment
        self._file = file
        self._published = published
        self._alive = alive
        self._relations: dict[str, Relation] = {}
        self._skipped = False
        self._at, self._base = 0, segment.base
        self.tail: Tail | None = None

    def run(self, before: Tail | None) -> Iterator[Damage]:
        self.tail = before
        self._at, self._base = 0, self._segment.base
        while True:
            try:
                yield from self._sound()
                return
            except BadFrame as error:
                if self._in_flight():
                    return
                yield self._judge(error)
                self._skipped = True
                # What the damaged frames said of positions is not known, so the next is not measured by it.
                self.tail = None
                found = self._file.next_valid(error.at)
                if found is None:
                    return
                self._at, self._base = found[0], found[1].base

    def _sound(self) -> Iterator[Damage]:
        """Goes on up to the next frame that is not valid, which it raises as BadFrame."""
        for frame in self._file.frames(self._base, self._at):
            yield from self._frame(frame)
            self._at, self._base = frame.end_at, frame.prefix.end
            if self.tail is not None or frame.prefix.kind != Kind.PROGRESS:  # which says no position
                self.tail = following(self.tail or Tail(), frame.prefix, frame.header)

    def _in_flight(self) -> bool:
        return self._alive and self._is_unpublished()

    def _is_unpublished(self) -> bool:
        return self._segment.end is None and self._base >= self._published

    def _judge(self, error: BadFrame) -> Damage:
        torn = self._is_unpublished() and not is_damage(self._file, error.at)
        message = f"{error.reason} (after offset {self._base})"
        return Damage(self._segment.path.name, error.at, message, torn)

    def _frame(self, frame: Frame) -> Iterator[Damage]:
        name, at, header = self._segment.path.name, frame.at, frame.header
        if frame.prefix.kind == Kind.SEGMENT:
            if self.tail is not None and Position(*header["last"]) != self.tail.last:
                yield Damage(name, at, "the segment does not continue the position of the one before")
        elif frame.prefix.kind == Kind.CHANGES:
            first = Position(*header["first"])
            if self.tail is not None and first <= self.tail.last:
                yield Damage(name, at, f"position {first} does not come behind {self.tail.last}")
            if wrong := self._wrong_rows(frame, first):
                yield Damage(name, at, wrong)

    def _wrong_rows(self, frame: Frame, first: Position) -> str:
        self._relations.update(defined_relations(frame.header))
        data = self._file.load(frame.at, frame.prefix)
        try:
            return wrong_rows(decode_batch(frame.prefix, frame.header, data, self._relations), first)
        except KeyError:
            # The frame that defines the relation may be among the damaged ones.
            return "" if self._skipped else "a relation is not defined in this segment"
        except ValueError:  # ArrowInvalid is one
            return "the rows do not fit their relation"


def wrong_rows(batch: Batch, first: Position) -> str:
    """What is wrong with the order of a batch's rows, or nothing."""
    for group in batch.groups:
        group.data.validate(full=True)
    index, lsn, ordinal = (
        pa.concat_arrays([group.meta(name) for group in batch.groups])
        for name in ("index", "commit_lsn", "ordinal")
    )
    order = pc.sort_indices(index)
    if index.take(order).to_pylist() != list(range(batch.count)):
        return f"the rows are not the {batch.count} that the frame says"
    lsn, ordinal = lsn.take(order), ordinal.take(order)
    positions = [Position(lsn[row].as_py(), ordinal[row].as_py()) for row in (0, -1)]
    if positions != [first, batch.last]:
        return "the rows' positions are not those that the frame says"
    later = pc.greater(lsn[1:], lsn[:-1])
    behind = pc.and_(pc.equal(lsn[1:], lsn[:-1]), pc.greater(ordinal[1:], ordinal[:-1]))
    if not pc.all(pc.or_(later, behind), min_count=0).as_py():
        return "the rows' positions do not increase"
    return ""
