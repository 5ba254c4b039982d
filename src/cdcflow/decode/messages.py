"""The rare messages of pgoutput, parsed the same way for both decoders. No I/O; only DecodeError comes out.

Formats: PostgreSQL manual, "Logical Replication Message Formats" (protocol version 1, values as text)
and "Streaming Replication Protocol" for the WAL data and keepalive envelopes.
"""

import struct
from dataclasses import dataclass, field
from typing import cast

from cdcflow.errors import DecodeError
from cdcflow.model import Column, Relation, ReplicaIdentity

#: Bytes of the WAL data envelope before pgoutput's own message: type, start, end, send time.
ENVELOPE = 25
#: Where in it the send time stands.
SEND_TIME = 17
#: Microseconds from 1970-01-01 to 2000-01-01, Postgres' epoch.
EPOCH = 946_684_800_000_000
#: A later timestamp than this would leave 64 bits once it counts from 1970.
MAX_TIMESTAMP = (1 << 63) - 1 - EPOCH
#: Bytes that one batch may hold: an Arrow string column counts them with 32 bits.
MAX_BATCH_BYTES = (1 << 31) - 1

_I16 = struct.Struct(">h")
_U32 = struct.Struct(">I")
_I32 = struct.Struct(">i")
_U64 = struct.Struct(">Q")
_I64 = struct.Struct(">q")


class Cursor:
    """A place in a message's bytes. Reading past the end raises DecodeError at the field's first byte."""

    __slots__ = ("data", "pos")

    def __init__(self, data: bytes, pos: int = 0) -> None:
        self.data = data
        self.pos = pos

    def _advance(self, size: int, what: str) -> int:
        start = self.pos
        if start + size > len(self.data):
            raise DecodeError(f"message ends inside {what}", start)
        self.pos = start + size
        return start

    def u8(self, what: str) -> int:
        return self.data[self._advance(1, what)]

    def i16(self, what: str) -> int:
        return int(_I16.unpack_from(self.data, self._advance(2, what))[0])

    def u32(self, what: str) -> int:
        return int(_U32.unpack_from(self.data, self._advance(4, what))[0])

    def i32(self, what: str) -> int:
        return int(_I32.unpack_from(self.data, self._advance(4, what))[0])

    def u64(self, what: str) -> int:
        return int(_U64.unpack_from(self.data, self._advance(8, what))[0])

    def i64(self, what: str) -> int:
        return int(_I64.unpack_from(self.data, self._advance(8, what))[0])

    def skip(self, size: int, what: str) -> None:
        self._advance(size, what)

    def string(self, what: str) -> str:
        start = self.pos
        end = self.data.find(b"\0", start)
        if end < 0:
            raise DecodeError(f"message ends inside {what}", start)
        self.pos = end + 1
        return text(self.data, start, end, what)

    def finish(self) -> None:
        """Raises DecodeError unless everything has been read."""
        if self.pos != len(self.data):
            raise DecodeError("bytes are left behind the message", self.pos)


def text(data: bytes, start: int, end: int, what: str) -> str:
    """The UTF-8 text between two offsets. DecodeError names its first byte."""
    try:
        return str(data[start:end], "utf-8")
    except UnicodeDecodeError as error:
        raise DecodeError(f"{what} is not UTF-8", start) from error


def relation(data: bytes, pos: int, types: dict[int, str]) -> Relation:
    """A Relation message behind its type byte. `types` holds the names that Type messages brought."""
    cursor = Cursor(data, pos)
    at = cursor.pos
    oid = cursor.u32("relation oid")
    if not oid:
        raise DecodeError("relation has no oid", at)
    # "Namespace (empty string for pg_catalog)"
    schema = cursor.string("schema name") or "pg_catalog"
    name = cursor.string("relation name")
    at = cursor.pos
    identity = chr(cursor.u8("replica identity"))
    if identity not in "dnfi":
        raise DecodeError(f"unknown replica identity {identity!r}", at)
    at = cursor.pos
    count = cursor.i16("column count")
    if count < 0:
        raise DecodeError(f"negative column count {count}", at)
    columns = []
    for _ in range(count):
        key = bool(cursor.u8("column flags") & 1)
        column = cursor.string("column name")
        type_oid = cursor.u32("type oid")
        typmod = cursor.i32("type modifier")
        columns.append(Column(column, type_oid, typmod, key, types.get(type_oid, "")))
    cursor.finish()
    return Relation(oid, schema, name, cast(ReplicaIdentity, identity), tuple(columns))


