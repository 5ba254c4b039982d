"""Slots, publications and servers in trouble: capture goes on without loss, or stops with what to do."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdcflow.errors import SourceError
from cdcflow.model import parse_lsn
from cdcflow.source import capture as capture_module
from cdcflow.source import monitor
from cdcflow.source.heartbeat import Heartbeat
from cdcflow.source.retained import Limits
from cdcflow.source.setup import setup, teardown
from cdcflow.source.stream import Stream
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually
from integration.capturing import Running, capturing, changes, journaled, make_slot, publish, settings

OwnServer = Callable[..., Server]

#: What is written to `filler` takes as much room in the WAL.
TABLE = "CREATE TABLE t (id int PRIMARY KEY, filler text); ALTER TABLE t ALTER filler SET STORAGE EXTERNAL"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the source as often as tests like it."""
    monkeypatch.setattr(monitor, "INTERVAL", 0.1)
    monkeypatch.setattr(monitor, "WATCH_INTERVAL", 0.1)


@pytest.fixture
def table(postgres: Database) -> Database:
    postgres.execute(TABLE)
    return postgres


@contextmanager
def shop(server: Server) -> Iterator[Database]:
    """A database with the table on a server of the test's own."""
    database = Database(server)
    try:
        database.execute(TABLE)
        yield database
    finally:
        database.close()


def fill(database: Database, first: int, last: int, width: int = 0) -> None:
    query = "INSERT INTO t SELECT g, repeat('x', %s) FROM generate_series(%s::int, %s::int) g"
    database.execute(query, [width, first, last])


def ids(journal: Path) -> list[int]:
    return [int(str((change.new or {})["id"])) for change in changes(journal)]


def assert_stops(database: Database, journal: Path, message: str, *hints: str, **changed: Any) -> None:
    error = Running(settings(database, journal, **changed)).join()
    assert isinstance(error, SourceError), error
    assert message in str(error)
    for hint in hints:
        assert hint in error.hint


def messages(running: Running) -> str:
    return " | ".join(finding["message"] for finding in running.latest["findings"])


def alter(database: Database, statement: str) -> None:
    database.execute(sql.SQL(statement).format(sql.Identifier(database.publication)))


def slot_row(database: Database, column: str) -> Any:
    query = sql.SQL("SELECT {} FROM pg_replication_slots WHERE slot_name = %s")
    [(value,)] = database.execute(query.format(sql.Identifier(column)), [database.slot])
    return value


# The publication.


def test_a_publication_that_is_dropped_while_streaming_stops_capture(table: Database, tmp_path: Path) -> None:
    publish(table, "t")
    journal = tmp_path / "journal"
    running = Running(settings(table, journal))
    eventually(lambda: running.latest.get("state") == "streaming", what="the stream")
    fill(table, 1, 10)
    journaled(journal, 10)
    alter(table, "DROP PUBLICATION {}")
    fill(table, 11, 20)
    error = running.join()
    assert isinstance(error, SourceError)
    assert "publication" in str(error)
    # Made anew it does not pass for the old one: rows 11 to 20 are not in its stream.
    alter(table, "CREATE PUBLICATION {} FOR TABLE t")
    assert_stops(table, journal, "was dropped and made anew", "teardown --yes", "the backfill reads")
    # The hint's own words.
    teardown(table.dsn, ["public.t"], table.publication, table.slot)
    journal.rename(tmp_path / "away")
    setup(table.dsn, ["public.t"], table.publication, table.slot)
    with capturing(table, journal, backfill=True):
        fill(table, 21, 22)
        journaled(journal, 22)
    assert sorted(ids(journal)) == list(range(1, 23))


