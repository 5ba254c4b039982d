"""Online backfills: rows that were there come into the journal while the stream goes on, each once, in a
place where nothing older follows anything newer."""

import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
import pyarrow.compute as pc
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from cdcflow.errors import CdcflowError
from cdcflow.journal import Packed, Reader, contents, verify
from cdcflow.model import UNCHANGED, Batch, Change, Group, Op, Relation
from cdcflow.source import monitor, published, whole
from cdcflow.source.copying import copy_out
from cdcflow.source.online import readers, task
from cdcflow.source.published import PublishedTable
from cdcflow.source.requests import Ended, Kept, Request, Requests, Wish
from cdcflow.source.wanted import look
from cdcflow.testing.database import Database
from cdcflow.testing.journals import read_all
from cdcflow.testing.waiting import eventually
from integration.capturing import Running, capturing, changes, make_slot, marks, memory_bounded, publish

MINUTE = 60.0
#: Rows per second of a backfill of 20,000 that something is to happen in the middle of.
RATE = 5_000


@pytest.fixture
def requests(tmp_path: Path) -> Requests:
    return Requests(tmp_path / "backfills")


@contextmanager
def backfilling(postgres: Database, tmp_path: Path, requests: Requests, **changed: Any) -> Iterator[Running]:
    with capturing(postgres, tmp_path / "journal", backfills=requests.folder, **changed) as running:
        yield running


def ended(requests: Requests, request: Request, *states: str) -> Kept:
    """Waits until a backfill is over."""

    def over() -> Kept | None:
        kept = requests.get(request.name)
        return kept if kept.state in (states or ("done", "failed", "cancelled")) else None

    found = eventually(over, timeout=MINUTE, what=f"the end of the backfill, {requests.all()}")
    assert found is not None
    return found


def rows(found: list[Change], table: str) -> dict[str, dict[str, Any]]:
    """The table as somebody has it who has followed the journal from its beginning, by its column id."""
    held: dict[str, dict[str, Any]] = {}
    for change in found:
        if change.relation.name != table:
            continue
        if change.op is Op.DELETE:
            assert change.old is not None
            held.pop(str(change.old["id"]), None)
        elif change.new is not None:
            old = change.old
            if old is not None and old["id"] != change.new["id"]:
                held[str(change.new["id"])] = held.pop(str(old["id"]), {})
            known = held.get(str(change.new["id"]), {})
            values = {k: v for k, v in change.new.items() if v is None or isinstance(v, str)}
            if len(values) == len(change.new) or known:
                held[str(change.new["id"])] = {**known, **values}
    return held


def came(journal: Path, table: str, key: str) -> bool:
    return key in rows(changes(journal), table)


def without_key(postgres: Database, query: str = "") -> None:
    """Publishes a table `t` without a key, with the rows of a query, and a table `live` with one."""
    postgres.execute("CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL")
    postgres.execute("CREATE TABLE live (id int PRIMARY KEY)")
    if query:
        postgres.execute(f"INSERT INTO t {query}")
    publish(postgres, "t", "live")


def test_rows_that_were_there_come_between_the_changes_of_the_stream(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    postgres.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 5000) g")
    publish(postgres, "t")

    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",)))
        done = ended(requests, request)
        postgres.execute("UPDATE t SET v = 1 WHERE id = 7")
        eventually(lambda: rows(changes(tmp_path / "journal"), "t").get("7") == {"id": "7", "v": "1"})

    assert done.state == "done"
    assert done.outcomes["public.t"].rows == 5000
    found = changes(tmp_path / "journal")
    assert [mark["phase"] for mark in marks(tmp_path / "journal")] == ["begin", "end"]
    assert sum(change.op is Op.READ for change in found) == 5000
    assert len(rows(found, "t")) == 5000
    assert not list(verify(tmp_path / "journal"))
    with Reader(tmp_path / "journal") as reader:
        assert reader.head().offset == 5003


