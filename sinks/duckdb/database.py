"""The DuckDB file: opening it, one transaction at a time, and what its errors mean to the engine."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import duckdb

from cdcflow.errors import DeliveryError, Permanent, Transient
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.settings import DuckDBSettings

#: The oldest format that every DuckDB since 1.2 reads. Without it a file of DuckDB 2 is closed to the
#: 1.x in people's BI tools.
STORAGE_VERSION = "v1.2.0"

#: One writer at a time per file: flows of one process share the database, and their transactions would
#: conflict on the checkpoint table and double the memory in use.
_writers: dict[Path, Lock] = {}
_writers_guard = Lock()


def configuration(settings: DuckDBSettings) -> Mapping[str, str]:
    """What every connection to the file is opened with; DuckDB refuses a second one that differs."""
    return {
        "threads": str(settings.threads),
        "memory_limit": settings.memory_limit,
        "storage_compatibility_version": STORAGE_VERSION,
        # People's queries run in the worker: they see tables, not its files and its variables.
        "enable_external_access": "false",
        "python_enable_replacements": "false",
        # A row's place says nothing in a table; without the promise large inserts need less memory.
        "preserve_insertion_order": "false",
    }


def connect(settings: DuckDBSettings) -> Any:
    """Opens the file, making it if missing. DuckDB itself shares one instance per file and process.

    Raises Transient while another process has the file open, and Permanent for what a person must fix.
    """
    path = settings.path.resolve()
    if not path.parent.is_dir():
        raise Permanent(
            f"the directory of the warehouse does not exist: {path.parent}",
            hint="create it, or change the sink's `path`",
        )
    try:
        connection = duckdb.connect(str(path), config=dict(configuration(settings)))
        connection.execute("SET TimeZone = 'UTC'")
    except duckdb.Error as error:
        failure = translated(error, f"cannot open the warehouse {path}")
        if isinstance(error, duckdb.IOException) and not _is_locked(error):
            raise Permanent(str(failure), hint="move the file away, or name another `path`") from error
        raise failure from error
    return connection


def writer_lock(settings: DuckDBSettings) -> Lock:
    """The lock that whoever writes to the file holds for the length of a transaction."""
    with _writers_guard:
        return _writers.setdefault(settings.path.resolve(), Lock())


@contextmanager
def transaction(connection: Any) -> Iterator[None]:
    """Commits at the end of the block, rolls back on any error."""
    connection.execute("BEGIN TRANSACTION")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        try:
            connection.execute("ROLLBACK")
        except duckdb.Error:
            pass  # a failed COMMIT has already rolled back; the first error is the one to tell
        raise


def translated(error: duckdb.Error, doing: str) -> DeliveryError:
    """The engine's word for a DuckDB error: worth waiting for, or a person's business.

    Only the first line of DuckDB's message is kept, and none of it where it may quote a value.
    """
    text = str(error).partition("\n")[0]
    if isinstance(error, duckdb.IOException):
        if _is_locked(error):
            return Transient(f"{doing}: another process has the file open: {text}", hint="close it there")
        return Transient(f"{doing}: {text}", hint="check the disk's free space and the file's permissions")
    if isinstance(error, duckdb.OutOfMemoryException):
        return Permanent(f"{doing}: {text}", hint="raise the sink's `memory_limit`")
    if isinstance(error, duckdb.TransactionException):
        return Transient(f"{doing}: {text}")
    if isinstance(error, duckdb.ConversionException | duckdb.ConstraintException | duckdb.DataError):
        return Permanent(f"{doing}: a value does not fit ({type(error).__name__})")
    return Permanent(f"{doing}: {type(error).__name__}: {text}")


def _is_locked(error: duckdb.Error) -> bool:
    return "could not set lock" in str(error).lower()


class Checkpoints:
    """The table with one row per flow: the journal offset up to which the warehouse holds everything."""

    def __init__(self, connection: Any, database: str, flow: str) -> None:
        self._connection = connection
        self._flow = flow
        self._schema = statements.qualified(database, statements.CHECKPOINT_SCHEMA)
        self._table = statements.qualified(database, statements.CHECKPOINT_SCHEMA, "checkpoint")

    def create(self) -> bool:
        """Makes the table if it is missing, and says whether it had to."""
        try:
            self.read()
        except duckdb.CatalogException:
            self._connection.execute(f"CREATE SCHEMA IF NOT EXISTS {self._schema}")
            self._connection.execute(statements.CHECKPOINT_TABLE.format(table=self._table))
            return True
        return False

    def read(self) -> int | None:
        row = self._connection.execute(
            statements.READ_CHECKPOINT.format(table=self._table), [self._flow]
        ).fetchone()
        return None if row is None else int(row[0])

    def store(self, offset: int, position: str) -> None:
        """Part of the transaction that stores the changes before `offset`."""
        query = statements.UPDATE_CHECKPOINT.format(table=self._table)
        (updated,) = self._connection.execute(query, [offset, position, self._flow]).fetchone()
        if not updated:
            query = statements.INSERT_CHECKPOINT.format(table=self._table)
            self._connection.execute(query, [self._flow, offset, position])
