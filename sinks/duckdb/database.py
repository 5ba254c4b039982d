"""The DuckDB file: who has it open in this process, one transaction at a time, and the checkpoints in it."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import duckdb

from cdcflow.errors import Permanent
from cdcflow.model import Position
from cdcflow.sink.quantities import parse_size
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.compressing import NOT_TRIED, do_not_try
from cdcflow_sinks.duckdb.failures import translated
from cdcflow_sinks.duckdb.settings import DuckDBSettings

#: The oldest format that every DuckDB since 1.2 reads. Without it a file of DuckDB 2 is closed to the
#: 1.x in people's BI tools.
STORAGE_VERSION = "v1.2.0"
#: Bytes of memory for each row of a row group. A checkpoint holds one row group per thread, several times
#: over while it tries how to compress long text: rows of 2 kB fit so. Not smaller than need be, because
#: DuckDB takes 256 kB for each row group that has lost a row since the last checkpoint.
_ROW_MEMORY = 4_000
#: What DuckDB allows: a multiple of the rows of a vector, and not more than its own default here.
_VECTOR, _MOST_ROWS = 2_048, 122_880
#: Names that DuckDB has for databases of its own.
_RESERVED = ("memory", "system", "temp")


def configuration(settings: DuckDBSettings) -> dict[str, str | bool | int | float | list[str]]:
    """What a file is opened with."""
    return {
        "threads": str(settings.threads),
        "memory_limit": settings.memory_limit,
        "storage_compatibility_version": STORAGE_VERSION,
        # People's queries run in the worker: they see tables, not its variables.
        "python_enable_replacements": "false",
        # A row's place says nothing in a table; without the promise large inserts need less memory.
        "preserve_insertion_order": "false",
    }


def row_group(settings: DuckDBSettings) -> int:
    """Rows of the row groups that are written with so much memory, and so many threads to share it. Pure."""
    rows = parse_size(settings.memory_limit) // settings.threads // _ROW_MEMORY
    return min(max(rows // _VECTOR, 1) * _VECTOR, _MOST_ROWS)


class File:
    """A warehouse's file as this process has it open. Use `file_of`: there is one object per file.

    The file is attached to an instance of DuckDB without one, because only so the size of its row groups can
    be chosen. All connections share the instance, which lives until the last is closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        #: Held by whoever writes, for the length of a transaction: transactions side by side would
        #: conflict on the checkpoint table and double the memory in use.
        self.writing = Lock()
        self._connections: list[Any] = []
        self._instance: Any = None
        self._guard = Lock()

    def connect(self, settings: DuckDBSettings) -> Any:
        """A connection of the caller's own; the file is made if missing.

        Raises Transient while another process has the file open, and Permanent for what a person must
        fix.
        """
        if not self.path.parent.is_dir():
            raise Permanent(
                f"the directory of the warehouse does not exist: {self.path.parent}",
                hint="create it, or change the sink's `path`",
            )
        try:
            with self._guard:
                if self._instance is None:
                    self._instance = self._attached(settings)
                connection = self._instance.cursor()
                self._connections.append(connection)
            self._use(connection)
        except duckdb.Error as error:
            raise translated(error, f"cannot open the warehouse {self.path}") from error
        return connection

    def beside(self, connection: Any) -> Any:
        """A second connection beside one that is open, for a query; who asks for it closes it."""
        cursor = connection.cursor()
        self._use(cursor)
        return cursor

    def _use(self, connection: Any) -> None:
        connection.execute(f"USE {statements.quote(self.name)}")
        connection.execute("SET TimeZone = 'UTC'")

    @property
    def name(self) -> str:
        """What the database is called in the instance: as DuckDB itself calls it."""
        stem = self.path.stem
        return f"{stem}_" if stem.lower() in _RESERVED else stem

    def _attached(self, settings: DuckDBSettings) -> Any:
        instance = duckdb.connect(config=configuration(settings))
        try:
            instance.execute(f"SET temp_directory = {statements.literal(f'{self.path}.tmp')}")
            instance.execute(
                f"ATTACH {statements.literal(str(self.path))} AS {statements.quote(self.name)}"
                f" (ROW_GROUP_SIZE {row_group(settings)})"
            )
            # As a part of the configuration DuckDB ignores it.
            do_not_try(instance, NOT_TRIED[settings.compression])
            # People's queries run here, and see none of this machine's files.
            instance.execute("SET enable_external_access = false")
        except duckdb.Error:
            instance.close()
            raise
        return instance

    def has(self, connection: Any) -> bool:
        """Whether the connection is one of this file's and still open."""
        return any(connection is known for known in self._connections)

    def close(self, connection: Any) -> None:
        """Closes a connection. DuckDB writes its log into the file when the last one goes."""
        with self._guard:
            self._connections = [known for known in self._connections if known is not connection]
            connection.close()
            if not self._connections and self._instance is not None:
                instance, self._instance = self._instance, None
                instance.close()

    def give_up(self) -> None:
        """Closes every connection of the process, since the instance they share is of no use any more.
        Their owners see it by `has` and connect again."""
        for connection in list(self._connections):
            self.close(connection)


@contextmanager
def looking(settings: DuckDBSettings) -> Iterator[Any]:
    """A connection that cannot write, for who looks at a file that no engine has open.

    Raises Permanent where there is no file yet, Transient while another process writes to it.
    """
    path = settings.path.resolve()
    if not path.is_file():
        raise Permanent(
            f"there is no warehouse at {path} yet", hint="it is made when its flow delivers: `cdcflow run`"
        )
    try:
        config = configuration(settings) | {"enable_external_access": "false"}
        connection = duckdb.connect(str(path), read_only=True, config=config)
    except duckdb.Error as error:
        raise translated(error, f"cannot open the warehouse {path}") from error
    try:
        connection.execute("SET TimeZone = 'UTC'")
        yield connection
    finally:
        connection.close()


_files: dict[Path, File] = {}
_files_guard = Lock()


def file_of(settings: DuckDBSettings) -> File:
    path = settings.path.resolve()
    with _files_guard:
        return _files.setdefault(path, File(path))


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
        row = self._row()
        return None if row is None else int(row[0])

    def position(self) -> Position | None:
        """Of the last change before the checkpoint."""
        row = self._row()
        return None if row is None else Position.parse(row[1])

    def _row(self) -> tuple[Any, ...] | None:
        query = statements.READ_CHECKPOINT.format(table=self._table)
        row: tuple[Any, ...] | None = self._connection.execute(query, [self._flow]).fetchone()
        return row

    def flows(self) -> list[str]:
        """Every flow that writes to this file."""
        rows = self._connection.execute(statements.FLOWS.format(table=self._table)).fetchall()
        return [flow for (flow,) in rows]

    def store(self, offset: int, position: str) -> None:
        """Part of the transaction that stores the changes before `offset`."""
        query = statements.UPDATE_CHECKPOINT.format(table=self._table)
        [(updated,)] = self._connection.execute(query, [offset, position, self._flow]).fetchall()
        if not updated:
            query = statements.INSERT_CHECKPOINT.format(table=self._table)
            self._connection.execute(query, [self._flow, offset, position])
