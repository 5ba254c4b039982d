"""Which row a change means: replica identities, changed keys, and TOASTed values that were not sent."""

from pathlib import Path

import pytest
from psycopg import errors, sql

from cdcflow.model import UNCHANGED, Op
from cdcflow.sink.event import event, events
from cdcflow.testing.database import Database
from cdcflow.testing.journals import read_all
from integration.capturing import capturing, make_slot, publish
from integration.replaying import assert_equal_to_source, captured, generations, replay, rows

#: Too random to be compressed in line, so that it is stored out of line.
LONG = "".join(chr(33 + i * 7919 % 90) for i in range(20_000))
OTHER = LONG[::-1]


def test_each_replica_identity_says_which_row_is_meant(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("""
        CREATE TABLE by_default (a int, id int PRIMARY KEY, b text);
        CREATE TABLE by_all (id int PRIMARY KEY, b text, c float8);
        ALTER TABLE by_all REPLICA IDENTITY FULL;
        CREATE TABLE by_index (id int PRIMARY KEY, code text NOT NULL, part int NOT NULL, b text);
        -- INCLUDE columns belong to the index, and not to the identity.
        CREATE UNIQUE INDEX by_index_code ON by_index (part, code) INCLUDE (b);
        ALTER TABLE by_index REPLICA IDENTITY USING INDEX by_index_code;
        CREATE TABLE covered (id int, b text, PRIMARY KEY (id) INCLUDE (b));
        CREATE TABLE keyless (a int, b text);
        ALTER TABLE keyless REPLICA IDENTITY FULL;
        INSERT INTO by_default SELECT g, g, 'x' FROM generate_series(1, 6) g;
        INSERT INTO by_all SELECT g, 'x', g FROM generate_series(1, 6) g;
        INSERT INTO by_index SELECT g, 'c' || g, 1, 'x' FROM generate_series(1, 6) g;
        INSERT INTO covered SELECT g, 'x' FROM generate_series(1, 6) g;
        INSERT INTO keyless SELECT NULL, 'same' FROM generate_series(1, 6) g;
    """)
    tables = ["by_default", "by_all", "by_index", "covered", "keyless"]
    publish(postgres, *tables)
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        postgres.execute("UPDATE by_default SET b = 'y' WHERE id = 1; DELETE FROM by_default WHERE id = 2")
        postgres.execute("UPDATE by_all SET b = NULL WHERE id = 1; DELETE FROM by_all WHERE id = 2")
        postgres.execute("UPDATE by_index SET b = 'y' WHERE id = 1; DELETE FROM by_index WHERE id = 2")
        postgres.execute("UPDATE by_index SET code = 'changed' WHERE id = 3")
        postgres.execute("UPDATE covered SET b = 'y' WHERE id = 1; DELETE FROM covered WHERE id = 2")
        # Of equal rows, as many as the source says, and never all of them.
        postgres.execute("DELETE FROM keyless WHERE ctid IN (SELECT ctid FROM keyless LIMIT 2)")
        postgres.execute("UPDATE keyless SET b = NULL WHERE ctid IN (SELECT ctid FROM keyless LIMIT 1)")
        found = captured(postgres, journal)
    stream = [change for change in found if change.op is not Op.READ]
    olds = {(c.relation.name, c.op.word, tuple(c.new or ())): c.old for c in stream}
    assert olds["by_default", "delete", ()] == {"id": "2"}
    assert olds["by_all", "delete", ()] == {"id": "2", "b": "x", "c": "2"}
    assert olds["by_index", "delete", ()] == {"code": "c2", "part": "1"}
    assert olds["covered", "delete", ()] == {"id": "2"}
    assert olds["keyless", "delete", ()] == {"a": None, "b": "same"}
    # DEFAULT and USING INDEX send the old key only where it changed.
    assert [c.old for c in stream if c.relation.name == "by_default" and c.op is Op.UPDATE] == [None]
    assert [c.old for c in stream if c.relation.name == "by_index" and c.op is Op.UPDATE] == [
        None,
        {"code": "c3", "part": "1"},
    ]
    assert {len(shapes) for shapes in generations(found).values()} == {1}
    assert_equal_to_source(postgres, journal, tmp_path, tables)


def test_tables_without_identity_bring_their_rows_and_no_updates(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("""
        CREATE TABLE nothing (id int PRIMARY KEY, b text);
        ALTER TABLE nothing REPLICA IDENTITY NOTHING;
        CREATE TABLE keyless (b text);
        CREATE TABLE deferred (id int PRIMARY KEY DEFERRABLE, b text);
        CREATE TABLE lost_index (id int NOT NULL, b text);
        CREATE UNIQUE INDEX lost ON lost_index (id);
        ALTER TABLE lost_index REPLICA IDENTITY USING INDEX lost;
        DROP INDEX lost;
    """)
    tables = ["nothing", "keyless", "deferred", "lost_index"]
    for table in ("nothing", "deferred", "lost_index"):
        postgres.execute(sql.SQL("INSERT INTO {} VALUES (1, 'x')").format(sql.Identifier(table)))
    postgres.execute("INSERT INTO keyless VALUES ('x')")
    publish(postgres, *tables)
    journal = tmp_path / "journal"
    with capturing(postgres, journal, backfill=True):
        for table in ("nothing", "deferred", "lost_index"):
            postgres.execute(sql.SQL("INSERT INTO {} VALUES (2, 'x')").format(sql.Identifier(table)))
        postgres.execute("INSERT INTO keyless VALUES ('x')")
        for table in tables:
            # The source itself refuses, which is what preflight warns of.
            with pytest.raises(errors.ObjectNotInPrerequisiteState):
                postgres.execute(sql.SQL("UPDATE {} SET b = 'y'").format(sql.Identifier(table)))
        found = captured(postgres, journal)
    assert {c.relation.key for c in found} == {()}
    assert {len(shapes) for shapes in generations(found).values()} == {1}
    assert_equal_to_source(postgres, journal, tmp_path, tables)


def test_an_identity_that_changes_makes_a_new_generation_and_the_warehouse_goes_on(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, code int NOT NULL UNIQUE, b text)")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t SELECT g, g, 'x' FROM generate_series(1, 20) g")
        for number, identity in enumerate(["FULL", "USING INDEX t_code_key", "DEFAULT"]):
            postgres.execute(f"ALTER TABLE t REPLICA IDENTITY {identity}")
            postgres.execute("UPDATE t SET b = %s WHERE id %% 4 = %s", [identity, number])
            postgres.execute("DELETE FROM t WHERE id = %s", [10 + number])
            postgres.execute("UPDATE t SET id = id + 100, code = code + 100 WHERE id = %s", [number + 1])
        found = captured(postgres, journal)
    assert [c.relation.replica_identity for c in found if c.op is Op.DELETE] == ["f", "i", "d"]
    assert_equal_to_source(postgres, journal, tmp_path, ["t"])


def test_changed_keys_move_rows(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE t (id int, part text, b text, PRIMARY KEY (part, id) DEFERRABLE)")
    postgres.execute("CREATE UNIQUE INDEX t_key ON t (part, id)")
    postgres.execute("CREATE TABLE u (id int PRIMARY KEY, b text)")
    postgres.execute("CREATE TABLE r (id numeric PRIMARY KEY, b text)")
    postgres.execute("ALTER TABLE t REPLICA IDENTITY USING INDEX t_key")
    publish(postgres, "t", "u", "r")
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t SELECT g, 'a', g FROM generate_series(1, 9) g")
        postgres.execute("INSERT INTO u SELECT g, g FROM generate_series(1, 9) g")
        postgres.execute("UPDATE t SET part = 'b' WHERE id < 4")
        # Chains and rings within one transaction: every row goes where another one was.
        with postgres.connect(autocommit=False) as connection:
            connection.execute("UPDATE u SET id = 100 WHERE id = 1")
            connection.execute("UPDATE u SET id = 1 WHERE id = 2")
            connection.execute("UPDATE u SET id = 2 WHERE id = 100")
            connection.execute("DELETE FROM u WHERE id = 1")
            connection.execute("INSERT INTO u VALUES (1, 'new')")
            connection.execute("UPDATE u SET id = 50 WHERE id = 1")
            connection.execute("UPDATE u SET id = 3000, b = 'far' WHERE id = 3")
            connection.execute("DELETE FROM u WHERE id = 3000")
            connection.commit()
        # The same number, and another text.
        postgres.execute("INSERT INTO r VALUES (1.0, 'x'); UPDATE r SET id = 1.00; UPDATE r SET b = 'y'")
        captured(postgres, journal)
    assert_equal_to_source(postgres, journal, tmp_path, ["t", "u", "r"])


def test_unchanged_toast_values_survive_every_combination(postgres: Database, tmp_path: Path) -> None:
    tables = ["keyed", "whole", "indexed", "toasted_key"]
    postgres.execute("""
        CREATE TABLE keyed (id int PRIMARY KEY, n int, body text, more text);
        CREATE TABLE whole (id int PRIMARY KEY, n int, body text, more text);
        ALTER TABLE whole REPLICA IDENTITY FULL;
        CREATE TABLE indexed (id int PRIMARY KEY, n int NOT NULL, body text, more text);
        CREATE UNIQUE INDEX indexed_n ON indexed (n);
        ALTER TABLE indexed REPLICA IDENTITY USING INDEX indexed_n;
        -- A key that is stored out of line itself; btree takes up to 2704 bytes.
        CREATE TABLE toasted_key (id text PRIMARY KEY, n int, body text, more text);
        ALTER TABLE toasted_key SET (toast_tuple_target = 128), ALTER id SET STORAGE EXTERNAL;
    """)
    for table in tables:
        postgres.execute(
            sql.SQL("ALTER TABLE {} ALTER body SET STORAGE EXTERNAL, ALTER more SET STORAGE EXTERNAL").format(
                sql.Identifier(table)
            )
        )
    publish(postgres, *tables)
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        for table in tables:
            key = sql.SQL("n" if table == "indexed" else "id")
            name = sql.Identifier(table)
            row = "rpad(g::text, 2000, '-')" if table == "toasted_key" else "g"
            insert = f"INSERT INTO {{}} SELECT {row}, g, %s, %s FROM generate_series(1, 9) g"
            shift = "lpad(n::text, 2000, '+')" if table == "toasted_key" else "{key} + 100"
            with postgres.connect(autocommit=False) as connection:
                # Inserted and updated in one transaction.
                connection.execute(sql.SQL(insert).format(name), [LONG, OTHER])
                connection.execute(sql.SQL("UPDATE {} SET n = n WHERE n < 8").format(name))
                connection.execute(sql.SQL("UPDATE {} SET more = 'short' WHERE n = 2").format(name))
                connection.execute(sql.SQL("UPDATE {} SET body = more, more = NULL WHERE n = 3").format(name))
                connection.commit()
            # In later ones: the other column, the key, key and value at once, there and back.
            postgres.execute(sql.SQL("UPDATE {} SET more = body WHERE n = 4").format(name))
            move = sql.SQL("UPDATE {name} SET {key} = " + shift + "{extra} WHERE n = {n}")
            for n, extra in ((5, ""), (6, ", body = 'x'"), (7, ", more = body")):
                postgres.execute(move.format(name=name, key=key, n=sql.Literal(n), extra=sql.SQL(extra)))
            with postgres.connect(autocommit=False) as connection:
                connection.execute(move.format(name=name, key=key, n=sql.Literal(8), extra=sql.SQL("")))
                connection.execute(sql.SQL("UPDATE {} SET more = 'after' WHERE n IN (8, 108)").format(name))
                connection.execute(sql.SQL("DELETE FROM {} WHERE n = 9").format(name))
                connection.commit()
        found = captured(postgres, journal)
    updates = [c for c in found if c.op is Op.UPDATE]
    lacking = {c.relation.name for c in updates if c.new and UNCHANGED in c.new.values()}
    # Under FULL the old row has them, in rows and in events.
    assert lacking == {"keyed", "indexed", "toasted_key"}
    assert {c.relation.name for c in updates if "unchanged" in event(c)} == lacking
    assert all((c.new or {})["body"] for c in updates if c.relation.full)
    # A TOASTed key that did not change comes with the old one.
    assert all(c.new and c.new["id"] is not UNCHANGED for c in updates)
    for batch in read_all(journal):
        assert [found for _, found in events(batch)] == [event(c) for c in batch.changes()]
    assert_equal_to_source(postgres, journal, tmp_path, tables)


def test_a_row_that_enters_a_filter_without_its_toast_value_is_refused_and_never_made_up(
    postgres: Database, tmp_path: Path
) -> None:
    # The server turns the UPDATE into an INSERT that lacks what the update left alone. In the warehouse
    # only the value of a former life of the row is left, which is wrong.
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, body text)")
    postgres.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    name = sql.Identifier(postgres.publication)
    postgres.execute(sql.SQL("CREATE PUBLICATION {} FOR TABLE t WHERE (id > 10)").format(name))
    make_slot(postgres)
    journal = tmp_path / "journal"
    with capturing(postgres, journal):
        postgres.execute("INSERT INTO t VALUES (20, %s), (30, 'here to stay')", [LONG])
        postgres.execute("UPDATE t SET id = 2 WHERE id = 20")
        postgres.execute("UPDATE t SET body = %s WHERE id = 2", [OTHER])
        postgres.execute("UPDATE t SET id = 20 WHERE id = 2")
        postgres.execute("UPDATE t SET id = 21 WHERE id = 20")
        found = captured(postgres, journal)
    assert [c.op.word for c in found] == ["insert", "insert", "delete", "insert", "update"]
    assert found[3].new == {"id": "20", "body": UNCHANGED}
    # With all in one batch; without the change of key; each change by itself.
    for at_once in (None, 4, 1):
        file = tmp_path / f"{at_once}.duckdb"
        refused: dict[int, str] = {}
        replay(journal, file, at_once=at_once, refused=refused)
        assert set(refused) == {3, 4}
        assert "never got" in str(refused)
        assert rows(file, "SELECT id, body FROM public.t") == [(30, "here to stay")]
