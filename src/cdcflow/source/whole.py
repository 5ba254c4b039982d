"""The backfill of a table whose rows nothing tells apart: all under one snapshot, while the stream stands.

No row of such a table can be left out because the stream knows it better. So capture stands still at the
position that an exported snapshot is of, the table is emptied there by a TRUNCATE of ours, and all its rows
follow; then the stream goes on from that very position. What waits meanwhile waits at the server. After a
crash it begins anew, with another TRUNCATE.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pyarrow as pa
from psycopg import sql

import cdcflow.sql
from cdcflow.decode import CopyDecoder
from cdcflow.errors import CdcflowError, SourceError, SourceUnavailable
from cdcflow.journal import Packed, pack
from cdcflow.model import Batch, Group, Op, Position, Relation
from cdcflow.source.connection import connect
from cdcflow.source.copying import copy_out
from cdcflow.source.published import published_tables
from cdcflow.source.reading import LOCK_TIMEOUT, Rewritten, outcome
from cdcflow.source.stream import Snapshot, export_snapshot

#: A frame of it: nothing else is journaled meanwhile, so they may be large.
FRAME_ROWS = 16_384
FRAME_BYTES = 4 << 20

#: So many times as long as the stream may stand for open transactions, they are waited for before.
_WAITS = 12


class NotInTime(SourceUnavailable):
    """The stream would have stood for too long."""


def copy_whole(
    dsn: str,
    publication: str,
    slot: str,
    relation: Relation,
    patience: float,
    halt: Callable[[int], None],
    begin: Callable[[Relation], None],
    put: Callable[[Packed, int], None],
    stopping: Callable[[], bool],
) -> bool:
    """Copies the published rows of a table. Says whether all of them came; not when `stopping` says so.

    Open transactions, and locks, are waited for before the stream stands. Then `halt` returns once it stands
    at the LSN given to it; first at 1, which is wherever it is: the snapshot must not be older than what has
    been streamed. `begin` is called with the table, and `put` for every frame of rows with the bytes of their
    text, all while it stands. Raises NotInTime where it would stand for longer than `patience` seconds before
    the first row, Rewritten where the table is to be looked up anew, and SourceError.
    """
    # Where a connection broke, the server still has the slot of the attempt before for a while.
    name = f"{slot[:40]}_whole_{secrets.token_hex(4)}"

    def exported(hold: Callable[[Snapshot], None], seconds: float) -> None:
        until = time.monotonic() + seconds
        held: list[bool] = []

        def held_once(snapshot: Snapshot) -> None:
            held.append(True)
            hold(snapshot)

        def over() -> bool:
            return stopping() or time.monotonic() > until

        try:
            export_snapshot(dsn, name=name, hold=held_once, stopping=over)
        except psycopg.Error as error:
            raise _meaning(error) from error
        if not held and not stopping():
            raise NotInTime(f"transactions of others are open, and were not over in {seconds:g} s")

    exported(lambda _: _probe(dsn, relation), _WAITS * patience)
    if stopping():
        return False
    halt(1)
    done: list[bool] = []

    def copied(snapshot: Snapshot) -> None:
        with connect(dsn, purpose="backfill whole") as connection:
            connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT}")
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            connection.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(sql.Literal(snapshot.name)))
            found = published_tables(
                connection, publication, snapshot.consistent_point - 1, only=[relation.oid]
            )
            if not found:
                raise Rewritten("the table was dropped, or is not published any more")
            table = found[0]
            _lock(connection, dsn, publication, table.relation)
            begin(table.relation)
            query = sql.SQL("COPY (SELECT {} FROM {}{}{}) TO STDOUT").format(
                sql.SQL(", ").join(map(sql.Identifier, table.relation.names)),
                sql.SQL("" if table.partitioned else "ONLY "),
                sql.Identifier(table.relation.schema, table.relation.name),
                sql.SQL(f" WHERE {table.row_filter}" if table.row_filter else ""),
            )
            for packed, size in _frames(connection, query, table.relation):
                put(packed, size)
                if stopping():
                    return
        done.append(True)

    def hold(snapshot: Snapshot) -> None:
        halt(snapshot.consistent_point)
        if not stopping():
            copied(snapshot)

    exported(hold, patience)
    return bool(done)


def _probe(dsn: str, relation: Relation) -> None:
    """Whether somebody has the table locked, or it has another name."""
    with connect(dsn, purpose="backfill whole") as connection:
        connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT}")
        _share(connection, relation)


def _share(connection: psycopg.Connection[Any], relation: Relation) -> None:
    name = sql.Identifier(relation.schema, relation.name)
    with connection.transaction():
        connection.execute(sql.SQL("LOCK TABLE {} IN ACCESS SHARE MODE").format(name))


def _lock(connection: psycopg.Connection[Any], dsn: str, publication: str, relation: Relation) -> None:
    """Nobody alters the table from here on. Raises Rewritten where somebody has since the snapshot: to this
    one, a table that was truncated or rewritten is empty (manual, 13.6, "Caveats")."""
    _share(connection, relation)
    query, given = cdcflow.sql.load("whole_look"), {"oid": relation.oid, "publication": publication}
    with connect(dsn, purpose="backfill whole") as other:
        now = other.execute(query, given).fetchone()
    if connection.execute(query, given).fetchone() != now:
        raise Rewritten(f"{relation.qualified} was altered")


def _meaning(error: psycopg.Error) -> CdcflowError:
    found = outcome(error)
    text = found["error"]
    if found["status"] == "rewritten":
        return Rewritten(text)
    if found["status"] == "gone":
        return SourceError(text, hint=found["hint"])
    return SourceUnavailable(f"the copy broke off: {text}")


def _frames(
    connection: psycopg.Connection[Any], query: sql.Composed, relation: Relation
) -> Iterator[tuple[Packed, int]]:
    decoder = CopyDecoder(relation, 0, time.time_ns() // 1000)

    def taken() -> Iterator[tuple[Packed, int]]:
        size = decoder.nbytes
        batch = decoder.take()
        if batch is not None:
            yield pack(batch.groups[0]), size

    with contextlib.closing(copy_out(connection.pgconn, query.as_bytes(connection))) as blocks:
        for block in blocks:
            decoder.feed([block])
            if decoder.rows >= FRAME_ROWS or decoder.nbytes >= FRAME_BYTES:
                yield from taken()
    yield from taken()


def emptied(relation: Relation, at: Position, time_us: int, audience: tuple[str, ...]) -> Batch:
    """A TRUNCATE of ours."""
    schema = Group.schema(relation, old=False, unchanged=False)
    values: list[object] = [0, int(Op.TRUNCATE), at.commit_lsn, at.ordinal, 0, time_us]
    values += [None] * len(relation.columns)
    arrays = [pa.array([value], field.type) for value, field in zip(values, schema, strict=True)]
    group = Group(relation, pa.RecordBatch.from_arrays(arrays, schema=schema), False, False)
    return Batch((group,), 1, at, truncates={0: 0}, audience=audience)
