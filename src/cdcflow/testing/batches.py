"""Batches made from Python rows, for tests: what decoding the same changes would have given.

`make_batch` is for changes of one relation in one transaction, `batch_of` for anything.
"""

from collections.abc import Iterable, Sequence
from zlib import crc32

from cdcflow.decode.messages import LogicalMessage
from cdcflow.model import (
    MESSAGES,
    Batch,
    Column,
    Op,
    Position,
    Relation,
    ReplicaIdentity,
)
from cdcflow.model.making import SOME_POSITION, SOME_TIME, Made, Row, batch_of

__all__ = [
    "SOME_POSITION",
    "SOME_TIME",
    "TEXT",
    "Made",
    "Row",
    "batch_of",
    "inserts",
    "made_message",
    "make_batch",
    "make_relation",
]

#: OID of the type text.
TEXT = 25


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
