"""Histories of changes for tests of sinks, and what a destination must hold after them.

`History` makes batches that follow each other; `expected_rows` and `by_key` say what they mean, by
applying one change after the other to Python dictionaries.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from cdcflow.model import UNCHANGED, Batch, Change, Column, Op, Position, Relation, Value
from cdcflow.testing.batches import Made, Row, batch_of, make_relation

#: OID of the type integer.
INT4 = 23

CUSTOMERS = make_relation("customers", [Column("id", INT4, key=True), "name", "notes"], oid=16_401)
ORDERS = make_relation("orders", [Column("id", INT4, key=True), "status", "body"], oid=16_402)
#: Two columns identify a row, and they are not the first ones.
STOCK = make_relation("stock", ["amount", "shelf", "article"], key=["shelf", "article"], oid=16_403)
#: REPLICA IDENTITY FULL without a primary key: equal rows may be there several times.
LOG = make_relation("log", ["level", "text"], replica_identity="f", oid=16_404)
HOSTILE = make_relation(
    'Drop"Table; --', ['Id "x"', "select", "ключ", "a.b c"], key=['Id "x"'], schema="Großer Laden", oid=16_405
)

#: Relation, operation, new row, old values.
AnyChange = tuple[Relation, Op, Row | None, Row | None]


class History:
    """Makes batches that follow each other in the journal and in the source's history."""

    def __init__(self, base: int = 0) -> None:
        self._base = base
        self._lsn = 0x1_0000_0000

    def batch(self, *changes: AnyChange, truncate: int = 0) -> Batch:
        """One transaction; `truncate` are the option bits of each TRUNCATE in it."""
        self._lsn += 64
        made = [
            Made(
                relation,
                op,
                new,
                old,
                Position(self._lsn, ordinal),
                truncate=truncate if op is Op.TRUNCATE else 0,
            )
            for ordinal, (relation, op, new, old) in enumerate(changes, start=1)
        ]
        batch = batch_of(made, base=self._base, committed=self._lsn + 8)
        self._base = batch.end
        return batch

    def skip(self, count: int) -> Batch:
        """A run of `count` changes all of which a filter has dropped."""
        self._lsn += 64
        batch = Batch((), count, Position(self._lsn, count), committed=self._lsn + 8, base=self._base)
        self._base = batch.end
        return batch


def insert(relation: Relation, **row: Value) -> AnyChange:
    """An inserted row by column."""
    return relation, Op.INSERT, row, None


def update(relation: Relation, old: Row | None = None, **row: Value) -> AnyChange:
    """An update to `row`; `old` are the key's values where the key changed."""
    return relation, Op.UPDATE, row, old


def delete(relation: Relation, **old: Value) -> AnyChange:
    """A delete of the row with these values of its identity."""
    return relation, Op.DELETE, None, old


def read(relation: Relation, **row: Value) -> AnyChange:
    """A row that a backfill found."""
    return relation, Op.READ, row, None


def truncate(relation: Relation) -> AnyChange:
    """A truncate; its options are those of the batch."""
    return relation, Op.TRUNCATE, None, None


def inserts(relation: Relation, ids: Iterable[int]) -> list[AnyChange]:
    """Inserted rows whose column `id` is one of `ids` and whose other columns say `<column> <id>`."""
    return [
        insert(relation, **{name: str(i) if name == "id" else f"{name} {i}" for name in relation.names})
        for i in ids
    ]


def expected_rows(batches: Sequence[Batch]) -> dict[Relation, list[dict[str, str | None]]]:
    """The tables' rows after `batches`, by applying one change after the other to Python dictionaries."""
    tables: dict[Relation, list[dict[str, Value]]] = {}
    at: dict[tuple[Relation, tuple[Value, ...]], dict[str, Value]] = {}
    for change in (change for batch in batches for change in batch.changes()):
        relation, new, old = change.relation, change.new, change.old
        if change.op is Op.TRUNCATE:
            tables[relation] = []
            at = {entry: row for entry, row in at.items() if entry[0] != relation}
            continue
        table = tables.setdefault(relation, [])
        if relation.full:
            if old is not None:
                # A column that a flow computes of something else is in no old row.
                del table[next(i for i, row in enumerate(table) if old.items() <= row.items())]
            if new is not None:
                table.append(new)
            continue
        before = at.pop((relation, change.old_key or change.key), None)
        if new is None:
            # By identity: an equal row is another row.
            table[:] = [row for row in table if row is not before]
            continue
        row = before if before is not None else {}
        row.update({name: value for name, value in new.items() if value is not UNCHANGED})
        if before is None:
            table.append(row)
        at[relation, change.key] = row
    return {
        relation: [{name: _known(value) for name, value in row.items()} for row in table]
        for relation, table in tables.items()
    }


def _known(value: Value) -> str | None:
    assert value is None or isinstance(value, str), "the scenario never sent this value"
    return value


def by_key(batches: Sequence[Batch]) -> Mapping[Any, list[str]]:
    """The ids of every key's changes in their order.

    A change of the key belongs to both keys, and a TRUNCATE to every key of its table.
    """
    found: dict[Any, list[str]] = {}
    truncates: dict[str, list[str]] = defaultdict(list)
    for change in (change for batch in batches for change in batch.changes()):
        table, identity = change.relation.qualified, str(change.position)
        if change.op is Op.TRUNCATE:
            truncates[table].append(identity)
            for (other, _), identities in found.items():
                if other == table:
                    identities.append(identity)
            continue
        for key in _keys(change):
            found.setdefault((table, key), list(truncates[table])).append(identity)
    return found


def _keys(change: Change) -> set[tuple[Value, ...]]:
    return {change.key} if change.old_key is None else {change.key, change.old_key}
