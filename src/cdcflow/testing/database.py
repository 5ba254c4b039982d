"""A database with a unique name for one test, gone afterwards together with its replication slots."""

import secrets
import select
from collections.abc import Sequence
from typing import Any

import psycopg
from psycopg import sql

from cdcflow.testing.postgres import AnyServer, rows_of
from cdcflow.testing.waiting import eventually


class Database:
    """A fresh database. `slot` and `publication` are names that nothing else uses; neither is made."""

    def __init__(self, server: AnyServer) -> None:
        # From the system's randomness: a seeded generator would give every test the same name.
        self.name = f"cdcflow_{secrets.token_hex(6)}"
        self.slot = self.name
        self.publication = self.name
        self.server = server
        server.execute(f"CREATE DATABASE {self.name}")
        self._connections: list[psycopg.Connection[Any]] = []
        self._own: psycopg.Connection[Any] | None = None

    @property
    def dsn(self) -> str:
        return self.server.dsn(self.name)

    def connect(self, **options: Any) -> psycopg.Connection[Any]:
        """A connection in autocommit mode, closed at the latest with the database."""
        connection = psycopg.connect(self.dsn, **{"autocommit": True, **options})
        self._connections.append(connection)
        return connection

    def execute(self, query: str | sql.SQL | sql.Composed, params: Sequence[Any] | None = None) -> list[Any]:
        """Runs SQL outside of a transaction and returns the rows, if it gives any."""
        if self._own is None or _is_dead(self._own):
            self._own = self.connect(application_name="cdcflow testing")
        return rows_of(self._own.execute(query, params))

    def close(self) -> None:
        """Closes our connections, where the server goes away as a whole."""
        for connection in self._connections:
            connection.close()

    def drop(self) -> None:
        """Closes our connections, ends everybody else's, drops the slots and the database."""
        self.close()
        slots = "SELECT slot_name, active_pid FROM pg_replication_slots WHERE database = %s"

        def released() -> bool:
            active = [pid for _, pid in self.server.execute(slots, [self.name]) if pid is not None]
            for pid in active:
                self.server.execute("SELECT pg_terminate_backend(%s)", [pid])
            return not active

        eventually(released, what=f"the release of the slots of {self.name}")
        for slot, _ in self.server.execute(slots, [self.name]):
            self.server.execute("SELECT pg_drop_replication_slot(%s)", [slot], dbname=self.name)
        self.server.execute(f"DROP DATABASE IF EXISTS {self.name} WITH (FORCE)")


def _is_dead(connection: psycopg.Connection[Any]) -> bool:
    """Whether the server has closed an idle connection, because it was restarted for example.

    Then there is something to read: its last words, or the end.
    """
    return connection.closed or bool(select.select([connection.fileno()], [], [], 0)[0])
