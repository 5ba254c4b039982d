"""Writes pgoutput messages as a walsender does, for tests of the decoders.

Formats: PostgreSQL manual, "Logical Replication Message Formats", protocol version 1.
"""

import struct
from collections.abc import Sequence

from cdcflow.model import UNCHANGED, Relation, Value

#: Microseconds from 1970 to 2000.
_EPOCH = 946_684_800_000_000


def wal_data(message: bytes, *, start: int = 0, end: int = 0, sent: int = _EPOCH) -> bytes:
    """XLogData: the envelope that a CopyData message of the stream holds. `sent`: microseconds since 1970."""
    return struct.pack(">cQQq", b"w", start, end, sent - _EPOCH) + message


def keepalive(wal_end: int, *, reply: bool = False) -> bytes:
    return struct.pack(">cQqB", b"k", wal_end, 0, reply)


def begin(commit_lsn: int, *, xid: int = 700, commit_time: int = _EPOCH) -> bytes:
    return struct.pack(">cQqI", b"B", commit_lsn, commit_time - _EPOCH, xid)


def commit(commit_lsn: int, end_lsn: int) -> bytes:
    return struct.pack(">cBQQq", b"C", 0, commit_lsn, end_lsn, 0)


def _string(text: str) -> bytes:
    return text.encode() + b"\0"


def relation(described: Relation) -> bytes:
    parts = [
        struct.pack(">cI", b"R", described.oid),
        _string("" if described.schema == "pg_catalog" else described.schema),
        _string(described.name),
        described.replica_identity.encode(),
        struct.pack(">h", len(described.columns)),
    ]
    for column in described.columns:
        parts.append(bytes([column.key]) + _string(column.name))
        parts.append(struct.pack(">Ii", column.type_oid, column.typmod))
    return b"".join(parts)


def type_name(oid: int, schema: str, name: str) -> bytes:
    return struct.pack(">cI", b"Y", oid) + _string(schema) + _string(name)


def values(row: Sequence[Value]) -> bytes:
    """TupleData."""
    parts = [struct.pack(">h", len(row))]
    for value in row:
        if value is None:
            parts.append(b"n")
        elif value is UNCHANGED:
            parts.append(b"u")
        else:
            text = str(value).encode()
            parts.append(struct.pack(">ci", b"t", len(text)) + text)
    return b"".join(parts)


def _old(described: Relation, old: Sequence[Value]) -> bytes:
    return (b"O" if described.full else b"K") + values(old)


def insert(described: Relation, new: Sequence[Value]) -> bytes:
    return struct.pack(">cI", b"I", described.oid) + b"N" + values(new)


def update(described: Relation, new: Sequence[Value], old: Sequence[Value] | None = None) -> bytes:
    before = b"" if old is None else _old(described, old)
    return struct.pack(">cI", b"U", described.oid) + before + b"N" + values(new)


def delete(described: Relation, old: Sequence[Value]) -> bytes:
    return struct.pack(">cI", b"D", described.oid) + _old(described, old)


def truncate(described: Sequence[Relation], options: int = 0) -> bytes:
    oids = b"".join(struct.pack(">I", each.oid) for each in described)
    return struct.pack(">ciB", b"T", len(described), options) + oids


def origin(lsn: int, name: str) -> bytes:
    return struct.pack(">cQ", b"O", lsn) + _string(name)


def logical_message(prefix: str, content: bytes, *, lsn: int = 0, transactional: bool = True) -> bytes:
    head = struct.pack(">cBQ", b"M", transactional, lsn) + _string(prefix)
    return head + struct.pack(">i", len(content)) + content
