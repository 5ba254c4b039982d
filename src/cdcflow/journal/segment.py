"""Reading one segment file: frame by frame, with the checksum and the place of each one checked.

Files are read, not mapped: a writer may cut a torn tail off a file that a reader has open, and a
mapping would answer that with SIGBUS. The read buffer is what Arrow's columns then point into.
"""

import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgpack
import pyarrow as pa

from cdcflow.errors import JournalError
from cdcflow.journal.contents import Tail, following
from cdcflow.journal.frame import (
    ALIGNMENT,
    CHECKED_FROM,
    MAGIC,
    PREFIX_BYTES,
    Kind,
    Prefix,
    decode_header,
    is_whole,
    parse_prefix,
)
from cdcflow.journal.layout import FORMAT
from cdcflow.journal.ledger import Ledger, Step

#: Read at once while walking over frames. Holds a hundred small frames and costs 10 µs to read.
WINDOW = 64 << 10

#: Read at once while a frame's checksum is computed without keeping the frame.
_CHUNK = 1 << 20


class BadFrame(Exception):
    """There is no valid frame at byte `at`. Internal: what it means depends on where it is found.

    `incomplete`: the file ends before the frame does.
    """

    def __init__(self, at: int, reason: str, *, incomplete: bool = False) -> None:
        super().__init__(reason)
        self.at = at
        self.reason = reason
        self.incomplete = incomplete


@dataclass(frozen=True)
class Frame:
    """A frame in a segment: its first byte, its prefix and its header."""

    at: int
    prefix: Prefix
    header: dict[str, Any]

    @property
    def end_at(self) -> int:
        """The byte behind it."""
        return self.at + self.prefix.size


