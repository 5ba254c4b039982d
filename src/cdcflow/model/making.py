"""Batches made from Python rows: what decoding the same changes would have given. For changes that people
write down (examples, previews of a file) and for tests.

Rows are mappings from column name to Postgres' text, None or `UNCHANGED`; columns left out are NULL.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cdcflow.model.batch import UNCHANGED, Batch, Group, Op, Value
from cdcflow.model.position import Position
from cdcflow.model.relation import Relation

#: A row, or the old values of its key.
Row = Mapping[str, Value]

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
