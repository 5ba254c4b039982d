"""A sign of life written to the source, so that the slot of an idle database moves on a busy server.

Slots are per database, and WAL of the others counts as retained too. A server that has caught up tells
the WAL's end by itself; one that never does only does so at a record of this database.
"""

from dataclasses import dataclass

from psycopg import sql

from cdcflow.source.catalog import Connection

#: Of messages by `pg_logical_emit_message`. Those with it are nobody's event.
PREFIX = "cdcflow.heartbeat"


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """`every` so many seconds. `table`: `(schema, name)` of one with `id int PRIMARY KEY, at timestamptz`;
    None for a message, which needs no table and changes nothing."""

    every: float = 30.0
    table: tuple[str, str] | None = None

    @property
    def create(self) -> str:
        """SQL that makes the table."""
        assert self.table is not None
        name = sql.Identifier(*self.table).as_string(None)
        return f"CREATE TABLE {name} (id int PRIMARY KEY, at timestamptz NOT NULL);"


def beat(connection: Connection, heartbeat: Heartbeat) -> None:
    """Writes one. Raises psycopg.Error, on a standby among others."""
    if heartbeat.table is None:
        # Not transactional: neither a transaction number nor a commit is spent on it.
        connection.execute("SELECT pg_logical_emit_message(false, %s, '')", (PREFIX,))
        return
    statement = "INSERT INTO {} (id, at) VALUES (1, now()) ON CONFLICT (id) DO UPDATE SET at = excluded.at"
    connection.execute(sql.SQL(statement).format(sql.Identifier(*heartbeat.table)))
