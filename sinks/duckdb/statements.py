"""The DuckDB SQL that the warehouse runs, made from names of the source's tables.

Names come quoted and complete (database, schema, table) from here, so that no name of the source can
be taken for anything else. Arrow data is registered under the names `stage` and `touched`, with columns
named by their place (`c0`, `c1` …), so that no name of the source can collide with one of ours.
"""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

CHECKPOINT_SCHEMA = "cdcflow"

CHECKPOINT_TABLE = """
    CREATE TABLE IF NOT EXISTS {table} (
        flow VARCHAR NOT NULL,
        "offset" UBIGINT NOT NULL,  -- of the journal: the next change to read
        position VARCHAR NOT NULL,  -- of the last change before it
        time TIMESTAMPTZ NOT NULL   -- when this row was written
    )
"""

READ_CHECKPOINT = 'SELECT "offset", position FROM {table} WHERE flow = ?'

#: No rows updated means that the flow is new: then `INSERT_CHECKPOINT`.
UPDATE_CHECKPOINT = 'UPDATE {table} SET "offset" = ?, position = ?, time = now() WHERE flow = ?'

FLOWS = "SELECT flow FROM {table}"

INSERT_CHECKPOINT = "INSERT INTO {table} VALUES (?, ?, ?, now())"

RELATIONS_TABLE = """
    CREATE TABLE IF NOT EXISTS {table} (
        oid UINTEGER NOT NULL,     -- of the table at the source
        "schema" VARCHAR NOT NULL, -- where the table is here
        name VARCHAR NOT NULL,
        generation VARCHAR NOT NULL, -- the shape that its rows have, as JSON
        flow VARCHAR               -- which brought it; NULL: not known
    )
"""

#: For a file from before that column.
OWN_RELATIONS = "ALTER TABLE {table} ADD COLUMN IF NOT EXISTS flow VARCHAR"

OWNER = "SELECT flow FROM {table} WHERE oid = ?"

CLAIM_RELATION = "UPDATE {table} SET flow = ? WHERE oid = ?"

OWNED_RELATIONS = 'SELECT oid, "schema", name, flow FROM {table}'

READ_RELATION = 'SELECT "schema", name, generation FROM {table} WHERE oid = ?'

RELATION_AT = 'SELECT oid FROM {table} WHERE "schema" = ? AND name = ? AND oid <> ?'

DELETE_RELATION = "DELETE FROM {table} WHERE oid = ?"

INSERT_RELATION = 'INSERT INTO {table} (oid, "schema", name, generation) VALUES (?, ?, ?, ?)'

MOVE_RELATION = 'UPDATE {table} SET "schema" = ?, name = ? WHERE oid = ?'

MESSAGES_TABLE = """
    CREATE TABLE {table} (
        flow VARCHAR NOT NULL,
        "offset" UBIGINT NOT NULL,     -- of the journal: tells order
        position VARCHAR NOT NULL,     -- at the source
        prefix VARCHAR NOT NULL,
        content VARCHAR,               -- where it is text
        bytes BLOB,                    -- where it is not
        transactional BOOLEAN NOT NULL,
        xid UINTEGER NOT NULL,
        commit_time TIMESTAMPTZ NOT NULL
    )
"""

DELETE_MESSAGES = "DELETE FROM {table} WHERE flow = ?"

DELETE_MESSAGES_FROM = 'DELETE FROM {table} WHERE flow = ? AND "offset" >= ?'

REPLAYS_TABLE = """
    CREATE TABLE IF NOT EXISTS {table} (
        flow VARCHAR NOT NULL,
        until UBIGINT NOT NULL    -- the journal offset that it had reached before it went back
    )
"""

READ_REPLAY = "SELECT until FROM {table} WHERE flow = ?"

INSERT_REPLAY = "INSERT INTO {table} VALUES (?, ?)"

DELETE_REPLAY = "DELETE FROM {table} WHERE flow = ?"

REDELIVERED_TABLE = """
    CREATE TABLE IF NOT EXISTS {table} (
        flow VARCHAR NOT NULL,
        "offset" UBIGINT NOT NULL -- of the journal: of a dead letter that has been delivered
    )
"""

READ_REDELIVERED = 'SELECT "offset" FROM {table} WHERE flow = ?'