def test_what_changes_in_the_publication_is_said(table: Database, tmp_path: Path) -> None:
    for name in "uvw":
        table.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)")
    publish(table, "t", "v")
    journal = tmp_path / "journal"
    with capturing(table, journal) as running:
        assert not running.latest["findings"]
        alter(table, "ALTER PUBLICATION {} ADD TABLE u")
        eventually(lambda: "public.u came into the publication" in messages(running))
        alter(table, "ALTER PUBLICATION {} DROP TABLE v")
        eventually(lambda: "does not hold public.v any more" in messages(running))
        alter(table, "ALTER PUBLICATION {} SET (publish = 'insert')")
        eventually(lambda: "publishes insert now" in messages(running))
        # A name is not a table: what is made anew under it is not published.
        table.execute("DROP TABLE u")
        table.execute("CREATE TABLE u (id int PRIMARY KEY)")
        eventually(lambda: "does not hold public.u any more" in messages(running))
        table.execute("ALTER TABLE t RENAME TO t2")  # is still the same table
        fill_renamed = "INSERT INTO t2 VALUES (1)"
        table.execute(fill_renamed)
        journaled(journal, 1)
        assert not any("t2" in finding["message"] for finding in running.latest["findings"])
    # And while nobody looked.
    alter(table, "ALTER PUBLICATION {} DROP TABLE t2")
    table.execute("INSERT INTO t2 VALUES (2)")
    alter(table, "ALTER PUBLICATION {} ADD TABLE t2, w (id)")
    with capturing(table, journal) as running:
        eventually(lambda: "the entry of public.t2" in messages(running))
        eventually(lambda: "public.w came into" in messages(running))
        assert "public.v" not in messages(running)  # that was said before
    with capturing(table, journal) as running:
        assert not running.latest["findings"]


def test_a_table_that_somebody_rewrites_for_hours_holds_nothing_up(table: Database, tmp_path: Path) -> None:
    """The server opens every published table to say which they are, and waits for who has locked one."""
    for name in "uv":
        table.execute(f"CREATE TABLE {name} (id int PRIMARY KEY)")
    publish(table, "t", "u", "v")
    journal = tmp_path / "journal"
    with capturing(table, journal):
        pass
    alter(table, "ALTER PUBLICATION {} DROP TABLE v")
    with table.connect() as migration, migration.transaction():
        migration.execute("ALTER TABLE u ADD w int")
        with capturing(table, journal) as running:
            fill(table, 1, 10)
            journaled(journal, 10)
            eventually(lambda: running.latest["retained_bytes"] is not None, what="the slot's health")
            migration.execute("COMMIT")
            # Where it could not look before (from 16 on), it does now.
            eventually(lambda: "does not hold public.v any more" in messages(running))


def test_tables_that_a_publication_of_all_tables_gains_are_nothing_to_say(
    table: Database, tmp_path: Path
) -> None:
    publish(table)
    with capturing(table, tmp_path / "journal") as running:
        table.execute("CREATE TABLE later (id int PRIMARY KEY)")
        table.execute("INSERT INTO later VALUES (7)")
        assert [c.new for c in journaled(tmp_path / "journal", 1)] == [{"id": "7"}]
        seen = len(running.reports)
        eventually(lambda: len(running.reports) >= seen + 2, what="two more reports")
        assert not running.latest["findings"]


# The slot.


def test_a_slot_that_is_dropped_under_the_stream_stops_capture(table: Database, tmp_path: Path) -> None:
    publish(table, "t")
    journal = tmp_path / "journal"
    running = Running(settings(table, journal))
    eventually(lambda: running.latest.get("state") == "streaming", what="the stream")
    with table.connect() as connection:

        def drop() -> bool:
            connection.execute("SELECT pg_terminate_backend(%s)", [slot_row(table, "active_pid")])
            try:
                connection.execute("SELECT pg_drop_replication_slot(%s)", [table.slot])
            except psycopg.errors.ObjectInUse:
                return False
            return True

        eventually(drop, what="a moment in which the slot can be dropped")
    error = running.join()
    assert isinstance(error, SourceError)
    assert "does not exist" in str(error)
    assert "teardown --yes" in error.hint
    fill(table, 1, 5)
    make_slot(table)
    assert_stops(table, journal, "ahead of the journal", "teardown --yes")


