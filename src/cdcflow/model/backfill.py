"""Marks of a backfill in the journal: where the rows of a table begin to be read anew, and where they end.

They stand in a batch beside the rows of tables, as `Op.MESSAGE`s of the relation `BACKFILLS`, and reach
the sinks that ask for them (`BackfillSink`) in a flow that gets the table and is meant by the backfill:

| column     |                                                                            |
|------------|----------------------------------------------------------------------------|
| `backfill` | its name                                                                   |
| `phase`    | `begin`, `end`; or `cancel`, when it ends without all rows                 |
| `oid`, `schema`, `name` | the table, as its relation names it                            |
| `replace`  | `t`: between begin and end every row of the source comes, `read` or        |
|            | changed, and what a sink holds beyond these is not at the source           |
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from cdcflow.model.batch import Batch, Group, Op
from cdcflow.model.position import Position
from cdcflow.model.relation import Column, Relation

#: As with `MESSAGES`, no table can be taken for it: 1 is no table's OID, and no pattern matches the schema.
BACKFILLS = Relation(
    oid=1,
    schema="pg_cdcflow",
    name="backfills",
    replica_identity="d",
    columns=(
        Column("backfill", 25, key=True),  # text
        Column("phase", 25),
        Column("oid", 26),  # oid
        Column("schema", 25),
        Column("name", 25),
        Column("replace", 16),  # boolean
    ),
)

MarkPhase = Literal["begin", "end", "cancel"]


@dataclass(frozen=True)
class Mark:
    """One mark. `replace` says that the rows in between are all there are."""

    backfill: str
    phase: MarkPhase
    oid: int
    schema: str
    name: str
    replace: bool = False


def mark_batch(mark: Mark, position: Position, time_us: int, audience: tuple[str, ...] = ()) -> Batch:
    """A batch of this one mark, which stands at `position`."""
    values: list[object] = [0, int(Op.MESSAGE), position.commit_lsn, position.ordinal, 0, time_us]
    replace = "t" if mark.replace else "f"
    values += [mark.backfill, mark.phase, str(mark.oid), mark.schema, mark.name, replace]
    schema = Group.schema(BACKFILLS, old=False, unchanged=False)
    arrays = [pa.array([value], field.type) for value, field in zip(values, schema, strict=True)]
    group = Group(BACKFILLS, pa.RecordBatch.from_arrays(arrays, schema=schema), False, False)
    return Batch((group,), 1, position, audience=audience)


def marks(group: Group) -> Iterator[Mark]:
    """The marks of a group of `BACKFILLS`, in order."""
    for values in zip(*(group.new(i).to_pylist() for i in range(6)), strict=True):
        backfill, phase, oid, schema, name, replace = values
        yield Mark(backfill, phase, int(oid), schema, name, replace == "t")
