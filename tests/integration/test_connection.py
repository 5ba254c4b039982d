"""Connections to real servers: pinned settings whatever the server says, and failures with their remedy."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdcflow.errors import CdcflowError, SourceError, SourceUnavailable
from cdcflow.source.connection import SETTINGS, connect, connect_replication
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from cdcflow.testing.proxy import Proxy
from cdcflow.testing.waiting import eventually

MakeServer = Callable[..., Server]

#: Settings under which Postgres would write the same values otherwise.
HOSTILE = {
    "DateStyle": "'German, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kolkata'",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "client_encoding": "LATIN1",
    "statement_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'1ms'",
    "idle_session_timeout": "'1ms'",
    "search_path": "public",
}


def either(dsn: str, purpose: str = "test") -> None:
    """Connects both ways."""
    connect_replication(dsn, purpose=purpose).finish()
    connect(dsn, purpose=purpose).close()


def test_both_kinds_of_connection_have_the_pinned_settings_whatever_the_database_says(
    postgres: Database,
) -> None:
    for name, value in HOSTILE.items():
        postgres.execute(f"ALTER DATABASE {postgres.name} SET {name} = {value}")
    dsn = make_conninfo(postgres.dsn, options="-c DateStyle=SQL -c extra_float_digits=0")
    value = "SELECT now()::date::text, interval '1 day 2 hours', 0.1::float4 + 0.2::float4, '\\x00ff'::bytea"
    settings = ", ".join(f"current_setting('{name}')" for name in SETTINGS)
    replication = connect_replication(dsn, purpose="test")
    with connect(dsn, purpose="test") as ordinary:
        for name, pinned in SETTINGS.items():
            (setting,) = ordinary.execute("SELECT current_setting(%s)", (name,)).fetchone() or ("",)
            assert setting.startswith(pinned)
        for query in (f"SELECT {settings}", value, "SHOW idle_session_timeout"):
            one, other = ordinary.pgconn.exec_(query.encode()), replication.exec_(query.encode())
            assert one.nfields > 0
            for column in range(one.nfields):
                assert one.get_value(0, column) == other.get_value(0, column)
    replication.finish()


def test_a_connection_names_itself_by_its_purpose(postgres: Database) -> None:
    with connect(postgres.dsn, purpose="backfill") as connection:
        assert connection.execute("SHOW application_name").fetchone() == ("cdcflow backfill",)
        assert connection.autocommit


def test_a_wrong_password_is_an_error_that_does_not_show_it(own_server: MakeServer) -> None:
    server = own_server(auth="scram-sha-256")
    either(server.dsn())
    for make in (connect, connect_replication):
        with pytest.raises(SourceError, match="refuses the password of user 'postgres'") as caught:
            make(server.dsn(user="postgres", password="hunter2"), purpose="test")
        assert not isinstance(caught.value, SourceUnavailable)
        assert "hunter2" not in f"{caught.value!r} {caught.value.hint}"
        with pytest.raises(SourceError, match="asks for a password"):
            make(server.dsn(user="postgres"), purpose="test")


def test_a_role_without_the_privilege_gets_no_replication_connection(own_server: MakeServer) -> None:
    server = own_server()
    server.execute("CREATE ROLE plain LOGIN")
    dsn = server.dsn(user="plain")
    connect(dsn, purpose="test").close()
    with pytest.raises(SourceError, match="lacks the REPLICATION privilege") as caught:
        connect_replication(dsn, purpose="test")
    assert "ALTER ROLE" in caught.value.hint


def test_a_full_server_is_an_error_that_passes(own_server: MakeServer) -> None:
    settings = {"max_connections": "6", "superuser_reserved_connections": "5", "max_wal_senders": "1"}
    server = own_server(settings={**settings, "max_replication_slots": "1"})
    server.execute("CREATE ROLE plain LOGIN REPLICATION")
    dsn = server.dsn(user="plain")
    held = connect_replication(dsn, purpose="test")
    with pytest.raises(SourceUnavailable, match="no free WAL sender"):
        connect_replication(dsn, purpose="test")
    held.finish()

    def taken() -> psycopg.Connection[Any] | None:
        try:
            return connect(dsn, purpose="test")
        except SourceUnavailable:  # the superuser's session before has not left its place yet
            return None

    only = eventually(taken, what="the only place")
    assert only is not None
    with only, pytest.raises(SourceUnavailable, match="takes no more connections"):
        connect(dsn, purpose="test")


@pytest.mark.parametrize("make", [connect, connect_replication])
def test_what_is_wrong_with_the_dsn_is_said(postgres: Database, make: Callable[..., object]) -> None:
    wrong: list[tuple[dict[str, str | int], type[CdcflowError], str]] = [
        ({"dbname": "nowhere"}, SourceError, "there is no database 'nowhere'"),
        ({"user": "nobody_here"}, SourceError, "the role 'nobody_here' does not exist"),
        ({"sslmode": "require"}, SourceError, "no trusted encrypted connection"),
        ({"port": 1}, SourceUnavailable, "nothing listens at"),
        ({"host": "no-such-host.invalid"}, SourceUnavailable, "cannot be resolved"),
    ]
    for change, kind, message in wrong:
        with pytest.raises(kind, match=message) as caught:
            make(make_conninfo(postgres.dsn, **change), purpose="test")
        assert caught.value.hint


@pytest.mark.parametrize("make", [connect, connect_replication])
def test_a_server_that_never_answers_is_given_up_on(postgres: Database, make: Callable[..., object]) -> None:
    with Proxy(make_conninfo(postgres.dsn, connect_timeout=2)) as proxy:
        proxy.stall()
        with pytest.raises(SourceUnavailable, match="cannot be reached"):
            make(proxy.dsn, purpose="test")
