"""The state database: an SQLite file of mode 0600 with what must outlive the engine's processes, any number
of which may use it at once. What a method has written when it returns survives a power cut."""

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from cdcflow import sql
from cdcflow.errors import EnvironmentFault

#: A write holds the lock for one fsync. Ten seconds of others' fsyncs is a disk in trouble.
BUSY_SECONDS = 10.0


class Database:
    """A connection, usable from any thread. `tables` are the statements that make what is missing.

    Every method raises EnvironmentFault when the file cannot be read or written.
    """

    def __init__(self, path: Path, *tables: str) -> None:
        self.path = path
        self._lock = threading.RLock()
        with self._telling("opened"):
            _create(path)
            self._db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._telling("opened"):
                # WAL: readers (status, other workers) never wait for a writer. FULL: in WAL mode a
                # commit is synced only so (sqlite.org/pragma.html#pragma_synchronous).
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                for table in tables:
                    self._db.execute(sql.load(table))
        except BaseException:
            self._db.close()
            raise

    def one(self, statement: str, *given: Any) -> tuple[Any, ...] | None:
        """The first row, or None."""
        with self._lock, self._telling("read"):
            row: tuple[Any, ...] | None = self._db.execute(statement, given).fetchone()
            return row

    def all(self, statement: str, *given: Any) -> list[tuple[Any, ...]]:
        with self._lock, self._telling("read"):
            return self._db.execute(statement, given).fetchall()

    def write(self, statement: str, *given: Any) -> None:
        with self._lock, self._telling("written"):
            self._db.execute(statement, given)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """What is written in the block is there whole or not at all."""
        with self._lock:
            self.write("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self.write("ROLLBACK")
                raise
            self.write("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @contextmanager
    def _telling(self, what: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            raise EnvironmentFault(
                f"the checkpoint store {self.path} cannot be {what}: {error}",
                hint="make its folder writable for this user, on a disk with free space",
            ) from error


def _create(path: Path) -> None:
    """Makes the file with its mode, which SQLite gives to its -wal and -shm files, too.

    A file that is there is not even opened: closing it again would end the locks that other connections of
    this process have on it, and another process would take away the log that they write to
    (sqlite.org/howtocorrupt.html, 2.2).
    """
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        pass
