"""What a run of changes comes to for a table whose rows nothing but the whole row identifies.

Such a table is a multiset, and inserting and deleting are additions to it: only the sum per distinct
row matters, not the order. Pure: Arrow in, Arrow out.
"""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import Permanent
from cdcflow.model import Group, Op
from cdcflow_sinks.duckdb.collapse import column_of, row_numbers


@dataclass(frozen=True)
class RowCounts:
    """Rows as one text column per column of the relation: `added` to insert, one entry per copy, and
    `removed`, distinct, of each of which the table loses `copies`."""

    added: tuple[pa.Array, ...]
    removed: tuple[pa.Array, ...]
    copies: pa.Array


def row_counts(group: Group) -> RowCounts:
    """Sums up the changes of a table under REPLICA IDENTITY FULL, or of one without any identity, which
    only ever has rows inserted; none of them may be a TRUNCATE.

    Raises Permanent for a change of an old row that was not sent."""
    relation = group.relation
    gone = group.is_op(Op.DELETE, Op.UPDATE)
    columns = range(len(relation.columns))
    if not pc.any(gone).as_py():
        nothing = tuple(pa.array([], pa.string()) for _ in columns)
        return RowCounts(tuple(group.new(i) for i in columns), nothing, pa.array([], pa.int64()))
    if not group.old or not pc.all(group.data.column("has_old").filter(gone)).as_py():
        raise Permanent(
            f"an update or delete of {relation.qualified} does not say which row it means",
            hint=f"run ALTER TABLE {relation.qualified} REPLICA IDENTITY FULL at the source",
        )
    came = pc.invert(group.is_op(Op.DELETE))
    new = [_complete(group, i).filter(came) for i in columns]
    old = [values.filter(gone) for values in map(group.old_values, columns) if values is not None]
    names = [f"c{i}" for i in columns]
    both = {
        name: pa.concat_arrays(pair) for name, pair in zip(names, zip(new, old, strict=True), strict=True)
    }
    arrived, left = pc.sum(came).as_py(), pc.sum(gone).as_py()
    weights = pa.concat_arrays([pa.repeat(pa.scalar(1), arrived), pa.repeat(pa.scalar(-1), left)])
    summed = (
        pa.table({**both, "weight": weights})
        .group_by(names, use_threads=False)
        .aggregate([("weight", "sum")])
    )
    weight = summed.column("weight_sum")
    more = summed.filter(pc.greater(weight, 0))
    fewer = summed.filter(pc.less(weight, 0))
    picks = repeated(row_numbers(len(more)), column_of(more, "weight_sum"))
    return RowCounts(
        tuple(column.take(picks) for column in _columns(more, names)),
        _columns(fewer, names),
        pc.negate(column_of(fewer, "weight_sum")),
    )


def repeated(items: pa.Array, counts: pa.Array) -> pa.Array:
    """Each item as often as its count says; a count below 1 is not at all."""
    most = pc.max(counts).as_py() or 0
    return pa.concat_arrays([items.slice(0, 0), *(items.filter(pc.greater(counts, n)) for n in range(most))])


def _complete(group: Group, column: int) -> pa.Array:
    """New values, with those that an update left unchanged taken from its old row."""
    unsent = group.unchanged_mask(column)
    return (
        group.new(column)
        if unsent is None
        else pc.if_else(unsent, group.old_values(column), group.new(column))
    )


def _columns(table: pa.Table, names: list[str]) -> tuple[pa.Array, ...]:
    return tuple(column_of(table, name) for name in names)
