"""The server stops, dies, is restored, is replaced by its standby: nothing is lost, or capture stops."""

import itertools
import json
import shutil
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from cdcflow.engine.status import UNKNOWN
from cdcflow.errors import SourceError
from cdcflow.journal import Writer, verify
from cdcflow.journal.layout import read_manifest
from cdcflow.model import parse_lsn
from cdcflow.model.finding import Finding
from cdcflow.source import monitor
from cdcflow.source.heartbeat import Heartbeat
from cdcflow.source.judgement import Wishes
from cdcflow.source.preflight import preflight
from cdcflow.source.requests import Request, Requests
from cdcflow.source.setup import script, setup
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually
from integration.capturing import Running, capturing, changes, journaled, publish, settings

OwnServer = Callable[..., Server]

TABLE = "CREATE TABLE t (id int PRIMARY KEY)"


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Looks at the source as often as tests like it."""
    monkeypatch.setattr(monitor, "INTERVAL", 0.1)
    monkeypatch.setattr(monitor, "WATCH_INTERVAL", 0.1)


def fill(server: Server, database: Database, first: int, last: int) -> None:
    query = "INSERT INTO t SELECT generate_series(%s::int, %s::int)"
    server.execute(query, [first, last], dbname=database.name)


def ids(journal: Path) -> list[int]:
    return [int(str((change.new or {})["id"])) for change in changes(journal)]


def copy_tree(source: Path, target: Path) -> None:
    """With the owners, which are the server's."""
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def stopped(database: Database, journal: Path, **changed: Any) -> SourceError:
    error = Running(settings(database, journal, **changed)).join()
    assert isinstance(error, SourceError), error
    return error