def test_readers_without_work_end_and_come_again(
    newest_postgres: Database, tmp_path: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = newest_postgres
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    postgres.execute("INSERT INTO t SELECT generate_series(1, 500)")
    publish(postgres, "t")
    monkeypatch.setattr(readers, "IDLE_SECONDS", 0.2)

    def there() -> int:
        found = 0
        for child in psutil.Process().children():
            with suppress(psutil.Error):  # it has just ended
                found += "cdcflow.source.reading" in child.cmdline()
        return found

    with backfilling(postgres, tmp_path, requests):
        for number in (1, 2):
            assert ended(requests, requests.add(Request("", ("public.t",)))).state == "done"
            assert len(reads(tmp_path / "journal")) == number * 500
            eventually(lambda: there() == 0, timeout=MINUTE, what="the end of the readers")


@contextmanager
def role_of(postgres: Database, options: str) -> Iterator[tuple[str, str]]:
    """A role of the test's own, and a DSN with it."""
    name = f"{postgres.name}_reader"
    role = sql.Identifier(name)
    postgres.execute(sql.SQL("CREATE ROLE {} LOGIN " + options).format(role))
    try:
        yield name, make_conninfo(postgres.dsn, user=name)
    finally:
        postgres.execute(sql.SQL("DROP OWNED BY {}; DROP ROLE {}").format(role, role))


def reads(journal: Path, table: str = "t") -> list[Change]:
    return [c for c in changes(journal) if c.op is Op.READ and c.relation.name == table]


def test_a_condition_and_columns_choose_what_is_read(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v int, w text)")
    postgres.execute("INSERT INTO t SELECT g, g % 10, 'w' FROM generate_series(1, 1000) g")
    publish(postgres, "t")
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",), where="v = 3 -- so", columns=("w",), flows=("f",)))
        assert ended(requests, request).state == "done"
    found = reads(tmp_path / "journal")
    assert len(found) == 100
    assert all(change.new == {"id": change.key[0], "v": UNCHANGED, "w": "w"} for change in found)
    assert {b.audience for b in read_all(tmp_path / "journal")} == {("f",)}


def test_rows_of_partitions_come_under_the_name_that_the_stream_gives_them(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int) PARTITION BY RANGE (id);"
        "CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (500);"
        "CREATE TABLE t2 (v int, dead int, id int NOT NULL);"
        "ALTER TABLE t2 DROP dead; ALTER TABLE t ATTACH PARTITION t2 FOR VALUES FROM (500) TO (2000);"
        "INSERT INTO t SELECT g, g FROM generate_series(1, 1000) g"
    )
    publication = sql.Identifier(postgres.publication)
    postgres.execute(
        sql.SQL("CREATE PUBLICATION {} FOR TABLE t WHERE (id > 10) WITH (publish_via_partition_root)").format(
            publication
        )
    )
    make_slot(postgres)
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",)))
        assert ended(requests, request).state == "done"
        postgres.execute("INSERT INTO t VALUES (1500, 1)")
        eventually(lambda: "1500" in rows(changes(tmp_path / "journal"), "t"))
    found = rows(changes(tmp_path / "journal"), "t")
    assert {key: row["v"] for key, row in found.items()} == {
        **{str(n): str(n) for n in range(11, 1001)},
        "1500": "1",
    }
    assert len({c.relation.fingerprint for c in changes(tmp_path / "journal") if c.relation.name == "t"}) == 1


def test_rows_of_any_size_and_tables_without_rows_are_read(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, body text); CREATE TABLE e (id int PRIMARY KEY)")
    postgres.execute("ALTER TABLE t ALTER body SET STORAGE EXTERNAL")
    # 30 rows of 3 MB lie in one page, and far exceed what a chunk may hold.
    postgres.execute("INSERT INTO t SELECT g, repeat('x', 3000000) FROM generate_series(1, 30) g")
    publish(postgres, "t", "e")
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t", "public.e")))
        done = ended(requests, request)
    assert (done.state, done.outcomes["public.e"].rows) == ("done", 0)
    found = [batch for batch in read_all(tmp_path / "journal") if batch.nbytes > 1000]
    assert sum(batch.count for batch in found) == 30
    assert max(batch.nbytes for batch in found) < 25_000_000


def test_a_backfill_is_paused_for_as_long_as_one_likes_and_goes_on_where_it_was(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v text)")
    postgres.execute("INSERT INTO t SELECT g, repeat('x', 100) FROM generate_series(1, 20000) g")
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with backfilling(postgres, tmp_path, requests) as running:
        request = requests.add(Request("", ("public.t",), rate=RATE))
        eventually(lambda: journal_offset(journal) > 2, timeout=MINUTE)
        requests.wish(request.name, "pause")
        paused = eventually(
            lambda: [f for f in running.latest["backfills"] if f["state"] == "paused"], timeout=MINUTE
        )
        assert paused
        before = len(reads(journal))
        postgres.execute("UPDATE t SET v = 'new' WHERE id % 100 = 0")
        eventually(lambda: sum(c.op is Op.UPDATE for c in changes(journal)) == 200)
        assert len(reads(journal)) == before < 20_000
    assert requests.get(request.name).state == "paused"
    with backfilling(postgres, tmp_path, requests):
        requests.wish(request.name, "run")
        assert ended(requests, request).state == "done"
    assert len(reads(journal)) <= 20_000
    assert {row["v"] for key, row in rows(changes(journal), "t").items() if int(key) % 100 == 0} == {"new"}
    assert len(rows(changes(journal), "t")) == 20_000
    assert not list(verify(journal))


