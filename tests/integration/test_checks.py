"""`cdcflow check` against servers with faults: everything is found, and its SQL mends it as printed."""

import json
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner, Result

from cdcflow.cli.main import app
from cdcflow.model.finding import Finding
from cdcflow.source import catalog
from cdcflow.source.connection import connect, connect_replication
from cdcflow.source.preflight import examine, preflight
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from cdcflow.testing.receiver import Receiver
from cdcflow.testing.waiting import eventually

SECRET = "whsec_" + "c2VjcmV0LXRoYXQtaXMtbG9uZy1lbm91Z2g="

MakeServer = Callable[..., Server]

#: A server, a role and tables with everything wrong that SQL can mend.
FAULTS = """
    CREATE ROLE cdc LOGIN;
    CREATE SCHEMA shop;
    CREATE TABLE shop.orders (id int PRIMARY KEY, amount numeric(10, 2), note text);
    CREATE TABLE shop.log (line text);
    CREATE TABLE shop.late (id int PRIMARY KEY);
    CREATE TABLE shop.listed (id int PRIMARY KEY, a int, b int);
    CREATE TABLE shop.filtered (id int PRIMARY KEY, state text);
    CREATE TABLE shop.hidden (id int PRIMARY KEY);
    CREATE TABLE shop.computed (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
    CREATE TABLE shop.parts (id int PRIMARY KEY) PARTITION BY RANGE (id);
    CREATE TABLE shop.parts_1 PARTITION OF shop.parts FOR VALUES FROM (0) TO (10);
    CREATE TABLE shop.halves (id int PRIMARY KEY, note text) PARTITION BY RANGE (id);
    CREATE TABLE shop.halves_1 PARTITION OF shop.halves FOR VALUES FROM (0) TO (10);
    ALTER TABLE shop.halves REPLICA IDENTITY FULL;
    CREATE TABLE shop.docs (id int PRIMARY KEY, body text);
    ALTER TABLE shop.docs ALTER body SET STORAGE EXTERNAL;
    INSERT INTO shop.docs VALUES (1, repeat('x', 100000));
    CREATE TABLE public.secret (id int PRIMARY KEY);
    ALTER TABLE shop.hidden ENABLE ROW LEVEL SECURITY;
    INSERT INTO shop.listed VALUES (1, 1, 1);
    INSERT INTO shop.filtered VALUES (1, 'new');
    CREATE PUBLICATION pub FOR TABLE shop.orders, shop.log, shop.listed (a), shop.hidden, shop.computed,
        shop.filtered WHERE (state <> 'draft'), shop.parts, shop.halves, shop.docs,
        public.secret
        WITH (publish = 'insert, update');
    SELECT pg_create_physical_replication_slot('taken');
"""
SETTINGS = {
    "wal_level": "replica",
    "max_replication_slots": "1",
    "max_wal_senders": "1",
    "wal_sender_timeout": "1s",
    "max_slot_wal_keep_size": "64MB",
}

#: Severity and subject of each fault, and words of its message.
FOUND = [
    ("error", "wal_level", "is replica"),
    ("warning", "wal_sender_timeout", "1000 ms"),
    ("error", "slots", "no replication slot is free"),
    ("error", "wal senders", "no WAL sender is free"),
    ("error", "role", "lacks the REPLICATION privilege"),
    ("error", "privileges", "may not read"),
    ("warning", "privileges", "may not read shop.late"),
    ("warning", "row-level security", "shop.hidden"),
    ("error", "publication", "under the names of the partitions"),
    ("warning", "publication", "shop.late came after `cdcflow setup`"),
    ("warning", "publication", "also holds public.secret"),
    ("warning", "publication", "leaves out delete, truncate"),
    ("warning", "replica identity", "shop.log"),
    ("error", "replica identity", "its column list leaves out id"),
    ("error", "replica identity", "its row filter looks at state"),
    ("error", "slot", "does not exist"),
    ("warning", "max_slot_wal_keep_size", "64 MB: "),
    ("warning", "first load", "while all changes wait"),
    ("error", "partitions", "shop.halves_1 have another replica identity"),
]
#: What no SQL mends, or what is a choice.
LEFT = [
    ("warning", "clock", "behind ours"),
    ("warning", "journal", "the journal may grow by"),
    ("error", "webhook", "Connection refused"),
    ("warning", "flow hook", "large values of shop.docs (body)"),
]
#: What only 18 has.
FOUND_ON_18 = [
    ("warning", "generated columns", "shop.computed.twice"),
    ("warning", "idle_replication_slot_timeout", "60 s"),
]


