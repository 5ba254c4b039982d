"""A process that reads chunks of tables for a backfill: each in a short transaction of its own, out by COPY,
decoded, packed as the journal stores it. Capture owns it and does nothing of this itself, so that a
backfill takes no time of the thread that follows the stream.

    python -m cdcflow.source.reading

Jobs come on stdin and answers go to stdout, each a msgpack map behind its length in four bytes; an answer's
key texts (Arrow IPC) and packed rows follow as bytes. It ends with stdin, and with its parent.
"""

import contextlib
import ctypes
import gc
import os
import signal
import struct
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import msgpack
import psycopg
import pyarrow as pa
from psycopg import pq, sql

import cdcflow.sql
from cdcflow.decode import CopyDecoder
from cdcflow.errors import CdcflowError, SourceError, SourceUnavailable
from cdcflow.journal import Key, pack
from cdcflow.model import Batch, Group, Op, Relation, parse_lsn
from cdcflow.source import plan
from cdcflow.source.connection import connect
from cdcflow.source.copying import copy_out, failed
from cdcflow.source.published import PublishedTable, published_tables
from cdcflow.source.visible import key_texts

#: Bytes of COPY's text that make a chunk: some 20 ms of reading. Small, because live changes wait while a
#: chunk is written to the journal; large enough that the transaction around it costs little.
TARGET_BYTES = 2 << 20
#: Rows that make a chunk.
TARGET_ROWS = 20_000
#: A chunk that grows beyond this is given up and cut into smaller ones: rows with large TOASTed values.
LIMIT_BYTES = 16 << 20
#: A place in a table is a page and an offset in it: see `place`.
PAGE = plan.PAGE
#: More row pointers than any page has (MaxHeapTuplesPerPage is 291 with pages of 8 kB, 1165 with 32 kB).
OFFSETS = 1_200
#: Pages of the first chunk of a table, before its density is known; one, where rows a second are limited.
FIRST_PAGES = 16
#: Milliseconds to wait for a lock; somebody's DDL must not be joined in a queue for long.
LOCK_TIMEOUT = 2_000
#: Below what serves live changes, wherever there are not enough cores.
NICENESS = 10

_PR_SET_PDEATHSIG = 1
_LENGTH = struct.Struct(">I")

#: What the server says where its catalog's functions meet a table that somebody drops meanwhile: this one, or
#: another one of the publication. Internal errors are not translated.
_VANISHED = ("could not open relation with OID", "cache lookup failed for")

_BEGIN = b"BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
#: Makes the server say that it has come so far, also where nothing else happens.
MARK = b"SELECT pg_logical_emit_message(true, 'cdcflow.backfill', '')"


class Rewritten(CdcflowError):
    """The table is not what the job says, and must be looked up anew: its rows have other places now, or it
    is gone."""


class TooLarge(Exception):
    """The chunk would exceed LIMIT_BYTES."""


def place(tid: int) -> str:
    """A place as a ctid."""
    return f"({tid // PAGE},{tid % PAGE})"


