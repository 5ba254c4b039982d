"""Rows of the source's tables as they are now, by key and many at once; for steps that look something up.

One connection, opened when it is first needed, with the pinned settings of every connection: so a value has
the text that it has in the stream. It only reads, and no question takes longer than `STATEMENT_SECONDS`.
"""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

import cdcflow.sql
from cdcflow.errors import CdcflowError, ConfigurationError, SourceUnavailable
from cdcflow.model import Column
from cdcflow.source.connection import connect, where

#: A question by a key with an index takes milliseconds. What takes this long has none, and would take it
#: for every batch.
STATEMENT_SECONDS = 30

TableName = tuple[str, str]
Key = tuple[str, ...]


class SourceTables:
    """Implements `Tables` of cdcflow.transform. `queries` counts the questions for rows."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._lock = threading.Lock()
        self._connection: psycopg.Connection[Any] | None = None
        self._ended = False
        self._types: dict[TableName, dict[str, str]] = {}
        self.queries = 0

    def columns(self, table: TableName) -> Sequence[Column]:
        """The table's columns that the role may read. Raises ConfigurationError where there is none, and
        SourceError."""
        rows = self._asked(lambda c: c.execute(cdcflow.sql.load("lookup_columns"), table).fetchall())
        if not rows:
            raise ConfigurationError(
                f"the source has no table {'.'.join(table)}", hint="write schema.table as the catalog has it"
            )
        readable = [row for row in rows if row[5]]
        if not readable:
            raise ConfigurationError(
                f"the role may not read {'.'.join(table)}",
                hint=f"GRANT SELECT ON {'.'.join(table)} TO the role",
            )
        self._types[table] = {row[0]: row[4] for row in readable}
        return [Column(name, oid, typmod, False, kind) for name, oid, typmod, kind, _, _ in readable]

    def fetch(
        self, table: TableName, by: Sequence[str], keys: Sequence[Key], columns: Sequence[str]
    ) -> Mapping[Key, tuple[str | None, ...]]:
        """The rows of `keys`, in one query. Raises SourceError."""
        if not keys:
            return {}
        if table not in self._types:
            self.columns(table)
        statement = _statement(table, [(name, self._types[table][name]) for name in by], columns)
        arrays = [[key[i] for key in keys] for i in range(len(by))]

        def ask(connection: psycopg.Connection[Any]) -> dict[Key, tuple[str | None, ...]]:
            self.queries += 1
            result = connection.execute(statement, arrays).pgresult
            assert result is not None
            found: dict[Key, tuple[str | None, ...]] = {}
            for row in range(result.ntuples):
                number = result.get_value(row, 0)
                assert number is not None
                # Rows come in the order of their columns' texts.
                found.setdefault(
                    keys[int(number) - 1],
                    tuple(_text(result.get_value(row, 1 + i)) for i in range(len(columns))),
                )
            return found

        rows: dict[Key, tuple[str | None, ...]] = self._asked(ask)
        return rows

    def interrupt(self) -> None:
        """Ends the question that is being asked, if there is one, and all later ones. From any thread."""
        self._ended = True
        connection = self._connection
        if connection is not None:
            try:
                connection.cancel_safe(timeout=2)
            except psycopg.Error:
                pass

    def close(self) -> None:
        """Closes the connection."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _asked(self, ask: Any) -> Any:
        with self._lock:
            try:
                if self._ended:
                    raise SourceUnavailable("the flow is being stopped")
                if self._connection is None or self._connection.closed:
                    self._connection = _opened(self._dsn)
                return ask(self._connection)
            except psycopg.Error as error:
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                raise _failure(error, self._dsn) from error


def _opened(dsn: str) -> psycopg.Connection[Any]:
    connection = connect(dsn, purpose="lookup")
    try:
        connection.execute("SET default_transaction_read_only = on")
        connection.execute(f"SET statement_timeout = '{STATEMENT_SECONDS}s'")
        if "target_session_attrs" not in conninfo_to_dict(dsn):
            # A handful of keys is no reason for a parallel plan.
            connection.execute("SET max_parallel_workers_per_gather = 0")
    except BaseException:
        connection.close()
        raise
    return connection


def _statement(table: TableName, by: Sequence[tuple[str, str]], columns: Sequence[str]) -> sql.Composed:
    """`lookup.sql` for a table, the columns of the key with their types, and the columns that are wanted."""
    # The types' names are the catalog's own, quoted where they need it.
    arrays = [sql.SQL("%s::text[]::{}[]").format(sql.SQL(kind)) for _, kind in by]
    ours = [sql.Identifier(f"k{i}") for i in range(len(by))]
    same = [
        sql.SQL("t.{} = k.{}").format(sql.Identifier(name), key)
        for (name, _), key in zip(by, ours, strict=True)
    ]
    there = [sql.Identifier(name) for name in columns]
    return sql.SQL(cdcflow.sql.load("lookup")).format(
        wanted=sql.SQL("").join(sql.SQL(", t.{}").format(name) for name in there),
        arrays=sql.SQL(", ").join(arrays),
        names=sql.SQL(", ").join(ours),
        table=sql.Identifier(*table),
        same=sql.SQL(" AND ").join(same),
        order=sql.SQL("").join(sql.SQL(', t.{}::text COLLATE "C"').format(name) for name in there),
    )


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _failure(error: psycopg.Error, dsn: str) -> CdcflowError:
    """Without the server's words, which may hold values of rows."""
    state = error.sqlstate or ""
    place = where(dsn)
    if state == "57014":
        return SourceUnavailable(
            f"looking rows up at {place} took longer than {STATEMENT_SECONDS} s",
            hint="make an index on the columns that the step looks rows up by",
        )
    if state.startswith("42"):
        return ConfigurationError(
            f"looking rows up at {place} failed (SQLSTATE {state})",
            hint="the table or a column is gone, or the role may not read it: correct the step",
        )
    if state.startswith("22"):
        return ConfigurationError(
            f"looking rows up at {place} failed: a key is no value of the type of the column there",
            hint="cast the column before the step",
        )
    return SourceUnavailable(f"looking rows up at {place} failed" + (f" (SQLSTATE {state})" if state else ""))
