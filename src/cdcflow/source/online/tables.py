"""What a backfill must know of its tables: from the server's catalog, and from the journal."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import psycopg

import cdcflow.sql
from cdcflow.journal import Reader
from cdcflow.model import Group, Op
from cdcflow.source.connection import answering, connect
from cdcflow.source.online.board import TICK, Board
from cdcflow.source.online.task import Task
from cdcflow.source.plan import Plan
from cdcflow.source.published import PublishedTable, published_tables
from cdcflow.source.reading import MARK

_PARTS = "backfill_parts"


class Tables:
    """Over one connection, which is made when it is needed. Raises CdcflowError and psycopg.Error."""

    def __init__(self, board: Board, dsn: str, publication: str, journal: Path) -> None:
        self._board = board
        self._dsn = dsn
        self._publication = publication
        self._journal = journal
        self._connection: psycopg.Connection[Any] | None = None

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def durable(self, offset: int) -> bool:
        """Whether the journal's durable part reaches up to there."""
        with Reader(self._journal) as reader:
            return reader.head().offset >= offset

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = connect(self._dsn, purpose="backfill plan")
        return self._connection

    def _execute(self, query: str, given: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        connection = self._connected()
        with answering(connection.fileno()):
            return connection.execute(query, given).fetchall()

    def lookup(self, task: Task) -> PublishedTable | None:
        """The table as it is published now; None where the task has failed for want of it."""
        if task.oid:
            oid = task.oid
        else:
            rows = self._execute(
                "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname || '.' || c.relname = %s",
                (task.table,),
            )
            if len(rows) != 1:
                found = "two tables have the name" if rows else "there is no table"
                self._board.fail(task, f"{found} {task.table}")
                return None
            [[oid]] = rows
        connection = self._connected()
        with answering(connection.fileno()):
            published = published_tables(connection, self._publication, 0, only=[oid])
        if not published:
            gone = not self._execute("SELECT FROM pg_class WHERE oid = %s", (oid,))
            self._board.fail(
                task,
                f"the table {task.table} was dropped"
                if gone
                else f"the table {task.table} is not in the publication {self._publication} any more",
                "`cdcflow backfill cancel` ends it"
                if gone
                else "run `cdcflow setup`, then `cdcflow backfill resume`",
            )
            return None
        table = published[0]
        task.whole = table.relation.full or not table.relation.key
        if task.whole and not task.request.halt:
            self._board.fail(
                task,
                f"the table {task.table} has no key by which its rows can be told apart",
                "give it a primary key, or REPLICA IDENTITY USING INDEX; or start its backfill with --halt",
            )
            return None
        if task.whole and task.request.where:
            self._board.fail(
                task,
                f"the table {task.table} has no key any more by which its rows can be told apart",
                "start it without --where: destinations are emptied before, and would hold no other rows",
            )
            return None
        task.oid, task.relation, task.partitioned = oid, table.relation, table.partitioned
        return table

    def plan(self, task: Task) -> None:
        """Finds the files that hold the table's rows, and what of them is not read yet. Anything that comes
        into being behind their present end is in the stream."""
        rows = self._execute(cdcflow.sql.load(_PARTS), {"oid": task.oid})
        task.parts, pages = {}, {}
        for oid, schema, name, kind, file, size, _, _ in rows:
            if kind not in ("r", "m"):
                self._board.fail(
                    task,
                    f"{schema}.{name}, a part of {task.table}, is a foreign table",
                    "detach it, or exclude the table",
                )
                return
            key = f"{oid}:{file}"
            pages[key] = size
            task.parts[key] = part(task, oid, schema, name, file)
        if not rows and not task.partitioned:
            self._board.fail(task, f"the table {task.table} was dropped")
            return
        task.pages = sum(pages.values())
        task.table_bytes = sum(row[6] for row in rows)
        known = [row[7] for row in rows if row[7] >= 0]
        task.estimated_rows = sum(known) if known or not rows else -1
        work = self._board.ledger.open.get(task.work)
        task.plan = Plan(pages, work.parts if work else {}, self._board.readers)

    def journaled(self, oid: int, start: int, end: int) -> list[Group]:
        """The stream's changes of a table between two offsets."""
        found = []
        with Reader(self._journal) as reader:
            offset = max(start, reader.first_offset())
            while offset < end:
                batches = reader.read(offset, max_changes=100_000, max_bytes=16 << 20)
                if not batches:
                    break
                for batch in batches:
                    found += [
                        group
                        for group in batch.groups
                        if group.relation.oid == oid
                        and group.relation.key
                        and not group.relation.full
                        and group.meta("op")[0].as_py() != Op.READ
                    ]
                offset = batches[-1].end
        return found

    def nudge(self) -> None:
        """Where a chunk waits for the stream, and nothing else happens at the server, makes it say how far
        it is."""
        with self._board.lock:
            waiting = bool(self._board.arrivals) and time.monotonic() - self._board.head_since > 2 * TICK
        if waiting:
            if not self._execute("SELECT pg_is_in_recovery()")[0][0]:
                self._execute(MARK.decode())
            self._board.head_since = time.monotonic()
            self._board.wake()


def part(task: Task, oid: int, schema: str, name: str, file: int | None) -> dict[str, Any]:
    """What a reader must know of a table, or of a part of it."""
    return {
        "root": task.oid,
        "leaf": oid,
        "schema": schema,
        "name": name,
        "file": file,
        "where": task.request.where,
        "columns": list(task.request.columns),
    }
