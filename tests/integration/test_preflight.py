"""Preflight on real servers: each trouble is found, named and given its remedy, and the remedy helps."""

from collections.abc import Callable, Iterator

import psycopg
import pytest

from cdcflow.errors import ConfigurationError
from cdcflow.model.finding import Finding
from cdcflow.source import setup as service
from cdcflow.source.connection import connect_replication
from cdcflow.source.preflight import preflight
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server
from cdcflow.testing.waiting import eventually

MakeServer = Callable[..., Server]


@pytest.fixture
def ready(postgres: Database) -> Database:
    """A database with one table, a publication of it and a slot."""
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY, note text)")
    service.setup(postgres.dsn, ("public.*",), postgres.publication, postgres.slot)
    return postgres


@pytest.fixture
def role(ready: Database) -> Iterator[str]:
    """A login role without any privilege."""
    name = f"{ready.name}_role"
    ready.execute(f"CREATE ROLE {name} LOGIN")
    yield name
    ready.execute(f"DROP OWNED BY {name} CASCADE; DROP ROLE {name}")


def check(database: Database, *tables: str, user: str | None = None) -> list[Finding]:
    """What is not in order."""
    dsn = database.server.dsn(database.name, user=user)
    findings = preflight(dsn, tables or ("public.*",), database.publication, database.slot)
    return [finding for finding in findings if finding.severity != "ok"]


def only(findings: list[Finding], subject: str, severity: str) -> Finding:
    (finding,) = [f for f in findings if f.subject == subject]
    assert finding.severity == severity
    assert finding.remedy
    return finding


def mend(database: Database, finding: Finding) -> None:
    """Runs the finding's remedy as it stands."""
    assert finding.sql
    for statement in finding.sql.split(";\n"):
        database.execute(statement)


def test_a_source_in_order_gives_no_complaint_and_says_what_it_saw(ready: Database) -> None:
    findings = preflight(ready.dsn, ("public.*",), ready.publication, ready.slot)
    assert {finding.severity for finding in findings} == {"ok"}
    assert {finding.subject for finding in findings} == {
        "server",
        "tables",
        "publication",
        "slot",
        "max_slot_wal_keep_size",
    }
    assert "1 table(s)" in next(f.message for f in findings if f.subject == "tables")


def test_a_database_before_setup_lacks_publication_and_slot_and_the_sql_makes_them(
    postgres: Database,
) -> None:
    postgres.execute("CREATE TABLE orders (id int PRIMARY KEY)")
    found = check(postgres)
    mend(postgres, only(found, "publication", "error"))
    mend(postgres, only(found, "slot", "error"))
    assert check(postgres) == []


def test_a_table_that_the_publication_lacks_is_an_error_where_it_is_named(ready: Database) -> None:
    ready.execute("CREATE TABLE later (id int PRIMARY KEY)")
    wanted = ("public.orders", "public.later")
    finding = only(check(ready, *wanted), "publication", "error")
    assert "public.later" in finding.message
    mend(ready, finding)
    assert check(ready, *wanted) == []


