"""A COPY comes out of libpq in blocks of whole rows, whoever gathers them, and every way that it can end."""

import collections
import contextlib

import psycopg
import pytest
from psycopg import pq

from cdcflow.source import copying
from cdcflow.source.copying import copy_out
from cdcflow.testing.database import Database


@pytest.fixture(params=("compiled", "twin"))
def gathered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """By which of the two loops."""
    if request.param == "compiled":
        pytest.importorskip("cdcflow.source._copying")
    monkeypatch.setattr(copying, "implementation", lambda: "py" if request.param == "twin" else "c")
    name: str = request.param
    return name


def copied(connection: psycopg.Connection, query: str, size: int) -> list[bytes]:
    return [bytes(block) for block in copy_out(connection.pgconn, f"COPY ({query}) TO STDOUT".encode(), size)]


def test_the_compiled_loop_is_the_one_that_is_used(postgres: Database) -> None:
    pytest.importorskip("cdcflow.source._copying")
    if pq.__impl__ == "python":
        pytest.skip("psycopg is not compiled")
    with psycopg.connect(postgres.dsn) as connection:
        assert copying._addresses(connection.pgconn) is not None


def test_blocks_are_whole_rows_of_at_least_the_wanted_size(postgres: Database, gathered: str) -> None:
    length = "CASE i % 50 WHEN 7 THEN 100000 ELSE i % 90 END"
    query = f"SELECT i, repeat('x', {length}) FROM generate_series(1, 2000) i"
    expected = b"".join(
        b"%d\t%s\n" % (i, b"x" * (100_000 if i % 50 == 7 else i % 90)) for i in range(1, 2001)
    )
    with psycopg.connect(postgres.dsn) as connection:
        for size in (1, 1_000, 64 << 10, 1 << 30):
            found = copied(connection, query, size)
            assert b"".join(found) == expected
            assert all(block.endswith(b"\n") for block in found)
            assert all(len(block) >= size for block in found[:-1])
        assert len(copied(connection, query, 1)) == 2_000


def test_a_copy_of_nothing_gives_no_block(postgres: Database, gathered: str) -> None:
    with psycopg.connect(postgres.dsn) as connection:
        assert copied(connection, "SELECT 1 WHERE false", 1_000) == []
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_an_error_in_the_middle_comes_out_behind_the_rows(postgres: Database, gathered: str) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        query = b"COPY (SELECT 1 / (50000 - i) FROM generate_series(1, 60000) i) TO STDOUT"
        blocks = copy_out(connection.pgconn, query, 1_000)
        with pytest.raises(psycopg.errors.DivisionByZero):
            collections.deque(blocks, maxlen=0)
        with pytest.raises(psycopg.errors.UndefinedTable):
            copied(connection, "SELECT * FROM nowhere", 1_000)
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_who_asks_for_no_more_ends_the_copy(postgres: Database, gathered: str) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        blocks = copy_out(connection.pgconn, b"COPY (SELECT generate_series(1, 3000000)) TO STDOUT")
        assert bytes(next(blocks)).startswith(b"1\n2\n")
        blocks.close()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_what_happens_at_the_last_block_is_not_hidden_by_the_end_of_the_copy(
    postgres: Database, gathered: str
) -> None:
    with psycopg.connect(postgres.dsn, autocommit=True) as connection:
        blocks = copy_out(connection.pgconn, b"COPY (SELECT 1) TO STDOUT")
        with pytest.raises(ZeroDivisionError), contextlib.closing(blocks):
            divmod(1, len(next(blocks)) - len(b"1\n"))
        assert connection.execute("SELECT 1").fetchone() == (1,)


def test_a_session_that_ends_meanwhile_is_an_error(postgres: Database, gathered: str) -> None:
    with contextlib.closing(psycopg.connect(postgres.dsn, autocommit=True)) as connection:
        blocks = copy_out(connection.pgconn, b"COPY (SELECT generate_series(1, 30000000)) TO STDOUT")
        assert bytes(next(blocks)).startswith(b"1\n2\n")
        postgres.execute("SELECT pg_terminate_backend(%s)", (connection.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            collections.deque(blocks, maxlen=0)
