"""Changes the shape of a table of the warehouse, as part of the caller's transaction."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cdcflow import types
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.generations import Steps
from cdcflow_sinks.duckdb.statements import Place


def move(connection: Any, place: Place, to: Place) -> None:
    """Gives a table another name, in another schema where need be."""
    if place.schema == to.schema:
        connection.execute(statements.rename_table(place.quoted, to.name))
        return
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {to.quoted_schema}")
    connection.execute(statements.copy_table(place.quoted, to.quoted))
    connection.execute(statements.drop_table(place.quoted))


def take_steps(
    connection: Any, place: Place, steps: Steps, present: Mapping[str, str], *, keep: bool
) -> None:
    """`present` are the columns with their types as they are. `keep`: dropped columns get another name."""
    table, taken = place.quoted, {*present}
    for name, number in steps.removed:
        if keep:
            kept = _free(f"{name} (dropped {number})", taken)
            connection.execute(statements.rename_column(table, name, kept))
            taken.add(kept)
        else:
            connection.execute(statements.drop_column(table, name))
    # By way of names that nothing has: columns may have exchanged theirs.
    between = [(old, _free(f"{old} (renamed)", taken), new) for old, new in steps.renamed]
    for old, passing, _ in between:
        connection.execute(statements.rename_column(table, old, passing))
    for _, passing, new in between:
        connection.execute(statements.rename_column(table, passing, new))
    _convert(connection, place, steps, present)
    for added in steps.added:
        kind = types.of(added.column)
        connection.execute(statements.add_column(table, added.column.name, kind.duckdb))
        if added.older is not None:
            value = kind.to_arrow(pa.array([added.older], pa.string()))
            connection.register("stage", pa.table({"c0": value}))
            connection.execute(statements.fill(table, added.column.name, kind.duckdb))
            connection.unregister("stage")


def _convert(connection: Any, place: Place, steps: Steps, present: Mapping[str, str]) -> None:
    """Copies the table: ALTER … TYPE can fail on the values of rows that are deleted already."""
    replaced = []
    for old, new in steps.converted:
        was, kind = present[old.name], types.of(new).duckdb
        # A column that was made VARCHAR stays it: it holds Postgres' own text.
        if was != kind and not (was == "VARCHAR" != types.of(old).duckdb):
            replaced.append((new.name, statements.converted(new.name, was, kind)))
    if replaced:
        copy = place.named(f"{place.name} (converted)")
        connection.execute(statements.copy_table(place.quoted, copy.quoted, replaced))
        connection.execute(statements.drop_table(place.quoted))
        connection.execute(statements.rename_table(copy.quoted, place.name))


def _free(name: str, taken: set[str]) -> str:
    """The name, or one like it that no column has."""
    return name if name not in taken else _free(f"{name}'", taken)
