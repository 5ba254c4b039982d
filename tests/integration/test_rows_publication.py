"""What a publication publishes: the backfill and the stream agree on tables, shapes, columns and rows."""

from pathlib import Path
from typing import LiteralString

import pytest
from psycopg import sql

from cdcflow.model import Op
from cdcflow.model.finding import Finding
from cdcflow.source.preflight import preflight
from cdcflow.testing.database import Database
from integration.capturing import capturing, make_slot, publish
from integration.replaying import assert_equal_to_source, captured, generations, replay, rows


def publish_for(postgres: Database, what: LiteralString) -> None:
    """Makes the publication `FOR …` and the slot."""
    statement = sql.SQL("CREATE PUBLICATION {} FOR " + what)
    postgres.execute(statement.format(sql.Identifier(postgres.publication)))
    make_slot(postgres)


def major(postgres: Database) -> int:
    [(version,)] = postgres.execute("SELECT current_setting('server_version_num')::int / 10000")
    return int(version)


def test_every_kind_of_table_has_one_shape_in_backfill_and_stream(postgres: Database, tmp_path: Path) -> None:
    # A shape that differs would make a second generation of each table right behind the backfill.
    postgres.execute("""
        CREATE SCHEMA other;
        CREATE TYPE mood AS ENUM ('sad', 'ok', 'it''s "fine"');
        CREATE DOMAIN other.positive AS int CHECK (VALUE > 0);
        CREATE DOMAIN other.small AS other.positive CHECK (VALUE < 100);
        CREATE DOMAIN moods AS mood[];
        CREATE TYPE pair AS (a int, b mood);
        CREATE TYPE span AS RANGE (subtype = float8);
        CREATE TABLE typed (
            id other.small PRIMARY KEY, m mood, ms mood[], d moods, p pair, ps pair[], s span,
            sm span_multirange, n numeric(10, 2), v varchar(7), c varchar(3)[], t timestamp(3),
            iv interval day to second(2), cardinal information_schema.cardinal_number, row_of mood
        );
        ALTER TABLE typed DROP COLUMN row_of;
        CREATE TABLE by_all (LIKE typed);
        ALTER TABLE by_all REPLICA IDENTITY FULL;
        CREATE TABLE by_index (gone int, a text NOT NULL, b int NOT NULL, c text, UNIQUE (b, a) INCLUDE (c));
        ALTER TABLE by_index DROP COLUMN gone, REPLICA IDENTITY USING INDEX by_index_b_a_c_key;
        CREATE TABLE by_nothing (id int PRIMARY KEY);
        ALTER TABLE by_nothing REPLICA IDENTITY NOTHING;
        CREATE TABLE covered (id int, c text, PRIMARY KEY (id) INCLUDE (c));
        CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE);
        CREATE TABLE other.typed (m mood);
        CREATE TABLE generated (id int PRIMARY KEY, twice int GENERATED ALWAYS AS (id * 2) STORED);
        CREATE TABLE unprimed (id int, a int NOT NULL);
        CREATE UNIQUE INDEX unprimed_a ON unprimed (a);
        CREATE TABLE parted (id int, k int, m mood, PRIMARY KEY (k, id)) PARTITION BY RANGE (k);
        CREATE TABLE part_of_other_layout (m mood, junk int, id int NOT NULL, k int NOT NULL);
        ALTER TABLE part_of_other_layout ADD PRIMARY KEY (k, id);
        ALTER TABLE part_of_other_layout DROP junk;
        ALTER TABLE parted ATTACH PARTITION part_of_other_layout FOR VALUES FROM (0) TO (10);
        CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20) PARTITION BY RANGE (k);
        CREATE TABLE parted_2_1 PARTITION OF parted_2 FOR VALUES FROM (10) TO (20);
        CREATE TABLE parent (id int PRIMARY KEY);
        CREATE TABLE child (extra mood) INHERITS (parent);
        CREATE UNLOGGED TABLE unlogged (id int);
    """)

    def fill(row: int) -> None:
        values = (
            f"({row}, 'ok', '{{sad,NULL}}', '{{ok}}', '(1,sad)', '{{\"(1,sad)\"}}', '[1,2)', '{{[1,2)}}',"
            f" 1, 'v', '{{ab}}', now(), '1 day', 1)"
        )
        postgres.execute(f"INSERT INTO typed VALUES {values}; INSERT INTO by_all VALUES {values}")
        for table, value in {
            "by_index": "('a', {row}, 'c')",
            "by_nothing": "({row})",
            "covered": "({row}, 'c')",
            "deferred": "({row})",
            "other.typed": "('ok')",
            "generated": "({row})",
            "unprimed": "({row}, {row})",
            "parted": "({row}, 1, 'ok'), ({row}, 11, 'sad')",
            "parent": "({row})",
            "child": "({row}, 'ok')",
            "unlogged": "({row})",
        }.items():
            postgres.execute(f"INSERT INTO {table} VALUES {value.format(row=row)}")

    fill(1)
    # By their roots and by themselves, in one and the same test: two journals.
    slot = f"{postgres.slot}_root"
    publish(postgres)
    postgres.execute(
        sql.SQL("CREATE PUBLICATION {} FOR ALL TABLES WITH (publish_via_partition_root)").format(
            sql.Identifier(slot)
        )
    )
    postgres.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    leaves, roots = tmp_path / "leaves", tmp_path / "roots"
    with (
        capturing(postgres, leaves, backfill=True),
        capturing(postgres, roots, backfill=True, slot=slot, publication=slot),
    ):
        fill(2)
        for journal in (leaves, roots):
            found = captured(postgres, journal)
            shapes = generations(found)
            assert {table: len(prints) for table, prints in shapes.items()} == dict.fromkeys(shapes, 1)
            reads = [c.relation.qualified for c in found if c.op is Op.READ]
            assert sorted(reads) == sorted(c.relation.qualified for c in found if c.op is Op.INSERT)
    assert {"public.parted", "public.child", "other.typed"} <= shapes.keys()
    assert not {"public.parted_2_1", "public.unlogged"} & shapes.keys()
    tables = ["typed", "by_all", "by_index", "covered", "parted", "deferred", "by_nothing", "unprimed"]
    assert_equal_to_source(postgres, roots, tmp_path, tables, sizes=[None])
    parts = ["part_of_other_layout", "parted_2_1", "child"]
    assert_equal_to_source(postgres, leaves, tmp_path, parts, sizes=[None])


