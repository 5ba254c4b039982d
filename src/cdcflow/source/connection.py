"""Connections to the source: ordinary and replication ones, with the same pinned settings.

What a server's, database's or role's own settings would do to the text of a value is pinned here for
stream and backfill alike. Every failure to connect is a `SourceError` with what to do about it, or a
`ConfigurationError` where the DSN itself is wrong. No message holds a password.
"""

import os
import select
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdcflow.errors import ConfigurationError, SourceError
from cdcflow.source.failures import at_in_host, connecting, failure, wrong_dsn, wrong_value

__all__ = [
    "SETTINGS",
    "answering",
    "connect",
    "connect_replication",
    "failure",
    "quote_identifier",
    "quote_literal",
    "replication_options",
    "where",
]

#: Whatever changes the text of a value, or ends a session behind our back. Given at connection start,
#: which wins over ALTER ROLE and ALTER DATABASE (manual: 19.1, "Setting Parameters").
SETTINGS: Mapping[str, str] = {
    "client_encoding": "UTF8",
    "DateStyle": "ISO",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "3",
    "bytea_output": "hex",
    "lc_monetary": "C",
    # Values of regclass and its kind are qualified or not according to these.
    "search_path": "pg_catalog",
    "quote_all_identifiers": "off",
    # A table that a policy would filter fails loudly instead of giving some of its rows.
    "row_security": "off",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
#: The same for a setting that only 17 and later have.
_NEWER_TIMEOUT = "SELECT set_config(name, '0', false) FROM pg_settings WHERE name = 'transaction_timeout'"

#: Seconds for one host. Long enough for TLS over a bad line, short enough for a person who waits.
CONNECT_TIMEOUT = 10
#: Seconds for the answer to a look into the catalog or the start of a stream, which take milliseconds. A
#: server that hangs, or a proxy before one that is gone, keeps TCP itself content for ever.
ANSWER_TIMEOUT = 30.0
#: A peer that is gone is found out within a minute: 30 s of silence, then three probes.
_TCP: Mapping[str, int] = {
    "keepalives": 1,
    "keepalives_idle": 30,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    # Milliseconds that sent bytes may stay unacknowledged.
    "tcp_user_timeout": 60_000,
}


def connect(dsn: str, *, purpose: str) -> psycopg.Connection[Any]:
    """An ordinary connection in autocommit mode, named `cdcflow <purpose>` in pg_stat_activity.

    `dsn` is anything that libpq takes. Raises SourceError, SourceUnavailable or ConfigurationError.
    """
    conninfo = _conninfo(dsn, purpose)
    try:
        connection = psycopg.connect(conninfo, autocommit=True)
        try:
            with answering(connection.fileno()):
                connection.execute(_NEWER_TIMEOUT)
        except BaseException:
            connection.close()
            raise
    except psycopg.Error as error:
        # Not `from error`: libpq may quote a piece of the password, where the DSN was split in it.
        raise connecting(str(error), where(dsn)) from None
    return connection


def connect_replication(dsn: str, *, purpose: str) -> pq.abc.PGconn:
    """A connection to a walsender of the DSN's database. Close it with `finish`.

    Raises as `connect` does. Other threads run while this one waits, which they would not during
    `PGconn.connect`: it keeps the interpreter's lock.
    """
    options = _options(dsn)
    connection = _poll(replication_options(dsn, purpose=purpose), dsn, options)
    with answering(connection.socket):
        result = connection.exec_(_NEWER_TIMEOUT.encode())
    if result.status != pq.ExecStatus.TUPLES_OK:
        connection.finish()
        raise failure(result, "the session cannot be prepared")
    return connection


@contextmanager
def answering(descriptor: int, timeout: float | None = None) -> Iterator[None]:
    """Shuts the socket when the block takes longer than `timeout` seconds (`ANSWER_TIMEOUT`), whereupon
    libpq finds the connection closed."""
    lock, open_ = threading.Lock(), [True]

    def shut() -> None:
        with lock:
            if open_:
                with socket.socket(fileno=os.dup(descriptor)) as end:
                    end.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(ANSWER_TIMEOUT if timeout is None else timeout, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        with lock:
            open_.clear()


def replication_options(dsn: str, *, purpose: str = "capture") -> bytes:
    """The conninfo of a replication connection to the DSN's database, for libpq."""
    return make_conninfo(_conninfo(dsn, purpose), replication="database").encode()


def where(dsn: str) -> str:
    """`user@host:port/database` as far as the DSN itself says it, for messages. Never the password."""
    options = _options(dsn)
    if "service" in options:
        return f"service {options['service']}"
    host = str(options.get("host") or options.get("hostaddr") or "localhost")
    port = f":{options['port']}" if "port" in options else ""
    user = f"{options['user']}@" if "user" in options else ""
    database = f"/{options['dbname']}" if "dbname" in options else ""
    return f"{user}{host}{port}{database}"


def _options(dsn: str) -> dict[str, Any]:
    if "\0" in dsn:
        raise ConfigurationError("the source's dsn holds a NUL byte")
    try:
        options = dict(conninfo_to_dict(dsn))
    except psycopg.ProgrammingError as error:
        # Not `from error`: libpq quotes the piece it stumbled over, which may be the password.
        raise wrong_dsn(str(error)) from None
    if "@" in str(options.get("host", "")):
        raise at_in_host()
    for name in ("port", "connect_timeout"):
        if not all(number.isdigit() for number in str(options.get(name, "")).split(",") if number):
            raise wrong_value(name)
    return options


def _conninfo(dsn: str, purpose: str) -> str:
    given = _options(dsn)
    pinned = " ".join(f"-c {name}={_escaped(value)}" for name, value in SETTINGS.items())
    ours: dict[str, Any] = {
        **_TCP,
        "connect_timeout": CONNECT_TIMEOUT,
        **{name: value for name, value in given.items() if name in (*_TCP, "connect_timeout")},
        "application_name": f"cdcflow {purpose}",
        "client_encoding": "UTF8",
        # The later setting wins, so the user's own options cannot undo ours.
        "options": f"{given.get('options', '')} {pinned}".strip(),
    }
    return make_conninfo(dsn, **ours)


def _escaped(value: str) -> str:
    """For `options`, where a space ends an argument and a backslash escapes it."""
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


def _poll(conninfo: bytes, dsn: str, options: Mapping[str, Any]) -> pq.abc.PGconn:
    """PQconnectPoll, with a deadline. libpq tries the hosts of a list one after the other by itself."""
    hosts = str(options.get("host") or options.get("hostaddr") or "").count(",") + 1
    limit = int(options.get("connect_timeout") or CONNECT_TIMEOUT) * hosts
    deadline = time.monotonic() + limit
    connection = pq.PGconn.connect_start(conninfo)
    try:
        while connection.status != pq.ConnStatus.BAD:
            state = connection.connect_poll()
            if state == pq.PollingStatus.OK:
                return connection
            if state == pq.PollingStatus.FAILED:
                break
            left = deadline - time.monotonic()
            poll = select.poll()
            poll.register(
                connection.socket,
                select.POLLIN if state == pq.PollingStatus.READING else select.POLLOUT,
            )
            if left <= 0 or not poll.poll(left * 1000):
                raise connecting(f"timeout expired after {limit} s", where(dsn))
        raise connecting(connection.get_error_message(), where(dsn))
    except SourceError:
        connection.finish()
        raise


def quote_identifier(name: str) -> str:
    """A name for SQL and for replication commands, which know neither parameters nor psycopg."""
    if "\0" in name:
        raise ValueError("a name cannot hold a NUL byte")
    return '"' + name.replace('"', '""') + '"'


def quote_literal(text: str) -> str:
    """A string for replication commands, whose grammar knows no escape but the doubled quote."""
    if "\0" in text:
        raise ValueError("a string cannot hold a NUL byte")
    return "'" + text.replace("'", "''") + "'"
