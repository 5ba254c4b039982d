"""Applies a batch to the warehouse's tables, inside the transaction that the caller has begun.

Per table, in order: stored values that updates left unchanged are read, rows of touched keys deleted,
last states inserted. Only those last states are converted from text.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.model import Batch, Group, Op
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.collapse import LastStates, column_of, last_states, row_numbers
from cdcflow_sinks.duckdb.compressing import compressing
from cdcflow_sinks.duckdb.settings import Compression
from cdcflow_sinks.duckdb.target import Target
from cdcflow_sinks.duckdb.whole_rows import RowCounts, repeated, row_counts

#: Rows converted and inserted at a time: of each insert DuckDB writes the full row groups as they come and
#: what is left over as a small one, so that few inserts are better.
STAGE_ROWS = 65_536
#: Rows of a batch for which the fewest statements count, and not how they are compressed.
FEW_ROWS = 8_192

#: Row index in the group → reason.
Refused = dict[int, str]


def generations(batch: Batch) -> Iterator[Group]:
    """The batch's groups, cut such that the generations of one table come in the order of their changes.

    A table's shape can change within a batch, and change back: then the rows of one group lie around
    those of another.
    """
    tables: dict[tuple[str, str], list[Group]] = {}
    for group in batch.groups:
        if len(group):
            tables.setdefault((group.relation.schema, group.relation.name), []).append(group)
    for groups in tables.values():
        if len(groups) == 1:
            yield groups[0]
        else:
            yield from _interleaved(groups)


def _interleaved(groups: list[Group]) -> Iterator[Group]:
    order = sorted(
        (index, which) for which, group in enumerate(groups) for index in group.meta("index").to_pylist()
    )
    taken = [0] * len(groups)
    start = 0
    for at in range(1, len(order) + 1):
        which = order[start][1]
        if at == len(order) or order[at][1] != which:
            group = groups[which]
            yield Group(
                group.relation, group.data.slice(taken[which], at - start), group.old, group.unchanged
            )
            taken[which] += at - start
            start = at


def apply(
    connection: Any,
    target: Target,
    group: Group,
    seen: Sequence[str],
    compression: Compression,
) -> Refused:
    """Brings a table to the state after the changes of `group`; all of them are of `target`'s relation. The
    keys of rows that come are kept in the tables of `seen`, too. `compression` is that of the warehouse.

    Returns the rows whose change cannot be applied because it leaves a value unchanged that the
    warehouse never got; everything else is applied. Raises Permanent for values that do not fit.
    """
    truncates = pc.indices_nonzero(group.is_op(Op.TRUNCATE))
    start = 0
    if len(truncates):
        # What came before it in this run is gone with it.
        start = truncates[-1].as_py() + 1
        connection.execute(statements.delete_all(target.table))
        group = replace(group, data=group.data.slice(start))
    if not len(group):
        return {}
    if group.relation.full or not group.relation.key:
        _apply_counts(connection, target, row_counts(group))
        return {}
    refused = _apply_states(connection, target, group, last_states(group), seen, compression)
    return {start + row: reason for row, reason in refused.items()}


def _apply_states(
    connection: Any,
    target: Target,
    group: Group,
    states: LastStates,
    seen: Sequence[str],
    compression: Compression,
) -> Refused:
    relation = target.relation
    inserts = [
        statements.insert(target.table, relation.names),
        *(statements.keep_keys(table, relation.key) for table in seen),
    ]
    stored = _stored(connection, target, states)
    if stored.complete is None and states.replaces and len(states.rows) <= FEW_ROWS:
        # The usual small batch: the staged rows name the rows that they replace.
        with registered(connection, "stage", _staged(target, group, states, stored, 0)):
            connection.execute(statements.delete_keys(target.table, target.key, "stage", relation.key))
            for statement in inserts:
                connection.execute(statement)
        return {}
    touched = {f"c{i}": target.typed(column, states.touched[i]) for i, column in enumerate(relation.key)}
    with registered(connection, "touched", pa.table(touched)):
        connection.execute(statements.delete_keys(target.table, target.key))
    with compressing(connection, target, group, compression):
        for start in range(0, len(states.rows), STAGE_ROWS):
            with registered(connection, "stage", _staged(target, group, states, stored, start)):
                for statement in inserts:
                    connection.execute(statement)
    if stored.complete is None:
        return {}
    lost = states.rows.filter(pc.invert(stored.complete)).to_pylist()
    return dict.fromkeys(lost, "leaves a value unchanged that the warehouse never got: backfill the table")


def _staged(target: Target, group: Group, states: LastStates, stored: "_Stored", start: int) -> pa.Table:
    """`STAGE_ROWS` of the rows to insert, from `start` on, in the types of the warehouse."""
    relation = target.relation
    part = slice(start, start + STAGE_ROWS)
    columns = {}
    for column in range(len(relation.columns)):
        if column in relation.key:
            text = states.keys[relation.key.index(column)][part]
        elif states.whole:
            text = group.new(column)[part]
        else:
            text = group.new(column).take(states.sources.get(column, states.rows)[part])
        values = target.typed(column, text)
        if column in stored.columns:
            values = pc.coalesce(values, stored.columns[column][part].cast(values.type))
        columns[f"c{column}"] = values
    staged = pa.table(columns)
    return staged if stored.complete is None else staged.filter(stored.complete[part])


@dataclass(frozen=True)
class _Stored:
    """What the table holds for the rows to insert, one entry per row: values of columns that some
    updates left unchanged, null for the other rows; `complete` is false where the table has no such
    row or not the row's value, and None where nothing was needed."""

    columns: dict[int, pa.Array]
    complete: pa.Array | None


