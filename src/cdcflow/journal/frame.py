"""Frames: the records of a segment, as bytes. Knows nothing of what the body means, and no file.

    ┌────────┬─────────────────┬───────┬──────┬───────┐
    │ prefix │ header, msgpack │ zeros │ body │ zeros │
    └────────┴─────────────────┴───────┴──────┴───────┘

Frames and bodies start at multiples of 64 bytes, as Arrow likes its buffers. The checksum covers every
byte of the frame behind itself, so that no flipped bit goes unseen. What is needed to walk over a
frame without reading it stands in the prefix.
"""

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, TypeAlias

import msgpack
import pyarrow as pa

ALIGNMENT = 64
MAGIC = b"cdcF"

#: The frame's header defines relations.
DEFINES = 1

# magic, checksum, header bytes, kind, flags, -, count, body bytes, base, weight, synced
_PREFIX = struct.Struct("<4sIIBBHIQQQQ")
#: The checksum covers the frame from this byte on.
CHECKED_FROM = 8
PREFIX_BYTES = _PREFIX.size
_ZEROS = bytes(ALIGNMENT)

#: A piece of a frame as it is handed to the operating system.
Piece: TypeAlias = bytes | memoryview | pa.Buffer


class Kind(IntEnum):
    """What a frame is for."""

    #: The first frame of a segment.
    SEGMENT = 1
    #: A batch of changes.
    CHANGES = 2
    #: The source was followed up to an LSN with nothing in between.
    PROGRESS = 3


@dataclass(frozen=True, slots=True)
class Prefix:
    """The fixed part of a frame.

    `base` and `count`: the offsets that it covers. `weight`: bytes that its batch takes in memory.
    `synced`: how many bytes of the segment were durable when the frame was written; a valid frame that
    counts earlier bytes as durable is the proof that these were not lost in a crash but damaged.
    """

    kind: int
    flags: int
    count: int
    base: int
    weight: int
    synced: int
    header_bytes: int
    body_bytes: int
    checksum: int

    @property
    def end(self) -> int:
        """The offset behind the frame."""
        return self.base + self.count

    @property
    def body_at(self) -> int:
        return aligned(PREFIX_BYTES + self.header_bytes)

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return self.body_at + aligned(self.body_bytes)


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def parse_prefix(data: bytes | memoryview, at: int = 0) -> Prefix | None:
    """The prefix at `data[at:]`, or None where there is none."""
    if len(data) - at < PREFIX_BYTES:
        return None
    magic, checksum, header, kind, flags, _, count, body, base, weight, synced = _PREFIX.unpack_from(data, at)
    if magic != MAGIC:
        return None
    return Prefix(kind, flags, count, base, weight, synced, header, body, checksum)


def encode(
    kind: Kind,
    header: dict[str, Any],
    body: Sequence[Piece] = (),
    *,
    base: int,
    count: int = 0,
    weight: int = 0,
    synced: int = 0,
    flags: int = 0,
) -> tuple[list[Piece], int]:
    """A frame as pieces to be written one behind the other, and their total size.

    Each piece of the body is padded to the alignment.
    """
    packed: bytes = msgpack.packb(header)
    pieces: list[Piece] = []
    body_bytes = 0
    for piece in body:
        size = _size(piece)
        pieces.append(piece)
        if padding := -size % ALIGNMENT:
            pieces.append(_ZEROS[:padding])
        body_bytes += aligned(size)
    fields = (len(packed), kind, flags, 0, count, body_bytes, base, weight, synced)
    start = _PREFIX.pack(MAGIC, 0, *fields) + packed
    start += _ZEROS[: -len(start) % ALIGNMENT]
    checksum = zlib.crc32(memoryview(start)[CHECKED_FROM:])
    for piece in pieces:
        checksum = zlib.crc32(piece, checksum)
    start = _PREFIX.pack(MAGIC, checksum, *fields) + start[PREFIX_BYTES:]
    return [start, *pieces], len(start) + body_bytes


def is_whole(prefix: Prefix, data: memoryview) -> bool:
    """Whether `data`, exactly one frame, has the checksum that its prefix says."""
    return zlib.crc32(data[CHECKED_FROM:]) == prefix.checksum


def decode_header(prefix: Prefix, data: memoryview) -> dict[str, Any]:
    """The header of a frame that `is_whole`."""
    header: dict[str, Any] = msgpack.unpackb(data[PREFIX_BYTES : PREFIX_BYTES + prefix.header_bytes])
    return header


def _size(piece: Piece) -> int:
    return len(piece) if isinstance(piece, bytes) else memoryview(piece).nbytes
