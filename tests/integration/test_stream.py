"""What the server is asked to send, and what it asks of us while it sends."""

from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdcflow.errors import SourceError
from cdcflow.journal import Asked, Origin, Reader, Writer, verify
from cdcflow.journal.layout import read_manifest
from cdcflow.model import Batch, parse_lsn
from cdcflow.source import catalog
from cdcflow.source.judgement import Wishes
from cdcflow.source.preflight import preflight
from cdcflow.source.stream import Snapshot, export_snapshot
from cdcflow.testing.database import Database
from cdcflow.testing.waiting import eventually
from integration.capturing import capturing, changes, journaled, publish


def ids(journal: Path) -> list[int]:
    return [int(str((change.new or {})["id"])) for change in changes(journal)]


def walsender(postgres: Database) -> int | None:
    query = "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s"
    [(pid,)] = postgres.execute(query, [postgres.slot])
    return int(pid) if pid is not None else None


def test_a_reply_that_the_server_asks_for_inside_a_long_transaction_goes_out_at_once(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Told of no timeout, capture speaks by the clock every 10 s: only replies keep this session alive.
    monkeypatch.setattr(catalog, "wal_sender_timeout", lambda connection: None)
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, word text NOT NULL)")
    # A filter that takes the walsender a while for each row, so that decoding outlasts the timeout.
    postgres.execute(
        f"CREATE PUBLICATION {postgres.publication} FOR TABLE t"
        " WHERE (length(md5(repeat(word, 3000000))) = 32)"
    )
    postgres.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [postgres.slot])
    dsn = make_conninfo(postgres.dsn, options="-c wal_sender_timeout=2s")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, dsn=dsn):
        pid = walsender(postgres)
        [(cost,)] = postgres.execute(
            "WITH a AS MATERIALIZED (SELECT clock_timestamp() AS at), b AS MATERIALIZED ("
            " SELECT count(md5(repeat('word' || g % 1, 3000000))) AS n FROM a, generate_series(1, 20) g)"
            " SELECT extract(epoch FROM clock_timestamp() - at)::float8 / n FROM a, b"
        )
        rows = int(5 / cost)
        postgres.execute("INSERT INTO t SELECT g, 'word0' FROM generate_series(1, %s::int) g", [rows])
        journaled(journal, rows)
        assert walsender(postgres) == pid, "the server ended the session"
    assert ids(journal) == list(range(1, 1 + rows))


def replicated(postgres: Database, connection: psycopg.Connection[object], first: int, last: int) -> None:
    """Inserts rows as if they had come here by replication."""
    connection.execute("SELECT pg_replication_origin_session_setup(%s)", [postgres.name])
    connection.execute("INSERT INTO t SELECT generate_series(%s::int, %s)", [first, last])
    connection.execute("SELECT pg_replication_origin_session_reset()")


@pytest.fixture
def origin(postgres: Database) -> Database:
    """A database with a table and a replication origin of its own name."""
    if postgres.server.version < 16:
        pytest.skip("no server before 16 can leave out other origins")
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    postgres.execute("SELECT pg_replication_origin_create(%s)", [postgres.name])
    return postgres


def test_what_was_replicated_to_here_is_left_out_where_that_is_wanted(
    origin: Database, tmp_path: Path
) -> None:
    journal = tmp_path / "journal"
    with capturing(origin, journal, origin="none"), origin.connect() as connection:
        origin.execute("INSERT INTO t VALUES (1)")
        replicated(origin, connection, 2, 5)
        # One transaction of both: what was written here comes.
        with connection.transaction():
            connection.execute("INSERT INTO t VALUES (6)")
            replicated(origin, connection, 7, 9)
            connection.execute("INSERT INTO t VALUES (10)")
        origin.execute("INSERT INTO t VALUES (11)")
        found = journaled(journal, 4)
        # What is left out holds back no WAL.
        replicated(origin, connection, 20, 20)
        [(end,)] = origin.execute("SELECT pg_current_wal_lsn()::text")
        confirmed = "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
        eventually(
            lambda: parse_lsn(str(origin.execute(confirmed, [origin.slot])[0][0])) >= parse_lsn(str(end)),
            what="the confirmation",
        )
    assert ids(journal) == [1, 6, 10, 11]
    assert [change.position.ordinal for change in found] == [1, 1, 2, 1]
    # Whoever wants all gets all, from then on.
    with capturing(origin, journal), origin.connect() as connection:
        replicated(origin, connection, 30, 31)
        journaled(journal, 6)
    assert ids(journal)[4:] == [30, 31]
    origin.execute("SELECT pg_replication_origin_drop(%s)", [origin.name])