INSERT_REDELIVERED = "INSERT INTO {table} VALUES (?, ?)"

DELETE_REDELIVERED = 'DELETE FROM {table} WHERE flow = ? AND "offset" >= ?'

BACKFILLS_TABLE = """
    CREATE TABLE IF NOT EXISTS {table} (
        flow VARCHAR NOT NULL,
        oid UINTEGER NOT NULL,    -- of the table at the source
        backfill VARCHAR NOT NULL,
        seen VARCHAR              -- the table of the keys that came since it began, where others are to go
    )
"""

OPEN_BACKFILLS = "SELECT oid, backfill, seen FROM {table} WHERE flow = ?"

INSERT_BACKFILL = "INSERT INTO {table} VALUES (?, ?, ?, ?)"

KEEP_NO_KEYS = "UPDATE {table} SET seen = NULL WHERE flow = ? AND oid = ? AND backfill = ?"

DELETE_BACKFILLS = "DELETE FROM {table} WHERE flow = ?"

DELETE_BACKFILL = "DELETE FROM {table} WHERE flow = ? AND oid = ? AND backfill = ?"

INSERT_MESSAGES = """
    INSERT INTO {table}
    SELECT {flow}, c0, c1, c2, c3, c4, c5, c6, to_timestamp(0) + to_microseconds(c7) FROM stage
"""

TABLES = "SELECT schema_name, table_name FROM duckdb_tables() WHERE database_name = ?"

SCHEMAS = "SELECT schema_name FROM duckdb_schemas() WHERE database_name = ?"

COLUMNS = """
    SELECT column_name, data_type
    FROM duckdb_columns()
    WHERE database_name = ? AND schema_name = ? AND table_name = ?
    ORDER BY column_index
"""


def quote(name: str) -> str:
    """A name as a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as a string constant."""
    return "'" + text.replace("'", "''") + "'"


def qualified(*names: str) -> str:
    """`"database"."schema"."table"`."""
    return ".".join(quote(name) for name in names)


class Place(NamedTuple):
    """Where a table of the warehouse is."""

    database: str
    schema: str
    name: str

    @property
    def quoted(self) -> str:
        return qualified(*self)

    @property
    def quoted_schema(self) -> str:
        return qualified(self.database, self.schema)

    def named(self, name: str) -> "Place":
        return self._replace(name=name)


def create_table(table: str, columns: Iterable[tuple[str, str]]) -> str:
    """A table without keys or indexes: with those, upserts of a key that the same transaction deleted
    fail (duckdb#23645), replay of DuckDB's log fails (duckdb#15836), and indexed columns block ALTER."""
    body = ", ".join(f"{quote(name)} {kind}" for name, kind in columns)
    return f"CREATE TABLE {table} ({body})"


def add_column(table: str, name: str, kind: str) -> str:
    return f"ALTER TABLE {table} ADD COLUMN {quote(name)} {kind}"


def drop_column(table: str, name: str) -> str:
    return f"ALTER TABLE {table} DROP COLUMN {quote(name)}"


def rename_column(table: str, name: str, to: str) -> str:
    return f"ALTER TABLE {table} RENAME COLUMN {quote(name)} TO {quote(to)}"


def rename_table(table: str, to: str) -> str:
    return f"ALTER TABLE {table} RENAME TO {quote(to)}"


def drop_table(table: str) -> str:
    return f"DROP TABLE {table}"


def count(table: str) -> str:
    return f"SELECT count(*) FROM {table}"  # noqa: S608 (names are quoted)


def copy_table(table: str, to: str, replaced: Iterable[tuple[str, str]] = ()) -> str:
    """Makes a table with all rows of another; `replaced` says which columns become which expression."""
    replacing = ", ".join(f"{expression} AS {quote(name)}" for name, expression in replaced)
    columns = f"* REPLACE ({replacing})" if replacing else "*"
    return f"CREATE TABLE {to} AS SELECT {columns} FROM {table}"  # noqa: S608


def fill(table: str, name: str, kind: str) -> str:
    """Sets a column of all rows to the one value of `stage`."""
    return f"UPDATE {table} SET {quote(name)} = (SELECT c0::{kind} FROM stage)"  # noqa: S608


