"""What the catalog is said to hold is what it holds."""

from collections.abc import Callable

from cdcflow.source import catalog
from cdcflow.source.connection import connect
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import Server

MakeServer = Callable[..., Server]


def test_the_identity_tells_clusters_and_databases_apart(postgres: Database, own_server: MakeServer) -> None:
    with connect(postgres.dsn, purpose="test") as here, connect(own_server().dsn(), purpose="test") as there:
        ours, theirs = catalog.identity(here), catalog.identity(there)
    assert ours.database == postgres.name
    assert ours.major == postgres.server.version
    assert (ours.timeline, ours.in_recovery) == (1, False)
    assert ours.system_identifier != theirs.system_identifier


def test_written_wal_moves_both_ends(postgres: Database) -> None:
    with connect(postgres.dsn, purpose="test") as connection:
        before = catalog.current_lsn(connection)
        postgres.execute("CREATE TABLE t (id int)")
        assert catalog.flushed_lsn(connection) > before
        assert catalog.current_lsn(connection) >= catalog.flushed_lsn(connection)
        assert catalog.wal_sender_timeout(connection) == 60.0
        connection.execute("SET wal_sender_timeout = 0")
        assert catalog.wal_sender_timeout(connection) is None


def test_only_tables_that_can_be_published_are_candidates(postgres: Database) -> None:
    postgres.execute(
        "CREATE TABLE kept (b int, a int, PRIMARY KEY (a, b)); CREATE UNLOGGED TABLE unlogged (id int);"
        "CREATE VIEW v AS SELECT 1; CREATE MATERIALIZED VIEW m AS SELECT 1; CREATE SEQUENCE s;"
        "CREATE TABLE root (id int) PARTITION BY LIST (id);"
        "CREATE TABLE leaf PARTITION OF root FOR VALUES IN (1);"
        "CREATE TABLE barren (id int) PARTITION BY LIST (id)"
    )
    with connect(postgres.dsn, purpose="test") as connection:
        connection.execute("CREATE TEMPORARY TABLE temporary (id int)")
        found = {table.name: table for table in catalog.tables(connection)}
    assert list(found) == ["barren", "kept", "leaf", "root"]
    assert found["kept"].primary_key == ("a", "b")
    assert (found["barren"].estimated_rows, found["barren"].estimated_bytes) == (0, 0)
    assert found["leaf"].ancestors == (found["root"].oid,)
    assert (found["root"].partitioned, found["root"].unidentified_partitions) == (True, ("public.leaf",))


def test_estimates_of_a_partitioned_table_are_those_of_its_partitions(postgres: Database) -> None:
    postgres.execute("CREATE TABLE root (id int) PARTITION BY LIST (id)")
    postgres.execute("CREATE TABLE one PARTITION OF root FOR VALUES IN (1)")
    postgres.execute("CREATE TABLE two PARTITION OF root FOR VALUES IN (2)")
    postgres.execute("INSERT INTO root SELECT 1 + i % 2 FROM generate_series(1, 1000) i; ANALYZE")
    with connect(postgres.dsn, purpose="test") as connection:
        found = {table.name: table for table in catalog.tables(connection)}
    assert [found[name].estimated_rows for name in ("root", "one", "two")] == [1000, 500, 500]
    assert found["root"].estimated_bytes == found["one"].estimated_bytes + found["two"].estimated_bytes > 0


def test_a_publication_is_read_with_its_columns_and_row_filters(postgres: Database) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, secret text)")
    postgres.execute(
        f"CREATE PUBLICATION {postgres.publication} FOR TABLE t (id) WHERE (id > 7) WITH (publish = 'insert')"
    )
    with connect(postgres.dsn, purpose="test") as connection:
        found = catalog.publication(connection, postgres.publication)
        assert catalog.publication(connection, "no such") is None
    assert found is not None
    assert found.members == (catalog.Member("public", "t", ("id",), "(id > 7)", ("id",)),)
    assert found.left_out == ["update", "delete", "truncate"]


def test_a_slot_is_read_with_its_lsns_as_numbers(postgres: Database) -> None:
    postgres.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [postgres.slot])
    with connect(postgres.dsn, purpose="test") as connection:
        found = catalog.slot(connection, postgres.slot)
        assert catalog.slot(connection, "no_such") is None
        assert found is not None
        assert found.restart_lsn is not None
        assert found.confirmed_flush_lsn is not None
        assert 0 < found.restart_lsn <= found.confirmed_flush_lsn <= catalog.current_lsn(connection)
    assert (found.plugin, found.database, found.lost) == ("pgoutput", postgres.name, False)
