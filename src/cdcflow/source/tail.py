"""Live changes with nothing but a DSN: a temporary slot and, where none is given, publications of its own.

Leaves nothing behind: the slot ends with the connection, the publications are dropped at the end, and
those of a `tail` that was killed are dropped by the next one.
"""

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg
from psycopg import sql

import cdcflow.sql
from cdcflow.decode import Decoder
from cdcflow.errors import ConfigurationError, SourceError
from cdcflow.model import Batch, PrefixPatterns
from cdcflow.model.patterns import TablePatterns
from cdcflow.source.connection import connect
from cdcflow.source.stream import Stream

#: Publications of `tail` are called cdcflow_tail_<backend pid>_<kind>.
PREFIX = "cdcflow_tail_"
#: Seconds between two status updates; far below any sane wal_sender_timeout.
STATUS_INTERVAL = 3.0


def tail(
    dsn: str,
    *,
    tables: Sequence[str],
    publication: str | None,
    messages: PrefixPatterns,
    stopping: Callable[[], bool],
    ready: Callable[[list[str]], None],
    wake_on: int | None = None,
) -> Iterator[Batch]:
    """Yields batches of what is committed from now on, until `stopping` says so.

    Watches the tables of `publication`, or all that match `tables`, or none where only `messages` are
    given: logical messages with these prefixes. Calls `ready` with the names of the watched tables once
    the stream runs. When the descriptor `wake_on` can be read, it looks at `stopping` at once, else within
    `STATUS_INTERVAL`. Raises SourceError, and ConfigurationError when no table matches.
    """
    with contextlib.ExitStack() as stack:
        control = stack.enter_context(connect(dsn, purpose="tail"))
        if publication is not None:
            publications, names = [publication], _published(control, publication)
        else:
            publications, names = _publish(control, tables, bool(messages))
            stack.callback(_drop, control, publications)
        stream = Stream.start_temporary(
            dsn, slot=f"{PREFIX}{os.getpid()}", publications=publications, messages=bool(messages)
        )
        stack.callback(stream.close)
        if wake_on is not None:
            stream.also_wake_on(wake_on)
        ready(names)
        yield from _batches(stream, Decoder(prefixes=messages), stopping)


def _batches(stream: Stream, decoder: Decoder, stopping: Callable[[], bool]) -> Iterator[Batch]:
    while not stopping():
        frames = stream.read()
        decoder.feed(frames)
        while decoder.sealed or (decoder.rows and not decoder.in_transaction):
            batch = decoder.take()
            if batch is not None:
                yield batch
        # Nothing is kept, so all that was seen is done with.
        if decoder.reply_requested or not frames:
            stream.status(received=decoder.wal_end, durable=decoder.committed)
            decoder.reply_requested = False
        if not frames:
            stream.wait(STATUS_INTERVAL, reading=True)


def _published(control: psycopg.Connection[Any], publication: str) -> list[str]:
    rows = control.execute(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s ORDER BY 1",
        (publication,),
    ).fetchall()
    if not rows:
        raise SourceError(
            f"the publication {publication!r} does not exist or publishes no table",
            hint="run `cdcflow setup`, or give a DSN and `--table` to watch tables without it",
        )
    return [name for (name,) in rows]


def _publish(
    control: psycopg.Connection[Any], tables: Sequence[str], messages: bool
) -> tuple[list[str], list[str]]:
    """Makes publications for the matching tables. Returns their names and the tables' names."""
    _drop_orphans(control)
    if messages and not tables:
        # pgoutput does not run without a publication; one of no tables takes nobody's rights.
        name = f"{PREFIX}{control.info.backend_pid}_all"
        control.execute(sql.SQL("CREATE PUBLICATION {}").format(sql.Identifier(name)))
        return [name], []
    patterns = TablePatterns(tables or ["*.*"])
    found = [row for row in control.execute(cdcflow.sql.load("tail_tables")) if patterns.matches(*row[:2])]
    if not found:
        raise ConfigurationError(
            f"no table that this user can read matches {', '.join(tables) or '*.*'}",
            hint="check the pattern, the database in the DSN and the user's SELECT privileges",
        )
    made: list[str] = []
    pid = control.info.backend_pid
    kinds = (("all", True, "insert, update, delete, truncate"), ("inserts", False, "insert, truncate"))
    for kind, identified, operations in kinds:
        members = [sql.Identifier(row[0], row[1]) for row in found if row[2] is identified]
        if members:
            name = f"{PREFIX}{pid}_{kind}"
            statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE {} WITH (publish = {})").format(
                sql.Identifier(name), sql.SQL(", ").join(members), sql.Literal(operations)
            )
            try:
                control.execute(statement)
            except psycopg.errors.InsufficientPrivilege as error:
                _drop(control, made)
                raise SourceError(
                    "this user may not publish the tables: " + str(error).splitlines()[0],
                    hint="tail as the tables' owner, or give the configuration whose publication exists",
                ) from error
            made.append(name)
    return made, [f"{row[0]}.{row[1]}" for row in found]


def _drop(control: psycopg.Connection[Any], publications: Sequence[str]) -> None:
    for name in publications:
        control.execute(sql.SQL("DROP PUBLICATION IF EXISTS {}").format(sql.Identifier(name)))


def _drop_orphans(control: psycopg.Connection[Any]) -> None:
    """Publications whose `tail` is gone: it was killed before it could drop them."""
    orphans = control.execute(
        "SELECT pubname FROM pg_publication WHERE pubname ~ ('^' || %s || '[0-9]+_(all|inserts)$')"
        " AND split_part(substr(pubname, length(%s) + 1), '_', 1)::int"
        " NOT IN (SELECT pid FROM pg_stat_activity)",
        (PREFIX, PREFIX),
    ).fetchall()
    for (name,) in orphans:
        # Somebody else's we may not drop; it does no harm.
        with contextlib.suppress(psycopg.errors.InsufficientPrivilege):
            _drop(control, [name])