def test_a_table_that_came_by_a_wildcard_is_a_warning_and_the_others_are_captured(
    ready: Database, role: str
) -> None:
    ready.execute(f"ALTER ROLE {role} REPLICATION; GRANT SELECT ON orders TO {role}")
    ready.execute("CREATE TABLE later (id int PRIMARY KEY)")
    ready.execute("CREATE TABLE parts (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    found = check(ready, user=role)
    assert {finding.severity for finding in found} == {"warning"}
    finding = only(found, "publication", "warning")
    assert "public.later, public.parts came after `cdcflow setup`" in finding.message
    assert "public.later" in only(found, "privileges", "warning").message
    for trouble in found:
        mend(ready, trouble)
    assert check(ready, user=role) == []


def test_a_publication_of_nothing_that_is_meant_is_an_error(ready: Database) -> None:
    ready.execute(f"CREATE TABLE other (id int); ALTER PUBLICATION {ready.publication} SET TABLE other")
    errors = [f for f in check(ready, "public.orders*") if f.severity == "error"]
    assert ["lacks public.orders" in error.message for error in errors] == [True]


def test_a_table_that_is_published_but_not_meant_is_a_warning(ready: Database) -> None:
    ready.execute("CREATE TABLE secret (id int PRIMARY KEY)")
    ready.execute(f"ALTER PUBLICATION {ready.publication} ADD TABLE secret")
    finding = only(check(ready, "public.orders"), "publication", "warning")
    assert "public.secret" in finding.message
    mend(ready, finding)
    assert check(ready, "public.orders") == []


def test_operations_that_are_not_published_are_a_warning(ready: Database) -> None:
    ready.execute(f"ALTER PUBLICATION {ready.publication} SET (publish = 'insert, update')")
    finding = only(check(ready), "publication", "warning")
    assert "leaves out delete, truncate" in finding.message
    mend(ready, finding)
    assert check(ready) == []


@pytest.mark.parametrize("pattern", ["public.oders", "shop.*"])
def test_a_pattern_that_fits_no_table_is_an_error(ready: Database, pattern: str) -> None:
    assert pattern in only(check(ready, "public.orders", pattern), "tables", "error").message


def test_an_exclusion_that_excludes_nothing_is_only_a_warning(ready: Database) -> None:
    assert "excludes nothing" in only(check(ready, "public.*", "!public.audit"), "tables", "warning").message


def test_a_text_that_is_no_pattern_is_a_configuration_error(ready: Database) -> None:
    with pytest.raises(ConfigurationError):
        check(ready, "a.b.c")


def test_a_table_without_identity_is_a_warning_that_its_updates_fail(ready: Database) -> None:
    ready.execute("CREATE TABLE log (line text)")
    finding = only(check(ready), "replica identity", "warning")
    assert "will fail as soon as they are published" in finding.message
    ready.execute(f"ALTER PUBLICATION {ready.publication} ADD TABLE log")
    finding = only(check(ready), "replica identity", "warning")
    assert "UPDATE and DELETE fail" in finding.message
    mend(ready, finding)
    assert check(ready) == []


@pytest.mark.parametrize(
    ("ddl", "identified"),
    [
        ("CREATE TABLE t (id int PRIMARY KEY)", True),
        ("CREATE TABLE t (id int PRIMARY KEY DEFERRABLE)", False),
        ("CREATE TABLE t (id int UNIQUE NOT NULL)", False),
        (
            "CREATE TABLE t (id int UNIQUE NOT NULL); ALTER TABLE t REPLICA IDENTITY USING INDEX t_id_key",
            True,
        ),
        ("CREATE TABLE t (id int PRIMARY KEY); ALTER TABLE t REPLICA IDENTITY NOTHING", False),
        ("CREATE TABLE t (line text); ALTER TABLE t REPLICA IDENTITY FULL", True),
    ],
)
def test_identity_is_judged_as_the_server_does(ready: Database, ddl: str, identified: bool) -> None:
    ready.execute(ddl)
    ready.execute(f"ALTER PUBLICATION {ready.publication} ADD TABLE t")
    column = "line" if "line" in ddl else "id"
    complaints = [finding for finding in check(ready) if finding.subject == "replica identity"]
    updated = True
    try:
        ready.execute(
            f"UPDATE t SET {column} = {column} || '' " if column == "line" else "UPDATE t SET id = 1"
        )
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        assert "does not have a replica identity" in str(error)  # noqa: PT017 - both outcomes are looked at
        updated = False
    assert (updated, not complaints) == (identified, identified)


def test_missing_privileges_are_errors_and_the_sql_grants_them(ready: Database, role: str) -> None:
    ready.execute("REVOKE USAGE ON SCHEMA public FROM PUBLIC")
    found = check(ready, user=role)
    mend(ready, only(found, "role", "error"))
    assert "public.orders" in only(found, "privileges", "error").message
    mend(ready, only(found, "privileges", "error"))
    assert check(ready, user=role) == []


def test_a_grant_on_the_published_columns_is_enough(ready: Database, role: str) -> None:
    ready.execute(f"ALTER ROLE {role} REPLICATION")
    ready.execute(f"GRANT SELECT (id) ON orders TO {role}")
    only(check(ready, user=role), "privileges", "error")
    ready.execute(f"ALTER PUBLICATION {ready.publication} SET TABLE orders (id)")
    assert check(ready, user=role) == []


def test_policies_that_would_hide_rows_from_the_backfill_are_a_warning(ready: Database, role: str) -> None:
    ready.execute(f"ALTER ROLE {role} REPLICATION; GRANT SELECT ON orders TO {role}")
    ready.execute("ALTER TABLE orders ENABLE ROW LEVEL SECURITY")
    finding = only(check(ready, user=role), "row-level security", "warning")
    mend(ready, finding)
    assert check(ready, user=role) == []


def test_a_slot_of_another_plugin_is_an_error(ready: Database) -> None:
    ready.execute("SELECT pg_drop_replication_slot(%s)", [ready.slot])
    ready.execute("SELECT pg_create_physical_replication_slot(%s)", [ready.slot])
    try:
        assert "physical" in only(check(ready), "slot", "error").message
    finally:
        ready.execute("SELECT pg_drop_replication_slot(%s)", [ready.slot])


def test_the_slot_of_another_database_is_an_error(ready: Database) -> None:
    other = Database(ready.server)
    other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [other.slot])
    ready.slot = other.slot
    assert other.name in only(check(ready), "slot", "error").message
    other.drop()