def test_row_filters_turn_updates_into_inserts_and_deletes(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("""
        CREATE TABLE t (id int PRIMARY KEY, b text);
        CREATE TABLE f (id int, b text, "per cent" text);
        ALTER TABLE f REPLICA IDENTITY FULL;
        INSERT INTO t SELECT g, 'x' FROM generate_series(1, 10) g;
        INSERT INTO f SELECT g, 'x', '%s {}' FROM generate_series(1, 10) g;
    """)
    publish_for(postgres, """TABLE t WHERE (id > 5), f WHERE ("per cent" LIKE '%%s {{}}' AND b = 'x')""")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute("UPDATE t SET id = 60 WHERE id = 1")  # enters
        postgres.execute("UPDATE t SET id = 1 WHERE id = 60")  # leaves
        postgres.execute("UPDATE t SET id = 70 WHERE id = 7; UPDATE t SET b = 'y' WHERE id IN (3, 8)")
        postgres.execute("DELETE FROM t WHERE id IN (4, 9)")
        postgres.execute("UPDATE f SET b = 'out' WHERE id = 1")
        postgres.execute("UPDATE f SET b = 'x', id = 100 WHERE id = 1")
        postgres.execute("UPDATE f SET b = 'out' WHERE id = 2; DELETE FROM f WHERE id IN (2, 3)")
        found = captured(postgres, journal)
    stream = [
        (c.op.word, c.relation.name, (c.new or c.old or {})["id"]) for c in found if c.op is not Op.READ
    ]
    assert stream == [
        ("insert", "t", "60"),
        ("delete", "t", "60"),
        ("update", "t", "70"),
        ("update", "t", "8"),
        ("delete", "t", "9"),
        ("delete", "f", "1"),
        ("insert", "f", "100"),
        ("delete", "f", "2"),
        ("delete", "f", "3"),
    ]
    for at_once in (None, 1):
        file = replay(journal, tmp_path / f"{at_once}.duckdb", at_once=at_once)
        assert rows(file, "SELECT * FROM public.t ORDER BY id") == postgres.execute(
            "SELECT * FROM t WHERE id > 5 ORDER BY id"
        )
        assert rows(file, "SELECT * FROM public.f ORDER BY id") == postgres.execute(
            "SELECT * FROM f WHERE b = 'x' ORDER BY id"
        )


def test_column_lists_leave_the_other_columns_out_everywhere(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("""
        CREATE TABLE t (secret text, id int PRIMARY KEY, b text, c int);
        INSERT INTO t SELECT 'hidden', g, g, g FROM generate_series(1, 5) g;
        CREATE TABLE p (secret text, id int PRIMARY KEY, b text) PARTITION BY RANGE (id);
        CREATE TABLE p_1 (b text, secret text, id int PRIMARY KEY);
        ALTER TABLE p ATTACH PARTITION p_1 FOR VALUES FROM (0) TO (100);
        INSERT INTO p SELECT 'hidden', g, g FROM generate_series(1, 5) g;
    """)
    publish_for(postgres, "TABLE t (c, id), p (id, b) WITH (publish_via_partition_root)")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        for table in ("t", "p"):
            name = sql.Identifier(table)
            postgres.execute(sql.SQL("INSERT INTO {} (secret, id, b) VALUES ('hidden', 6, 'b')").format(name))
            postgres.execute(sql.SQL("UPDATE {} SET secret = 'h' WHERE id = 1").format(name))
            postgres.execute(sql.SQL("UPDATE {} SET id = 20 WHERE id = 2").format(name))
            postgres.execute(sql.SQL("DELETE FROM {} WHERE id = 3").format(name))
        found = captured(postgres, journal)
    assert {c.relation.name: c.relation.names for c in found} == {"t": ("id", "c"), "p": ("id", "b")}
    assert {len(shapes) for shapes in generations(found).values()} == {1}
    file = replay(journal, tmp_path / "warehouse.duckdb")
    for table, query in {
        "t": "SELECT id, c FROM t ORDER BY 1",
        "p": "SELECT id, b FROM p ORDER BY 1",
    }.items():
        assert rows(file, f"SELECT * FROM public.{table} ORDER BY id") == postgres.execute(query)


def test_generated_columns_come_where_the_publication_says_so(postgres: Database, tmp_path: Path) -> None:
    published = major(postgres) >= 18
    postgres.execute("""
        CREATE TABLE t (id int PRIMARY KEY, n int, twice int GENERATED ALWAYS AS (n * 2) STORED, b text);
        INSERT INTO t SELECT g, g FROM generate_series(1, 5) g;
    """)
    if published:
        postgres.execute("ALTER TABLE t ADD virtual int GENERATED ALWAYS AS (n * 3) VIRTUAL")
        publish_for(postgres, "ALL TABLES WITH (publish_generated_columns = stored)")
    else:
        publish_for(postgres, "ALL TABLES")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute(
            "INSERT INTO t VALUES (6, 6); UPDATE t SET n = 10 WHERE id = 1; DELETE FROM t WHERE id = 2"
        )
        found = captured(postgres, journal)
    names = ("id", "n", "twice", "b") if published else ("id", "n", "b")
    assert {c.relation.names for c in found} == {names}
    assert {len(shapes) for shapes in generations(found).values()} == {1}
    file = replay(journal, tmp_path / "warehouse.duckdb")
    query = f"SELECT {', '.join(names)} FROM t ORDER BY id"
    assert rows(file, query.replace(" t ", " public.t ")) == postgres.execute(query)


@pytest.mark.parametrize("via_root", [False, True], ids=["by leaf", "by root"])
def test_partitions_may_be_added_attached_and_detached(
    postgres: Database, tmp_path: Path, via_root: bool
) -> None:
    postgres.execute("""
        CREATE TABLE m (id int, at int, b text, PRIMARY KEY (id, at)) PARTITION BY RANGE (at);
        CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (0) TO (10);
        CREATE TABLE m_2 PARTITION OF m FOR VALUES FROM (10) TO (20);
        INSERT INTO m SELECT g, g, 'x' FROM generate_series(0, 19) g;
    """)
    option = sql.SQL("CREATE PUBLICATION {} FOR TABLE m WITH (publish_via_partition_root = {})")
    postgres.execute(option.format(sql.Identifier(postgres.publication), sql.Literal(via_root)))
    make_slot(postgres)
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute("UPDATE m SET at = at + 10 WHERE id = 1")  # from one partition to the other
        postgres.execute("UPDATE m_2 SET b = 'y' WHERE id = 12; DELETE FROM m WHERE id = 13")
        postgres.execute("CREATE TABLE m_3 PARTITION OF m FOR VALUES FROM (20) TO (30)")
        postgres.execute("INSERT INTO m VALUES (20, 20, 'new'); UPDATE m SET at = 21 WHERE id = 2")
        postgres.execute("CREATE TABLE m_4 (b text, at int NOT NULL, id int NOT NULL, PRIMARY KEY (id, at))")
        postgres.execute("ALTER TABLE m ATTACH PARTITION m_4 FOR VALUES FROM (30) TO (40)")
        postgres.execute("INSERT INTO m VALUES (30, 30, 'attached')")
        # A subtree, and in one transaction with its rows.
        with postgres.connect(autocommit=False) as connection:
            connection.execute(
                "CREATE TABLE m_5 PARTITION OF m FOR VALUES FROM (40) TO (60) PARTITION BY RANGE (at)"
            )
            connection.execute("CREATE TABLE m_5_1 PARTITION OF m_5 FOR VALUES FROM (40) TO (50)")
            connection.execute("INSERT INTO m VALUES (40, 40, 'deep')")
            connection.commit()
        captured(postgres, journal)
        leaves = ["m_1", "m_2", "m_3", "m_4", "m_5_1"]
        assert_equal_to_source(postgres, journal, tmp_path, ["m"] if via_root else leaves)
        postgres.execute("ALTER TABLE m DETACH PARTITION m_2")
        postgres.execute(
            "INSERT INTO m_2 VALUES (15, 19, 'detached'); INSERT INTO m VALUES (103, 3, 'after')"
        )
        found = captured(postgres, journal)
    last = {"m"} if via_root else {"m_1"}
    assert {c.relation.name for c in found[-1:]} == last
    assert not any((c.new or {}).get("b") == "detached" for c in found)
    assert {c.relation.name for c in found} == ({"m"} if via_root else set(leaves))
    assert {len(shapes) for shapes in generations(found, layouts=False).values()} == {1}


def test_inheritance_children_keep_their_own_rows(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("""
        CREATE TABLE parent (id int PRIMARY KEY, b text);
        CREATE TABLE child (extra int, PRIMARY KEY (id)) INHERITS (parent);
        INSERT INTO parent VALUES (1, 'p'), (2, 'p');
        INSERT INTO child VALUES (1, 'c', 1), (3, 'c', 3);
    """)
    publish(postgres, "parent")  # and, as it says nothing of ONLY, what inherits from it
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute("UPDATE parent SET b = 'all' WHERE id = 1")
        postgres.execute("UPDATE ONLY parent SET b = 'only' WHERE id = 2")
        postgres.execute("INSERT INTO child VALUES (4, 'c', 4)")
        postgres.execute("TRUNCATE ONLY parent; INSERT INTO parent VALUES (9, 'p')")
        found = captured(postgres, journal)
    assert len([c for c in found if c.op is Op.READ]) == 4
    file = replay(journal, tmp_path / "warehouse.duckdb")
    for table in ("parent", "child"):
        query = "SELECT * FROM {} ORDER BY id"
        assert rows(file, query.format(f"public.{table}")) == postgres.execute(query.format(f"ONLY {table}"))
    postgres.execute("TRUNCATE parent")
    with capturing(postgres, journal):
        found = captured(postgres, journal)
    assert [(c.op.word, c.relation.name) for c in found[-2:]] == [
        ("truncate", "parent"),
        ("truncate", "child"),
    ]


def test_truncate_empties_what_the_server_says_and_nothing_else(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("""
        CREATE TABLE a (id int PRIMARY KEY);
        CREATE TABLE b (id int PRIMARY KEY, a int REFERENCES a);
        CREATE TABLE c (id serial PRIMARY KEY);
        CREATE TABLE d (id int PRIMARY KEY);
        CREATE TABLE unpublished (id int PRIMARY KEY, a int REFERENCES a);
        INSERT INTO a VALUES (1);
        INSERT INTO b VALUES (1, 1);
        INSERT INTO c VALUES (1);
        INSERT INTO d VALUES (1);
    """)
    publish(postgres, "a", "b", "c", "d")
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        with postgres.connect(autocommit=False) as connection:
            connection.execute("INSERT INTO a VALUES (2)")
            connection.execute("TRUNCATE a, c RESTART IDENTITY CASCADE")
            connection.execute("INSERT INTO a VALUES (3)")
            connection.execute("SAVEPOINT s")
            connection.execute("TRUNCATE d")
            connection.execute("ROLLBACK TO s")
            connection.commit()
        found = captured(postgres, journal)
        truncates = [(c.relation.name, c.truncate_options) for c in found if c.op is Op.TRUNCATE]
        assert sorted(truncates) == [("a", 3), ("b", 3), ("c", 3)]
        assert len({c.position for c in found}) == len(found)
    assert_equal_to_source(postgres, journal, tmp_path, ["a", "b", "c", "d"])


def test_a_truncate_of_a_leaf_is_seen_by_leaf_and_unseen_by_root(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("""
        CREATE TABLE m (id int PRIMARY KEY) PARTITION BY RANGE (id);
        CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (0) TO (10);
        CREATE TABLE m_2 PARTITION OF m FOR VALUES FROM (10) TO (20);
    """)
    slot = f"{postgres.slot}_root"
    publish(postgres, "m")
    statement = sql.SQL("CREATE PUBLICATION {} FOR TABLE m WITH (publish_via_partition_root)")
    postgres.execute(statement.format(sql.Identifier(slot)))
    postgres.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [slot])
    leaves, roots = tmp_path / "leaves", tmp_path / "roots"
    with capturing(postgres, leaves), capturing(postgres, roots, slot=slot, publication=slot):
        postgres.execute("INSERT INTO m VALUES (1), (11); TRUNCATE m_1; INSERT INTO m VALUES (2)")
        postgres.execute("TRUNCATE m; INSERT INTO m VALUES (3)")
        by_leaf, by_root = captured(postgres, leaves), captured(postgres, roots)
    truncated = [c.relation.name for c in by_leaf if c.op is Op.TRUNCATE]
    assert [truncated[0], sorted(truncated[1:])] == ["m_1", ["m_1", "m_2"]]
    assert [c.relation.name for c in by_root if c.op is Op.TRUNCATE] == ["m"]
    assert_equal_to_source(postgres, leaves, tmp_path, ["m_1", "m_2"])
    assert_equal_to_source(postgres, roots, tmp_path, ["m"])


def test_partitions_with_another_identity_than_their_root_are_an_error_with_its_remedy(
    postgres: Database, tmp_path: Path
) -> None:
    # FULL is not passed on, neither to partitions that are there nor to those that are made later.
    postgres.execute("""
        CREATE TABLE m (id int PRIMARY KEY, b text) PARTITION BY RANGE (id);
        CREATE TABLE m_1 PARTITION OF m FOR VALUES FROM (0) TO (10);
        CREATE TABLE "M 2" PARTITION OF m FOR VALUES FROM (10) TO (20);
        CREATE TABLE m_3 PARTITION OF m FOR VALUES FROM (20) TO (30);
        ALTER TABLE m REPLICA IDENTITY FULL;
        ALTER TABLE m_3 REPLICA IDENTITY FULL;
        INSERT INTO m SELECT g, 'x' FROM generate_series(1, 29) g;
    """)
    publish_for(postgres, "TABLE m WITH (publish_via_partition_root)")

    def findings() -> list[Finding]:
        found = preflight(postgres.dsn, ("public.m",), postgres.publication, postgres.slot)
        return [finding for finding in found if finding.severity != "ok"]

    [finding] = findings()
    assert (finding.severity, finding.subject) == ("error", "partitions")
    assert 'public."M 2", public.m_1 have another replica identity than public.m' in finding.message
    for statement in finding.sql.split(";\n"):
        postgres.execute(statement)
    assert not findings()
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute("DELETE FROM m WHERE id % 5 = 0; UPDATE m SET b = 'y' WHERE id % 5 = 1")
        captured(postgres, journal)
    assert_equal_to_source(postgres, journal, tmp_path, ["m"])