def test_sessions_that_the_server_ends_for_their_idleness_make_no_difference_to_a_pause(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    postgres.execute("INSERT INTO t SELECT generate_series(1, 20000)")
    publish(postgres, "t")
    with role_of(postgres, "REPLICATION") as (role, dsn):
        name = sql.Identifier(role)
        postgres.execute(
            sql.SQL("GRANT SELECT ON t TO {0}; GRANT USAGE ON SCHEMA public TO {0}").format(name)
        )
        for setting in ("idle_in_transaction_session_timeout", "idle_session_timeout"):
            postgres.execute(sql.SQL("ALTER ROLE {} SET {} = '1s'").format(name, sql.Identifier(setting)))
        with backfilling(postgres, tmp_path, requests, dsn=dsn) as running:
            request = requests.add(Request("", ("public.t",), rate=RATE))
            eventually(lambda: journal_offset(tmp_path / "journal") > 2, timeout=MINUTE)
            requests.wish(request.name, "pause")
            eventually(
                lambda: [f for f in running.latest["backfills"] if f["state"] == "paused"], timeout=MINUTE
            )
            over = time.monotonic() + 3
            eventually(lambda: time.monotonic() > over)
            requests.wish(request.name, "run")
            assert ended(requests, request).state == "done"
    assert len(rows(changes(tmp_path / "journal"), "t")) == 20_000


def test_rows_of_50_mb_among_small_ones_are_read_in_a_few_times_their_size(
    newest_postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres = newest_postgres
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, body text)")
    postgres.execute("INSERT INTO t SELECT g, 'small' FROM generate_series(1, 3000) g")
    # Compressed on the server's disk; as text they have their full size.
    postgres.execute("UPDATE t SET body = repeat('0123456789', 5000000) WHERE id IN (10, 1000, 2000)")
    publish(postgres, "t")
    largest = 0

    def look() -> bool:
        nonlocal largest
        for child in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                if "cdcflow.source.reading" in child.cmdline():
                    largest = max(largest, child.memory_info().rss)
        return requests.get(request.name).state == "done"

    with memory_bounded(600), backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",)))
        eventually(look, timeout=MINUTE)
    assert 100 << 20 < largest < 600 << 20
    sizes = Counter(
        size for batch in read_all(tmp_path / "journal") for size in _body_sizes(batch) if size is not None
    )
    assert sizes == {5: 2997, 50_000_000: 3}


def _body_sizes(batch: Batch) -> list[int | None]:
    groups = (group for group in batch.groups if group.relation.name == "t")
    return [size for group in groups for size in pc.utf8_length(group.new(1)).to_pylist()]


def test_a_cancelled_backfill_ends_with_a_mark_and_what_it_brought_stays(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    postgres.execute("INSERT INTO t SELECT generate_series(1, 50000)")
    publish(postgres, "t")
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",), rate=2_000))
        eventually(lambda: journal_offset(tmp_path / "journal") > 2, timeout=MINUTE)
        requests.wish(request.name, "cancel")
        assert ended(requests, request).state == "cancelled"
    assert [mark["phase"] for mark in marks(tmp_path / "journal")] == ["begin", "cancel"]
    assert 0 < len(reads(tmp_path / "journal")) < 50_000


def journal_offset(journal: Path) -> int:
    with Reader(journal) as reader:
        return reader.head().offset


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("DROP TABLE t", "was dropped"),
        ("REVOKE SELECT ON t FROM reader", "permission denied"),
        ("ALTER TABLE t ENABLE ROW LEVEL SECURITY", "row-level security"),
    ],
)
def test_what_makes_a_table_unreadable_mid_way_fails_and_never_counts_as_done(
    postgres: Database, tmp_path: Path, requests: Requests, statement: str, expected: str
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    postgres.execute("INSERT INTO t SELECT generate_series(1, 20000)")
    publish(postgres, "t")
    with role_of(postgres, "REPLICATION") as (role, dsn):
        postgres.execute(sql.SQL("GRANT SELECT ON t TO {}").format(sql.Identifier(role)))
        postgres.execute(sql.SQL("GRANT USAGE ON SCHEMA public TO {}").format(sql.Identifier(role)))
        with backfilling(postgres, tmp_path, requests, dsn=dsn) as running:
            request = requests.add(Request("", ("public.t",), rate=RATE))
            eventually(lambda: journal_offset(tmp_path / "journal") > 2, timeout=MINUTE)
            postgres.execute(statement.replace("reader", f'"{role}"'))
            failed = ended(requests, request)
            assert running.latest["state"] == "streaming"
            assert failed.state == "failed"
            assert expected in failed.outcomes["public.t"].error
            if statement.startswith("DROP"):
                requests.wish(request.name, "cancel")
                assert ended(requests, request, "cancelled").state == "cancelled"
                return
            postgres.execute("ALTER TABLE t DISABLE ROW LEVEL SECURITY")
            postgres.execute(sql.SQL("GRANT SELECT ON t TO {}").format(sql.Identifier(role)))
            requests.wish(request.name, "run")
            assert ended(requests, request, "done").state == "done"
    assert len(rows(changes(tmp_path / "journal"), "t")) == 20_000


@contextmanager
def mid_way(postgres: Database, tmp_path: Path, requests: Requests, **asked: Any) -> Iterator[Request]:
    """A backfill of 15,000 rows, of which the first are in the journal."""
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v int)")
    postgres.execute("INSERT INTO t SELECT g, g FROM generate_series(1, 15000) g")
    publish(postgres, "t")
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",), rate=10_000, **asked))
        eventually(lambda: journal_offset(tmp_path / "journal") > 2, timeout=MINUTE)
        yield request


