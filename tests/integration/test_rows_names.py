"""Names and sizes at the edges of what Postgres allows: nothing of them is taken for something else."""

from pathlib import Path

import pytest
from psycopg import sql

from cdcflow.errors import Permanent, Transient
from cdcflow.model import Op
from cdcflow.sink.event import event
from cdcflow.testing.database import Database
from integration.capturing import capturing, memory_bounded, publish
from integration.replaying import assert_equal_to_source, captured, generations, replay, rows, wait_for

SCHEMA = 'Sch"ema. "x" %s {}'
#: Quotes, dots, keywords, uppercase, format specifications, Unicode in two normal forms, 63 bytes.
TABLES = (
    "quo\"te's",
    "dot.ted.name",
    "select",
    "UPPER",
    "%s %(x)s %%",
    "{} {0}",
    "back\\slash",
    "spa ce\ttab",
    "tëst-日本-🐘",
    "tëst",
    "stage",
    "touched",
    "x" * 63,
    ";--",
)
#: Our own words: of the batch's columns, of the warehouse's SQL, and of its system columns.
COLUMNS = (
    "index",
    "op",
    "commit_lsn",
    "ordinal",
    "xid",
    "commit_time",
    "n0",
    "o0",
    "n1",
    "has_old",
    "unchanged",
    "position",
    "offset",
    "flow",
    "time",
    "row",
    "weight",
    "copies",
    "c0",
    "c1",
    "v0",
    "k0",
    "s0",
    "s",
    "t",
    "n",
    "stage",
    "touched",
    "rowid",
    "main",
    "old",
    "new",
    "key",
    "value",
    "table",
    "select",
    'quo"te',
    "do.t",
    "%s",
    "{}",
    "ünï 🐘",
    "born",
)


def test_no_name_of_a_table_is_taken_for_anything_else(postgres: Database, tmp_path: Path) -> None:
    postgres.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(SCHEMA)))
    for table in TABLES:
        name = sql.Identifier(SCHEMA, table)
        postgres.execute(
            sql.SQL("CREATE TABLE {} (id int PRIMARY KEY, {} text)").format(name, sql.Identifier(table))
        )
        postgres.execute(sql.SQL("INSERT INTO {} VALUES (1, 'x'), (2, 'x')").format(name))
    publish(postgres)
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        for table in TABLES:
            name, column = sql.Identifier(SCHEMA, table), sql.Identifier(table)
            postgres.execute(sql.SQL("UPDATE {} SET {} = 'y' WHERE id = 1").format(name, column))
            postgres.execute(sql.SQL("UPDATE {} SET id = 3 WHERE id = 2").format(name))
        found = captured(postgres, journal)
    assert [c.relation.name for c in found if c.op is Op.UPDATE] == [t for t in TABLES for _ in range(2)]
    assert {c.relation.schema for c in found} == {SCHEMA}
    assert {len(shapes) for shapes in generations(found).values()} == {1}
    assert_equal_to_source(postgres, journal, tmp_path, TABLES, schema=SCHEMA)


@pytest.mark.parametrize("identity", ["DEFAULT", "FULL"])
def test_no_name_of_a_column_is_taken_for_one_of_ours(
    postgres: Database, tmp_path: Path, identity: str
) -> None:
    columns = sql.SQL(", ").join(sql.SQL("{} text").format(sql.Identifier(name)) for name in COLUMNS)
    # Some are part of the key, in another order than the table's.
    key = sql.SQL(", ").join(map(sql.Identifier, ["s", "index", "c1"]))
    postgres.execute(sql.SQL("CREATE TABLE t ({}, PRIMARY KEY ({}))").format(columns, key))
    postgres.execute(sql.SQL("ALTER TABLE t REPLICA IDENTITY " + identity))
    for name in ("unchanged", "n1", "t"):
        postgres.execute(sql.SQL("ALTER TABLE t ALTER {} SET STORAGE EXTERNAL").format(sql.Identifier(name)))
    long = "x" * 3000
    insert = sql.SQL("INSERT INTO t VALUES ({})").format(
        sql.SQL(", ").join([sql.Placeholder()] * len(COLUMNS))
    )
    with postgres.connect() as connection:
        publish(postgres, "t")
        journal = tmp_path / "journal"
        for row in range(6):
            values = [
                f"{name} {row}" + (long if name in ("unchanged", "n1", "t") else "") for name in COLUMNS
            ]
            connection.execute(insert, values)
        with capturing(postgres, journal, backfill=True):
            connection.execute("""UPDATE t SET "op" = 'changed' WHERE "index" = 'index 0'""")
            connection.execute("""UPDATE t SET "s" = 'changed' WHERE "index" = 'index 1'""")
            connection.execute(
                """UPDATE t SET "s" = 'c', "n1" = 'short', "o0" = NULL WHERE "index" = 'index 2'"""
            )
            connection.execute("""DELETE FROM t WHERE "index" = 'index 3'""")
            found = captured(postgres, journal)
    assert {len(shapes) for shapes in generations(found).values()} == {1}
    assert all(c.new is None or tuple(c.new) == COLUMNS for c in found)
    assert_equal_to_source(postgres, journal, tmp_path, ["t"])