@pytest.mark.parametrize(("before", "after"), [("any", "none"), ("none", "any")])
def test_a_transaction_that_was_begun_with_other_origins_is_ended_with_them(
    origin: Database, tmp_path: Path, before: Origin, after: Origin
) -> None:
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    copy = f"{origin.slot}_copy"
    origin.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [origin.slot, copy])
    with origin.connect() as connection:
        with connection.transaction():
            for number in range(0, 100, 2):
                connection.execute("INSERT INTO t VALUES (%s)", [number])
                replicated(origin, connection, number + 1, number + 1)
        replicated(origin, connection, 100, 100)
        connection.execute("INSERT INTO t VALUES (101)")
    first = list(range(0, 100, 1 if before == "any" else 2))
    behind = {"any": [100, 101], "none": [101]}
    with capturing(origin, whole, origin=before):
        journaled(whole, len(first) + len(behind[before]))
    assert ids(whole) == first + behind[before]

    # A journal that holds the first part of the transaction, as a kill leaves it behind.
    manifest = read_manifest(whole)
    assert manifest is not None
    assert manifest.asked == Asked(origin=before)
    with Reader(whole) as reader:
        [batch, *_] = reader.read(0, max_changes=10**6, max_bytes=10**9)
    part = batch.slice(0, 20)
    last = [change.position for change in part.changes()][-1]
    [(start,)] = origin.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [copy]
    )
    with Writer.open(torn, replace(manifest.identity, slot=copy)) as writer:
        writer.ask(Asked(origin=before))
        writer.progress(parse_lsn(str(start)), 0)
        writer.append(Batch(part.groups, 20, last))
        writer.sync()
    with capturing(origin, torn, slot=copy, origin=after):
        journaled(torn, len(first) + len(behind[after]))
    assert ids(torn) == first + behind[after]
    assert not list(verify(torn))
    origin.execute("SELECT pg_replication_origin_drop(%s)", [origin.name])


def test_a_server_that_cannot_leave_out_other_origins_is_an_error_of_the_check(postgres: Database) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    found = preflight(
        postgres.dsn, ["public.t"], postgres.publication, postgres.slot, Wishes(local_only=True)
    )
    errors = [finding for finding in found if finding.subject == "origin"]
    assert len(errors) == (1 if postgres.server.version < 16 else 0)
    assert all(error.severity == "error" and "any" in error.remedy for error in errors)


def test_the_slot_of_an_exported_snapshot_is_gone_once_it_was_used(postgres: Database) -> None:
    """At once, and not when the server has noticed the end of its session: the next one needs its place."""

    name = f"{postgres.name}_once"
    left = "SELECT count(*) FROM pg_replication_slots WHERE slot_name = %s"

    def broken(_snapshot: Snapshot) -> None:
        raise SourceError("no use for it")

    for _ in range(20):
        export_snapshot(postgres.dsn, name=name, hold=lambda _snapshot: None)
        assert postgres.execute(left, [name]) == [(0,)]
        with pytest.raises(SourceError, match="no use for it"):
            export_snapshot(postgres.dsn, name=name, hold=broken)
        assert postgres.execute(left, [name]) == [(0,)]
