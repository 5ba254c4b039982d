"""Capture on real servers: each change once, in order, and nothing confirmed that is not durable."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from cdcflow.errors import EnvironmentFault, JournalError, JournalFull, SourceError
from cdcflow.journal import Reader, Writer, verify
from cdcflow.journal.layout import read_manifest
from cdcflow.model import UNCHANGED, Op, Position, parse_lsn
from cdcflow.source import capture as capture_module
from cdcflow.source.online.coordinator import Coordinator
from cdcflow.source.online.task import Task
from cdcflow.testing.database import Database
from cdcflow.testing.proxy import Proxy
from cdcflow.testing.waiting import eventually
from integration.capturing import Running, capturing, changes, journaled, make_slot, publish, settings

LONG = "".join(chr(33 + i * 7919 % 90) for i in range(100_000))  # too random to be compressed in line


@pytest.fixture(params=["c", "py"], autouse=True)
def decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Everything here is true with the compiled decoder and with its twin."""
    name = {"c": "cdcflow.decode._kernel", "py": "cdcflow.decode.twin"}[request.param]
    module = pytest.importorskip(name, reason="the compiled decoder is not built")
    monkeypatch.setattr(capture_module, "Decoder", module.Decoder)


def confirmed(postgres: Database) -> int:
    [(lsn,)] = postgres.execute(
        "SELECT confirmed_flush_lsn::text FROM pg_replication_slots WHERE slot_name = %s", [postgres.slot]
    )
    return parse_lsn(lsn)


def wal_end(postgres: Database) -> int:
    [(lsn,)] = postgres.execute("SELECT pg_current_wal_lsn()::text")
    return parse_lsn(lsn)


def insert(postgres: Database, first: int, last: int) -> None:
    postgres.execute("INSERT INTO t SELECT generate_series(%s::int, %s::int)", [first, last])


def summary(journal: Path) -> list[tuple[str, str, Any, Any]]:
    return [(c.op.word, c.relation.name, c.new, c.old) for c in changes(journal)]


def assert_sound(journal: Path) -> None:
    """No gap, no repetition, no damage."""
    assert not list(verify(journal))
    positions = [change.position for change in changes(journal)]
    assert positions == sorted(set(positions))


