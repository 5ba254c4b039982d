"""Reads a journal: in any process, at any pace, with or without a living writer.

Nothing is ever returned that is not durable, and nothing twice or with a gap between two reads. A
reader takes no lock and keeps one segment open at most, so retention can remove what it reads.
"""

import asyncio
import bisect
import contextlib
import os
import select
import time
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

import pyarrow as pa

from cdcflow.errors import JournalDamaged, JournalError
from cdcflow.journal.contents import decode_batch, defined_relations
from cdcflow.journal.frame import DEFINES, Kind, Prefix, decode_header
from cdcflow.journal.head import NOTHING, Head, Viewer
from cdcflow.journal.layout import Segment, read_manifest, segments
from cdcflow.journal.segment import BadFrame, SegmentFile, scan
from cdcflow.journal.wakeup import POLL, RECHECK, Doorbell
from cdcflow.model import Batch, Relation


class Reader:
    """A place in the journal at `path`.

    One `read` at a time; `wait`, `wait_async` and `head` may be called meanwhile from another thread.
    Raises JournalError where there is no journal, or none that this user may read.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            found = read_manifest(path)
            self._head = Viewer(path) if found else None
        except (OSError, ValueError) as error:  # ValueError: the head file is not even created fully
            raise _unreadable(path, error) from error
        if self._head is None:
            raise JournalError(
                f"there is no journal at {path}",
                hint="it is made when the capture starts for the first time: `cdcflow run`",
            )
        self._cursor: _Cursor | None = None
        self._bell: Doorbell | None = None
        self._short: _Short | None = None
        self._recovered: Head | None = None

    def close(self) -> None:
        self._forget_place()
        if self._bell is not None:
            self._bell.close()
            self._bell = None
        if self._head is not None:
            self._head.close()
            self._head = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def head(self) -> Head:
        """How far the journal can be read, and how far it is known to hold everything."""
        if self._head is None:
            raise JournalError(f"the journal at {self._path} is closed")
        head = self._head.current
        if head is None:
            # The file has never been written, or a power cut took it: the segments say it too.
            if self._recovered is None:
                self._recovered = self._scan_end()
            return self._recovered
        short = self._short
        return short.actual if short is not None and short.published == head else head

    def first_offset(self) -> int:
        """The oldest offset that is retained."""
        found = segments(self._path)
        return found[0].base if found else self.head().offset

    def initial_rows(self) -> int | None:
        """Offset from which on the rows of the first load come, retained or not; None where there is none."""
        manifest = read_manifest(self._path)
        return None if manifest is None else manifest.initial_rows

    def read(self, offset: int, *, max_changes: int, max_bytes: int) -> list[Batch]:
        """The batches from `offset` on, as they were appended, until the next one would exceed a limit;
        at least one if there is any, and none at the head.

        The first is cut to begin at `offset`. `max_bytes` counts bytes in memory. To go on, pass `end` of
        the last one: that costs no seeking.

        Raises JournalError when `offset` is not retained any more or does not exist yet, JournalDamaged
        when a frame is invalid.
        """
        head = self.head()
        try:
            if offset >= head.offset:
                self._require_known(offset, head)
                return []
            return self._read(offset, head, max_changes, max_bytes)
        except BaseException as error:
            self._forget_place()  # the next call starts from what the files then say
            if isinstance(error, OSError):
                raise _unreadable(self._path, error) from error
            raise

    def _read(self, offset: int, head: Head, max_changes: int, max_bytes: int) -> list[Batch]:
        cursor = self._seek(offset)
        batches: list[Batch] = []
        changes = size = 0
        while cursor.offset < head.offset:
            try:
                prefix = cursor.peek()
                if prefix is None:
                    following = self._following(cursor, head)
                    if following is None:
                        break
                    cursor = following
                    continue
                if prefix.kind == Kind.CHANGES:
                    changes += prefix.count
                    size += prefix.weight
                    if batches and (changes > max_changes or size > max_bytes):
                        break
                    batch = cursor.load(prefix)
                    batches.append(batch if batches else batch.slice(offset - batch.base, batch.count))
                else:
                    cursor.require_whole(prefix)  # a flipped bit may have made it seem to be no changes
                cursor.skip(prefix)
            except JournalError:
                if not batches:
                    raise
                break  # what is sound comes first; the next call meets the same again
        return batches

    def wait(self, offset: int, timeout: float) -> bool:
        """Blocks until there are changes from `offset` on, at most `timeout` seconds; says whether there
        are."""
        bell = self._doorbell()
        deadline = time.monotonic() + timeout
        while True:
            bell.clear()
            if self.head().offset > offset:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if bell.fd is None:
                time.sleep(min(left, POLL))
            else:
                select.select([bell.fd], [], [], min(left, RECHECK))

    async def wait_async(self, offset: int, timeout: float) -> bool:  # noqa: ASYNC109
        """As `wait`, on the running event loop."""
        bell = self._doorbell()
        deadline = time.monotonic() + timeout
        while True:
            bell.clear()
            if self.head().offset > offset:
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            if bell.fd is None:
                await asyncio.sleep(min(left, POLL))
            else:
                await _readable(bell.fd, min(left, RECHECK))

    def _doorbell(self) -> Doorbell:
        if self._bell is None:
            self._bell = Doorbell(self._path)
        return self._bell

    def _seek(self, offset: int) -> "_Cursor":
        """The cursor, at the frame that holds `offset`."""
        cursor = self._cursor
        if cursor is not None:
            cursor.file.forget()
            if cursor.offset == offset:
                return cursor
        while True:
            found = segments(self._path)
            if not found or offset < found[0].base:
                raise self._gone(offset, found)
            segment = found[bisect.bisect_right([s.base for s in found], offset) - 1]
            if cursor is None or cursor.segment.base != segment.base or cursor.offset > offset:
                try:
                    cursor = self._open(segment)
                except FileNotFoundError:
                    continue  # retention was faster
            cursor.walk_to(offset)
            return cursor

    def _following(self, cursor: "_Cursor", head: Head) -> "_Cursor | None":
        """A cursor on the segment behind the one that has ended, or None where the journal ends."""
        found = segments(self._path)
        for segment in found:
            if segment.base == cursor.offset and segment.base > cursor.segment.base:
                try:
                    return self._open(segment)
                except FileNotFoundError:
                    raise self._gone(cursor.offset, segments(self._path)) from None
        if found and found[0].base > cursor.offset:
            raise self._gone(cursor.offset, found)
        if found and found[-1].base > cursor.offset:
            raise JournalDamaged(
                f"the journal at {self._path} lacks offset {cursor.offset}: "
                f"segment {cursor.segment.path.name} ends before it and no other begins with it",
                hint="`cdcflow journal verify` lists all damage",
            )
        # Published, yet not there: the disk lost it, and the next writer will publish a lower head.
        self._short = _Short(head, replace(head, offset=cursor.offset))
        return None

    def _open(self, segment: Segment) -> "_Cursor":
        fresh = _Cursor(segment)
        self._forget_place()
        self._cursor = fresh
        return fresh

    def _forget_place(self) -> None:
        if self._cursor is not None:
            self._cursor.close()
            self._cursor = None

    def _gone(self, offset: int, found: list[Segment]) -> JournalError:
        kept = f"it begins at {found[0].base}" if found else "it has no segments"
        return JournalError(
            f"the journal at {self._path} does not hold offset {offset} any more: {kept}",
            hint="retention has removed it before this reader got there: the flow needs a backfill",
        )

    def _require_known(self, offset: int, head: Head) -> None:
        """Raises JournalError when `offset` lies beyond the journal's end.

        After a power cut the head may be older than what is durable, until a writer publishes anew; so
        what it does not know is looked for in the segments before it is called missing.
        """
        if offset > head.offset and offset > self._scan_end().offset:
            raise JournalError(
                f"the journal at {self._path} ends at offset {head.offset}, before offset {offset}",
                hint="it was replaced or cut since this checkpoint was made: "
                "reset the flow, which then needs a backfill",
            )

    def _scan_end(self) -> Head:
        """The head as the frames of the last segments say it."""
        for segment in reversed(segments(self._path)):
            with contextlib.closing(SegmentFile(segment.path)) as file:
                found = scan(file, segment.base)
            if found.size:
                written = int(segment.path.stat().st_mtime * 1e6)
                return Head(found.tail.offset, found.tail.committed, written)
        return NOTHING


@dataclass(frozen=True)
class _Short:
    """A published head whose frames turned out not to be there, and the head that they allow."""

    published: Head
    actual: Head


class _Cursor:
    """A place in one segment: always at the start of a frame, whose offset is `offset`."""

    def __init__(self, segment: Segment) -> None:
        self.segment = segment
        self.file = SegmentFile(segment.path)
        self.offset = segment.base
        self._at = 0
        self._relations: dict[str, Relation] = {}

    def close(self) -> None:
        self.file.close()

    def peek(self) -> Prefix | None:
        """The next frame's prefix, or None where the segment ends, be it within a frame."""
        try:
            prefix = self.file.prefix(self._at)
            if prefix is not None and prefix.base != self.offset:
                found = f"a frame of offset {prefix.base} stands where {self.offset} was expected"
                raise BadFrame(self._at, found)
        except BadFrame as error:
            if error.incomplete:
                return None
            raise self._damaged(error) from error
        return prefix

    def skip(self, prefix: Prefix) -> None:
        self._at += prefix.size
        self.offset = prefix.end

    def walk_to(self, offset: int) -> None:
        """Goes to the frame that holds `offset`, remembering the relations that are defined on the way."""
        while (prefix := self.peek()) is not None and prefix.end <= offset:
            if prefix.flags & DEFINES:
                self._relations.update(defined_relations(self._header(prefix)[0]))
            self.skip(prefix)

    def load(self, prefix: Prefix) -> Batch:
        """The batch of the frame that `peek` has shown."""
        header, data = self._header(prefix)
        if prefix.flags & DEFINES:
            self._relations.update(defined_relations(header))
        try:
            return decode_batch(prefix, header, data, self._relations)
        except (KeyError, ValueError) as error:  # ArrowInvalid is a ValueError
            reason = f"its {type(error).__name__} says that it does not fit its relation"
            raise self._damaged(BadFrame(self._at, reason)) from error

    def require_whole(self, prefix: Prefix) -> None:
        """Raises JournalDamaged when the frame that `peek` has shown is not valid."""
        self._header(prefix)

    def _header(self, prefix: Prefix) -> tuple[dict[str, object], pa.Buffer]:
        try:
            data = self.file.load(self._at, prefix)
        except BadFrame as error:
            raise self._damaged(error) from error
        return decode_header(prefix, memoryview(data)), data

    def _damaged(self, error: BadFrame) -> JournalDamaged:
        return JournalDamaged(
            f"segment {self.segment.path} is damaged at byte {error.at}: {error.reason}",
            hint="`cdcflow journal verify` lists all damage; restore the file from a copy, "
            "or move the journal away and start a new one with a backfill",
        )


async def _readable(fd: int, timeout: float) -> None:  # noqa: ASYNC109
    """Returns when `fd` has something to read or the time is over."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()

    def wake() -> None:
        if not ready.done():
            ready.set_result(None)

    loop.add_reader(fd, wake)
    try:
        await asyncio.wait([ready], timeout=timeout)
    finally:
        loop.remove_reader(fd)


def _unreadable(path: Path, error: Exception) -> JournalError:
    reason = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else str(error)
    return JournalError(
        f"the journal at {path} cannot be read: {reason}",
        hint="it must be read by the user that writes it",
    )
