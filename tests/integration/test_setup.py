"""`setup`, its script, and `teardown` on real servers."""

import subprocess
from collections.abc import Callable

import pytest

from cdcflow.errors import ConfigurationError, SourceError
from cdcflow.source import setup as service
from cdcflow.source.connection import connect_replication
from cdcflow.source.preflight import preflight
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server

MakeServer = Callable[..., Server]


def run_setup(database: Database, *tables: str) -> list[str]:
    return service.setup(database.dsn, tables or ("public.*",), database.publication, database.slot)


def published(database: Database) -> list[str]:
    rows = database.execute(
        "SELECT schemaname || '.' || tablename FROM pg_publication_tables WHERE pubname = %s ORDER BY 1",
        [database.publication],
    )
    return [row[0] for row in rows]


def slots(database: Database) -> int:
    return len(database.execute("SELECT FROM pg_replication_slots WHERE slot_name = %s", [database.slot]))


def problems(database: Database, *tables: str) -> list[str]:
    findings = preflight(database.dsn, tables or ("public.*",), database.publication, database.slot)
    return [f"{finding.severity}: {finding.message}" for finding in findings if finding.severity != "ok"]


def test_setup_makes_publication_and_slot_and_preflight_is_then_content(postgres: Database) -> None:
    postgres.execute("CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE b (id int PRIMARY KEY)")
    done = run_setup(postgres)
    assert [line.split()[1:3] for line in done] == [["the", "publication"], ["the", "replication"]]
    assert published(postgres) == ["public.a", "public.b"]
    assert postgres.execute(
        "SELECT puballtables, pubinsert, pubupdate, pubdelete, pubtruncate, pubviaroot FROM pg_publication"
        " WHERE pubname = %s",
        [postgres.publication],
    ) == [(False, True, True, True, True, True)]
    assert postgres.execute(
        "SELECT plugin, database, temporary, two_phase FROM pg_replication_slots WHERE slot_name = %s",
        [postgres.slot],
    ) == [("pgoutput", postgres.name, False, False)]
    assert problems(postgres) == []


def test_setup_again_changes_nothing_and_adds_only_tables_that_are_new(postgres: Database) -> None:
    postgres.execute("CREATE TABLE a (id int PRIMARY KEY)")
    run_setup(postgres)
    assert run_setup(postgres) == []
    postgres.execute('CREATE TABLE "odd ""name" (id int PRIMARY KEY)')
    (added,) = run_setup(postgres)
    assert 'odd "name' in added
    assert published(postgres) == ["public.a", 'public.odd "name']
    assert run_setup(postgres) == []
    # What is no longer meant stays published: somebody else may read it.
    assert run_setup(postgres, "public.a") == []
    assert published(postgres) == ["public.a", 'public.odd "name']


def test_names_of_publication_and_tables_may_need_quotes(postgres: Database) -> None:
    postgres.publication = 'My "pub"'
    postgres.execute('CREATE SCHEMA "Größe"; CREATE TABLE "Größe"."select" (id int PRIMARY KEY)')
    run_setup(postgres, '"Größe".*')
    assert published(postgres) == ["Größe.select"]
    assert problems(postgres, '"Größe".*') == []
    service.teardown(postgres.dsn, ("Größe.*",), postgres.publication, postgres.slot)
    assert published(postgres) == []


