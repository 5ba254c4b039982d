"""`lookup` and `toast` against a real source: few questions, answers that are as fresh as is promised."""

from collections.abc import Iterator, Sequence

import psycopg
import pytest

from cdcflow.errors import ConfigurationError, Permanent, SourceUnavailable
from cdcflow.model import UNCHANGED, Batch, Column, Op
from cdcflow.source.lookup import SourceTables
from cdcflow.testing.batches import make_relation
from cdcflow.testing.database import Database
from cdcflow.testing.history import History, insert, update
from cdcflow.testing.steps import chain, context, rows
from cdcflow.transform.steps.lookup import Cache

ORDERS = make_relation(
    "orders", [Column("id", 20, key=True), Column("customer_id", 23), Column("body", 25)], oid=17_100
)
STEP = {
    "table": "public.customers",
    "on": {"customer_id": "id"},
    "columns": {"customer": "name", "since": "since", "vip": "vip"},
}

#: Rows of the table that is asked: enough that a plan without its index would show.
CUSTOMERS = 20_000


@pytest.fixture
def tables(newest_postgres: Database) -> Iterator[SourceTables]:
    newest_postgres.execute(
        "CREATE TABLE customers (id int PRIMARY KEY, name text, since timestamptz, vip boolean)"
    )
    newest_postgres.execute(
        "INSERT INTO customers SELECT i, 'customer ' || i, '2026-01-01 12:00+02', i % 2 = 0 "
        f"FROM generate_series(1, {CUSTOMERS}) i"
    )
    newest_postgres.execute("ANALYZE customers")
    made = SourceTables(newest_postgres.dsn)
    yield made
    made.close()


def orders(keys: Sequence[int | None], base: int = 0) -> Batch:
    return History(base).batch(
        *(
            insert(ORDERS, id=str(i), customer_id=None if key is None else str(key), body="b")
            for i, key in enumerate(keys)
        )
    )


def test_changes_are_enriched_by_few_questions(tables: SourceTables) -> None:
    made = chain({"lookup": STEP}, around=context(tables=lambda _: tables))
    count = 10_000
    out = made(orders([i % 12_000 + 1 for i in range(count)]))
    assert tables.queries == 2, "10,000 keys are two questions"
    changes = list(out.changes())
    assert len(changes) == count
    for number in (0, 1, 7_777):
        new = changes[number].new
        assert new is not None
        assert (new["customer"], new["since"]) == (f"customer {number + 1}", "2026-01-01 10:00:00+00")
        assert new["vip"] == "tf"[(number + 1) % 2]
    made(orders(range(1, count)))
    assert tables.queries == 2, "answers are remembered"


def test_100000_changes_against_a_million_rows_ask_in_batches_only(
    tables: SourceTables, newest_postgres: Database
) -> None:
    newest_postgres.execute(
        "INSERT INTO customers SELECT i, 'customer ' || i, '2026-01-01 12:00+02', i % 2 = 0 "
        f"FROM generate_series({CUSTOMERS + 1}, 1000000) i"
    )
    newest_postgres.execute("ANALYZE customers")
    made = chain({"lookup": STEP}, around=context(tables=lambda _: tables))
    count, size = 100_000, 5_000
    # A prime stride visits keys all over the table, each once.
    keys = [i * 7_919 % 1_000_000 + 1 for i in range(count)]
    for start in range(0, count, size):
        out = made(orders(keys[start : start + size], start))
        found = [change.new and change.new["customer"] for change in out.changes()]
        assert found == [f"customer {key}" for key in keys[start : start + size]]
    assert tables.queries == count // size, "one question for a batch"


def test_what_is_not_there_is_null_and_asked_for_once(tables: SourceTables) -> None:
    made = chain({"lookup": STEP}, around=context(tables=lambda _: tables))
    for _ in range(2):
        found = rows(made(orders([1, None, 999_999])))
        assert [new and new["customer"] for _, new, _ in found] == ["customer 1", None, None]
    assert tables.queries == 1


def test_a_row_that_changes_is_seen_anew_when_its_answer_is_too_old(
    tables: SourceTables, newest_postgres: Database
) -> None:
    now = 100.0
    asked: list[int] = []

    def ask(keys: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], tuple[str | None, ...]]:
        asked.append(len(keys))
        return dict(tables.fetch(("public", "customers"), ["id"], keys, ["name"]))

    cache = Cache(ask, 1, 10, 60.0, clock=lambda: now)
    assert cache.get([("1",)]) == [("customer 1",)]
    newest_postgres.execute("UPDATE customers SET name = 'renamed' WHERE id = 1")
    now += 59
    assert cache.get([("1",), ("2",)]) == [("customer 1",), ("customer 2",)]
    now += 1
    assert cache.get([("1",), ("2",)]) == [("renamed",), ("customer 2",)]
    assert asked == [1, 1, 1]
    # No more answers are kept than allowed, the oldest go first.
    cache.get([(str(i),) for i in range(10, 20)])
    assert cache.get([("19",), ("1",)])[1] == ("renamed",)
    assert asked[-2:] == [10, 1]


