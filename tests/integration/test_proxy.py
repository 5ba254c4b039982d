"""The proxy does to a real connection what its methods say."""

import select
import time
from collections.abc import Iterator

import psycopg
import pytest

from cdcflow.testing.database import Database
from cdcflow.testing.proxy import Proxy
from cdcflow.testing.waiting import TIMEOUT, eventually


@pytest.fixture
def proxy(postgres: Database) -> Iterator[Proxy]:
    with Proxy(postgres.dsn) as proxy:
        yield proxy


def test_bytes_pass_through_unchanged(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn) as connection:
        row = connection.execute("SELECT repeat('å', 300000)").fetchone()
        assert row == ("å" * 300_000,)
        assert proxy.connections == 1
    eventually(lambda: proxy.connections == 0, what="the end of the connection behind the proxy")


def test_a_cut_connection_fails_at_once_and_a_new_one_works(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn) as connection:
        proxy.cut()
        with pytest.raises(psycopg.OperationalError):
            connection.execute("SELECT 1")
        connection.close()
    with psycopg.connect(proxy.dsn) as connection:
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_stalled_connection_says_nothing_until_it_is_resumed(proxy: Proxy) -> None:
    # Not PGconn.connect, which holds the interpreter's lock while it waits for the proxy.
    outer = psycopg.connect(proxy.dsn)
    connection = outer.pgconn
    proxy.stall()
    connection.send_query(b"SELECT 1")
    connection.flush()
    assert select.select([connection.socket], [], [], 0.3)[0] == []
    proxy.resume()
    assert select.select([connection.socket], [], [], TIMEOUT)[0] != []
    outer.close()


def test_a_stalled_connection_can_be_cut(proxy: Proxy) -> None:
    # Not PGconn.connect, which holds the interpreter's lock while it waits for the proxy.
    outer = psycopg.connect(proxy.dsn)
    connection = outer.pgconn
    proxy.stall()
    connection.send_query(b"SELECT 1")
    connection.flush()
    proxy.cut()
    assert select.select([connection.socket], [], [], TIMEOUT)[0] != []
    with pytest.raises(psycopg.OperationalError):
        connection.consume_input()
    assert proxy.connections == 0
    outer.close()


def test_a_refusing_proxy_keeps_old_connections_and_takes_no_new_ones(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn) as connection:
        proxy.refuse()
        with pytest.raises(psycopg.OperationalError):
            psycopg.connect(proxy.dsn)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_throttled_connection_passes_no_more_than_its_rate(proxy: Proxy) -> None:
    with psycopg.connect(proxy.dsn) as connection:
        proxy.throttle(100_000)
        begun = time.monotonic()
        connection.execute("SELECT repeat('x', 50000)")
        assert 0.3 < time.monotonic() - begun < 10
