"""The text of DDL in the stream: captured at its place, read back as a history, in nobody's way."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from typer.testing import CliRunner

from cdcflow import parser
from cdcflow.cli.main import app
from cdcflow.engine.history import Event, ddl_history
from cdcflow.errors import SourceError
from cdcflow.model import Op
from cdcflow.model.ddl import DDL_PREFIX
from cdcflow.source import setup as service
from cdcflow.source.judgement import Wishes
from cdcflow.source.preflight import preflight
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from integration.capturing import capturing, changes, journaled

WISHES = Wishes(ddl=True)


@pytest.fixture
def shop(postgres: Database) -> Database:
    """A database with a table, set up with the event triggers."""
    postgres.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY, note text)")
    service.setup(postgres.dsn, ("shop.*",), postgres.publication, postgres.slot, WISHES)
    return postgres


def history(journal: Path) -> list[Event]:
    return list(ddl_history(journal))


def captured(shop: Database, journal: Path, *statements: str) -> list[Event]:
    """What capture makes of the statements, each a transaction of its own."""
    with capturing(shop, journal, messages=(DDL_PREFIX,)):
        for statement in statements:
            shop.execute(statement)
        shop.execute("INSERT INTO shop.orders (id) VALUES (1000)")
        offset = 1
        while changes_end(journal, offset) != "1000":
            offset += 1
    return history(journal)


def changes_end(journal: Path, count: int) -> str:
    row = journaled(journal, count)[-1].new or {}
    return str(row.get("id"))


def words(event: Event) -> tuple[str, str, list[tuple[str, str]]]:
    summary = event.summary
    return summary.kind, summary.object, [(column.action, column.name) for column in summary.columns]


def test_ddl_stands_at_its_place_among_the_rows_and_says_what_it_did(shop: Database, tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    with capturing(shop, journal, messages=(DDL_PREFIX,)):
        with shop.connect(autocommit=False) as connection:
            connection.execute("SET LOCAL search_path = shop, public")
            connection.execute("INSERT INTO orders VALUES (1)")
            connection.execute(
                "ALTER TABLE orders ADD COLUMN amount numeric(10,2) DEFAULT 1, DROP COLUMN note"
            )
            connection.execute("INSERT INTO orders VALUES (2)")
            connection.execute("SAVEPOINT s")
            connection.execute("ALTER TABLE orders ADD COLUMN never int")
            connection.execute("ROLLBACK TO s")
            connection.execute('ALTER TABLE orders RENAME amount TO "größe"')
            connection.execute("INSERT INTO orders VALUES (3)")
            connection.commit()
        found = journaled(journal, 6)
    assert [c.op for c in found].count(Op.MESSAGE) == 3
    assert [c.position.ordinal for c in found] == [1, 2, 3, 4, 5, 6]
    assert [str((c.new or {}).get("id")) for c in found if c.op is not Op.MESSAGE] == ["1", "2", "3"]
    assert [found.index(c) for c in found if c.op is Op.MESSAGE] == [1, 2, 4]
    altered, renamed = history(journal)
    assert words(altered) == ("ALTER TABLE", "shop.orders", [("add", "amount"), ("drop", "note")])
    assert altered.summary.columns[0].type == "numeric(10, 2)"
    assert [o.identity for o in altered.dropped] == ["shop.orders.note"]
    assert altered.position < renamed.position
    assert altered.command.text == altered.summary.statement
    assert altered.command.search_path == "shop, public"
    assert altered.command.user == "postgres"
    assert words(renamed) == ("ALTER TABLE", "shop.orders", [("rename", "amount")])
    assert renamed.summary.columns[0].to == "größe"


def test_every_kind_of_ddl_has_its_line_and_nothing_else_has(shop: Database, tmp_path: Path) -> None:
    found = captured(
        shop,
        tmp_path / "journal",
        "CREATE TABLE shop.a (id serial PRIMARY KEY); CREATE TABLE shop.b (a int REFERENCES shop.a)",
        "CREATE VIEW shop.v AS SELECT * FROM shop.a",
        "CREATE TEMP TABLE mine (id int); ALTER TABLE mine ADD x int; DROP TABLE mine",
        "DO $$ BEGIN EXECUTE 'ALTER TABLE shop.b ADD COLUMN c int'; END $$",
        "ALTER TABLE shop.a RENAME TO c",
        "CREATE TYPE shop.mood AS ENUM ('ok'); ALTER TYPE shop.mood ADD VALUE 'so so'",
        "CREATE INDEX b_a ON shop.b (a)",
        "CREATE TABLE shop.d AS SELECT 1 AS one",
        "COMMENT ON TABLE shop.c IS 'ours'",
        "DROP TABLE shop.c CASCADE",
        "TRUNCATE shop.b",
        "ANALYZE shop.b",
        "DROP SCHEMA shop CASCADE; CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY)"
        f"; ALTER PUBLICATION {shop.publication} ADD TABLE shop.orders",
    )
    assert [words(event)[:2] for event in found] == [
        ("CREATE TABLE", "shop.a"),
        ("CREATE TABLE", "shop.b"),
        ("CREATE VIEW", "shop.v"),
        ("ALTER TABLE", "shop.b"),
        ("ALTER TABLE", "shop.a"),
        ("CREATE TYPE", "shop.mood"),
        ("ALTER TYPE", "shop.mood"),
        ("CREATE INDEX", "shop.b"),
        ("CREATE TABLE AS", "shop.d"),
        ("COMMENT", "shop.c"),
        ("DROP TABLE", "shop.c"),
        ("DROP SCHEMA", "shop"),
        ("CREATE SCHEMA", "shop"),
        ("CREATE TABLE", "shop.orders"),
        ("ALTER PUBLICATION", f"shop.orders in publication {shop.publication}"),
    ]
    by_function = found[3]
    assert by_function.summary.statement is None  # the text is that of the DO
    assert (by_function.command.text or "").startswith("DO $$")
    assert found[4].summary.to == "c"
    dropped = {(o.type, o.identity) for o in found[10].dropped}
    assert {("table", "shop.c"), ("view", "shop.v")} <= dropped
    assert not {kind for kind, _ in dropped} & {"type", "index", "toast table"}


def test_what_can_hold_a_password_is_not_repeated(shop: Database, tmp_path: Path) -> None:
    shop.execute("CREATE FOREIGN DATA WRAPPER far")
    found = captured(
        shop,
        tmp_path / "journal",
        "CREATE SERVER else FOREIGN DATA WRAPPER far OPTIONS (password 'hush')".replace("else", "elsewhere"),
        "CREATE USER MAPPING FOR postgres SERVER elsewhere OPTIONS (password 'hush')",
        f"CREATE ROLE {shop.name}_x PASSWORD 'hush'; ALTER TABLE shop.orders ADD COLUMN role text",
        "ALTER TABLE shop.orders ADD COLUMN password text",
    )
    shop.execute(f"DROP ROLE {shop.name}_x")
    assert [event.command.tag for event in found][1:3] == ["CREATE SERVER", "CREATE USER MAPPING"]
    assert [event.command.text is None for event in found] == [True, True, True, True, False]
    assert [event.summary.object for event in found[3:]] == ["shop.orders", "shop.orders"]
    assert "hush" not in repr(changes(tmp_path / "journal"))


def test_a_failing_trigger_never_fails_the_ddl(shop: Database) -> None:
    emit = "SELECT oid::regprocedure::text FROM pg_proc WHERE proname = 'pg_logical_emit_message'"
    for (function,) in shop.execute(emit):
        shop.execute(f"REVOKE EXECUTE ON FUNCTION {function} FROM PUBLIC")
    role = f"{shop.name}_dev"
    shop.execute(f"CREATE ROLE {role} LOGIN; GRANT CREATE ON SCHEMA shop TO {role}")
    try:
        with psycopg.connect(shop.server.dsn(shop.name, user=role), autocommit=True) as connection:
            said: list[str] = []
            connection.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
            connection.execute("CREATE TABLE shop.theirs (id int)")
        assert shop.execute("SELECT to_regclass('shop.theirs')") == [("shop.theirs",)]
        assert any("cdcflow does not capture this CREATE TABLE" in line for line in said)
    finally:
        shop.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_setup_makes_the_triggers_and_teardown_takes_them_away(postgres: Database) -> None:
    postgres.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY)")
    wanted = (postgres.dsn, ("shop.*",), postgres.publication, postgres.slot)
    service.setup(*wanted)
    assert not postgres.execute("SELECT 1 FROM pg_event_trigger")
    complaints = [f for f in preflight(*wanted, WISHES) if f.severity != "ok"]
    assert [finding.subject for finding in complaints] == ["ddl"]
    assert "CREATE EVENT TRIGGER cdcflow_ddl" in service.script(*wanted, WISHES)
    [done] = service.setup(*wanted, WISHES)
    assert "event triggers" in done
    assert service.setup(*wanted, WISHES) == []
    postgres.execute("ALTER EVENT TRIGGER cdcflow_drop DISABLE")
    [finding] = [f for f in preflight(*wanted, WISHES) if f.subject == "ddl"]
    assert "disabled" in finding.message
    postgres.execute(finding.sql)
    assert not [f for f in preflight(*wanted, WISHES) if f.subject == "ddl"]
    # What else is in the schema stays.
    postgres.execute("CREATE TABLE cdcflow.heartbeat (id int PRIMARY KEY)")
    assert len(service.teardown(*wanted, WISHES)) == 3
    assert not postgres.execute("SELECT 1 FROM pg_event_trigger")
    assert postgres.execute("SELECT to_regclass('cdcflow.heartbeat')") == [("cdcflow.heartbeat",)]
    postgres.execute(finding_sql := complaints[0].sql)
    assert "CREATE EVENT TRIGGER" in finding_sql
    postgres.execute("DROP TABLE cdcflow.heartbeat")
    service.teardown(*wanted, WISHES)
    assert not postgres.execute("SELECT 1 FROM pg_namespace WHERE nspname = 'cdcflow'")


def test_a_role_that_may_not_make_the_triggers_is_sent_to_the_dba(
    own_server: Callable[..., Server],
) -> None:
    server = own_server()
    server.execute("CREATE ROLE cdc LOGIN REPLICATION")
    server.execute("CREATE DATABASE shop OWNER cdc")
    dsn = server.dsn("shop", user="cdc")
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("CREATE SCHEMA shop; CREATE TABLE shop.orders (id int PRIMARY KEY)")
    wanted = (dsn, ("shop.*",), "pub", "cdc")
    with pytest.raises(SourceError, match="permission denied") as caught:
        service.setup(*wanted, WISHES)
    assert "made the replication slot cdc" in str(caught.value)
    assert "--print-sql" in caught.value.hint
    psql = server.binaries.bin / "psql"
    script = service.script(*wanted, WISHES)
    ran = subprocess.run(
        [str(psql), "--no-psqlrc", "--quiet", "-v", "ON_ERROR_STOP=1", server.dsn("shop")],
        input=script,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert service.setup(*wanted, WISHES) == []
    assert not [f for f in preflight(*wanted, WISHES) if f.severity != "ok"]


@pytest.mark.parametrize("installed", [True, False], ids=["with pglast", "without pglast"])
def test_the_history_is_shown_with_and_without_the_parser(
    shop: Database, tmp_path: Path, installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not installed:
        monkeypatch.setitem(sys.modules, "pglast", None)
        with pytest.raises(parser.NotParsed):
            parser.statements("SELECT 1")
    journal = tmp_path / "journal"
    captured(
        shop,
        journal,
        "ALTER TABLE shop.orders ADD COLUMN amount numeric(10,2)",
        "CREATE TABLE shop.x (y int)",
    )
    shown = CliRunner().invoke(app, ["journal", "ddl", str(journal)])
    assert shown.exit_code == 0, shown.output
    header, first, second = shown.stdout.splitlines()
    assert header.split("\t")[3:] == ["command", "object", "what"]
    assert first.split("\t")[3:5] == ["ALTER TABLE", "shop.orders"]
    assert first.split("\t")[5] == (
        "add amount numeric(10, 2)"
        if installed
        else "ALTER TABLE shop.orders ADD COLUMN amount numeric(10,2)"
    )
    assert second.split("\t")[4] == "shop.x"
    asked = CliRunner().invoke(app, ["journal", "ddl", str(journal), "--json", "--table", "shop.orders"])
    found: list[dict[str, Any]] = json.loads(asked.stdout)
    assert [event["kind"] for event in found] == ["ALTER TABLE"]
    assert found[0]["columns"] == (
        [{"name": "amount", "action": "add", "type": "numeric(10, 2)", "to": None}] if installed else []
    )