class SegmentFile:
    """A segment opened for reading. Raises FileNotFoundError where it has gone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._window = b""
        self._window_at = 0

    def close(self) -> None:
        os.close(self.fd)

    def size(self) -> int:
        return os.fstat(self.fd).st_size

    def forget(self) -> None:
        """Drops what was read ahead. Call it before reading what was published since: bytes behind the
        published end may have changed."""
        self._window = b""

    def prefix(self, at: int) -> Prefix | None:
        """The prefix of the frame at a byte, or None at the end of the file.

        Raises BadFrame where there is no frame, and where the file ends within it.
        """
        view = self._ahead(at, PREFIX_BYTES)
        if not view:
            return None
        if len(view) < PREFIX_BYTES:
            raise BadFrame(at, f"{len(view)} bytes are too few for a frame", incomplete=True)
        found = parse_prefix(view)
        if found is None:
            raise BadFrame(at, "there is no frame")
        if found.size > len(view) and at + found.size > self.size():
            raise BadFrame(at, "the file ends within a frame", incomplete=True)
        return found

    def load(self, at: int, prefix: Prefix) -> pa.Buffer:
        """The bytes of the frame at `at`, whose `prefix` was read before. Raises BadFrame when its
        checksum is wrong."""
        if prefix.size <= WINDOW:
            data = pa.py_buffer(self._ahead(at, prefix.size)[: prefix.size])
        else:
            data = pa.allocate_buffer(prefix.size)
            self._read_into(memoryview(data), at)
        if not is_whole(prefix, memoryview(data)):
            raise BadFrame(at, "the checksum does not match")
        return data

    def check(self, at: int, prefix: Prefix) -> dict[str, Any]:
        """The header of the frame at `at`, as `load` but in constant memory."""
        end = at + prefix.size
        start = os.pread(self.fd, min(max(prefix.body_at, PREFIX_BYTES), end - at), at)
        checksum = zlib.crc32(memoryview(start)[CHECKED_FROM:])
        place = at + len(start)
        while place < end:
            chunk = os.pread(self.fd, min(_CHUNK, end - place), place)
            if not chunk:
                raise BadFrame(at, "the file ends within a frame", incomplete=True)
            checksum = zlib.crc32(chunk, checksum)
            place += len(chunk)
        if checksum != prefix.checksum:
            raise BadFrame(at, "the checksum does not match")
        return decode_header(prefix, memoryview(start))

    def header(self, at: int, prefix: Prefix) -> dict[str, Any]:
        """The header of the frame at `at`, unchecked: for an overview. Raises BadFrame when it cannot be
        read."""
        try:
            found = decode_header(prefix, self._ahead(at, prefix.body_at))
        except (ValueError, msgpack.UnpackException) as error:
            raise BadFrame(at, "the header cannot be read") from error
        if not isinstance(found, dict):
            raise BadFrame(at, "the header cannot be read")
        return found

    def frames(self, base: int, at: int = 0, *, check: bool = True) -> Iterator[Frame]:
        """All frames from byte `at` on, of which the first must have offset `base`. Without `check`, only
        the prefixes and headers are read.

        Raises BadFrame at the first that is not valid or does not continue the one before it, and
        JournalError for a format that is newer than this code.
        """
        while (prefix := self.prefix(at)) is not None:
            header = self.check(at, prefix) if check else self.header(at, prefix)
            if (prefix.kind == Kind.SEGMENT) != (at == 0):
                raise BadFrame(at, "a segment's first frame, and only that, must say what the segment is")
            if prefix.kind == Kind.SEGMENT and header["format"] > FORMAT:
                raise JournalError(
                    f"segment {self.path} has format {header['format']}, this cdcflow reads up to {FORMAT}",
                    hint="use the cdcflow that wrote it, or a newer one",
                )
            if prefix.base != base:
                raise BadFrame(at, f"a frame of offset {prefix.base} stands where {base} was expected")
            yield Frame(at, prefix, header)
            at += prefix.size
            base = prefix.end

    def next_valid(self, behind: int) -> tuple[int, Prefix] | None:
        """The first whole frame that starts behind a byte, and where: to see what damage lies before."""
        at = (behind // ALIGNMENT + 1) * ALIGNMENT
        size = self.size()
        while at < size:
            chunk = os.pread(self.fd, _CHUNK, at)
            found = chunk.find(MAGIC)
            while found >= 0:
                place = at + found
                if place % ALIGNMENT == 0 and (prefix := self._valid(place)) is not None:
                    return place, prefix
                found = chunk.find(MAGIC, found + 1)
            at += _CHUNK
        return None

    def _valid(self, at: int) -> Prefix | None:
        try:
            prefix = self.prefix(at)
            if prefix is not None:
                self.check(at, prefix)
        except BadFrame:
            return None
        return prefix

    def _ahead(self, at: int, size: int) -> memoryview:
        """At least `size` bytes from `at` on, fewer only at the end of the file."""
        start = at - self._window_at
        if start < 0 or start + size > len(self._window):
            self._window = os.pread(self.fd, max(size, WINDOW), at)
            self._window_at = at
            start = 0
        return memoryview(self._window)[start:]

    def _read_into(self, view: memoryview, at: int) -> None:
        done = 0
        while done < len(view):
            count = os.preadv(self.fd, [view[done:]], at + done)
            if not count:
                raise BadFrame(at, "the file ends within a frame", incomplete=True)
            done += count


@dataclass(frozen=True)
class Scan:
    """What a segment holds up to its last valid frame.

    `size`: bytes up to there. `bad`: what stands behind, if anything does. `damaged`: whether that was
    durable once, so that it is not the tail that a crash leaves.
    """

    tail: Tail
    size: int
    fingerprints: frozenset[str]
    started_us: int
    bad: BadFrame | None
    damaged: bool
    ledger: Ledger


def scan(file: SegmentFile, base: int) -> Scan:
    """Reads a segment to its end. `size` 0 says that not even its first frame is valid."""
    tail = Tail(base)
    size = started = 0
    fingerprints: set[str] = set()
    ledger = Ledger()
    bad = None
    try:
        for frame in file.frames(base):
            tail = following(tail, frame.prefix, frame.header)
            size = frame.end_at
            if "step" in frame.header:
                ledger.take(Step.from_state(frame.header["step"]), frame.prefix.end)
            if frame.prefix.kind == Kind.SEGMENT:
                started = frame.header["time"]
                if "ledger" in frame.header:
                    ledger = Ledger.from_state(frame.header["ledger"])
            elif frame.prefix.kind == Kind.CHANGES:
                fingerprints.update(frame.header["relations"])
    except BadFrame as error:
        bad = error
    damaged = bad is not None and is_damage(file, bad.at)
    return Scan(tail, size, frozenset(fingerprints), started, bad, damaged, ledger)


def is_damage(file: SegmentFile, at: int) -> bool:
    """Whether the invalid bytes at `at` were durable once: a later valid frame counts them as such.

    Frames that were written but not yet synced may reach the disk in any order, so a valid frame behind
    an invalid one proves nothing by itself.
    """
    place = at
    while (found := file.next_valid(place)) is not None:
        start, prefix = found
        if prefix.synced > at:
            return True
        place = start + prefix.size - 1
    return False