def test_a_table_of_1600_columns_arrives(newest_postgres: Database, tmp_path: Path) -> None:
    postgres = newest_postgres
    width = 1600
    names = [f"c{i}" for i in range(width)]
    columns = sql.SQL(", ").join(sql.SQL("{} int").format(sql.Identifier(name)) for name in names)
    postgres.execute(sql.SQL("CREATE TABLE t ({}, PRIMARY KEY (c7, c1599))").format(columns))
    postgres.execute(sql.SQL("CREATE TABLE u (LIKE t); ALTER TABLE u REPLICA IDENTITY FULL"))
    row = sql.SQL(", ").join(map(sql.Literal, range(width)))
    for table in ("t", "u"):
        postgres.execute(sql.SQL("INSERT INTO {} VALUES ({})").format(sql.Identifier(table), row))
    publish(postgres, "t", "u")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        for table in ("t", "u"):
            name = sql.Identifier(table)
            postgres.execute(sql.SQL("INSERT INTO {} (c7, c800, c1599) VALUES (1, 2, 3)").format(name))
            postgres.execute(sql.SQL("UPDATE {} SET c1599 = 4, c0 = NULL WHERE c7 = 1").format(name))
        found = captured(postgres, journal)
    assert [c.op.word for c in found] == ["read", "read", *["insert", "update"] * 2]
    assert {len(shapes) for shapes in generations(found).values()} == {1}
    assert_equal_to_source(postgres, journal, tmp_path, ["t", "u"], sizes=[None])


def test_a_table_without_columns_is_captured_and_the_warehouse_says_why_it_cannot_hold_it(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE bare (); ALTER TABLE bare REPLICA IDENTITY FULL")
    postgres.execute("CREATE TABLE hollow (made int GENERATED ALWAYS AS (1 + 1) STORED)")
    for table in ("bare", "hollow"):
        postgres.execute(sql.SQL("INSERT INTO {} DEFAULT VALUES").format(sql.Identifier(table)))
    publish(postgres)
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute("INSERT INTO bare DEFAULT VALUES; INSERT INTO hollow DEFAULT VALUES")
        postgres.execute("DELETE FROM bare WHERE ctid = '(0,1)'; TRUNCATE hollow")
        found = captured(postgres, journal)
    seen = [(c.op.word, c.relation.name, c.new, c.old) for c in found]
    assert seen == [
        ("read", "bare", {}, None),
        ("read", "hollow", {}, None),
        ("insert", "bare", {}, None),
        ("insert", "hollow", {}, None),
        ("delete", "bare", None, {}),
        ("truncate", "hollow", None, None),
    ]
    assert {len(shapes) for shapes in generations(found, layouts=False).values()} == {1}
    assert event(found[0])["new"] == {}
    with pytest.raises(Permanent, match="has no columns") as raised:
        replay(journal, tmp_path / "warehouse.duckdb")
    assert "exclude the table" in raised.value.hint


def test_a_value_of_200_mb_passes_in_a_few_times_its_size(newest_postgres: Database, tmp_path: Path) -> None:
    postgres = newest_postgres
    size = 200_000_000
    # Compressed on the server's disk; on the wire it has its full size.
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, n int, body text)")
    postgres.execute("INSERT INTO t VALUES (1, 0, repeat('0123456789', %s))", [size // 10])
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with memory_bounded(1000) as look, capturing(postgres, journal, backfill=True):
        wait_for(postgres, journal, timeout=120, meanwhile=look)
        postgres.execute("INSERT INTO t VALUES (2, 0, repeat('abcdefghij', %s))", [size // 10])
        postgres.execute("UPDATE t SET n = 1")
        wait_for(postgres, journal, timeout=120, meanwhile=look)
    with pytest.raises(Transient) as raised:
        replay(journal, tmp_path / "small.duckdb")
    assert "memory_limit" in raised.value.hint
    file = replay(journal, tmp_path / "warehouse.duckdb", memory_limit="2GB")
    query = "SELECT id, n, length(body), md5(body) FROM {} ORDER BY id"
    assert rows(file, query.format("public.t")) == postgres.execute(
        "SELECT id, n, length(body), md5(body) FROM t ORDER BY id"
    )