def test_a_slot_that_cdcflow_itself_streams_from_is_in_order_and_anybody_elses_is_an_error(
    ready: Database,
) -> None:
    start = (
        f"START_REPLICATION SLOT {ready.slot} LOGICAL 0/0"
        f" (proto_version '1', publication_names '{ready.publication}')"
    ).encode()
    ours = connect_replication(ready.dsn, purpose="capture")
    ours.exec_(start)
    assert check(ready) == []
    ours.finish()
    eventually(lambda: not _active(ready), what="the release of the slot")
    theirs = connect_replication(ready.dsn, purpose="capture")
    theirs.exec_(b"SET application_name = 'debezium'")
    theirs.exec_(start)
    finding = only(check(ready), "slot", "error")
    assert "debezium" in finding.message
    assert str(theirs.backend_pid) in finding.message
    theirs.finish()


def _active(database: Database) -> bool:
    ((active,),) = database.execute(
        "SELECT active FROM pg_replication_slots WHERE slot_name = %s", [database.slot]
    )
    return bool(active)


def test_a_slot_whose_wal_was_removed_is_an_error_that_says_how_to_start_anew(own_server: MakeServer) -> None:
    server = own_server(settings={"max_slot_wal_keep_size": "1MB", "max_wal_size": "32MB"})
    database = Database(server)
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    service.setup(database.dsn, ("public.*",), database.publication, database.slot)

    def lost() -> bool:
        database.execute("SELECT pg_logical_emit_message(false, 'x', repeat('x', 4000000))")
        database.execute("SELECT pg_switch_wal()")
        database.execute("CHECKPOINT")
        return any("is lost" in finding.message for finding in check(database))

    eventually(lost, what="the loss of the slot")
    finding = only(check(database), "slot", "error")
    assert "teardown" in finding.remedy
    database.drop()


def test_a_server_with_a_low_wal_level_or_nothing_free_is_an_error(own_server: MakeServer) -> None:
    server = own_server(settings={"max_replication_slots": "1", "wal_sender_timeout": "1s"})
    database = Database(server)
    database.execute("CREATE TABLE t (id int PRIMARY KEY)")
    database.execute("SELECT pg_create_physical_replication_slot('taken')")
    found = check(database)
    assert "no replication slot is free" in only(found, "slots", "error").message
    mend(database, only(found, "wal_sender_timeout", "warning"))
    assert [f for f in check(database) if f.subject == "wal_sender_timeout"] == []
    mend(database, only(check_after(server, {"wal_level": "replica"}, database), "wal_level", "error"))
    server.configure({"wal_level": "logical"})
    server.restart()
    assert [f for f in check(database) if f.subject == "wal_level"] == []
    database.drop()


def check_after(server: Server, settings: dict[str, str], database: Database) -> list[Finding]:
    server.configure(settings)
    server.restart()
    return check(database)


def test_a_server_that_is_not_there_is_a_finding_and_not_a_crash(own_server: MakeServer) -> None:
    server = own_server()
    dsn = server.dsn()
    server.stop()
    (finding,) = preflight(dsn, ("public.*",), "p", "s")
    assert (finding.severity, finding.subject) == ("error", "connection")
    assert "nothing listens" in finding.message


def test_a_text_that_is_no_dsn_is_a_configuration_error() -> None:
    with pytest.raises(ConfigurationError):
        preflight("nonsense", ("public.*",), "p", "s")
