"""The first load: all published rows as of an exported snapshot, into the journal, before the stream.

The simple form. A temporary slot exports a snapshot; its rows are copied; the stream then starts at the
slot's consistent point, so that each row version comes exactly once. Readers of the journal see the
backfill whole or not at all: after a crash it is cut off and begun anew with a new snapshot.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

from cdcflow.decode import CopyDecoder
from cdcflow.errors import SourceUnavailable
from cdcflow.journal import Writer
from cdcflow.model import Relation
from cdcflow.source.connection import connect
from cdcflow.source.copying import copy_out
from cdcflow.source.published import PublishedTable, published_tables
from cdcflow.source.stream import Snapshot, export_snapshot

#: A batch of the backfill: the size at which a frame's cost no longer shows.
BATCH_ROWS = 16_384
BATCH_BYTES = 4 << 20
#: An fsync for each of so many bytes read: the backfill needs none before its end, but the page cache
#: should not hand the disk everything at once.
SYNC_BYTES = 64 << 20


@dataclass(slots=True)
class _Counter:
    rows: int = 0
    ordinal: int = 0
    unsynced: int = 0


def copy_tables(
    dsn: str,
    *,
    publication: str,
    slot: str,
    writer: Writer,
    progress: Callable[[Mapping[str, Any]], None],
    stopping: Callable[[], bool],
) -> int | None:
    """Copies the publication's tables. Returns the LSN at which the stream goes on, which the journal then
    has as its committed LSN, or None when it was stopped half-way: nothing of it will ever be seen.

    Columns and rows are those of the publication (`attnames`, `rowfilter`), so that the backfill and the
    stream agree. Raises SourceError.
    """
    done: list[int] = []

    def hold(snapshot: Snapshot) -> None:
        with connect(dsn, purpose="backfill") as connection:
            _import_snapshot(connection, snapshot)
            if _copy_all(connection, publication, snapshot, writer, progress, stopping):
                done.append(snapshot.consistent_point)

    # The name is ours for the length of one backfill; two engines must not clash on one server.
    export_snapshot(dsn, name=f"{slot[:40]}_backfill_{os.getpid()}", hold=hold)
    return done[0] if done else None


def _import_snapshot(connection: psycopg.Connection[Any], snapshot: Snapshot) -> None:
    connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
    connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot.name)))


def _copy_all(
    connection: psycopg.Connection[Any],
    publication: str,
    snapshot: Snapshot,
    writer: Writer,
    progress: Callable[[Mapping[str, Any]], None],
    stopping: Callable[[], bool],
) -> bool:
    tables = published_tables(connection, publication, snapshot.consistent_point - 1)
    writer.begin_backfill()
    counter = _Counter()
    for number, table in enumerate(tables):
        figures = {
            "table": f"{table.relation.schema}.{table.relation.name}",
            "tables": len(tables),
            "tables_done": number,
            "estimated_rows": sum(max(t.estimated_rows, 0) for t in tables),
        }
        for _ in _copy_table(connection, table, snapshot, writer, counter):
            progress({**figures, "rows": counter.rows})
            if stopping():
                return False
    # The stream's start becomes visible together with the rows: one without the other would be a gap.
    writer.progress(snapshot.consistent_point, time.time_ns() // 1000)
    writer.finish_backfill()
    return True


def _copy_table(
    connection: psycopg.Connection[Any],
    table: PublishedTable,
    snapshot: Snapshot,
    writer: Writer,
    counter: _Counter,
) -> Iterator[None]:
    """Appends one table's rows, batch by batch; yields after each batch."""
    # The byte before the consistent point: behind every transaction that the snapshot shows, before
    # every one that the stream will bring (see Position).
    decoder = CopyDecoder(
        table.relation, snapshot.consistent_point - 1, time.time_ns() // 1000, counter.ordinal
    )

    def append() -> None:
        batch = decoder.take()
        if batch is not None:
            writer.append(batch)
            counter.rows += batch.count
            counter.ordinal = decoder.ordinal

    try:
        query = _copy_statement(table).as_bytes(connection)
        with contextlib.closing(copy_out(connection.pgconn, query)) as blocks:
            for block in blocks:
                decoder.feed([block])
                if decoder.rows >= BATCH_ROWS or decoder.nbytes >= BATCH_BYTES:
                    counter.unsynced += decoder.nbytes
                    append()
                    if counter.unsynced >= SYNC_BYTES:
                        writer.sync()
                        counter.unsynced = 0
                    yield
    except psycopg.OperationalError as error:
        raise SourceUnavailable(
            f"the backfill of {table.relation.qualified} broke off: {' '.join(str(error).split())}"
        ) from error
    append()
    yield


def _copy_statement(table: PublishedTable) -> sql.Composed:
    relation: Relation = table.relation
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in relation.names)
    # ONLY: the rows of inheritance children are published under their own names. A partitioned root has
    # no rows of its own, and is published as a whole.
    only = sql.SQL("") if table.partitioned else sql.SQL("ONLY ")
    where = sql.SQL(f" WHERE {table.row_filter}") if table.row_filter else sql.SQL("")
    name = sql.Identifier(relation.schema, relation.name)
    query = sql.SQL("SELECT {} FROM {}{}{}").format(columns, only, name, where)
    return sql.SQL("COPY ({}) TO STDOUT").format(query)
