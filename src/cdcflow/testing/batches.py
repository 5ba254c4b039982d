"""Batches made from Python rows, for tests: what decoding the same changes would have given.

`make_batch` is for changes of one relation in one transaction, `batch_of` for anything. Rows are
mappings from column name to Postgres' text, None or `UNCHANGED`; columns left out are NULL.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import pyarrow as pa

from cdcflow.decode.messages import LogicalMessage
from cdcflow.model import (
    MESSAGES,
    UNCHANGED,
    Batch,
    Column,
    Group,
    Op,
    Position,
    Relation,
    ReplicaIdentity,
    Value,
)

#: A row, or the old values of its key.
Row = Mapping[str, Value]

#: OID of the type text.
TEXT = 25

#: 2026-01-01 00:00:00 UTC in microseconds: the commit time of changes that name none.
SOME_TIME = 1_767_225_600_000_000


#: The position of changes that name none.
SOME_POSITION = Position(8, 1)


@dataclass(frozen=True)
class Made:
    """One change of `batch_of`, with everything that a batch keeps about it."""

    relation: Relation
    op: Op
    new: Row | None = None
    old: Row | None = None
    position: Position = SOME_POSITION
    xid: int = 700
    commit_time: int = SOME_TIME
    #: Option bits of a TRUNCATE.
    truncate: int = 0


def make_relation(
    name: str = "orders",
    columns: Sequence[str | Column] = ("id", "status", "note"),
    *,
    key: Sequence[str] = ("id",),
    schema: str = "public",
    oid: int | None = None,
    replica_identity: ReplicaIdentity = "d",
) -> Relation:
    """A relation of text columns (or of the `Column`s given) with the key columns named by `key`. The OID
    is by default one that follows from the name.

    Under `replica_identity="f"` every column is part of the key, as the server announces it.
    """
    full = replica_identity == "f"
    return Relation(
        16_384 + crc32(f"{schema}.{name}".encode()) % 2**30 if oid is None else oid,
        schema,
        name,
        replica_identity,
        tuple(
            column if isinstance(column, Column) else Column(column, TEXT, key=full or column in key)
            for column in columns
        ),
    )


def made_message(
    prefix: str,
    content: bytes = b"",
    *,
    position: Position = SOME_POSITION,
    transactional: bool = True,
) -> Made:
    """A logical message, as `pg_logical_emit_message` makes one."""
    row = LogicalMessage(transactional, position.commit_lsn, prefix, content).row()
    new = dict(zip(MESSAGES.names, row, strict=True))
    return Made(MESSAGES, Op.MESSAGE, new, position=position, xid=700 if transactional else 0)


def make_batch(
    relation: Relation,
    rows: Iterable[tuple[Op | str, Row | None, Row | None]],
    *,
    base: int = 0,
    commit_lsn: int = 8,
    ordinal: int = 1,
    xid: int = 700,
    commit_time: int = SOME_TIME,
    committed: int | None = None,
) -> Batch:
    """The changes `(op, new, old)` of one transaction; `op` is an `Op` or its word (`"insert"`).

    `ordinal` is that of the first change. `committed` defaults to eight bytes behind `commit_lsn`, as
    though the transaction ended here; 0 says that it goes on.
    """
    made = [
        Made(
            relation,
            Op[op.upper()] if isinstance(op, str) else op,
            new,
            old,
            Position(commit_lsn, ordinal + i),
            xid,
            commit_time,
        )
        for i, (op, new, old) in enumerate(rows)
    ]
    return batch_of(made, base=base, committed=commit_lsn + 8 if committed is None else committed)


def inserts(
    relation: Relation,
    ids: Iterable[int],
    *,
    base: int = 0,
    commit_lsn: int = 8,
    ordinal: int = 1,
    committed: int | None = None,
) -> Batch:
    """Inserted rows whose column `id` counts as `ids` says and whose other columns say `<column> <id>`."""
    rows = [
        (Op.INSERT, {name: str(i) if name == "id" else f"{name} {i}" for name in relation.names}, None)
        for i in ids
    ]
    return make_batch(relation, rows, base=base, commit_lsn=commit_lsn, ordinal=ordinal, committed=committed)


def batch_of(changes: Sequence[Made], *, base: int = 0, committed: int = 0) -> Batch:
    """One batch of changes of any relations, in the order given. Raises ValueError without changes."""
    if not changes:
        raise ValueError("a batch needs at least one change")
    members: dict[str, list[int]] = {}
    for index, change in enumerate(changes):
        members.setdefault(change.relation.fingerprint, []).append(index)
    return Batch(
        groups=tuple(_group(changes, indexes) for indexes in members.values()),
        count=len(changes),
        last=changes[-1].position,
        committed=committed,
        base=base,
        truncates={i: change.truncate for i, change in enumerate(changes) if change.truncate},
    )


def _group(changes: Sequence[Made], indexes: Sequence[int]) -> Group:
    chosen = [changes[i] for i in indexes]
    relation = chosen[0].relation
    old = any(change.old is not None for change in chosen)
    bitmaps = [_unchanged(relation, change.new) for change in chosen]
    unchanged = any(bitmaps)
    schema = Group.schema(relation, old=old, unchanged=unchanged)
    columns: list[list[Any]] = [
        list(indexes),
        [int(change.op) for change in chosen],
        [change.position.commit_lsn for change in chosen],
        [change.position.ordinal for change in chosen],
        [change.xid for change in chosen],
        [change.commit_time for change in chosen],
    ]
    columns += [[_text(change.new, name) for change in chosen] for name in relation.names]
    if old:
        columns.append([change.old is not None for change in chosen])
        columns += [[_text(change.old, relation.names[i]) for change in chosen] for i in relation.key]
    if unchanged:
        columns.append(bitmaps)
    arrays = [pa.array(values, kind) for values, kind in zip(columns, schema.types, strict=True)]
    return Group(relation, pa.record_batch(arrays, schema=schema), old, unchanged)


def _text(row: Row | None, name: str) -> str | None:
    value = None if row is None else row.get(name)
    return value if isinstance(value, str) else None


def _unchanged(relation: Relation, row: Row | None) -> bytes | None:
    """Bit i set where column i is `UNCHANGED`; None where none is."""
    bits = 0
    for i, name in enumerate(relation.names):
        if row is not None and row.get(name) is UNCHANGED:
            bits |= 1 << i
    return bits.to_bytes((len(relation.columns) + 7) // 8, "little") if bits else None