def test_what_is_committed_reaches_the_journal_in_order(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal"):
        postgres.execute("INSERT INTO t VALUES (1, 'a'), (2, NULL)")
        with postgres.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO t VALUES (3, 'rolled back')")
            connection.rollback()
            connection.execute("UPDATE t SET name = '' WHERE id = 1")
            connection.execute("UPDATE t SET id = 20 WHERE id = 2")
            connection.execute("DELETE FROM t WHERE id = 1")
            connection.commit()
        postgres.execute("TRUNCATE t RESTART IDENTITY")
        journaled(tmp_path / "journal", 6)
    assert summary(tmp_path / "journal") == [
        ("insert", "t", {"id": "1", "name": "a"}, None),
        ("insert", "t", {"id": "2", "name": None}, None),
        ("update", "t", {"id": "1", "name": ""}, None),
        ("update", "t", {"id": "20", "name": None}, {"id": "2"}),
        ("delete", "t", None, {"id": "1"}),
        ("truncate", "t", None, None),
    ]
    assert_sound(tmp_path / "journal")


def test_a_stop_and_a_start_lose_and_repeat_nothing(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    for start in range(0, 400, 100):
        insert(postgres, start, start + 49)
        with capturing(postgres, journal):
            insert(postgres, start + 50, start + 99)
            journaled(journal, start + 100)
    assert [int(str((c.new or {})["id"])) for c in changes(journal)] == list(range(400))
    assert_sound(journal)


def test_a_restart_in_the_middle_of_a_transaction_goes_on_where_the_journal_ends(
    postgres: Database, tmp_path: Path
) -> None:
    # A journal that holds the first part of a transaction, as a kill leaves it behind.
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    whole, torn = tmp_path / "whole", tmp_path / "torn"
    slot_copy = f"{postgres.slot}_copy"
    postgres.execute("SELECT pg_copy_logical_replication_slot(%s, %s)", [postgres.slot, slot_copy])
    start = confirmed(postgres)
    postgres.execute("INSERT INTO t SELECT generate_series(1, 1000)")
    with capturing(postgres, whole):
        journaled(whole, 1000)
    with Reader(whole) as reader:
        [batch, *_] = reader.read(0, max_changes=1, max_bytes=1)
    manifest = read_manifest(whole)
    assert manifest is not None
    part = batch.slice(0, 300)
    last = [change.position for change in part.changes()][-1]
    with Writer.open(torn, replace(manifest.identity, slot=slot_copy)) as writer:
        writer.progress(start, 0)
        writer.append(type(part)(part.groups, 300, last))
        writer.sync()
    with capturing(postgres, torn, slot=slot_copy):
        journaled(torn, 1000)
    assert [int(str((c.new or {})["id"])) for c in changes(torn)] == list(range(1, 1001))
    assert_sound(torn)


def test_the_slot_is_confirmed_behind_the_journal_and_never_past_it(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t SELECT generate_series(1, 100)")
        journaled(journal, 100)
        end = wal_end(postgres)
        eventually(lambda: confirmed(postgres) >= end, what="the confirmation of an idle source's WAL")
        with Reader(journal) as reader:
            assert confirmed(postgres) <= reader.head().committed


def test_wal_that_holds_nothing_for_us_does_not_pile_up(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    postgres.execute("CREATE TABLE unpublished (x text)")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal"):
        for _ in range(3):
            postgres.execute("INSERT INTO unpublished SELECT repeat('x', 1000) FROM generate_series(1, 1000)")
            end = wal_end(postgres)
            eventually(lambda end=end: confirmed(postgres) >= end, what="the confirmation")  # type: ignore[misc]
    assert not changes(tmp_path / "journal")


def test_an_unchanged_toast_value_is_neither_null_nor_lost(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, n int, body text)")
    postgres.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal"):
        postgres.execute("INSERT INTO t VALUES (1, 1, %s)", [LONG])
        postgres.execute("UPDATE t SET n = 2")
        journaled(tmp_path / "journal", 2)
        postgres.execute("ALTER TABLE t REPLICA IDENTITY FULL")
        postgres.execute("UPDATE t SET n = 3")
        found = journaled(tmp_path / "journal", 3)
    assert found[0].new == {"id": "1", "n": "1", "body": LONG}
    assert found[1].new == {"id": "1", "n": "2", "body": UNCHANGED}
    # Under FULL the server sends the old value, and the new one is the same.
    assert found[2].old == {"id": "1", "n": "2", "body": LONG}
    assert found[2].new == {"id": "1", "n": "3", "body": LONG}


def test_a_new_shape_makes_a_new_generation(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, name text)")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal"):
        with postgres.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO t VALUES (1, 'a')")
            connection.execute("ALTER TABLE t ADD age int DEFAULT 7, DROP name")
            connection.execute("INSERT INTO t VALUES (2, 8)")
            connection.commit()
        found = journaled(tmp_path / "journal", 2)
    assert [c.new for c in found] == [{"id": "1", "name": "a"}, {"id": "2", "age": "8"}]
    assert len({c.relation.fingerprint for c in found}) == 2


@pytest.mark.parametrize("confirm_delivered", [False, True])
def test_confirmation_waits_for_the_flows_only_where_it_is_asked_to(
    postgres: Database, tmp_path: Path, confirm_delivered: bool
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, confirm_delivered=confirm_delivered) as running:
        postgres.execute("INSERT INTO t SELECT generate_series(1, 100)")
        journaled(journal, 100)
        end = wal_end(postgres)
        if confirm_delivered:
            with pytest.raises(TimeoutError):
                eventually(lambda: confirmed(postgres) >= end, timeout=3)
            running.capture.delivered(100)
        eventually(lambda: confirmed(postgres) >= end, what="the confirmation")


def test_the_backfill_brings_existing_rows_and_the_stream_everything_after(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute('CREATE TABLE "T a" (id int PRIMARY KEY, "näme" text, at timestamptz, f float8)')
    postgres.execute("""INSERT INTO "T a" VALUES (1, E'tab\\t, newline\\n, \\\\N and \\\\', now(), 0.1)""")
    postgres.execute("""INSERT INTO "T a" VALUES (2, NULL, 'infinity', 'NaN'), (3, '', NULL, '-0')""")
    publish(postgres, "T a")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        journaled(journal, 3)
        # The same values again, by the stream.
        postgres.execute("""UPDATE "T a" SET id = id + 10""")
        found = journaled(journal, 6)
    assert [c.op for c in found] == [Op.READ] * 3 + [Op.UPDATE] * 3
    for read, update in zip(found[:3], found[3:], strict=True):
        assert read.new is not None
        assert update.new == {**read.new, "id": str(int(str(read.new["id"])) + 10)}
        assert read.relation.fingerprint == update.relation.fingerprint
    assert found[0].new is not None
    assert found[0].new["näme"] == "tab\t, newline\n, \\N and \\"
    assert_sound(journal)


def test_rows_that_change_during_the_backfill_are_neither_lost_nor_doubled(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL)")
    postgres.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 20000) g")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with postgres.connect() as writer, capturing(postgres, journal, backfill=True, loaded=False):
        for n in range(1, 60):
            writer.execute("UPDATE t SET n = %s WHERE id %% 97 = %s", [n, n % 97])
            writer.execute("DELETE FROM t WHERE id = %s", [n * 300])
            writer.execute("INSERT INTO t VALUES (%s, %s)", [30000 + n, n])
        expected = dict(postgres.execute("SELECT id, n FROM t"))

        def state() -> dict[int, int]:
            rows: dict[int, int] = {}
            for change in changes(journal):
                if change.op is Op.DELETE:
                    rows.pop(int(str((change.old or {})["id"])), None)  # not read yet, perhaps
                else:
                    new = change.new or {}
                    rows[int(str(new["id"]))] = int(str(new["n"]))
            return rows

        eventually(lambda: state() == expected, interval=0.3, what="the source's state")
    assert_sound(journal)


def test_a_first_load_that_was_cut_short_goes_on_where_it_was(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    postgres.execute("CREATE TABLE u (id int PRIMARY KEY)")
    postgres.execute("INSERT INTO t SELECT generate_series(1, 5000)")
    postgres.execute("INSERT INTO u SELECT generate_series(1, 5000)")
    publish(postgres, "t", "u")
    journal = tmp_path / "journal"
    carry_on = Coordinator._carry_on

    def but_for_u(self: Coordinator, task: Task, *, room: bool) -> None:
        carry_on(self, task, room=room and task.table != "public.u")

    with monkeypatch.context() as patch:
        patch.setattr(Coordinator, "_carry_on", but_for_u)
        first = Running(settings(postgres, journal, backfill=True))
        try:
            journaled(journal, 5000)
        finally:
            first.stop()
    assert first.error is None
    postgres.execute("DELETE FROM t WHERE id <= 2500")
    with capturing(postgres, journal, backfill=True):
        found = journaled(journal, 12_500)
    came = Counter((c.relation.name, c.op) for c in found)
    assert came == {("t", Op.READ): 5000, ("t", Op.DELETE): 2500, ("u", Op.READ): 5000}
    assert_sound(journal)


def test_column_lists_and_row_filters_hold_for_the_backfill_too(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, secret text, n int)")
    postgres.execute("INSERT INTO t SELECT g, 's', g FROM generate_series(1, 10) g")
    name = sql.Identifier(postgres.publication)
    statement = "CREATE PUBLICATION {} FOR TABLE t (id, n) WHERE (id > 5)"
    postgres.execute(sql.SQL(statement).format(name))
    make_slot(postgres)
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute("INSERT INTO t VALUES (11, 's', 11), (0, 's', 0)")
        found = journaled(journal, 6)
    assert [c.new for c in found] == [{"id": str(n), "n": str(n)} for n in range(6, 12)]


def test_a_connection_that_breaks_is_made_again_and_nothing_is_lost(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with Proxy(postgres.dsn) as proxy, capturing(postgres, journal, dsn=proxy.dsn_for(postgres.dsn)):
        for n in range(10):
            insert(postgres, n * 100, n * 100 + 99)
            proxy.cut()
        found = journaled(journal, 1000)
    assert [int(str((c.new or {})["id"])) for c in found] == list(range(1000))
    assert_sound(journal)


def test_a_large_transaction_is_journaled_while_it_arrives(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, filler text)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 100000) g")
        found = journaled(journal, 100_000)
        end = wal_end(postgres)
        eventually(lambda: confirmed(postgres) >= end, what="the confirmation")
    [lsn] = {c.position.commit_lsn for c in found}
    assert [c.position for c in found] == [Position(lsn, n) for n in range(1, 100_001)]


def test_a_slot_that_is_ahead_of_the_journal_stops_capture(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t VALUES (1)")
        journaled(journal, 1)
    eventually(lambda: walsender(postgres) is None, what="the slot's release")
    postgres.execute("INSERT INTO t VALUES (2)")
    postgres.execute(
        "SELECT pg_replication_slot_advance(%s, pg_current_wal_lsn())", [postgres.slot]
    )  # somebody else
    error = Running(settings(postgres, journal)).join()
    assert isinstance(error, SourceError)
    assert "ahead of the journal" in str(error)
    assert error.hint


def test_a_slot_that_was_made_anew_stops_capture(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t VALUES (1)")
        journaled(journal, 1)
    eventually(lambda: walsender(postgres) is None, what="the slot's release")
    postgres.execute("SELECT pg_drop_replication_slot(%s)", [postgres.slot])
    postgres.execute("INSERT INTO t VALUES (2)")
    error = Running(settings(postgres, journal)).join()
    assert isinstance(error, SourceError)
    assert "does not exist" in str(error)
    make_slot(postgres)
    assert "ahead of the journal" in str(Running(settings(postgres, journal)).join())


def test_a_missing_publication_stops_capture(postgres: Database, tmp_path: Path) -> None:
    make_slot(postgres)
    error = Running(settings(postgres, tmp_path / "journal")).join()
    assert isinstance(error, SourceError)
    assert "publication" in str(error)
    assert "setup" in error.hint


def test_a_journal_of_another_database_stops_capture(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal"):
        pass
    other = Database(postgres.server)
    try:
        other.execute("CREATE TABLE t (id int PRIMARY KEY)")
        publish(other, "t")
        error = Running(settings(other, tmp_path / "journal")).join()
        assert isinstance(error, EnvironmentFault)
        assert postgres.name in str(error)
    finally:
        other.drop()


def test_a_journal_that_another_process_writes_is_refused(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture_module, "HANDOVER", 0.2)
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal"):
        error = Running(settings(postgres, tmp_path / "journal")).join()
    assert isinstance(error, JournalError)


def test_a_wal_sender_timeout_shorter_than_a_full_disk_does_not_end_the_session(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While the journal cannot grow, the server goes on hearing from us."""
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, filler text)")
    publish(postgres, "t")
    postgres.execute(sql.SQL("ALTER ROLE CURRENT_USER SET wal_sender_timeout = '2s'"))
    try:
        journal = tmp_path / "journal"
        full = {"now": False, "refused": 0}
        original = Writer.append

        def refuse(self: Writer, batch: Any) -> Any:
            if full["now"]:
                full["refused"] += 1
                raise JournalFull("no room")
            return original(self, batch)

        monkeypatch.setattr(Writer, "append", refuse)
        with capturing(postgres, journal) as running:
            pid = eventually(lambda: walsender(postgres))
            full["now"] = True
            postgres.execute("INSERT INTO t SELECT g, repeat('x', 1000) FROM generate_series(1, 50000) g")
            eventually(lambda: full["refused"] >= 5, what="five seconds of a full disk")
            eventually(
                lambda: running.latest["state"] == "waiting for disk", what="the full disk in the report"
            )
            assert walsender(postgres) == pid, "the session was ended"
            full["now"] = False
            journaled(journal, 50_000)
            assert walsender(postgres) == pid
        assert_sound(journal)
    finally:
        postgres.execute(sql.SQL("ALTER ROLE CURRENT_USER RESET wal_sender_timeout"))


def test_a_stop_does_not_wait_for_a_full_disk(
    postgres: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(postgres, "t")
    journal = tmp_path / "journal"

    def refuse(_: Writer, batch: Any) -> Any:
        raise JournalFull("no room")

    with monkeypatch.context() as patch, capturing(postgres, journal) as running:
        patch.setattr(Writer, "append", refuse)
        insert(postgres, 1, 1000)
        eventually(lambda: running.latest["state"] == "waiting for disk", what="the full disk")
        running.capture.stop()
        assert running.join() is None
    with capturing(postgres, journal):
        found = journaled(journal, 1000)
    assert [int(str((c.new or {})["id"])) for c in found] == list(range(1, 1001))


def walsender(postgres: Database) -> int | None:
    rows = postgres.execute(
        "SELECT active_pid FROM pg_replication_slots WHERE slot_name = %s", [postgres.slot]
    )
    pid: int | None = rows[0][0]
    return pid


def test_passwords_are_in_no_report(postgres: Database, tmp_path: Path) -> None:
    make_slot(postgres)
    secret = "hunter2secret"
    dsn = psycopg.conninfo.make_conninfo(postgres.dsn, password=secret)
    running = Running(settings(postgres, tmp_path / "journal", dsn=dsn))
    error = running.join()
    assert secret not in repr(running.reports) + str(error) + repr(settings(postgres, tmp_path, dsn=dsn))