def test_a_server_that_is_stopped_or_killed_is_followed_when_it_is_back(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server(settings={"full_page_writes": "on"})
    database = Database(server)
    database.execute(TABLE)
    publish(database, "t")
    journal = tmp_path / "journal"
    ends: list[Callable[[], None]] = [server.stop, lambda: server.stop("immediate"), server.kill]
    try:
        with capturing(database, journal) as running:
            for n, end in enumerate(ends):
                fill(server, database, n * 2000, n * 2000 + 999)
                end()
                eventually(lambda: running.latest["state"] == "connecting", what="the loss to be noticed")
                for unknown in UNKNOWN:
                    assert running.latest[unknown] is None
                server.start()
                fill(server, database, n * 2000 + 1000, n * 2000 + 1999)
                journaled(journal, (n + 1) * 2000)
                eventually(lambda: running.latest["wal_status"] == "reserved", what="the slot's state")
        assert ids(journal) == list(range(6000))
        assert not list(verify(journal))
    finally:
        database.close()


def test_a_database_that_was_restored_from_a_copy_stops_capture(
    own_server: OwnServer, tmp_path: Path
) -> None:
    server = own_server()
    database = Database(server)
    database.execute(TABLE)
    publish(database, "t")
    journal = tmp_path / "journal"
    copy = server.directory / "copy"

    def remembered() -> int:
        return int(json.loads((journal / "watch.json").read_text())["restart_lsn"])

    restart_lsn = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = %s"
    try:
        with capturing(database, journal):
            fill(server, database, 1, 100)
            journaled(journal, 100)
        server.stop()
        copy_tree(server.data, copy)
        server.start()
        with capturing(database, journal):
            before = server.execute(restart_lsn, [database.slot])
            fill(server, database, 101, 5000)
            journaled(journal, 5000)

            def moved() -> bool:
                server.execute("CHECKPOINT")
                return remembered() > parse_lsn(before[0][0])

            eventually(moved, interval=0.2, what="the slot's move to be remembered")
        server.stop()
        place = server.data
        shutil.rmtree(place)
        copy_tree(copy, place)
        server.start()
        error = stopped(database, journal)
        assert "the database is behind the journal" in str(error)
        assert "teardown --yes" in error.hint
        # Once it has written more than the journal holds, its LSNs no longer tell.
        for first in range(10_000, 40_000, 10_000):
            fill(server, database, first, first + 9_999)
        error = stopped(database, journal)
        assert "was restored from a copy" in str(error)
        assert "teardown --yes" in error.hint
        assert ids(journal) == list(range(1, 5001))
    finally:
        database.close()


class Pair:
    """A primary with a failover slot, and its standby."""

    def __init__(self, make: OwnServer, *, ahead: bool) -> None:
        """`ahead`: the stream may be ahead of the standby."""
        self.primary = make()
        self.database = Database(self.primary)
        self.database.execute(TABLE)
        self.wanted = (self.database.dsn, ["public.t"], self.database.publication, self.database.slot)
        setup(*self.wanted, Wishes(failover=True))
        directory = self.primary.directory / "standby"
        self.standby = self.primary.standby(directory, settings={"hot_standby_feedback": "on"})
        conninfo = make_conninfo(self.primary.dsn(), application_name="standby")
        self.standby.configure({"primary_conninfo": conninfo, "primary_slot_name": "standby"})
        self.standby.start()
        if not ahead:
            self.primary.configure({"synchronized_standby_slots": "standby"})
            self.primary.reload()
        hosts = f"{self.primary.port},{self.standby.port}"
        self.dsn = make_conninfo(
            self.database.dsn,
            host="127.0.0.1,127.0.0.1",
            port=hosts,
            target_session_attrs="read-write",
        )

    def synchronise(self) -> None:
        """Brings the slot to the standby, as the slotsync worker does from time to time."""

        def persistent() -> bool:
            self.primary.execute("SELECT pg_log_standby_snapshot()")
            self.standby.execute("SELECT pg_sync_replication_slots()")
            slot = "SELECT synced AND NOT temporary FROM pg_replication_slots WHERE slot_name = %s"
            return self.standby.execute(slot, [self.database.slot]) == [(True,)]

        eventually(persistent, interval=0.1, what="the slot on the standby")

    def close(self) -> None:
        self.database.close()
        self.standby.destroy()


def needs_failover_slots(version: int | str) -> None:
    if not isinstance(version, int) or version < 17:
        pytest.skip("failover slots exist from 17 on")


def test_a_promoted_standby_is_followed_and_nothing_is_lost(
    postgres_version: int | str, own_server: OwnServer, tmp_path: Path
) -> None:
    needs_failover_slots(postgres_version)
    pair = Pair(own_server, ahead=False)
    journal = tmp_path / "journal"
    try:
        with capturing(pair.database, journal, dsn=pair.dsn):
            fill(pair.primary, pair.database, 1, 1000)
            journaled(journal, 1000)
            pair.synchronise()
            fill(pair.primary, pair.database, 1001, 2000)
            journaled(journal, 2000)
            copy = troubles(pair.standby.dsn(pair.database.name), pair.database, Wishes(failover=True))
            assert any("is the primary's, of which this standby has a copy" in f.message for f in copy)
            pair.primary.kill()
            pair.standby.promote()
            fill(pair.standby, pair.database, 2001, 3000)
            journaled(journal, 3000)
        manifest = read_manifest(journal)
        assert manifest is not None
        assert manifest.identity.timeline == 2
        # After a restart too, and never back to the old primary.
        with capturing(pair.database, journal, dsn=pair.dsn):
            fill(pair.standby, pair.database, 3001, 3100)
            journaled(journal, 3100)
        assert ids(journal) == list(range(1, 3101))
        assert not list(verify(journal))
        pair.primary.start()
        error = stopped(pair.database, journal)
        assert "it is an old primary" in str(error)
        assert "target_session_attrs" in error.hint
    finally:
        pair.close()


def test_a_standby_that_had_not_received_everything_is_not_followed(
    postgres_version: int | str, own_server: OwnServer, tmp_path: Path
) -> None:
    needs_failover_slots(postgres_version)
    pair = Pair(own_server, ahead=True)
    journal = tmp_path / "journal"
    try:
        with capturing(pair.database, journal, dsn=pair.dsn):
            fill(pair.primary, pair.database, 1, 1000)
            journaled(journal, 1000)
            pair.synchronise()
            pair.standby.stop()
            fill(pair.primary, pair.database, 1001, 2000)
            journaled(journal, 2000)
        pair.primary.kill()
        pair.standby.start()
        pair.standby.promote()
        fill(pair.standby, pair.database, 5001, 9000)
        error = stopped(pair.database, journal, dsn=pair.dsn)
        assert "is not a continuation of what the journal holds" in str(error)
        assert "synchronized_standby_slots" in error.hint
        manifest = read_manifest(journal)
        assert manifest is not None
        assert manifest.identity.timeline == 1
        with Writer.open(journal, manifest.identity) as writer:
            assert writer.tail.offset == 2000
    finally:
        pair.close()


def troubles(dsn: str, database: Database, wishes: Wishes) -> list[Finding]:
    found = preflight(dsn, ["public.t"], database.publication, database.slot, wishes)
    return [finding for finding in found if finding.severity != "ok"]


def test_check_says_what_keeps_a_standby_from_being_followed_and_its_remedies_work(
    postgres_version: int | str, own_server: OwnServer
) -> None:
    needs_failover_slots(postgres_version)
    server = own_server()
    database = Database(server)
    wanted = (database.dsn, ["public.t"], database.publication, database.slot)
    failover = Wishes(failover=True)
    is_one = "SELECT failover FROM pg_replication_slots WHERE slot_name = %s"
    try:
        database.execute(TABLE)
        setup(*wanted)
        assert not troubles(database.dsn, database, Wishes())  # no standby, so nothing that could be lost
        server.execute("SELECT pg_create_physical_replication_slot('standby', true)")
        [finding] = troubles(database.dsn, database, Wishes())
        assert "there are standbys (by the slots standby)" in finding.message
        assert "set source.failover: true, then stop cdcflow and run `cdcflow setup`" in finding.remedy

        assert "ALTER_REPLICATION_SLOT" in script(*wanted, failover)
        [done] = setup(*wanted, failover)
        assert "a failover slot" in done
        assert database.execute(is_one, [database.slot]) == [(True,)]
        assert setup(*wanted, failover) == []

        [finding] = troubles(database.dsn, database, failover)
        assert "synchronized_standby_slots is not set" in finding.message
        for statement in finding.sql.splitlines():
            database.execute(statement)
        eventually(lambda: not troubles(database.dsn, database, failover), what="the setting's effect")
        server.execute("SELECT pg_drop_replication_slot('standby')")
        [finding] = troubles(database.dsn, database, failover)
        assert "names standby, which no standby uses" in finding.message
        for statement in finding.sql.splitlines():
            database.execute(statement)
        eventually(lambda: not troubles(database.dsn, database, failover), what="the setting's effect")
    finally:
        database.close()


def test_failover_slots_are_refused_where_the_server_has_none(postgres: Database) -> None:
    if postgres.execute("SHOW server_version_num")[0][0] >= "170000":
        pytest.skip("failover slots exist from 17 on")
    postgres.execute(TABLE)
    wanted = (postgres.dsn, ["public.t"], postgres.publication, postgres.slot)
    with pytest.raises(SourceError, match="failover slots exist from PostgreSQL 17 on") as refused:
        setup(*wanted, Wishes(failover=True))
    assert "leave source.failover out" in refused.value.hint
    assert not postgres.execute("SELECT FROM pg_publication WHERE pubname = %s", [postgres.publication])
    found = troubles(postgres.dsn, postgres, Wishes(failover=True))
    assert any(f.severity == "error" and f.subject == "failover" for f in found)


def test_a_standby_can_be_the_source(
    postgres_version: int | str, own_server: OwnServer, tmp_path: Path
) -> None:
    if not isinstance(postgres_version, int) or postgres_version < 16:
        pytest.skip("standbys decode from 16 on")
    primary = own_server()
    database = Database(primary)
    standby = primary.standby(primary.directory / "standby")
    journal = tmp_path / "journal"
    try:
        standby.start()
        database.execute(TABLE)
        fill(primary, database, 1, 50)
        eventually(
            lambda: has(standby, database, "pg_class", "relname", "t"), what="the table on the standby"
        )
        dsn = standby.dsn(database.name)
        wanted = (dsn, ["public.t"], database.publication, database.slot)
        with pytest.raises(SourceError, match="where the publication cannot be made") as refused:
            setup(*wanted)
        words = refused.value.hint
        database.execute(words[words.index("CREATE PUBLICATION") :])
        eventually(
            lambda: has(standby, database, "pg_publication", "pubname", database.publication),
            what="the publication on the standby",
        )
        make = threading.Thread(target=setup, args=wanted)
        make.start()

        def made() -> bool:
            primary.execute("SELECT pg_log_standby_snapshot()")  # which the new slot waits for
            return not make.is_alive()

        eventually(made, interval=0.1, what="the slot on the standby")
        found = troubles(dsn, database, Wishes())
        assert [f.subject for f in found] == ["standby"]
        assert "hot_standby_feedback is off" in found[0].message
        for statement in found[0].sql.splitlines():
            standby.execute(statement)
        eventually(lambda: not troubles(dsn, database, Wishes()), what="the setting's effect")
        [finding] = troubles(dsn, database, Wishes(failover=True))
        assert "a slot of a standby cannot be a failover slot" in finding.message

        snapshots = threading.Event()

        def log_snapshots() -> None:
            while not snapshots.wait(0.1):  # which the backfill's slot waits for
                primary.execute("SELECT pg_log_standby_snapshot()")

        helper = threading.Thread(target=log_snapshots)
        helper.start()
        try:
            with capturing(database, journal, dsn=dsn, backfill=True):
                journaled(journal, 50)
        finally:
            snapshots.set()
            helper.join()
        with capturing(database, journal, dsn=dsn, heartbeat=Heartbeat(every=0.1)) as running:
            fill(primary, database, 51, 100)
            journaled(journal, 100)
            eventually(lambda: running.latest["wal_status"] == "reserved", what="the slot's state")
            assert not running.latest["findings"]  # no heartbeat is no trouble
        with capturing(database, journal, dsn=dsn):
            fill(primary, database, 101, 200)
            journaled(journal, 200)
        assert ids(journal) == list(range(1, 201))
    finally:
        database.close()
        standby.destroy()


def has(server: Server, database: Database, catalog: str, column: str, name: str) -> bool:
    query = f"SELECT true FROM {catalog} WHERE {column} = %s"
    try:
        return bool(server.execute(query, [name], dbname=database.name))
    except psycopg.OperationalError:  # the database is not there yet either
        return False


def test_a_standby_is_the_source_of_a_backfill_while_its_rows_change(
    postgres_version: int | str, own_server: OwnServer, tmp_path: Path
) -> None:
    """A snapshot of a standby does not say which transactions run, and nothing can be written there to make
    the stream go on: no row may be lost or go back, and a backfill must end where nothing else happens."""
    if not isinstance(postgres_version, int) or postgres_version < 17:
        pytest.skip("once is enough")
    primary = own_server()
    database = Database(primary)
    standby = primary.standby(primary.directory / "standby", settings={"hot_standby_feedback": "on"})
    requests = Requests(tmp_path / "backfills")
    journal, stop = tmp_path / "journal", threading.Event()

    def change() -> None:
        with database.connect(autocommit=True) as connection:
            for turn in itertools.count():
                if stop.is_set():
                    return
                # Updates move rows to the end of the table, where they may have been read already.
                connection.execute("UPDATE v SET n = n + 1 WHERE id %% 50 = %s", [turn % 50])
                connection.execute("DELETE FROM v WHERE id = %s", [4000 + turn])
                connection.execute("INSERT INTO v VALUES (%s, 0)", [100_000 + turn])

    def backfilled() -> str:
        request = requests.add(Request("", ("public.v",), rate=4_000))
        over = ("done", "failed")
        eventually(lambda: requests.get(request.name).state in over, timeout=90, what="its end")
        return requests.get(request.name).state

    changing = threading.Thread(target=change)
    try:
        standby.start()
        database.execute("CREATE TABLE v (id int PRIMARY KEY, n int)")
        database.execute("INSERT INTO v SELECT g, 0 FROM generate_series(1, 8000) g")
        database.execute(f"CREATE PUBLICATION {database.publication} FOR TABLE v")
        dsn = standby.dsn(database.name)
        eventually(
            lambda: has(standby, database, "pg_publication", "pubname", database.publication),
            what="the publication on the standby",
        )
        wanted = (dsn, ["public.v"], database.publication, database.slot)
        make = threading.Thread(target=setup, args=wanted)
        make.start()

        def made() -> bool:
            primary.execute("SELECT pg_log_standby_snapshot()")  # which the new slot waits for
            return not make.is_alive()

        eventually(made, interval=0.1, timeout=60, what="the slot on the standby")
        with capturing(database, journal, dsn=dsn, backfills=requests.folder):
            changing.start()
            assert backfilled() == "done"
            stop.set()
            changing.join()
            assert backfilled() == "done"  # while nothing happens at the primary
            database.execute("INSERT INTO v VALUES (-1, 0)")
            eventually(lambda: -1 in _last_versions(journal), timeout=60, what="the last change")
        assert _last_versions(journal) == dict(database.execute("SELECT id, n FROM v"))
        assert not list(verify(journal))
    finally:
        stop.set()
        database.close()
        standby.destroy()


def _last_versions(journal: Path) -> dict[int, int]:
    """The rows of `v` as whoever follows the journal has them; none may go back."""
    held: dict[int, int] = {}
    for found in changes(journal):
        if found.relation.name != "v":
            continue
        if found.new is None:
            assert found.old is not None
            held.pop(int(str(found.old["id"])), None)
            continue
        key, version = int(str(found.new["id"])), int(str(found.new["n"]))
        assert version >= held.get(key, 0), f"row {key} went back to {version}"
        held[key] = version
    return held