@pytest.mark.parametrize(
    "statement",
    [
        "ALTER TABLE t ADD w int DEFAULT 7",
        "ALTER TABLE t ALTER v TYPE bigint",
        "ALTER TABLE t DROP v",
        "VACUUM FULL t",
        "TRUNCATE t",
    ],
)
def test_a_table_that_is_altered_mid_way_is_read_in_its_new_shape(
    postgres: Database, tmp_path: Path, requests: Requests, statement: str
) -> None:
    journal = tmp_path / "journal"
    with mid_way(postgres, tmp_path, requests) as request:
        postgres.execute(statement)
        postgres.execute("INSERT INTO t (id) VALUES (100000)")
        assert ended(requests, request).state == "done"
        eventually(lambda: "100000" in rows(changes(journal), "t"))
    held = rows(changes(journal), "t")
    if statement == "TRUNCATE t":
        last = max(i for i, c in enumerate(changes(journal)) if c.op is Op.TRUNCATE)
        assert list(rows(changes(journal)[last:], "t")) == ["100000"]
    else:
        assert len(held) == 15_001
    shapes = [c.relation.names for c in changes(journal) if c.relation.name == "t"]
    assert len(set(shapes)) <= 2
    assert shapes == sorted(shapes, key=shapes.index)  # the old shape never comes behind the new one


@pytest.mark.parametrize("how", ["", " CONCURRENTLY"])
def test_a_partition_that_is_detached_mid_way_is_no_part_of_the_table_any_more(
    newest_postgres: Database, tmp_path: Path, requests: Requests, how: str
) -> None:
    postgres = newest_postgres
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v text) PARTITION BY RANGE (id)")
    postgres.execute("CREATE TABLE t1 PARTITION OF t FOR VALUES FROM (0) TO (100000)")
    postgres.execute("CREATE TABLE t2 PARTITION OF t FOR VALUES FROM (100000) TO (200000)")
    postgres.execute("INSERT INTO t SELECT g, 'x' FROM generate_series(1, 30000) g")
    postgres.execute("INSERT INTO t VALUES (100001, 'y')")
    postgres.execute(
        sql.SQL("CREATE PUBLICATION {} FOR TABLE t WITH (publish_via_partition_root)").format(
            sql.Identifier(postgres.publication)
        )
    )
    make_slot(postgres)
    journal = tmp_path / "journal"
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",), rate=10_000))
        eventually(lambda: journal_offset(journal) > 2, timeout=MINUTE)
        with postgres.connect(autocommit=True) as connection:
            connection.execute(f"ALTER TABLE t DETACH PARTITION t2{how}".encode())
        postgres.execute("ALTER TABLE t2 DROP CONSTRAINT IF EXISTS t2_id_check")
        postgres.execute("INSERT INTO t2 VALUES (1, 'of its own')")
        assert ended(requests, request).state == "done"
    held = rows(changes(journal), "t")
    assert {key: row["v"] for key, row in held.items() if key != "100001"} == {
        str(key): "x" for key in range(1, 30_001)
    }


