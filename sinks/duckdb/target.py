"""The warehouse's table for a relation: made if missing, and brought to the relation's shape.

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
from cdcflow.model.relation import ROUTED
from cdcflow.types import PgType
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.alter import move, take_steps
from cdcflow_sinks.duckdb.generations import first, following
from cdcflow_sinks.duckdb.relations import Relations
from cdcflow_sinks.duckdb.settings import DuckDBSettings


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
    connection: Any,
    database: str,
    relation: Relation,
    settings: DuckDBSettings,
    *,
    lsn: int = 0,
    emptied: bool = False,
) -> tuple[Target, bool]:
    """Brings the table of a relation to its shape, and says whether that took DDL.

    `lsn` is the commit of the relation's first change. `emptied`: a TRUNCATE among its changes makes the
    rows that are here irrelevant. Part of the transaction that stores the changes: what the warehouse
    knows of a table's generation is always that of its rows.

    Raises Permanent where names clash for DuckDB, which ignores the case of ASCII letters, or where what
    older rows hold in the new shape cannot be known.
    """
    schema = settings.schemas.get(relation.schema, relation.schema)
    check_names(relation, schema)
    place = statements.Place(database, schema, relation.name)
    known = Relations(connection, database)
    had = known.of(relation.oid)
    if had is not None and (had.place, had.generation.relation) == (place, relation):
        present = _columns(connection, place)
        if present:
            return Target(relation, place.quoted, _kinds(relation, present)), False
    _check_clash(connection, relation, place, None if had is None else had.place)

    if had is not None and not _columns(connection, had.place):
        had = None  # somebody has dropped the table
    other = known.at(place, relation.oid)
    if other is not None and min(other, relation.oid) >= ROUTED:
        raise Permanent(
            f"{relation.qualified}: the flow's transforms send rows of two tables of the source there",
            hint="route them to different tables: their keys may be the same",
        )
    if other is not None and _columns(connection, place):
        # Dropped, or renamed: it says so itself when its next change comes.
        aside = place.named(f"{place.name} (was {other})")
        move(connection, place, aside)
        known.move(other, aside)
    if had is not None and had.place != place:
        move(connection, had.place, place)

    present = _columns(connection, place)
    if had is None and present:
        return _adopt(connection, known, relation, place, present), True
    if had is None:
        _create(connection, relation, place)
        generation = first(relation)
    else:
        [(rows,)] = connection.execute(statements.count(place.quoted)).fetchall()
        if emptied or not rows:
            connection.execute(statements.drop_table(place.quoted))
            _create(connection, relation, place)
            generation = first(relation, had.generation, lsn)
        else:
            widen = settings.type_changes == "widen"
            generation, steps = following(had.generation, relation, lsn, present, widen=widen)
            take_steps(connection, place, steps, present, keep=settings.dropped_columns == "keep")
    known.store(place, generation)
    return Target(relation, place.quoted, _kinds(relation, _columns(connection, place))), True


def _columns(connection: Any, place: statements.Place) -> dict[str, str]:
    """The table's columns with their types; empty where there is no table."""
    return dict(connection.execute(statements.COLUMNS, list(place)).fetchall())


def _kinds(relation: Relation, present: Mapping[str, str]) -> tuple[str, ...]:
    return tuple(present[name] for name in relation.names)


def _create(connection: Any, relation: Relation, place: statements.Place) -> None:
    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {place.quoted_schema}")
    columns = [(column.name, types.of(column).duckdb) for column in relation.columns]
    connection.execute(statements.create_table(place.quoted, columns))


def _adopt(
    connection: Any, known: "Relations", relation: Relation, place: statements.Place, present: dict[str, str]
) -> Target:
    """Takes a table that is here and that no generation is known of: made by hand, or by an older cdcflow."""
    wanted = [(column.name, types.of(column)) for column in relation.columns]
    _check_columns(relation, place.quoted, wanted, present)
    for name, kind in wanted:
        if name not in present:
            connection.execute(statements.add_column(place.quoted, name, kind.duckdb))
    known.store(place, first(relation))
    return Target(relation, place.quoted, _kinds(relation, _columns(connection, place)))


def _check_clash(
    connection: Any, relation: Relation, place: statements.Place, had: statements.Place | None
) -> None:
    for (found,) in connection.execute(statements.SCHEMAS, [place.database]).fetchall():
        if found != place.schema and fold(found) == fold(place.schema):
            raise clash(relation, f"schema {place.schema}", f"schema {found}")
    for schema, found in connection.execute(statements.TABLES, [place.database]).fetchall():
        own = had is not None and (schema, found) == (had.schema, had.name)
        if schema == place.schema and found != place.name and fold(found) == fold(place.name) and not own:
            raise clash(relation, f"table {relation.name}", f"table {found}")


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
    if relation.full and len(relation.key) < len(relation.columns):
        apart = next(column.name for column in relation.columns if not column.key)
        raise Permanent(
            f"{relation.qualified}, column {apart}: what a transform computes from a change, and not from "
            "its row, is not known of old rows, and the whole row is all that identifies one here",
            hint="put `- key: [id]`, with the columns of the primary key, at the end of the transforms",
        )
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