def test_a_partitioned_table_is_published_as_one_with_the_partitions_of_the_future(
    postgres: Database,
) -> None:
    postgres.execute("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    postgres.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    run_setup(postgres)
    assert published(postgres) == ["public.p"]
    postgres.execute("CREATE TABLE p2 PARTITION OF p FOR VALUES FROM (10) TO (20)")
    assert problems(postgres) == []
    assert run_setup(postgres) == []


def test_a_publication_of_the_dba_is_told_to_publish_via_the_partitions_root(postgres: Database) -> None:
    postgres.execute("CREATE TABLE p (id int PRIMARY KEY) PARTITION BY RANGE (id)")
    postgres.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    postgres.execute(f"CREATE PUBLICATION {postgres.publication} FOR TABLE p")
    assert any("under the names of the partitions" in problem for problem in problems(postgres))
    run_setup(postgres)
    assert published(postgres) == ["public.p"]
    assert problems(postgres) == []


def test_a_publication_for_all_tables_is_left_as_it_is(postgres: Database) -> None:
    postgres.execute("CREATE TABLE a (id int PRIMARY KEY)")
    postgres.execute(f"CREATE PUBLICATION {postgres.publication} FOR ALL TABLES")
    assert [line for line in run_setup(postgres) if "publication" in line] == []
    assert problems(postgres) == []


def test_setup_refuses_to_publish_a_table_whose_updates_would_then_fail(postgres: Database) -> None:
    postgres.execute("CREATE TABLE log (line text)")
    with pytest.raises(SourceError, match=r"public\.log") as caught:
        run_setup(postgres)
    assert 'ALTER TABLE "public"."log" REPLICA IDENTITY FULL;' in caught.value.hint
    assert (published(postgres), slots(postgres)) == ([], 0)
    postgres.execute("ALTER TABLE log REPLICA IDENTITY FULL")
    run_setup(postgres)
    postgres.execute("INSERT INTO log VALUES ('x'); UPDATE log SET line = 'y'")


def test_a_partition_without_identity_counts_as_much_as_a_table(postgres: Database) -> None:
    postgres.execute("CREATE TABLE p (id int) PARTITION BY RANGE (id)")
    postgres.execute("ALTER TABLE p REPLICA IDENTITY FULL")
    postgres.execute("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (10)")
    with pytest.raises(SourceError) as caught:
        run_setup(postgres)
    assert 'ALTER TABLE "public"."p" ' not in caught.value.hint
    assert "ALTER TABLE public.p1 REPLICA IDENTITY FULL;" in caught.value.hint


@pytest.mark.parametrize("tables", [("public.orders",), ("nowhere.*",), ("public.a", "public.oders")])
def test_a_pattern_that_fits_nothing_is_a_configuration_error(
    postgres: Database, tables: tuple[str, ...]
) -> None:
    postgres.execute("CREATE TABLE a (id int PRIMARY KEY)")
    with pytest.raises(ConfigurationError, match="fits"):
        run_setup(postgres, *tables)
    assert slots(postgres) == 0


def test_a_slot_of_another_plugin_is_neither_used_nor_replaced(postgres: Database) -> None:
    postgres.execute("CREATE TABLE a (id int PRIMARY KEY)")
    postgres.execute("SELECT pg_create_physical_replication_slot(%s)", [postgres.slot])
    try:
        with pytest.raises(SourceError, match="physical"):
            run_setup(postgres)
        with pytest.raises(SourceError, match="physical standby"):
            service.teardown(postgres.dsn, (), postgres.publication, postgres.slot)
        assert slots(postgres) == 1
    finally:
        postgres.execute("SELECT pg_drop_replication_slot(%s)", [postgres.slot])


def test_the_printed_script_does_the_same_as_setup(own_server: MakeServer) -> None:
    server = own_server()
    database = Database(server)
    database.execute('CREATE TABLE a (id int PRIMARY KEY); CREATE TABLE "B b" (line text)')
    server.execute("CREATE ROLE cdc LOGIN")
    dsn = server.dsn(database.name, user="cdc")
    script = service.script(dsn, ("public.*",), database.publication, database.slot)
    psql = [str(server.binaries.bin / "psql"), "-X", "-q", "-v", "ON_ERROR_STOP=1", database.dsn]
    ran = subprocess.run(psql, input=script, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert published(database) == ["public.B b", "public.a"]
    findings = preflight(dsn, ("public.*",), database.publication, database.slot)
    assert [finding for finding in findings if finding.severity != "ok"] == []
    again = service.script(dsn, ("public.*",), database.publication, database.slot)
    assert again.endswith("-- Everything is there already.\n")
    database.drop()


def test_a_role_that_may_not_publish_is_sent_to_the_dba(own_server: MakeServer) -> None:
    server = own_server()
    database = Database(server)
    database.execute("CREATE TABLE a (id int PRIMARY KEY)")
    server.execute("CREATE ROLE cdc LOGIN REPLICATION")
    dsn = server.dsn(database.name, user="cdc")
    with pytest.raises(SourceError, match="permission denied") as caught:
        service.setup(dsn, ("public.*",), database.publication, database.slot)
    assert "--print-sql" in caught.value.hint
    assert slots(database) == 0
    database.drop()


def test_setup_on_a_server_with_a_low_wal_level_says_how_to_raise_it(own_server: MakeServer) -> None:
    server = own_server(settings={"wal_level": "replica"})
    server.execute("CREATE TABLE a (id int PRIMARY KEY)")
    with pytest.raises(SourceError, match="wal_level is replica") as caught:
        service.setup(server.dsn(), ("public.*",), "p", "s")
    assert "ALTER SYSTEM SET wal_level = 'logical';" in caught.value.hint
    assert "ALTER SYSTEM SET wal_level = 'logical';" in service.script(server.dsn(), ("public.*",), "p", "s")


def test_teardown_drops_what_setup_made_and_says_so(postgres: Database) -> None:
    postgres.execute("CREATE TABLE a (id int PRIMARY KEY)")
    run_setup(postgres)
    done = service.teardown(postgres.dsn, (), postgres.publication, postgres.slot)
    assert len(done) == 2
    assert (published(postgres), slots(postgres)) == ([], 0)
    assert service.teardown(postgres.dsn, (), postgres.publication, postgres.slot) == []


def test_teardown_refuses_while_somebody_streams_and_names_the_process(postgres: Database) -> None:
    postgres.execute("CREATE TABLE a (id int PRIMARY KEY)")
    run_setup(postgres)
    streaming = connect_replication(postgres.dsn, purpose="test")
    streaming.exec_(
        f"START_REPLICATION SLOT {postgres.slot} LOGICAL 0/0"
        f" (proto_version '1', publication_names '{postgres.publication}')".encode()
    )
    with pytest.raises(SourceError, match=rf"server process {streaming.backend_pid} "):
        service.teardown(postgres.dsn, (), postgres.publication, postgres.slot)
    assert (published(postgres), slots(postgres)) == (["public.a"], 1)
    streaming.finish()


def test_teardown_leaves_the_slot_of_another_database_alone(postgres: Database) -> None:
    other = Database(postgres.server)
    other.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [other.slot])
    with pytest.raises(SourceError, match=other.name):
        service.teardown(postgres.dsn, (), postgres.publication, other.slot)
    assert slots(other) == 1
    other.drop()
