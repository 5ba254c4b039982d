"""The warehouse's table for a relation: made if missing, checked if there.

Every table has the relation's name and columns, quoted, in the schema that the settings map its schema
to (the same name by default).
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Relation
from cdcflow.types import PgType
from cdcflow_sinks.duckdb import statements


@dataclass(frozen=True)
class Target:
    """A relation bound to its table. `kinds` is the table's column type for each column: that of
    `cdcflow.types`, or VARCHAR where somebody widened the column, which then holds Postgres' text."""

    relation: Relation
    table: str
    kinds: tuple[str, ...]

    @property
    def columns(self) -> list[tuple[str, str]]:
        return list(zip(self.relation.names, self.kinds, strict=True))

    @property
    def key(self) -> list[tuple[str, str]]:
        return [self.columns[i] for i in self.relation.key]

    def typed(self, column: int, text: pa.StringArray) -> pa.Array:
        """A column of Postgres text in the form that DuckDB casts exactly to the table's type.

        Raises Permanent, naming table and column, where a value does not fit.
        """
        kind = types.of(self.relation.columns[column])
        if kind.duckdb != self.kinds[column]:
            return text
        try:
            return kind.to_arrow(text)
        except Permanent as error:
            name = self.relation.columns[column].name
            raise Permanent(
                f"{self.relation.qualified}, column {name}: {error}",
                hint="with the flow paused, run in the warehouse: "
                f"ALTER TABLE {self.table} ALTER {statements.quote(name)} TYPE VARCHAR; "
                "the column then holds Postgres' own text",
            ) from error


def table_name(database: str, relation: Relation, schemas: Mapping[str, str]) -> str:
    """The relation's table in the warehouse, quoted and complete."""
    return statements.qualified(database, schemas.get(relation.schema, relation.schema), relation.name)


def bind(
    connection: Any, database: str, relation: Relation, schemas: Mapping[str, str]
) -> tuple[Target, bool]:
    """The table of a relation, and whether it had to be made or widened.

    Raises Permanent where the names clash for DuckDB, which ignores the case of ASCII letters, or where
    the table that is there has other columns.
    """
    schema = schemas.get(relation.schema, relation.schema)
    check_names(relation, schema)
    for (found,) in connection.execute(statements.SCHEMAS, [database]).fetchall():
        if found != schema and fold(found) == fold(schema):
            raise clash(relation, f"schema {schema}", f"schema {found}")
    for other, found in connection.execute(statements.TABLES, [database]).fetchall():
        if other == schema and found != relation.name and fold(found) == fold(relation.name):
            raise clash(relation, f"table {relation.name}", f"table {found}")

    table = table_name(database, relation, schemas)
    wanted = [(column.name, types.of(column)) for column in relation.columns]
    present = dict(connection.execute(statements.COLUMNS, [database, schema, relation.name]).fetchall())
    if not present:
        connection.execute(f"CREATE SCHEMA IF NOT EXISTS {statements.qualified(database, schema)}")
        connection.execute(statements.create_table(table, [(name, kind.duckdb) for name, kind in wanted]))
        return Target(relation, table, tuple(kind.duckdb for _, kind in wanted)), True
    missing = [(name, kind) for name, kind in wanted if name not in present]
    _check_columns(relation, table, wanted, present)
    for name, kind in missing:
        connection.execute(statements.add_column(table, name, kind.duckdb))
    kinds = tuple(present.get(name, kind.duckdb) for name, kind in wanted)
    return Target(relation, table, kinds), bool(missing)


def check_names(relation: Relation, schema: str) -> None:
    """Raises Permanent where the relation cannot be a table of `schema`, whatever else is there."""
    if fold(schema) == statements.CHECKPOINT_SCHEMA:
        raise Permanent(
            f"{relation.qualified} would go to the schema {schema}, which cdcflow keeps its checkpoints in",
            hint="map it to another one with the sink's setting `schemas`",
        )
    if not relation.columns:
        raise Permanent(
            f"{relation.qualified} has no columns, and DuckDB has no tables without columns",
            hint="exclude the table from the flow",
        )
    folded = Counter(fold(name) for name in relation.names)
    same = [name for name in relation.names if folded[fold(name)] > 1]
    if same:
        raise clash(relation, f"column {same[0]}", f"column {same[1]}")


def fold(name: str) -> str:
    """The name as DuckDB compares it: only ASCII letters lose their case."""
    return "".join(mark.lower() if mark.isascii() else mark for mark in name)


def clash(relation: Relation, wanted: str, found: str) -> Permanent:
    """The error for two names of the source that are one name to DuckDB."""
    return Permanent(
        f"{relation.qualified}: DuckDB takes {wanted} and {found} for the same name",
        hint="exclude one of them from the flow, rename it at the source, or map its schema elsewhere "
        "with the sink's setting `schemas`",
    )


def _check_columns(
    relation: Relation, table: str, wanted: list[tuple[str, PgType]], present: Mapping[str, str]
) -> None:
    names = {name for name, _ in wanted}
    for name in present:
        if name not in names:
            raise Permanent(
                f"{relation.qualified}: the warehouse's table has a column {name} that the source has not",
                hint="with the flow paused, run in the warehouse: "
                f"ALTER TABLE {table} DROP {statements.quote(name)}",
            )
    for name, kind in wanted:
        found = present.get(name, kind.duckdb)
        if found not in (kind.duckdb, "VARCHAR"):
            raise Permanent(
                f"{relation.qualified}, column {name}: the warehouse has {found}, "
                f"the source's {kind.name} needs {kind.duckdb}",
                hint=f"with the flow paused, run in the warehouse: "
                f"ALTER TABLE {table} ALTER {statements.quote(name)} TYPE {kind.duckdb}",
            )