@pytest.mark.parametrize(("halt", "where"), [(True, ""), (False, ""), (True, "v > 0")])
def test_a_table_that_loses_its_key_mid_way_is_read_as_a_whole_or_not_at_all(
    postgres: Database, tmp_path: Path, requests: Requests, halt: bool, where: str
) -> None:
    """Rows of a table with REPLICA IDENTITY FULL cannot replace others: they would come twice. Nor can some
    of them be read alone, since its destinations empty it before."""
    journal = tmp_path / "journal"
    with mid_way(postgres, tmp_path, requests, halt=halt, where=where) as request:
        postgres.execute("ALTER TABLE t REPLICA IDENTITY FULL")
        postgres.execute("UPDATE t SET v = v + 1 WHERE id < 100")
        over = ended(requests, request)
    if where or not halt:
        assert over.state == "failed"
        assert "no key" in over.outcomes["public.t"].error
        assert not any(c.op is Op.TRUNCATE for c in changes(journal))
        return
    assert over.state == "done"
    found = changes(journal)
    last = max(i for i, c in enumerate(found) if c.op is Op.TRUNCATE)
    assert sum(c.op is Op.READ for c in found[last:]) == 15_000


def test_a_table_that_leaves_the_publication_with_its_schema_fails(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    """What changes from now on would not come."""
    with mid_way(postgres, tmp_path, requests) as request:
        name = sql.Identifier(postgres.publication)
        postgres.execute(sql.SQL("ALTER PUBLICATION {} SET TABLES IN SCHEMA public").format(name))
        so_far = journal_offset(tmp_path / "journal")
        eventually(lambda: journal_offset(tmp_path / "journal") > so_far + 5_000, timeout=MINUTE)
        postgres.execute(sql.SQL("ALTER PUBLICATION {} DROP TABLES IN SCHEMA public").format(name))
        over = ended(requests, request)
    assert over.state == "failed"
    assert "is not in the publication" in over.outcomes["public.t"].error


def test_a_name_that_two_tables_have_fails_and_nothing_else(
    newest_postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    newest_postgres.execute(
        'CREATE SCHEMA "a.b"; CREATE SCHEMA a;'
        'CREATE TABLE a."b.c" (id int PRIMARY KEY); CREATE TABLE "a.b".c (id int PRIMARY KEY)'
    )
    newest_postgres.execute("CREATE TABLE t (id int PRIMARY KEY)")
    publish(newest_postgres, "t")
    with backfilling(newest_postgres, tmp_path, requests):
        over = ended(requests, requests.add(Request("", ("a.b.c",))))
        assert "two tables" in over.outcomes["a.b.c"].error
        assert ended(requests, requests.add(Request("", ("public.t",)))).state == "done"


def test_a_table_that_another_one_takes_the_name_of_is_read_on_under_its_new_name(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    """As a migration does it that copies a table and swaps the two."""
    journal = tmp_path / "journal"
    with mid_way(postgres, tmp_path, requests) as request:
        postgres.execute(
            "ALTER TABLE t RENAME TO u; CREATE TABLE t (id int PRIMARY KEY, v int);"
            "INSERT INTO t SELECT -g, g FROM generate_series(1, 15000) g"
        )
        assert ended(requests, request).state == "done"
    found = reads(journal, "t") + reads(journal, "u")
    assert {int(str((change.new or {})["id"])) for change in found} == set(range(1, 15_001))


@pytest.mark.parametrize("key", ["id, n", "n"])
def test_a_table_whose_key_is_altered_mid_way_is_read_anew(
    postgres: Database, tmp_path: Path, requests: Requests, key: str
) -> None:
    """Rows that are to be read again, since an update has left their large values out, are known by the key
    that they had."""
    postgres.execute(
        "CREATE TABLE t (id int PRIMARY KEY, n int NOT NULL UNIQUE, v int, big text);"
        "ALTER TABLE t ALTER big SET STORAGE EXTERNAL;"
        "INSERT INTO t SELECT g, 100000 + g, 0, repeat('x', 2500) FROM generate_series(1, 6000) g"
    )
    publish(postgres, "t")
    journal = tmp_path / "journal"
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",), rate=4_000))
        eventually(lambda: journal_offset(journal) > 2, timeout=MINUTE)
        postgres.execute("UPDATE t SET v = 1 WHERE id > 4000")
        postgres.execute(f"ALTER TABLE t DROP CONSTRAINT t_pkey, ADD PRIMARY KEY ({key})")
        assert ended(requests, request).state == "done"
    held = rows(changes(journal), "t")
    assert len(held) == 6_000
    assert all(len(str(row["big"])) == 2_500 for row in held.values())


def test_what_would_fail_is_found_out_beforehand(postgres: Database, tmp_path: Path) -> None:
    postgres.execute(
        "CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE other (id int PRIMARY KEY);"
        "INSERT INTO t VALUES (1, 1)"
    )
    publish(postgres, "t")

    def refusal(dsn: str, **request: Any) -> str:
        asked = Request("", **{"tables": ("public.t",), **request})
        with pytest.raises(CdcflowError) as refused:
            look(dsn, postgres.publication, asked)
        return str(refused.value)

    [wanted] = look(postgres.dsn, postgres.publication, Request("", ("public.t",), where="v > 0"))
    assert wanted.keyed
    assert "there is no table public.none" in refusal(postgres.dsn, tables=("public.none",))
    assert "does not hold public.other" in refusal(postgres.dsn, tables=("public.other",))
    assert "no published column x" in refusal(postgres.dsn, columns=("x",))
    assert "does not fit public.t" in refusal(postgres.dsn, where="nothing = 1")
    assert "semicolon" in refusal(postgres.dsn, where="true); DROP TABLE t; SELECT (true")
    with role_of(postgres, "") as (_, dsn):
        assert "may not read" in refusal(dsn)


def test_a_table_without_a_key_is_emptied_and_read_while_the_stream_stands(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int, v int); ALTER TABLE t REPLICA IDENTITY FULL")
    postgres.execute("CREATE TABLE live (id serial PRIMARY KEY)")
    postgres.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 20000) g")
    publish(postgres, "t", "live")
    journal = tmp_path / "journal"
    with backfilling(postgres, tmp_path, requests):
        refused = ended(requests, requests.add(Request("", ("public.t",))))
        assert "has no key" in refused.outcomes["public.t"].error
        request = requests.add(Request("", ("public.t",), halt=True))
        stop = threading.Event()

        def change() -> None:
            with postgres.connect(autocommit=True) as connection:
                while not stop.is_set():
                    connection.execute("UPDATE t SET v = v + 1 WHERE id = (random() * 20000)::int")
                    connection.execute("INSERT INTO live DEFAULT VALUES")

        thread = threading.Thread(target=change)
        thread.start()
        try:
            assert ended(requests, request).state == "done"
        finally:
            stop.set()
            thread.join()
        postgres.execute("INSERT INTO live VALUES (-1)")
        eventually(lambda: "-1" in rows(changes(journal), "live"), timeout=MINUTE)
    found = changes(journal)
    last = max(i for i, c in enumerate(found) if c.op is Op.TRUNCATE)
    held: Counter[tuple[Any, ...]] = Counter()
    for change_ in found[last:]:
        if change_.relation.name == "t":
            if change_.old is not None:
                held[tuple(change_.old.values())] -= 1
            if change_.new is not None and change_.op is not Op.TRUNCATE:
                held[tuple(change_.new.values())] += 1
    there = Counter((str(i), str(v)) for i, v in postgres.execute("SELECT id, v FROM t"))
    assert +held == there
    assert not list(verify(journal))


@pytest.mark.parametrize(
    ("ddl", "left"),
    [
        ("ALTER TABLE t ALTER v TYPE bigint", 2000),
        ("ALTER TABLE t DROP COLUMN v", 2000),
        ("ALTER TABLE t RENAME COLUMN v TO w", 2000),
        ("ALTER TABLE t RENAME TO u", 2000),
        ("ALTER TABLE t ADD COLUMN n int DEFAULT (random() * 9)::int", 2000),
        ("TRUNCATE t; INSERT INTO t VALUES (1, 1)", 1),
        ("VACUUM FULL t", 2000),
        ("DROP TABLE t", 0),
    ],
    ids=lambda value: str(value).split(";")[0],
)
def test_a_table_without_a_key_that_is_altered_before_its_copy_comes_whole(
    postgres: Database,
    tmp_path: Path,
    requests: Requests,
    monkeypatch: pytest.MonkeyPatch,
    ddl: str,
    left: int,
) -> None:
    """Between the snapshot and the lock that COPY takes: to a snapshot from before, a table that somebody
    rewrites or truncates is an empty one."""
    without_key(postgres, "SELECT g, 0 FROM generate_series(1, 2000) g")
    known = published.published_tables
    looked: list[bool] = []

    def alters(*given: Any, **more: Any) -> list[PublishedTable]:
        found = known(*given, **more)
        if not looked:
            looked.append(True)
            with postgres.connect(autocommit=True) as connection:
                for statement in ddl.split(";"):
                    connection.execute(statement.encode())
        return found

    monkeypatch.setattr(whole, "published_tables", alters)
    journal = tmp_path / "journal"
    with backfilling(postgres, tmp_path, requests):
        over = ended(requests, requests.add(Request("", ("public.t",), halt=True)))
        assert looked
        if not left:
            assert over.state == "failed"
            assert "was dropped" in over.outcomes["public.t"].error
            return
        assert over.state == "done"
        eventually(lambda: len(wholly(changes(journal))) == left, timeout=MINUTE)


@pytest.mark.parametrize("wish", ["pause", "cancel"])
def test_a_table_without_a_key_is_let_go_in_the_middle_of_its_copy(
    postgres: Database,
    tmp_path: Path,
    requests: Requests,
    monkeypatch: pytest.MonkeyPatch,
    wish: Wish,
) -> None:
    """So that the stream, which stands meanwhile, goes on."""
    without_key(postgres, "SELECT g, 0 FROM generate_series(1, 20000) g")
    packing, packed = contents.pack, list[int]()

    def counted(group: Group) -> Packed:
        packed.append(len(group))
        if len(packed) == 3:
            requests.wish(request.name, wish)
        return packing(group)

    monkeypatch.setattr(whole, "FRAME_ROWS", 100)
    monkeypatch.setattr(whole, "pack", counted)
    monkeypatch.setattr(whole, "copy_out", partial(copy_out, size=2_000))
    journal = tmp_path / "journal"
    with backfilling(postgres, tmp_path, requests):
        request = requests.add(Request("", ("public.t",), halt=True))
        stopped = ended(requests, request, "paused" if wish == "pause" else "cancelled")
        assert len(packed) == 3
        assert "public.t" not in stopped.outcomes or stopped.outcomes["public.t"].rows < 20_000
        postgres.execute("INSERT INTO t VALUES (-1, 0)")
        eventually(lambda: ("-1", "0") in wholly(changes(journal)), timeout=MINUTE)
        if wish == "pause":
            requests.wish(request.name, "run")
            assert ended(requests, request).state == "done"
            assert len(wholly(changes(journal))) == 20_001


def test_a_table_without_a_key_that_waits_for_a_transaction_is_let_go(
    newest_postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    """The server makes no snapshot while a transaction of somebody's is open, and the stream stands."""
    postgres = newest_postgres
    without_key(postgres)
    waits = "SELECT FROM pg_stat_activity WHERE query LIKE 'CREATE_REPL%' AND datname = current_database()"
    journal = tmp_path / "journal"
    with backfilling(postgres, tmp_path, requests), postgres.connect() as other:
        other.execute("BEGIN")
        other.execute("SELECT pg_current_xact_id()")
        request = requests.add(Request("", ("public.t",), halt=True))
        eventually(lambda: postgres.execute(waits + " AND wait_event_type = 'Lock'"), timeout=MINUTE)
        requests.wish(request.name, "cancel")
        assert ended(requests, request).state == "cancelled"
        postgres.execute("INSERT INTO t VALUES (1, 1)")
        eventually(lambda: ("1", "1") in wholly(changes(journal)), timeout=MINUTE)
        assert not postgres.execute(waits)


@pytest.mark.parametrize(
    "held",
    ["SELECT pg_current_xact_id()", "LOCK TABLE t IN ACCESS EXCLUSIVE MODE"],
    ids=["transaction", "lock"],
)
def test_what_a_table_without_a_key_waits_for_is_waited_for_while_the_stream_goes_on(
    newest_postgres: Database, tmp_path: Path, requests: Requests, held: str
) -> None:
    postgres = newest_postgres
    without_key(postgres, "VALUES (1, 1)")
    journal = tmp_path / "journal"
    states = ("SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'",)
    with backfilling(postgres, tmp_path, requests):
        with postgres.connect() as other:
            other.execute("BEGIN")
            other.execute(held.encode())
            request = requests.add(Request("", ("public.t",), halt=True))
            for number in range(3):
                eventually(lambda: postgres.execute(*states), timeout=MINUTE, what="it waits")
                postgres.execute(f"INSERT INTO live VALUES ({number})")
                eventually(partial(came, journal, "live", str(number)), timeout=MINUTE)
                assert requests.get(request.name).state == "running"
                assert not reads(journal)
        assert ended(requests, request).state == "done"
    assert len(reads(journal)) == 1


def test_the_stream_stands_for_a_table_without_a_key_no_longer_than_it_may(
    newest_postgres: Database, tmp_path: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction that has begun since those before were waited for."""
    postgres = newest_postgres
    without_key(postgres, "VALUES (1, 1)")
    journal = tmp_path / "journal"
    probing, probes = whole._probe, list[bool]()
    with postgres.connect() as other:

        def begins(dsn: str, relation: Relation) -> None:
            probing(dsn, relation)
            if not probes:
                other.execute("BEGIN")
                other.execute("SELECT pg_current_xact_id()")
            probes.append(True)

        monkeypatch.setattr(whole, "_probe", begins)
        monkeypatch.setattr(task, "PATIENCE", 0.2)
        with backfilling(postgres, tmp_path, requests):
            request = requests.add(Request("", ("public.t",), halt=True))
            eventually(lambda: probes, timeout=MINUTE)
            postgres.execute("INSERT INTO live VALUES (1)")
            eventually(partial(came, journal, "live", "1"), timeout=MINUTE)
            assert not reads(journal)
            other.rollback()
            assert ended(requests, request).state == "done"


def wholly(found: list[Change]) -> list[tuple[Any, ...]]:
    """The rows of a table without a key, after the last time that it was emptied."""
    emptied = max((i for i, c in enumerate(found) if c.op is Op.TRUNCATE), default=-1)
    held: Counter[tuple[Any, ...]] = Counter()
    for change in found[emptied + 1 :]:
        if change.old is not None:
            held[tuple(change.old.values())] -= 1
        if change.new is not None:
            held[tuple(change.new.values())] += 1
    return [*(+held).elements()]


def test_a_first_load_comes_once(postgres: Database, tmp_path: Path, requests: Requests) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY, v int); CREATE TABLE n (a int)")
    postgres.execute("INSERT INTO t SELECT g, 0 FROM generate_series(1, 3000) g; INSERT INTO n VALUES (1)")
    publish(postgres, "t", "n")
    with backfilling(postgres, tmp_path, requests, backfill=True):
        [kept] = eventually(requests.all, timeout=MINUTE)
        assert ended(requests, kept.request).state == "done"
    assert len(reads(tmp_path / "journal")) == 3000
    assert len(reads(tmp_path / "journal", "n")) == 1
    with Reader(tmp_path / "journal") as reader:
        assert reader.initial_rows() == 0
    with backfilling(postgres, tmp_path, requests, backfill=True):
        pass
    assert len(requests.all()) == 1


@pytest.mark.parametrize("changed", [False, True])
def test_a_first_load_empties_a_table_without_a_key_only_where_something_of_it_came_before(
    postgres: Database, tmp_path: Path, requests: Requests, changed: bool
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE n (id int, v int)")
    postgres.execute("ALTER TABLE n REPLICA IDENTITY FULL; INSERT INTO n VALUES (1, 0), (1, 0), (2, 0)")
    publish(postgres, "t", "n")
    if changed:
        postgres.execute("INSERT INTO n VALUES (3, 0)")
    with backfilling(postgres, tmp_path, requests, backfill=True):
        postgres.execute("UPDATE n SET v = 1 WHERE id = 2")
        eventually(lambda: changes(tmp_path / "journal")[-1].op is Op.UPDATE, timeout=MINUTE)
    ops = Counter(change.op for change in changes(tmp_path / "journal"))
    if changed:
        assert ops == {Op.INSERT: 1, Op.TRUNCATE: 1, Op.READ: 4, Op.UPDATE: 1}
    else:
        assert ops == {Op.READ: 3, Op.UPDATE: 1}


def test_a_new_journal_begins_with_a_first_load_whatever_an_older_one_had(
    postgres: Database, tmp_path: Path, requests: Requests
) -> None:
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t SELECT generate_series(1, 100)")
    publish(postgres, "t")
    with backfilling(postgres, tmp_path, requests, backfill=True):
        pass
    [kept] = requests.all()
    assert kept.state == "done"
    shutil.rmtree(tmp_path / "journal")
    postgres.execute("SELECT pg_drop_replication_slot(%s)", [postgres.slot])
    make_slot(postgres)
    with backfilling(postgres, tmp_path, requests, backfill=True):
        pass
    assert len(reads(tmp_path / "journal")) == 100


def test_a_table_that_comes_into_the_publication_is_read_where_that_is_wished(
    postgres: Database, tmp_path: Path, requests: Requests, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(monitor, "WATCH_INTERVAL", 0.1)
    monkeypatch.setattr(monitor, "INTERVAL", 0.1)
    postgres.execute("CREATE TABLE t (id int PRIMARY KEY); CREATE TABLE later (id int PRIMARY KEY)")
    postgres.execute("INSERT INTO later SELECT generate_series(1, 500)")
    publish(postgres, "t")
    # Of another time.
    for state in ("cancelled", "done"):
        over = requests.add(Request("", ("public.later", "public.t"), wish="cancel"))
        requests.end(over.name, "public.later", Ended(state))
    with backfilling(postgres, tmp_path, requests, backfill_new_tables=True):
        postgres.execute(
            sql.SQL("ALTER PUBLICATION {} ADD TABLE later").format(sql.Identifier(postgres.publication))
        )
        kept = eventually(lambda: next(iter(requests.all()[2:]), None), timeout=MINUTE)
        assert kept is not None
        assert kept.request.tables == ("public.later",)
        assert ended(requests, kept.request).state == "done"
    assert len(reads(tmp_path / "journal", "later")) == 500