def next_width(width: int, rows: int, nbytes: int, target: int = TARGET_ROWS) -> int:
    """How far the next chunk should reach, when one of `width` held so much and `target` rows are wanted.
    Pure."""
    share = max(nbytes / TARGET_BYTES, rows / target)
    if share <= 0:
        return width * 8
    # Density varies: never more than eight times as far at once.
    wanted = int(width * min(max(1 / share, 0.125), 8))
    return max(wanted // PAGE * PAGE, PAGE) if wanted >= PAGE else max(wanted, 1)


def narrower(low: int, high: int) -> int | None:
    """The width of a chunk smaller than [low, high); None where that is a single row already. Pure."""
    pages = -(-high // PAGE) - low // PAGE
    if pages > 1:
        return max((high - low) // 4 // PAGE * PAGE, PAGE)
    offsets = min(high - low, OFFSETS)
    return None if offsets <= 1 else max(offsets // 4, 1)


def chunk_end(low: int, high: int, width: int) -> int:
    """Where a chunk from `low` ends that reaches about `width`, within [low, high). Pure."""
    end = low + width
    if width < PAGE and end % PAGE < OFFSETS and end // PAGE == low // PAGE:
        return min(end, high)  # inside of a page
    return min(max(end // PAGE * PAGE, (low // PAGE + 1) * PAGE), high)


@dataclass(frozen=True)
class Table:
    """What a job says of its table: `leaf` holds the rows, `root` is published."""

    root: int
    leaf: int
    schema: str
    name: str
    #: None: it is partitioned, and only read by key.
    file: int | None
    where: str
    columns: tuple[str, ...]

    @property
    def qualified(self) -> str:
        return f"{self.schema}.{self.name}"


@dataclass
class _Known:
    """A table as it was when last looked up."""

    signature: str
    published: PublishedTable
    #: The columns that are read: all, or some of them.
    read: Relation


class Reading:
    """Does jobs, one after the other, over one connection that is made when it is needed."""

    def __init__(self, dsn: str, publication: str) -> None:
        self._dsn = dsn
        self._publication = publication
        self._connection: psycopg.Connection[Any] | None = None
        self._known: dict[tuple[int, int, tuple[str, ...]], _Known] = {}
        self._widths: dict[int, int] = {}
        self._statement = cdcflow.sql.load("chunk_look")

    def connect(self) -> None:
        """Makes the connection, where there is none. Raises as `do` does."""
        if self._connection is None:
            self._connection = connect(self._dsn, purpose="backfill")
            self._connection.execute(f"SET lock_timeout = {LOCK_TIMEOUT}")
            # A mark is a commit, and waits for this server's disk only.
            self._connection.execute("SET synchronous_commit = local")

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
        self._known.clear()

    def do(self, job: Mapping[str, Any]) -> tuple[dict[str, Any], Sequence[Any]]:
        """The answer to a job, and what follows it. Raises CdcflowError and psycopg.Error."""
        table = Table(**{**job["table"], "columns": tuple(job["table"]["columns"])})
        self.connect()
        if "keys" in job:
            condition = self._keys_condition(table, job["key"], [tuple(key) for key in job["keys"]])
            return self._chunk(table, condition, limit=None)
        low, high = job["low"], job["high"]
        first = FIRST_PAGES if job["rows"] is None else 1
        width = self._widths.get(table.leaf, first * PAGE)
        while True:
            end = chunk_end(low, high, width)
            smaller = narrower(low, end)
            condition = sql.SQL("ctid >= {} AND ctid < {}").format(
                sql.Literal(place(low)) + sql.SQL("::tid"), sql.Literal(place(end)) + sql.SQL("::tid")
            )
            try:
                answer, rest = self._chunk(table, condition, None if smaller is None else LIMIT_BYTES)
            except TooLarge:
                assert smaller is not None
                width = smaller
                continue
            break
        self._widths[table.leaf] = next_width(
            end - low, answer["rows"], answer["bytes"], min(job.get("rows") or TARGET_ROWS, TARGET_ROWS)
        )
        answer |= {"low": low, "high": end}
        return answer, rest

    @staticmethod
    def _packed(answer: dict[str, Any], group: Group | None) -> Sequence[Any]:
        if group is None:
            return ()
        keys = key_texts([group.new(column) for column in group.relation.key])
        batch = pa.RecordBatch.from_arrays([keys], ["key"])
        key_bytes = batch.serialize()
        packed = pack(group)
        answer |= {
            "relation": group.relation.to_state(),
            "unchanged": packed.unchanged,
            "plain": packed.plain,
            "weight": packed.weight,
            "time": packed.time,
            "sizes": [key_bytes.size, packed.message.size],
        }
        return key_bytes, packed.message

    def _chunk(
        self, table: Table, condition: sql.Composable, limit: int | None
    ) -> tuple[dict[str, Any], Sequence[Any]]:
        """Reads what fits the condition: the answer so far, and what follows it."""
        connection = self._connection
        assert connection is not None
        pgconn = connection.pgconn
        now = time.time_ns() // 1000
        try:
            look = self._look(pgconn, table)
            known = self._lookup(table, look[4], parse_lsn(str(look[1])))
            if known.published.relation.full or not known.published.relation.key:
                raise Rewritten(f"{table.qualified} has no key any more that tells its rows apart")
            query = _copy_statement(table, known, condition)
            batch, size = self._copy(pgconn, query.as_bytes(connection), known.read, now, limit)
            standby = look[2] == "t"
            # COPY has locked the table; before, the snapshot may have been older than the files, and the name
            # another table's: what has it by now is what COPY has read.
            check = self._check_query(table).as_bytes(connection)
            pgconn.send_query(check + (b"; COMMIT" if standby else b"; COMMIT; " + MARK))
            # The mark waits for the server's disk: time in which the rows are packed.
            group = None if batch is None else _whole(batch.groups[0], known.published.relation)
            answer = {
                "snapshot": look[0],
                "standby": standby,
                "lsn": parse_lsn(str(look[1])),
                "rows": 0 if group is None else len(group),
                "bytes": size,
            }
            rest = self._packed(answer, group)
            first = _results(pgconn)[0]
            if table.file is not None and int(first.get_value(0, 0) or 0) != table.file:
                raise Rewritten(f"{table.qualified} was rewritten")
            if int(first.get_value(0, 1) or 0) != table.leaf:
                raise Rewritten(f"{table.qualified} has another name")
        except BaseException:
            with contextlib.suppress(psycopg.Error):
                if pgconn.transaction_status != pq.TransactionStatus.IDLE:
                    _execute(pgconn, b"ROLLBACK")
            raise
        return answer, rest

    def _look(self, pgconn: pq.abc.PGconn, table: Table) -> list[str | None]:
        """Begins the chunk's transaction with the snapshot that all of it has."""
        assert self._connection is not None
        given = {"leaf": table.leaf, "root": table.root, "publication": self._publication}
        values = {name: sql.Literal(value) for name, value in given.items()}
        statement = sql.SQL(self._statement.replace("%(", "{").replace(")s", "}")).format(**values)
        [found] = _rows(pgconn, _BEGIN + statement.as_bytes(self._connection))
        if table.file is not None and int(found[3] or 0) != table.file:
            raise Rewritten(f"{table.qualified} was rewritten")
        if found[5] != "t":
            raise Rewritten(f"{table.qualified} was detached")
        return found

    @staticmethod
    def _check_query(table: Table) -> sql.Composed:
        return sql.SQL("SELECT pg_relation_filenode({}::oid::regclass), to_regclass({})::oid").format(
            sql.Literal(table.leaf), sql.Literal(sql.Identifier(table.schema, table.name).as_string())
        )

    def _lookup(self, table: Table, signature: str | None, lsn: int) -> _Known:
        """The table as the chunk's snapshot, of the position `lsn`, sees it."""
        name = (table.root, table.leaf, table.columns)
        known = self._known.get(name)
        if known is None or known.signature != signature:
            assert self._connection is not None
            found = published_tables(self._connection, self._publication, lsn, only=[table.root])
            if not found:
                raise Rewritten(f"the publication {self._publication} does not hold {table.qualified}")
            known = _Known(str(signature), found[0], read_relation(found[0].relation, table.columns))
            self._known[name] = known
        return known

    def _keys_condition(self, table: Table, names: Sequence[str], keys: Sequence[Key]) -> sql.Composable:
        """Rows by the columns of their key. Values are cast to the columns' own types, so that an index is
        used."""
        known = self._known.get((table.root, table.leaf, table.columns))
        assert self._connection is not None
        if known is None:
            found = published_tables(self._connection, self._publication, 0, only=[table.root])
            if not found:
                raise Rewritten(f"the publication {self._publication} does not hold {table.qualified}")
            relation = found[0].relation
        else:
            relation = known.published.relation
        if names != [relation.names[i] for i in relation.key]:
            raise Rewritten(f"the key of {table.qualified} was altered")
        rows = self._connection.execute(
            "SELECT attname, format_type(atttypid, atttypmod) FROM pg_attribute"
            " WHERE attrelid = %s AND attname = ANY (%s)",
            (table.root, list(names)),
        ).fetchall()
        types = dict(rows)
        if set(types) != set(names):
            raise Rewritten(f"the key of {table.qualified} was altered")
        values = sql.SQL(", ").join(
            sql.SQL("({})").format(
                sql.SQL(", ").join(
                    sql.SQL("{}::{}").format(sql.Literal(value), sql.SQL(types[name]))
                    for name, value in zip(names, key, strict=True)
                )
            )
            for key in keys
        )
        columns = sql.SQL(", ").join(map(sql.Identifier, names))
        return sql.SQL("({}) IN (VALUES {})").format(columns, values)

    @staticmethod
    def _copy(
        pgconn: pq.abc.PGconn, query: bytes, relation: Relation, now: int, limit: int | None
    ) -> tuple[Batch | None, int]:
        """The rows, and the bytes of their text. Raises TooLarge."""
        decoder = CopyDecoder(relation, 0, now)
        with contextlib.closing(copy_out(pgconn, query)) as blocks:
            for block in blocks:
                if limit is not None and decoder.nbytes + len(block) > limit:
                    raise TooLarge
                decoder.feed([block])
        size = decoder.nbytes
        return decoder.take(), size


def read_relation(relation: Relation, columns: Sequence[str]) -> Relation:
    """The relation as a chunk reads it: all columns, or its key and the wanted ones. Raises SourceError for
    names that it has not."""
    if not columns:
        return relation
    missing = [name for name in columns if name not in relation.names]
    if missing:
        raise SourceError(f"{relation.qualified} has no published column {missing[0]}")
    kept = tuple(column for column in relation.columns if column.key or column.name in columns)
    return Relation(relation.oid, relation.schema, relation.name, relation.replica_identity, kept)


def _whole(group: Group, relation: Relation) -> Group:
    """Rows of some columns as rows of all, with the others unchanged."""
    if group.relation.names == relation.names:
        return Group(relation, group.data, False, False)
    rows = len(group)
    bits = bytearray((len(relation.columns) + 7) // 8)
    columns = [group.data.column(i) for i in range(6)]
    for i, name in enumerate(relation.names):
        if name in group.relation.names:
            columns.append(group.new(group.relation.names.index(name)))
        else:
            bits[i >> 3] |= 1 << (i & 7)
            columns.append(pa.nulls(rows, pa.string()))
    columns.append(pa.repeat(pa.scalar(bytes(bits), pa.binary()), rows))
    schema = Group.schema(relation, old=False, unchanged=True)
    assert group.meta("op")[0].as_py() == Op.READ
    return Group(relation, pa.RecordBatch.from_arrays(columns, schema=schema), False, True)


def _copy_statement(table: Table, known: _Known, condition: sql.Composable) -> sql.Composed:
    columns = sql.SQL(", ").join(sql.Identifier(name) for name in known.read.names)
    conditions = [condition]
    if known.published.row_filter:
        conditions.append(sql.SQL(f"({known.published.row_filter})"))
    if table.where:
        # On lines of its own, so that a comment at its end does not swallow what follows.
        conditions.append(sql.SQL("(\n{}\n)").format(sql.SQL(table.where)))
    only = sql.SQL("" if table.file is None else "ONLY ")
    return sql.SQL("COPY (SELECT {} FROM {}{} WHERE {}) TO STDOUT").format(
        columns, only, sql.Identifier(table.schema, table.name), sql.SQL(" AND ").join(conditions)
    )


def _execute(pgconn: pq.abc.PGconn, query: bytes) -> pq.abc.PGresult:
    result = pgconn.exec_(query)
    if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
        raise failed(result)
    return result


def _results(pgconn: pq.abc.PGconn) -> list[pq.abc.PGresult]:
    """The results of all statements that were sent, once there are all."""
    results = []
    while (result := pgconn.get_result()) is not None:
        results.append(result)
    for result in results:
        if result.status not in (pq.ExecStatus.COMMAND_OK, pq.ExecStatus.TUPLES_OK):
            raise failed(result)
    return results


def _rows(pgconn: pq.abc.PGconn, query: bytes) -> list[list[str | None]]:
    result = _execute(pgconn, query)
    found = []
    for row in range(result.ntuples):
        values = [result.get_value(row, column) for column in range(result.nfields)]
        found.append([None if value is None else value.decode() for value in values])
    return found


def outcome(error: Exception) -> dict[str, Any]:
    """What an error means for the backfill: `rewritten`, `gone` (nothing can mend it), `wait` (a lock), or
    `unavailable` (the connection is of no more use)."""
    if isinstance(error, Rewritten):
        return {"status": "rewritten", "error": str(error)}
    if isinstance(error, psycopg.errors.LockNotAvailable):
        return {"status": "wait", "error": "somebody holds a lock on the table"}
    if isinstance(error, SourceUnavailable | psycopg.OperationalError):
        return {"status": "unavailable", "error": " ".join(str(error).split())}
    hint = error.hint if isinstance(error, CdcflowError) else ""
    text = " ".join(str(error).split())
    vanished = isinstance(error, psycopg.errors.InternalError_) and text.startswith(_VANISHED)
    if vanished or isinstance(error, psycopg.errors.UndefinedColumn | psycopg.errors.UndefinedTable):
        # Dropped or renamed: looked up anew, and what is gone for good is found to be so.
        return {"status": "rewritten", "error": text}
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        hint = (
            "grant SELECT on it to cdcflow's role, and BYPASSRLS where row-level security filters it; then"
            " `cdcflow backfill resume`"
        )
    return {"status": "gone", "error": text, "hint": hint}


def read_exactly(stream: IO[bytes], size: int) -> bytes:
    """Raises EOFError where the stream ends before."""
    data = stream.read(size)
    if len(data) != size:
        raise EOFError
    return data


def receive(stream: IO[bytes]) -> dict[str, Any]:
    """The next map. Raises EOFError at the stream's end."""
    (size,) = _LENGTH.unpack(read_exactly(stream, _LENGTH.size))
    found: dict[str, Any] = msgpack.unpackb(read_exactly(stream, size))
    return found


def send(stream: IO[bytes], message: Mapping[str, Any], rest: Sequence[Any] = ()) -> None:
    packed: bytes = msgpack.packb(message)
    stream.write(_LENGTH.pack(len(packed)) + packed)
    for part in rest:
        stream.write(part)
    stream.flush()


def main() -> int:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with contextlib.suppress(OSError):
        os.nice(NICENESS)
    jobs = sys.stdin.buffer
    # What has been imported stays: the collector need not look through it again for every chunk.
    gc.freeze()
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    try:
        first = receive(jobs)
        reading = Reading(first["dsn"], first["publication"])
        # What fails now is told when there is a job.
        with contextlib.suppress(CdcflowError, psycopg.Error):
            reading.connect()
        while True:
            job = receive(jobs)
            try:
                answer, rest = reading.do(job)
                answer["status"] = "chunk"
            except (CdcflowError, psycopg.Error) as error:
                answer, rest = outcome(error), ()
                reading.close()
            send(answers, answer, rest)
    except (EOFError, BrokenPipeError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