class Shop:
    """A database with faults, and a configuration that wants to capture it."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.config = folder / "cdcflow.yaml"
        self.configure()

    def configure(self, *, hook: str = "", keep: str = "1MB") -> None:
        """`hook`: the URL of a webhook for one more flow."""
        sink = (
            f"  hook: {{type: webhook, url: '{hook}', secret: {SECRET}, allow: [127.0.0.1]}}\n"
            if hook
            else ""
        )
        flow = "  - {name: hook, from: [shop.docs], to: hook}\n" if hook else ""
        self.config.write_text(
            f"""\
source:
  dsn: "{self.server.dsn(user="cdc")}"
  tables: ["shop.*"]
  publication: pub
sinks:
  warehouse: {{type: duckdb, path: warehouse.duckdb}}
{sink}journal: {{keep: {{size: {keep}}}}}
flows:
  - {{name: all, from: ["shop.*"], to: warehouse}}
{flow}""",
            encoding="utf-8",
        )

    def cdcflow(self, *words: str) -> Result:
        return CliRunner().invoke(app, ["--config", str(self.config), *words])

    def found(self) -> list[tuple[str, str, str]]:
        """Severity, subject and message of what is not in order."""
        found = json.loads(self.cdcflow("check", "--json").stdout)
        return [(f["severity"], f["subject"], f["message"]) for f in found if f["severity"] != "ok"]

    def psql(self, script: str) -> subprocess.CompletedProcess[str]:
        """As a DBA does: the script from a file, with nothing but a database to connect to."""
        program = self.server.binaries.bin / "psql"
        return subprocess.run(
            [str(program), "--no-psqlrc", "--quiet", "--file=-", self.server.dsn()],
            input=script,
            capture_output=True,
            text=True,
            check=False,
        )


def test_every_fault_is_found_and_the_script_mends_as_printed_what_sql_can(
    own_server: MakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = own_server()
    newest = {"idle_replication_slot_timeout": "60s"} if server.version >= 18 else {}
    wanted = FOUND + LEFT + (FOUND_ON_18 if newest else [])
    server.configure({**SETTINGS, **newest})
    server.restart()
    shop = Shop(server, tmp_path)
    shop.configure(hook="http://127.0.0.1:9/in", keep="9000TB")
    # The server's clock is where it is: ours goes ahead.
    monkeypatch.setattr(catalog, "time", SimpleNamespace(time=lambda: time.time() + 60))
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(FAULTS)
        connection.execute("VACUUM ANALYZE shop.docs")
        refused_updates(connection)
        occupied = connect_replication(server.dsn(), purpose="test")

        found = shop.found()
        for severity, subject, words in wanted:
            assert any(found_is(f, severity, subject, words) for f in found), (subject, words, found)
        assert len(found) == len(wanted), found

        script = shop.cdcflow("check", "--fix-sql")
        assert script.exit_code == 0, script.output
        first = shop.psql(script.stdout)
        assert first.returncode == 0, first.stderr
        assert first.stderr.strip().endswith("now restart the server, then run this script again")
        assert still_faulty(connection)
        occupied.finish()
    server.restart()
    second = shop.psql(script.stdout)
    assert (second.returncode, second.stderr) == (0, "")

    # What is left has no SQL, or has it as a comment, to be run by whoever takes away the dashes.
    eventually(lambda: len(shop.found()) == len(LEFT), what=f"what no SQL mends: {shop.found()}")
    left = shop.cdcflow("check", "--fix-sql").stdout
    assert shop.psql(left.replace("-- ALTER TABLE", "ALTER TABLE")).returncode == 0
    assert [subject for _, subject, _ in shop.found()] == ["clock", "journal", "webhook http://127.0.0.1:9"]
    monkeypatch.undo()
    with Receiver() as receiver:
        shop.configure(hook=receiver.url)
        assert shop.found() == []
        assert shop.cdcflow("check").exit_code == 0
        again = shop.cdcflow("check", "--fix-sql")
        assert "-- Everything is in order." in again.stdout
        assert shop.psql(again.stdout).returncode == 0
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute("UPDATE shop.listed SET b = 2; UPDATE shop.filtered SET state = 'paid'")


def found_is(found: tuple[str, str, str], severity: str, subject: str, words: str) -> bool:
    return found[0] == severity and found[1].startswith(subject) and words in found[2]


def refused_updates(connection: psycopg.Connection[Any]) -> None:
    """What the check says of replica identity is what the server does."""
    for update in ("UPDATE shop.listed SET b = 2", "UPDATE shop.filtered SET state = 'paid'"):
        with pytest.raises(psycopg.errors.InvalidColumnReference, match="cannot update table"):
            connection.execute(update)


def still_faulty(connection: psycopg.Connection[Any]) -> bool:
    """Behind a setting that waits for a restart, the script has run nothing."""
    row = connection.execute("SELECT rolreplication FROM pg_roles WHERE rolname = 'cdc'").fetchone()
    return row == (False,)


def test_the_script_refuses_another_database_than_its_own(own_server: MakeServer, tmp_path: Path) -> None:
    server = own_server()
    server.execute("CREATE ROLE cdc LOGIN")
    server.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY)")
    server.execute("CREATE DATABASE elsewhere")
    shop = Shop(server, tmp_path)
    script = shop.cdcflow("check", "--fix-sql").stdout
    program = server.binaries.bin / "psql"
    ran = subprocess.run(
        [str(program), "--no-psqlrc", "--quiet", server.dsn("elsewhere")],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "this script is for the database postgres" in ran.stderr
    assert server.execute("SELECT count(*) FROM pg_publication", dbname="elsewhere") == [(0,)]
    assert server.execute("SELECT rolreplication FROM pg_roles WHERE rolname = 'cdc'") == [(False,)]


def check(database: Database) -> list[Finding]:
    findings = preflight(database.dsn, ["public.*"], database.publication, database.slot)
    return [finding for finding in findings if finding.severity != "ok"]


def test_full_identity_with_a_column_that_cannot_be_published_is_an_error_from_18_on(
    postgres: Database,
) -> None:
    postgres.execute("CREATE TABLE s (id int PRIMARY KEY, x int GENERATED ALWAYS AS (id) STORED)")
    postgres.execute("INSERT INTO s VALUES (1); ALTER TABLE s REPLICA IDENTITY FULL")
    if postgres.server.version >= 18:
        postgres.execute("CREATE TABLE v (id int PRIMARY KEY, x int GENERATED ALWAYS AS (id) VIRTUAL)")
        postgres.execute("INSERT INTO v VALUES (1); ALTER TABLE v REPLICA IDENTITY FULL")
    postgres.execute(f"CREATE PUBLICATION {postgres.publication} FOR ALL TABLES")
    postgres.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [postgres.slot])
    found = check(postgres)
    if postgres.server.version < 18:
        postgres.execute("UPDATE s SET id = 2")
        assert found == []
        return
    for table in ("s", "v"):
        with pytest.raises(psycopg.Error, match="cannot update table"):
            postgres.execute(f"UPDATE {table} SET id = 2")
    breaking = [finding for finding in found if finding.subject == "replica identity"]
    assert [finding.severity for finding in breaking] == ["error", "error"]
    for finding in breaking:
        postgres.execute(finding.sql)
    postgres.execute("UPDATE s SET id = 2; UPDATE v SET id = 2")
    assert check(postgres) == []


def test_tables_are_expected_as_the_stream_will_announce_them_with_their_toast(postgres: Database) -> None:
    postgres.execute("CREATE DOMAIN sku AS text")
    postgres.execute("CREATE TABLE docs (id int PRIMARY KEY, code sku, body text)")
    postgres.execute("ALTER TABLE docs ALTER body SET STORAGE EXTERNAL")
    postgres.execute("INSERT INTO docs VALUES (1, 'a', repeat('x', 100000))")
    postgres.execute("VACUUM docs")
    wanted = (postgres.dsn, ["public.*"], postgres.publication, postgres.slot)
    (before,) = examine(*wanted).tables
    assert before.toasted == ("code", "body")
    assert before.toast_bytes >= 100_000
    postgres.execute(f"CREATE PUBLICATION {postgres.publication} FOR TABLE docs (id, code)")
    (after,) = examine(*wanted).tables
    assert after.relation.names == ("id", "code")
    assert after.relation.columns[0].key
    assert after.relation.columns[1].type_name == "pg_catalog.text"


def test_generated_and_included_columns_are_expected_as_the_stream_announces_them(postgres: Database) -> None:
    postgres.execute(
        "CREATE TABLE t (id int, note text, x int GENERATED ALWAYS AS (id) STORED,"
        " PRIMARY KEY (id) INCLUDE (note))"
    )
    newer = postgres.server.version >= 18
    wanted = (postgres.dsn, ["public.*"], postgres.publication, postgres.slot)
    (before,) = examine(*wanted).tables
    assert before.relation.names == (("id", "note", "x") if newer else ("id", "note"))
    assert before.relation.key == (0,)
    postgres.execute(f"CREATE PUBLICATION {postgres.publication} FOR TABLE t")
    found = examine(*wanted)
    assert found.tables[0].relation.names == ("id", "note")
    (finding,) = [finding for finding in found.findings if finding.subject == "generated columns"]
    assert finding.severity == ("warning" if newer else "ok")
    assert "public.t.x" in finding.message


def test_the_oldest_transaction_that_writes_is_known_by_its_process(postgres: Database) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    with connect(postgres.dsn, purpose="preflight") as connection:
        writer = postgres.connect(autocommit=False)
        writer.execute("INSERT INTO t VALUES (1)")

        def oldest() -> bool:
            # Autovacuum of the shared server may have begun before us.
            found = catalog.vitals(connection, postgres.slot).oldest
            return found is not None and found.pid == writer.info.backend_pid

        eventually(oldest, what="the writer as the oldest")
        vitals = catalog.vitals(connection, postgres.slot)
        assert vitals.oldest is not None
        assert postgres.name in vitals.oldest.who
        assert vitals.oldest.seconds is not None
        assert vitals.oldest.seconds >= 0
        writer.rollback()
    assert (vitals.retained_bytes, vitals.catalog_age) == (None, None)
    # It is our own clock, as far as that can be seen from here.
    assert abs(vitals.clock_skew) <= vitals.clock_error + 0.01
    assert 0 < vitals.clock_error < 1


def test_what_the_slot_holds_back_is_known(postgres: Database) -> None:
    postgres.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [postgres.slot])
    postgres.execute("SELECT pg_logical_emit_message(true, 'x', repeat('x', 3000000))")
    with connect(postgres.dsn, purpose="preflight") as connection:
        vitals = catalog.vitals(connection, postgres.slot)
    assert vitals.retained_bytes is not None
    assert vitals.retained_bytes >= 3_000_000
    assert vitals.catalog_age is not None
