"""Transactions of every kind come whole, once, and in the order of their commits."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.compute as pc
import pytest
from psycopg import sql

from cdcflow.journal import Reader
from cdcflow.model import Change, Op, parse_lsn
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from integration.capturing import capturing, changes, memory_bounded, publish
from integration.replaying import assert_equal_to_source, captured, wait_for


def ids(found: list[Change]) -> list[int]:
    return [int(str((change.new or {})["id"])) for change in found]


def assert_in_order(found: list[Change]) -> None:
    """No change twice, and positions in order."""
    positions = [change.position for change in found]
    assert positions == sorted(set(positions))


def test_a_later_commit_with_earlier_rows_is_not_lost_wherever_capture_stopped(
    postgres: Database, tmp_path: Path
) -> None:
    # Who resumes by the LSN of rows takes the long transaction's rows for old ones, and drops them.
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    early, middle = postgres.connect(autocommit=False), postgres.connect(autocommit=False)
    early.execute("INSERT INTO t SELECT generate_series(1000, 1999)")
    middle.execute("INSERT INTO t SELECT generate_series(2000, 2499)")
    [(end_of_rows,)] = postgres.execute("SELECT pg_current_wal_insert_lsn()::text")
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t SELECT generate_series(1, 100)")
        middle.execute("INSERT INTO t SELECT generate_series(2500, 2999)")
        [first, *_] = captured(postgres, journal)
    # The slot is behind the delivered transaction, and the rows that follow are older than it.
    assert first.position.commit_lsn > parse_lsn(end_of_rows)
    with capturing(postgres, journal):
        early.commit()
        wait_for(postgres, journal)
    postgres.execute("INSERT INTO t VALUES (101)")
    middle.commit()
    postgres.execute("INSERT INTO t VALUES (102)")
    with capturing(postgres, journal):
        found = captured(postgres, journal)
    expected = [*range(1, 101), *range(1000, 2000), 101, *range(2000, 3000), 102]
    assert ids(found) == expected
    assert_in_order(found)


def test_only_what_was_committed_comes_of_savepoints_and_rollbacks(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, b text)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        with postgres.connect(autocommit=False) as connection:
            for statement in (
                "INSERT INTO t VALUES (1, 'stays')",
                "SAVEPOINT a",
                "INSERT INTO t VALUES (2, 'goes')",
                "SAVEPOINT b",
                "UPDATE t SET b = 'goes' WHERE id = 1",
                "RELEASE b",
                "ROLLBACK TO a",
                "INSERT INTO t VALUES (3, 'stays')",
                "SAVEPOINT c",
                "DELETE FROM t WHERE id = 1",
                "INSERT INTO t VALUES (1, 'anew')",
                "RELEASE c",
            ):
                connection.execute(statement)
            connection.commit()
            connection.execute("TRUNCATE t")
            connection.execute("INSERT INTO t VALUES (7, 'goes')")
            connection.rollback()
        postgres.execute("""
            DO $$ BEGIN
                FOR i IN 10..19 LOOP
                    BEGIN
                        INSERT INTO t VALUES (i, 'x');
                        IF i % 2 = 0 THEN INSERT INTO t VALUES (i, 'double'); END IF;
                    EXCEPTION WHEN unique_violation THEN NULL;
                    END;
                END LOOP;
            END $$
        """)
        found = captured(postgres, journal)
    assert [(c.op.word, (c.new or c.old or {})["id"]) for c in found] == [
        ("insert", "1"),
        ("insert", "3"),
        ("delete", "1"),
        ("insert", "1"),
        *(("insert", str(i)) for i in range(11, 20, 2)),
    ]
    assert_in_order(found)
    assert_equal_to_source(postgres, journal, tmp_path, ["t"])


def test_rows_of_one_copy_share_an_lsn_and_all_arrive(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, b text)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        with postgres.connect() as connection, connection.cursor() as cursor:
            with cursor.copy("COPY t FROM STDIN") as copy:
                for row in range(5000):
                    copy.write_row((row, "tab\t, backslash \\ and \\N"))
            # Rows that are born frozen.
            with connection.transaction():
                cursor.execute("TRUNCATE t")
                with cursor.copy("COPY t FROM STDIN WITH (FREEZE)") as copy:
                    for row in range(5000):
                        copy.write_row((row, None))
        found = captured(postgres, journal)
    assert ids(found[:5000]) == ids(found[5001:]) == list(range(5000))
    assert found[5000].op is Op.TRUNCATE
    assert_in_order(found)
    assert_equal_to_source(postgres, journal, tmp_path, ["t"], sizes=[None])


def test_a_transaction_of_100000_statements_comes_whole(newest_postgres: Database, tmp_path: Path) -> None:
    postgres = newest_postgres
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, b int)")
    postgres.execute("CREATE TABLE u (id int PRIMARY KEY, b int)")
    publish(postgres, "t", "u")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        # Every hundredth statement is a subtransaction of its own.
        postgres.execute("""
            DO $$ BEGIN
                FOR i IN 1..25000 LOOP
                    INSERT INTO t VALUES (i, 0);
                    INSERT INTO u VALUES (i, 0);
                    UPDATE t SET b = i WHERE id = (i + 1) / 2;
                    IF i % 25 = 0 THEN
                        BEGIN DELETE FROM u WHERE id = i - 1; EXCEPTION WHEN division_by_zero THEN NULL; END;
                    ELSE
                        UPDATE u SET b = i WHERE id = i;
                    END IF;
                END LOOP;
            END $$
        """)
        found = captured(postgres, journal, timeout=60)
    assert len(found) == 100_000
    assert_in_order(found)
    assert_equal_to_source(postgres, journal, tmp_path, ["t", "u"], sizes=[None])


def test_a_transaction_of_a_million_rows_is_journaled_in_little_memory(
    newest_postgres: Database, tmp_path: Path
) -> None:
    postgres = newest_postgres
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, filler text)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    count = 1_200_000
    with memory_bounded(300) as look, capturing(postgres, journal) as running:
        postgres.execute("INSERT INTO t SELECT g, repeat('x', 50) FROM generate_series(1, %s) g", [count])
        wait_for(postgres, journal, timeout=120, meanwhile=look)
        assert running.latest["state"] == "streaming"
    offset = 0
    with Reader(journal) as reader:
        while batches := reader.read(offset, max_changes=50_000, max_bytes=64 << 20):
            for batch in batches:
                [group] = batch.groups
                first = group.meta("ordinal")[0].as_py()
                assert first == offset + 1
                assert pc.sum(group.new(0).cast("int64")).as_py() == sum(range(first, first + batch.count))
                offset = batch.end
    assert offset == count


def test_transactions_of_another_origin_come_like_all_others(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    origin = f"{postgres.name} 'näher'"
    postgres.execute("SELECT pg_replication_origin_create(%s)", [origin])
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t VALUES (0)")
        with postgres.connect() as connection:
            connection.execute("SELECT pg_replication_origin_session_setup(%s)", [origin])
            with connection.transaction():
                # A commit time and an LSN of the other server, which say nothing about ours.
                connection.execute("SELECT pg_replication_origin_xact_setup('FFFFFF/0', '2001-01-01')")
                connection.execute("INSERT INTO t VALUES (1), (2)")
            connection.execute("SELECT pg_replication_origin_session_reset()")
        postgres.execute("INSERT INTO t VALUES (3)")
        found = captured(postgres, journal)
        postgres.execute("SELECT pg_replication_origin_drop(%s)", [origin])
    # In order of commit, although the origin's clock says something else.
    assert ids(found) == [0, 1, 2, 3]
    assert found[1].commit_time < 10**15 < found[0].commit_time
    assert_in_order(found)


@pytest.fixture
def two_phase(own_server: Callable[..., Server]) -> Iterator[Database]:
    """A database on a server of its own that can prepare transactions."""
    database = Database(own_server(settings={"max_prepared_transactions": "5"}))
    yield database
    database.drop()


def test_a_prepared_transaction_comes_when_it_is_committed(two_phase: Database, tmp_path: Path) -> None:
    postgres = two_phase
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"

    def prepare(row: int, name: str) -> None:
        with postgres.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO t VALUES (%s)", [row])
            connection.execute(sql.SQL("PREPARE TRANSACTION {}").format(sql.Literal(name)))

    with capturing(postgres, journal):
        prepare(1, "kept")
        prepare(2, "given up")
        prepare(3, "at once")
        postgres.execute("INSERT INTO t VALUES (4)")
        postgres.execute("COMMIT PREPARED 'at once'")
        postgres.execute("ROLLBACK PREPARED 'given up'")
        assert ids(captured(postgres, journal)) == [4, 3]
    assert isinstance(postgres.server, Server)
    postgres.server.restart("immediate")
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t VALUES (5)")
        wait_for(postgres, journal)
        assert ids(changes(journal)) == [4, 3, 5]
        postgres.execute("COMMIT PREPARED 'kept'")
        found = captured(postgres, journal)
    assert ids(found) == [4, 3, 5, 1]
    assert_in_order(found)
    assert_equal_to_source(postgres, journal, tmp_path, ["t"])