def type_name(data: bytes, pos: int) -> tuple[int, str]:
    """A Type message behind its type byte: the type's OID and `schema.name`."""
    cursor = Cursor(data, pos)
    oid = cursor.u32("type oid")
    schema = cursor.string("schema name") or "pg_catalog"
    name = cursor.string("type name")
    cursor.finish()
    return oid, f"{schema}.{name}"


def origin(data: bytes, pos: int) -> None:
    """An Origin message behind its type byte. Nothing of it is kept: `origin` filtering is the server's."""
    cursor = Cursor(data, pos)
    cursor.u64("origin position")
    cursor.string("origin name")
    cursor.finish()


@dataclass(frozen=True, slots=True)
class Truncation:
    options: int
    #: OID of each relation, and the byte offset that it was read from.
    relations: tuple[tuple[int, int], ...]


def truncate(data: bytes, pos: int) -> Truncation:
    """A Truncate message behind its type byte: one message, many relations, two option bits."""
    cursor = Cursor(data, pos)
    at = cursor.pos
    count = cursor.i32("relation count")
    if count < 0:
        raise DecodeError(f"negative relation count {count}", at)
    options = cursor.u8("truncate options")
    relations = []
    for _ in range(count):
        at = cursor.pos
        relations.append((cursor.u32("relation oid"), at))
    cursor.finish()
    return Truncation(options, tuple(relations))


@dataclass(frozen=True, slots=True)
class LogicalMessage:
    """What `pg_logical_emit_message` wrote. `lsn` is the end of its WAL record."""

    transactional: bool
    lsn: int
    prefix: str
    content: bytes = field(repr=False)

    def row(self) -> tuple[str, str | None, str | None, str]:
        """The values of the columns of `MESSAGES`."""
        transactional = "t" if self.transactional else "f"
        try:
            text = str(self.content, "utf-8")
        except UnicodeDecodeError:
            text = "\0"
        if "\0" in text:
            return self.prefix, None, "\\x" + self.content.hex(), transactional
        return self.prefix, text, None, transactional


def logical_message(data: bytes, pos: int) -> LogicalMessage:
    """A Message message behind its type byte. Its content is bytes: the server does not recode it."""
    cursor = Cursor(data, pos)
    flags = cursor.u8("message flags")
    lsn = cursor.u64("message position")
    prefix = cursor.string("message prefix")
    at = cursor.pos
    size = cursor.i32("message length")
    if size < 0:
        raise DecodeError(f"negative message length {size}", at)
    start = cursor.pos
    cursor.skip(size, "message content")
    cursor.finish()
    return LogicalMessage(bool(flags & 1), lsn, prefix, data[start : start + size])


def misplaced(message: LogicalMessage) -> DecodeError:
    """For a message that is not where protocol version 1 has it: inside its transaction, or outside all."""
    if message.transactional:
        return DecodeError("transactional message outside a transaction", ENVELOPE)
    return DecodeError("message without a transaction inside of one", ENVELOPE)


def send_time(data: bytes) -> int:
    """When the server sent a WAL data message, in microseconds since 1970."""
    stamp = int(_I64.unpack_from(data, SEND_TIME)[0])
    if stamp > MAX_TIMESTAMP:
        raise DecodeError("send time is out of range", SEND_TIME)
    return stamp + EPOCH