def _stored(connection: Any, target: Target, states: LastStates) -> _Stored:
    relation = target.relation
    partial = [column for column, rows in states.sources.items() if rows.null_count]
    if not partial:
        return _Stored({}, None)
    wanting = {column: states.sources[column].is_null() for column in partial}
    missing = reduce(pc.or_, wanting.values())
    numbers = row_numbers(len(states.rows))
    keys = {
        f"c{i}": target.typed(column, states.origins[i].filter(missing))
        for i, column in enumerate(relation.key)
    }
    with registered(connection, "touched", pa.table({"n": numbers.filter(missing), **keys})):
        query = statements.stored_values(
            target.table, target.key, [relation.names[column] for column in partial]
        )
        found = connection.sql(query).to_arrow_table().combine_chunks()
    places = pc.index_in(numbers, value_set=column_of(found, "n"))
    columns = {}
    for i, column in enumerate(partial):
        values = column_of(found, f"v{i}").take(places)
        columns[column] = pc.if_else(wanting[column], values, pa.scalar(None, values.type))
    complete = pc.or_(pc.invert(missing), places.is_valid())
    return _Stored(columns, pc.and_not(complete, states.lost))


def _apply_counts(connection: Any, target: Target, counts: RowCounts) -> None:
    relation = target.relation
    columns = range(len(relation.columns))
    if len(counts.copies):
        removed = [target.typed(i, counts.removed[i]) for i in columns]
        named = {f"c{i}": values for i, values in enumerate(removed)}
        with registered(connection, "touched", pa.table({"n": row_numbers(len(counts.copies)), **named})):
            query = statements.count_whole_rows(target.table, target.columns)
            found = connection.sql(query).to_arrow_table().combine_chunks()
            connection.execute(statements.delete_whole_rows(target.table, target.columns))
        # Equal rows cannot be told apart, so all copies went; those that the table keeps come back.
        which = column_of(found, "n")
        kept = pc.subtract(column_of(found, "copies"), counts.copies.take(which))
        picks = repeated(which, kept)
        if len(picks):
            _insert(connection, target, [values.take(picks) for values in removed])
    for start in range(0, len(counts.added[0]), STAGE_ROWS):
        part = slice(start, start + STAGE_ROWS)
        _insert(connection, target, [target.typed(i, counts.added[i][part]) for i in columns])


def _insert(connection: Any, target: Target, columns: list[pa.Array]) -> None:
    if len(columns[0]):
        stage = pa.table({f"c{i}": values for i, values in enumerate(columns)})
        with registered(connection, "stage", stage):
            connection.execute(statements.insert(target.table, target.relation.names))


@contextmanager
def registered(connection: Any, name: str, table: pa.Table) -> Iterator[None]:
    """The Arrow table as a view of this connection."""
    connection.register(name, table)
    try:
        yield
    except BaseException:
        # In a failed transaction this fails too, and the first error is the one to tell; the view goes
        # with the rollback.
        with suppress(duckdb.Error):
            connection.unregister(name)
        raise
    connection.unregister(name)
