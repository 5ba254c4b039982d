"""The engine's own checkpoints, for sinks that cannot keep them with the data. A checkpoint that `save`
has returned from survives a power cut, and any number of processes may use the store at once."""

import os
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from cdcflow import sql
from cdcflow.errors import EnvironmentFault
from cdcflow.model import ORIGIN, Position

#: A write holds the lock for one fsync. Ten seconds of others' fsyncs is a disk in trouble.
BUSY_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a flow's sink holds everything.

    `offset` is the next offset to read. `position` is that of the change right before it, or `ORIGIN`
    where it is not known; it tells whether a journal is still the one the checkpoint was made in.
    `updated` is in seconds since 1970.
    """

    offset: int
    position: Position
    updated: float


class CheckpointStore:
    """Checkpoints by flow, in an SQLite file of mode 0600. Usable from any thread.

    Every method raises EnvironmentFault when the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        with self._telling("opened"):
            # SQLite gives its -wal and -shm files the mode of the database.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
            self._db = sqlite3.connect(
                path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
        try:
            with self._telling("opened"):
                # WAL: readers (status, other workers) never wait for a writer. FULL: in WAL mode a
                # commit is synced only so (sqlite.org/pragma.html#pragma_synchronous).
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._db.execute(sql.load("checkpoint_table"))
        except BaseException:
            self._db.close()
            raise

    def get(self, flow: str) -> Checkpoint | None:
        """None for a flow that never had one."""
        with self._lock, self._telling("read"):
            row = self._db.execute(sql.load("checkpoint_get"), (flow,)).fetchone()
        return None if row is None else Checkpoint(row[0], Position.parse(row[1]), row[2])

    def save(self, flow: str, offset: int, position: Position = ORIGIN) -> None:
        """Durable on return. An offset behind the stored one changes nothing: checkpoints only advance."""
        with self._lock, self._telling("written"):
            self._db.execute(sql.load("checkpoint_save"), (flow, offset, str(position), time.time()))

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
