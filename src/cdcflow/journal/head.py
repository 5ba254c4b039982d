"""The head: how far readers may read. One writer publishes, any number of processes look.

The file holds two slots, which the writer fills in turn, each with a generation and a checksum. A
reader takes the newest slot whose checksum holds, so it never sees half of a publication, and when the
writer dies within one the other slot still stands. The file is mapped: publishing and looking cost no
system call. It is not synced, since only frames that are durable are ever published and the next writer
publishes anew; after a power cut it may therefore be old, but never ahead of what was durable.
"""

import mmap
import os
import struct
import time
import zlib
from dataclasses import dataclass
from pathlib import Path

from cdcflow.journal.layout import HEAD

#: generation, offset, committed, time_us, pid
_FIELDS = struct.Struct("<QQQqQ")
_SLOT = 64
_SIZE = 2 * _SLOT


@dataclass(frozen=True)
class Head:
    """`offset`: the end of what may be read. `committed`: the LSN up to which the journal holds
    everything. `time_us`: wall time of the publication, in microseconds since 1970."""

    offset: int
    committed: int
    time_us: int


#: Of a journal that has published nothing yet.
NOTHING = Head(0, 0, 0)


class Publisher:
    """The writer's side. Creates the file where it is missing."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path / HEAD, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _SIZE:
                os.ftruncate(fd, _SIZE)
            self._map = mmap.mmap(fd, _SIZE)
        finally:
            os.close(fd)
        self._generation = max((slot[0] for slot in _slots(self._map)), default=0)

    @property
    def current(self) -> Head | None:
        """What the last writer published; None where that was never or cannot be read."""
        return _newest(self._map)

    def publish(self, offset: int, committed: int) -> None:
        self._generation += 1
        now = time.time_ns() // 1000
        fields = _FIELDS.pack(self._generation, offset, committed, now, os.getpid())
        start = self._generation % 2 * _SLOT
        slot = fields + struct.pack("<I", zlib.crc32(fields))
        self._map[start : start + len(slot)] = slot

    def close(self) -> None:
        """Also writes the file out, so that it is not old without need after a power cut."""
        self._map.flush()
        self._map.close()


class Viewer:
    """A reader's side. Raises FileNotFoundError where there is no journal."""

    def __init__(self, path: Path) -> None:
        fd = os.open(path / HEAD, os.O_RDONLY | os.O_CLOEXEC)
        try:
            self._map = mmap.mmap(fd, _SIZE, access=mmap.ACCESS_READ)
        finally:
            os.close(fd)

    @property
    def current(self) -> Head | None:
        """What was published last; None where that was never or cannot be read."""
        return _newest(self._map)

    def close(self) -> None:
        self._map.close()


def _slots(view: mmap.mmap) -> list[tuple[int, ...]]:
    found = []
    for start in (0, _SLOT):
        fields = view[start : start + _FIELDS.size]
        (checksum,) = struct.unpack_from("<I", view, start + _FIELDS.size)
        slot = _FIELDS.unpack(fields)
        if slot[0] and zlib.crc32(fields) == checksum:
            found.append(slot)
    return found


def _newest(view: mmap.mmap) -> Head | None:
    slots = _slots(view)
    if not slots:
        return None
    _, offset, committed, time_us, _ = max(slots)
    return Head(offset, committed, time_us)
