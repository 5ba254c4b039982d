"""The replication connection: COPY BOTH over libpq, and the only file with a socket of ours.

psycopg has no replication API; its `pq` layer has all of libpq that it takes. One thread owns the
connection. Protocol: PostgreSQL manual, "Streaming Replication Protocol".
"""

import select
import struct
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import psycopg
from psycopg import pq

from cdcflow.errors import SourceError, SourceUnavailable
from cdcflow.model import format_lsn, parse_lsn
from cdcflow.source.connection import (
    answering,
    connect_replication,
    failure,
    quote_identifier,
    quote_literal,
)

#: 2000-01-01 in Unix time: replication timestamps are microseconds since then.
_EPOCH = 946_684_800
_STATUS = struct.Struct(">cQQQqB")

#: Milliseconds between two looks at whether an answer is still waited for.
ANSWER_MS = 100

#: Bytes that one `read` collects before it returns: the decoder's working set stays in the cache.
READ_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Snapshot:
    """An exported snapshot, and the LSN at which the stream goes on from it."""

    name: str
    consistent_point: int


class Stream:
    """A walsender's stream of messages, read without blocking.

    `read` and `wait` return what is there and when something may be; `status` tells the server how far
    we are. Every failure is a SourceError; SourceUnavailable where reconnecting may help.
    """

    def __init__(self, connection: pq.abc.PGconn) -> None:
        self._connection = connection
        self._everything = select.poll()
        self._everything.register(connection.socket, select.POLLIN)
        self._others = select.poll()

    @classmethod
    def start(
        cls,
        dsn: str,
        *,
        slot: str,
        publications: Sequence[str],
        position: int,
        messages: bool,
        origin: Literal["any", "none"] = "any",
    ) -> Self:
        """Streams `publications` through `slot`, from `position` or where the slot is, if that is later, and
        logical `messages` where they are wanted. `origin` none leaves out what was replicated to here, and
        needs PostgreSQL 16."""
        options = ["messages 'true'"] if messages else []
        options += ["origin 'none'"] if origin == "none" else []
        connection = connect_replication(dsn, purpose="capture")
        return cls._stream(connection, slot, publications, position, options)

    @classmethod
    def start_temporary(cls, dsn: str, *, slot: str, publications: Sequence[str], messages: bool) -> Self:
        """Streams what is committed from now on through a slot that goes away with the connection."""
        connection = connect_replication(dsn, purpose="tail")
        name = quote_identifier(slot)
        command = f"CREATE_REPLICATION_SLOT {name} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'nothing')"
        result = connection.exec_(command.encode())
        if result.status != pq.ExecStatus.TUPLES_OK:
            connection.finish()
            raise failure(result, "no temporary slot can be made")
        return cls._stream(connection, slot, publications, 0, ["messages 'true'"] if messages else [])

    @classmethod
    def _stream(
        cls,
        connection: pq.abc.PGconn,
        slot: str,
        publications: Sequence[str],
        position: int,
        more: Sequence[str],
    ) -> Self:
        # The option is a list of identifiers, inside a literal.
        names = quote_literal(",".join(map(quote_identifier, publications)))
        options = ", ".join(["proto_version '1'", f"publication_names {names}", *more])
        command = (
            f"START_REPLICATION SLOT {quote_identifier(slot)} LOGICAL {format_lsn(position)} ({options})"
        )
        try:
            with answering(connection.socket):
                result = connection.exec_(command.encode())
            if result.status != pq.ExecStatus.COPY_BOTH:
                raise failure(result, f"the slot {slot!r} cannot be streamed")
            connection.nonblocking = 1
        except BaseException:
            connection.finish()
            raise
        return cls(connection)

    def close(self) -> None:
        self._connection.finish()

    def fileno(self) -> int:
        return self._connection.socket

    def also_wake_on(self, fd: int) -> None:
        """Makes `wait` return too when `fd` can be read."""
        self._everything.register(fd, select.POLLIN)
        self._others.register(fd, select.POLLIN)

    def wait(self, timeout: float, *, reading: bool) -> None:
        """Returns when the server has sent something (only while `reading`), another descriptor wakes
        us, or after `timeout` seconds."""
        waiting = self._everything if reading else self._others
        waiting.poll(max(timeout, 0.001) * 1000)

    def read(self, limit: int = READ_BYTES) -> list[memoryview]:
        """The complete CopyData payloads that are here, up to about `limit` bytes. Never blocks."""
        connection = self._connection
        get = connection.get_copy_data
        frames: list[memoryview] = []
        size = 0
        fresh = False
        while size < limit:
            length, data = get(1)
            if length > 0:
                frames.append(data)
                size += length
                fresh = False
            elif length == 0:
                if fresh:
                    # Read just now and still no whole message: the socket is drained, or a large value
                    # is under way and the next poll says when there is more of it.
                    break
                self._consume()
                fresh = True
            else:
                raise self._ended()
        return frames

    def _consume(self) -> None:
        try:
            self._connection.consume_input()
        except Exception as error:
            raise SourceUnavailable(f"the connection to the database broke: {_plain(error)}") from error

    def _ended(self) -> SourceError:
        result = self._connection.get_result()
        if result is not None and result.status == pq.ExecStatus.FATAL_ERROR:
            return failure(result, "the server ended the stream")
        return SourceUnavailable("the server ended the stream")

    def status(self, *, received: int, durable: int, ask: bool = False) -> None:
        """A standby status update: what was received, and what is fsynced and never needed again.

        `ask` wants an answer at once, to find out whether the server is still there.
        """
        now = int((time.time() - _EPOCH) * 1_000_000)
        message = _STATUS.pack(b"r", max(received, durable), durable, durable, now, ask)
        try:
            self._connection.put_copy_data(message)
            self._connection.flush()
        except Exception as error:
            raise SourceUnavailable(f"the connection to the database broke: {_plain(error)}") from error