def test_a_slot_in_use_by_another_is_waited_for_and_status_says_so(
    table: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "HANDOVER", 0.3)
    publish(table, "t")
    other = Stream.start(
        table.dsn, slot=table.slot, publications=[table.publication], position=0, messages=False
    )
    running = Running(settings(table, tmp_path / "journal"))
    try:
        eventually(lambda: "is active for PID" in str(running.latest.get("error")), what="the error")
        assert running.latest["state"] == "connecting"
        assert running.latest["lag_bytes"] is None
        assert running.latest["wal_status"] is None
        other.close()
        fill(table, 1, 3)
        assert len(journaled(tmp_path / "journal", 3)) == 3
    finally:
        other.close()
        running.stop()
    assert running.error is None


def test_a_slot_that_was_lost_stops_capture_and_the_remedy_works(
    own_server: OwnServer, tmp_path: Path
) -> None:
    limits = {"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    server = own_server(settings={**limits, "wal_recycle": "off"})
    with shop(server) as table:
        lose_and_remedy(server, table, tmp_path / "journal")


def lose_and_remedy(server: Server, table: Database, journal: Path) -> None:
    setup(table.dsn, ["public.t"], table.publication, table.slot)
    with capturing(table, journal):
        fill(table, 1, 10)
        journaled(journal, 10)
    for n in range(4):
        fill(table, 100 + n * 1000, 1000 + n * 1000, 10_000)
        table.execute("SELECT pg_switch_wal()")
        table.execute("CHECKPOINT")
    assert slot_row(table, "wal_status") == "lost"
    assert_stops(table, journal, "is lost (wal_removed)", "teardown --yes", "move away the journal")
    # Word by word.
    teardown(table.dsn, ["public.t"], table.publication, table.slot)
    journal.rename(journal.with_name("away"))
    setup(table.dsn, ["public.t"], table.publication, table.slot)
    with capturing(table, journal, backfill=True):
        fill(table, 11, 12)
        [(rows,)] = table.execute("SELECT count(*) FROM t")
        journaled(journal, rows)
    assert sorted(ids(journal)) == [row[0] for row in table.execute("SELECT id FROM t ORDER BY id")]
    if server.version >= 18:
        server.configure({"idle_replication_slot_timeout": "1s"})
        server.reload()

        def invalidated() -> bool:
            table.execute("CHECKPOINT")
            return bool(slot_row(table, "invalidation_reason") == "idle_timeout")

        eventually(invalidated, interval=0.2, what="the invalidation of an idle slot")
        assert_stops(table, journal, "is lost (idle_timeout)", "teardown --yes")


def test_wal_that_piles_up_is_warned_of_and_the_slot_given_up_where_asked(
    table: Database, tmp_path: Path
) -> None:
    publish(table, "t")
    journal = tmp_path / "journal"
    held = {"confirm_delivered": True}  # by a flow that never delivers
    with capturing(table, journal, retained_wal=Limits(warn=2_000_000), **held) as running:
        assert not running.latest["findings"]
        fill(table, 1, 1000, 3000)
        eventually(lambda: "MB of WAL for the slot" in messages(running), what="the warning")
        assert running.latest["retained_bytes"] >= 2_000_000
        assert running.latest["wal_status"] == "reserved"
        running.capture.delivered(1000)

        def released() -> bool:
            table.execute("CHECKPOINT")  # logs the running transactions, behind which WAL is let go
            return not running.latest["findings"]

        eventually(released, interval=0.2, what="the end of the warning")
    running = Running(settings(table, journal, retained_wal=Limits(drop_slot=4_000_000), **held))
    eventually(lambda: running.latest.get("state") == "streaming", what="the stream")
    fill(table, 1001, 3000, 3000)
    error = running.join()
    assert isinstance(error, SourceError)
    assert "was dropped: the server kept more than 4.0 MB" in str(error)
    assert "teardown --yes" in error.hint
    assert not table.execute("SELECT 1 FROM pg_replication_slots WHERE slot_name = %s", [table.slot])


def test_wal_near_the_limit_of_the_server_is_warned_of_and_the_remedy_works(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(settings={"max_slot_wal_keep_size": "48MB"})
    with shop(server) as table:
        publish(table, "t")
        # Held by a flow that never delivers.
        with capturing(table, tmp_path / "journal", confirm_delivered=True) as running:
            fill(table, 1, 1)
            journaled(tmp_path / "journal", 1)

            def warned() -> bool:
                table.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 1000000))")
                return bool(running.latest["findings"])

            eventually(warned, interval=0.2, what="the warning")
            [finding] = running.latest["findings"]
            assert "the server gives the slot up (max_slot_wal_keep_size) after" in finding["message"]
            assert "raise max_slot_wal_keep_size" in finding["remedy"]
            assert running.latest["wal_status"] in ("reserved", "extended")
            server.configure({"max_slot_wal_keep_size": "1GB"})
            server.reload()
            eventually(lambda: not running.latest["findings"], what="the end of the warning")
            fill(table, 2, 2)
            journaled(tmp_path / "journal", 2)