def converted(name: str, was: str, kind: str) -> str:
    """A column's value as `kind`."""
    text = f"{quote(name)}::VARCHAR"
    if was.startswith("DECIMAL") and kind == "VARCHAR":
        # DuckDB writes .5 where all digits are behind the point, Postgres 0.5.
        return f"regexp_replace({text}, '^(-?)[.]', '\\1' || '0.')"
    return f"{quote(name)}::{kind}"


def insert(table: str, columns: Sequence[str], source: str = "stage") -> str:
    """Everything of `source`, whose columns c0 … stand for `columns`."""
    names = ", ".join(map(quote, columns))
    places = ", ".join(f"c{i}" for i in range(len(columns)))
    return f"INSERT INTO {table} ({names}) SELECT {places} FROM {source}"  # noqa: S608 (names are quoted)


def delete_all(table: str) -> str:
    """What a TRUNCATE does, within a transaction that goes on."""
    return f"DELETE FROM {table}"  # noqa: S608


def delete_keys(
    table: str, key: Sequence[tuple[str, str]], source: str = "touched", places: Sequence[int] | None = None
) -> str:
    """Deletes the rows whose key stands in `source`. `key` is (name, type) of each key column, `places`
    says which columns of `source` they are: the first ones by default."""
    return f"DELETE FROM {table} AS t USING {source} AS s WHERE {_same_key(key, places)}"  # noqa: S608


def keep_keys(seen: str, places: Sequence[int]) -> str:
    """Keeps the keys of `stage`, whose columns at `places` they are."""
    columns = ", ".join(f"c{i}" for i in places)
    return f"INSERT INTO {seen} SELECT {columns} FROM stage"  # noqa: S608


def no_rows(table: str) -> str:
    """Nothing but the names of its columns."""
    return f"SELECT * FROM {table} LIMIT 0"  # noqa: S608 (names are quoted)


def delete_others(table: str, seen: str, key: Sequence[tuple[str, str]]) -> str:
    """Deletes the rows whose key was not kept."""
    same = " AND ".join(f"t.{quote(name)} = s.{quote(name)}" for name, _ in key)
    return f"DELETE FROM {table} AS t WHERE NOT EXISTS (SELECT 1 FROM {seen} AS s WHERE {same})"  # noqa: S608


def stored_values(table: str, key: Sequence[tuple[str, str]], columns: Sequence[str]) -> str:
    """Values of `columns` in the rows whose key stands in `touched`, with the `n` of that key."""
    values = ", ".join(f"t.{quote(name)} AS v{i}" for i, name in enumerate(columns))
    return f"SELECT s.n AS n, {values} FROM touched AS s JOIN {table} AS t ON {_same_key(key)}"  # noqa: S608


def _same_key(key: Sequence[tuple[str, str]], places: Sequence[int] | None = None) -> str:
    placed = zip(range(len(key)) if places is None else places, key, strict=True)
    return " AND ".join(f"t.{quote(name)} = s.c{i}::{kind}" for i, (name, kind) in placed)


def count_whole_rows(table: str, columns: Sequence[tuple[str, str]]) -> str:
    """How many rows of the table equal each row of `touched` in every column, by its `n`."""
    return (
        f"SELECT s.n AS n, count(*) AS copies FROM touched AS s JOIN {table} AS t "  # noqa: S608
        f"ON {_same_row(columns)} GROUP BY s.n"
    )


def delete_whole_rows(table: str, columns: Sequence[tuple[str, str]]) -> str:
    """Deletes all rows that equal a row of `touched` in every column."""
    return f"DELETE FROM {table} AS t USING touched AS s WHERE {_same_row(columns)}"  # noqa: S608


#: Types for which DuckDB calls values equal that Postgres writes differently: −0 and 0, 30 days and a
#: month. Their text tells them apart.
_LOOSE = frozenset({"FLOAT", "DOUBLE", "INTERVAL"})


def _same_row(columns: Sequence[tuple[str, str]]) -> str:
    terms = []
    for i, (name, kind) in enumerate(columns):
        left, right = f"t.{quote(name)}", f"s.c{i}::{kind}"
        if kind in _LOOSE:
            left, right = f"{left}::VARCHAR", f"{right}::VARCHAR"
        terms.append(f"{left} IS NOT DISTINCT FROM {right}")
    return " AND ".join(terms)