def export_snapshot(
    dsn: str,
    *,
    name: str,
    hold: Callable[[Snapshot], None],
    stopping: Callable[[], bool] = lambda: False,
) -> None:
    """Makes a temporary slot, whose snapshot stays importable while `hold` runs, and drops it again.

    That takes as long as transactions are open that have written something: `stopping` says whether to wait
    for them no longer, and `hold` is not called then.

    The snapshot shows exactly the transactions whose commit record starts before the consistent point;
    a stream from there brings exactly the others (manual: CREATE_REPLICATION_SLOT, `SNAPSHOT 'export'`).
    """
    connection = connect_replication(dsn, purpose="backfill")
    try:
        command = (
            f"CREATE_REPLICATION_SLOT {quote_identifier(name)} TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"
        )
        result = _result(connection, command, stopping)
        if result is None:
            return
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise failure(result, "no snapshot can be exported for the backfill")
        point, snapshot = result.get_value(0, 1), result.get_value(0, 2)
        assert point is not None
        assert snapshot is not None
        try:
            hold(Snapshot(snapshot.decode(), parse_lsn(point.decode())))
        finally:
            # The server would drop it some time after the connection's end, while another may need its place.
            with answering(connection.socket):
                connection.exec_(f"DROP_REPLICATION_SLOT {quote_identifier(name)}".encode())
    finally:
        connection.finish()


def _result(connection: pq.abc.PGconn, command: str, stopping: Callable[[], bool]) -> pq.abc.PGresult | None:
    """What the server answers; None where `stopping` came first."""
    connection.send_query(command.encode())
    poll = select.poll()
    poll.register(connection.socket, select.POLLIN)
    stopped = False
    try:
        while connection.is_busy():
            if not stopped and stopping():
                stopped = True
                connection.get_cancel().cancel()
            poll.poll(ANSWER_MS)
            connection.consume_input()
    except psycopg.OperationalError as error:
        raise SourceUnavailable(f"the connection to the database broke: {_plain(error)}") from error
    result = connection.get_result()
    return None if stopped else result


def timeline_history(dsn: str, timeline: int) -> str:
    """The history file of a timeline: where each of its ancestors was left. Raises SourceError."""
    connection = connect_replication(dsn, purpose="timeline")
    try:
        with answering(connection.socket):
            result = connection.exec_(f"TIMELINE_HISTORY {timeline}".encode())
        if result.status != pq.ExecStatus.TUPLES_OK:
            raise failure(result, f"the history of timeline {timeline} cannot be read")
        return (result.get_value(0, 1) or b"").decode(errors="replace")
    finally:
        connection.finish()


def _plain(error: Exception) -> str:
    return " ".join(str(error).split())