def test_an_old_open_transaction_holds_the_slot_back_and_status_says_whose_it_is(
    table: Database, tmp_path: Path
) -> None:
    publish(table, "t")
    journal = tmp_path / "journal"
    with capturing(table, journal) as running, table.connect(autocommit=False) as forgotten:
        forgotten.execute("INSERT INTO t VALUES (0)")
        pid = forgotten.info.backend_pid
        fill(table, 1, 1000, 3000)
        journaled(journal, 1000)

        def confirmed() -> bool:
            table.execute("CHECKPOINT")
            retained = running.latest["retained_bytes"]
            return running.latest["lag_bytes"] == 0 and retained is not None and retained > 3_000_000

        # All is confirmed, and yet kept: the WAL of the open transaction may have to be decoded again.
        eventually(confirmed, interval=0.2, what="the WAL that is held back")
        eventually(lambda: (running.latest["oldest_transaction"] or {}).get("pid") == pid, what="whose it is")
        assert table.name in running.latest["oldest_transaction"]["who"]
        assert running.latest["catalog_age"] > 0
        forgotten.commit()

        def released() -> bool:
            table.execute("CHECKPOINT")
            return (running.latest["retained_bytes"] or 10**9) < 1_000_000

        eventually(released, interval=0.2, what="the end of it")


# Heartbeats.


def test_the_slot_of_an_idle_database_follows_a_busy_server(table: Database, tmp_path: Path) -> None:
    publish(table, "t")
    busy = Database(table.server)
    try:
        busy.execute(TABLE)
        journal = tmp_path / "journal"
        with capturing(table, journal, heartbeat=Heartbeat(every=0.2)):
            for n in range(3):
                fill(busy, n * 1000, n * 1000 + 999, 1000)
                [(end,)] = busy.execute("SELECT pg_current_wal_lsn()")
                eventually(
                    lambda end=end: parse_lsn(str(slot_row(table, "confirmed_flush_lsn"))) >= parse_lsn(end),  # type: ignore[misc]
                    what="the confirmation of another database's WAL",
                )
        assert not changes(journal)
    finally:
        busy.drop()


def test_heartbeats_are_written_as_configured_and_are_no_changes(table: Database, tmp_path: Path) -> None:
    publish(table, "t")
    journal = tmp_path / "journal"

    def wal() -> int:
        [(lsn,)] = table.execute("SELECT pg_current_wal_insert_lsn()")
        return parse_lsn(lsn)

    with capturing(table, journal, heartbeat=Heartbeat(every=0.1)):
        before = wal()
        eventually(lambda: wal() > before + 500, what="WAL of heartbeats")
    beats = Heartbeat(every=0.1, table=("public", "heart beat"))
    with capturing(table, journal, heartbeat=beats) as running:
        eventually(lambda: "no heartbeat can be written" in messages(running), what="the finding")
        [finding] = running.latest["findings"]
        table.execute(finding["sql"])
        eventually(lambda: not running.latest["findings"], what="the remedy")
        read = 'SELECT max(at) FROM "heart beat"'
        first = table.execute(read)
        eventually(lambda: table.execute(read) > first, what="another heartbeat")
        fill(table, 1, 1)
        assert [c.relation.name for c in journaled(journal, 1)] == ["t"]