def test_a_lookup_that_cannot_work_is_said_before_rows_flow(
    tables: SourceTables, newest_postgres: Database
) -> None:
    newest_postgres.execute("CREATE TABLE texts (id text PRIMARY KEY, name uuid)")

    def problem(**changed: object) -> str:
        made = chain({"lookup": {**STEP, **changed}}, around=context(tables=lambda _: tables))
        with pytest.raises(ConfigurationError) as caught:
            made.bind(ORDERS)
        return f"{caught.value} | {caught.value.hint}"

    assert "the source has no table public.custmers" in problem(table="custmers")
    assert "public.customers has no column 'nme' | did you mean 'name'?" in problem(columns={"n": "nme"})
    assert "there is no column 'customer'" in problem(on={"customer": "id"})
    assert "is of type" in problem(on={"customer_id": "since"})
    assert "there would be two columns 'body'" in problem(columns={"body": "name"})


def test_a_key_of_several_columns_finds_its_row(tables: SourceTables, newest_postgres: Database) -> None:
    newest_postgres.execute(
        'CREATE TABLE "Pri ces" (shop int, "Sku" text, cents int, PRIMARY KEY (shop, "Sku"))'
    )
    newest_postgres.execute("""INSERT INTO "Pri ces" VALUES (1, 'a"b', 5), (1, 'c', 6), (2, 'c', 7)""")
    found = tables.fetch(
        ("public", "Pri ces"), ["shop", "Sku"], [("1", 'a"b'), ("2", "c"), ("3", "c")], ["cents"]
    )
    assert found == {("1", 'a"b'): ("5",), ("2", "c"): ("7",)}


def test_of_several_rows_with_a_key_the_same_one_is_taken_every_time(
    tables: SourceTables, newest_postgres: Database
) -> None:
    newest_postgres.execute("CREATE TABLE visits (customer int, page text)")
    newest_postgres.execute("INSERT INTO visits VALUES (1, 'b'), (1, 'a'), (1, NULL)")
    assert tables.fetch(("public", "visits"), ["customer"], [("1",)], ["page"]) == {("1",): ("a",)}


def test_the_connection_only_reads_and_comes_back(tables: SourceTables, newest_postgres: Database) -> None:
    tables.columns(("public", "customers"))
    connection = tables._connection
    assert connection is not None
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        connection.execute("DELETE FROM public.customers")
    newest_postgres.execute("SELECT pg_terminate_backend(%s)", [connection.info.backend_pid])
    with pytest.raises(SourceUnavailable):
        tables.fetch(("public", "customers"), ["id"], [("1",)], ["name"])
    assert tables.fetch(("public", "customers"), ["id"], [("1",)], ["name"]) == {("1",): ("customer 1",)}


def test_values_that_were_not_sent_are_taken_from_the_source_by_one_question(
    tables: SourceTables, newest_postgres: Database
) -> None:
    newest_postgres.execute("CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int, body text)")
    newest_postgres.execute("INSERT INTO orders VALUES (1, 7, 'present'), (2, 7, NULL)")
    around = context(tables=lambda _: tables)
    made = chain({"toast": "source"}, {"set": {"part": "coalesce(body, 'none')"}}, around=around)
    batch = History().batch(
        *(update(ORDERS, id=key, customer_id="7", body=UNCHANGED) for key in "123"),
        (ORDERS, Op.DELETE, None, {"id": "2"}),
    )
    found = rows(made(batch))
    assert [new and (new["body"], new["part"]) for _, new, _ in found] == [
        ("present", "present"),
        (None, "none"),
        # The row is gone by now: its value stays unknown.
        (UNCHANGED, UNCHANGED),
        None,
    ]
    assert tables.queries == 1


def test_rows_are_looked_up_under_their_own_names_only(
    tables: SourceTables, newest_postgres: Database
) -> None:
    newest_postgres.execute("CREATE TABLE orders (id bigint PRIMARY KEY, customer_id int, body text)")
    around = context(tables=lambda _: tables)
    made = chain({"rename": {"body": "content"}}, {"toast": "source"}, around=around)
    with pytest.raises(ConfigurationError, match="has no column 'content'"):
        made.bind(ORDERS)
    with pytest.raises(Permanent):
        made(orders([1]))


def test_a_wait_for_an_answer_can_be_ended(tables: SourceTables) -> None:
    tables.columns(("public", "customers"))
    tables.interrupt()
    with pytest.raises(SourceUnavailable, match="the flow is being stopped"):
        tables.fetch(("public", "customers"), ["id"], [("1",)], ["name"])
