"""The comparison against a real Postgres and a real DuckDB: equal values are equal for every type of the
rules, and the smallest change of any of them is found."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest

from cdcflow.demo.compare import Ask, Comparison, compare
from cdcflow.demo.deliveries import check
from cdcflow.demo.goods import Goods
from cdcflow.demo.shop import open_shop
from cdcflow.demo.stock import Stock
from cdcflow.demo.workload import KINDS, Shopping
from cdcflow.journal import Identity, Writer
from cdcflow.model import Column, Op
from cdcflow.sink.event import encode, events
from cdcflow.testing.batches import Row, make_batch, make_relation
from cdcflow.testing.database import Database

#: type in Postgres, type in the warehouse, then pairs of equal literals.
KINDS_OF_VALUES: dict[str, tuple[str, str, list[tuple[str, str]]]] = {
    "whole": ("bigint", "BIGINT", [("-9223372036854775808", "-9223372036854775808")]),
    "exact": ("numeric(12,2)", "DECIMAL(12,2)", [("12.50", "12.50"), ("-0.01", "-0.01")]),
    "free": ("numeric", "VARCHAR", [("1.10", "'1.10'"), ("'NaN'", "'NaN'")]),
    "float": ("float8", "DOUBLE", [("1e20", "1e20"), ("0.1", "0.1"), ("'-0'", "'-0.0'"), ("'NaN'", "'NaN'")]),
    "small": ("float4", "FLOAT", [("0.1", "0.1"), ("'Infinity'", "'Infinity'")]),
    "words": ("text", "VARCHAR", [("''", "''"), ("'NULL'", "'NULL'"), ("E'tab\\tü🎁'", "'tab\tü🎁'")]),
    "fixed": ("char(4)", "VARCHAR", [("'ab'", "'ab  '")]),
    "truth": ("boolean", "BOOLEAN", [("true", "true")]),
    "day": ("date", "DATE", [("'2026-11-22'", "'2026-11-22'"), ("'infinity'", "'infinity'")]),
    "before": ("date", "DATE", [("'0044-03-15 BC'", "'0044-03-15 (BC)'")]),
    "clock": ("time", "TIME", [("'24:00'", "'24:00:00'"), ("'12:30:00.000001'", "'12:30:00.000001'")]),
    "local": ("timestamp", "TIMESTAMP", [("'2026-11-22 18:18:44.5'", "'2026-11-22 18:18:44.5'")]),
    "instant": (
        "timestamptz",
        "TIMESTAMPTZ",
        [
            ("'2026-11-22 18:18:44.123456+02'", "'2026-11-22 16:18:44.123456+00'"),
            ("'-infinity'", "'-infinity'"),
        ],
    ),
    "length": (
        "interval",
        "INTERVAL",
        [("'1 year 2 mons -3 days 04:05:06.7'", "'14 months -3 days 14706700000 microseconds'")],
    ),
    "name": (
        "uuid",
        "UUID",
        [("'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'", "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'")],
    ),
    "document": ("jsonb", "VARCHAR", [("""'{"a": 9007199254740993}'""", """'{"a": 9007199254740993}'""")]),
    "raw": ("bytea", "BLOB", [(r"'\x00ff41'", r"'\x00\xFFA'"), (r"'\x'", "''")]),
    "list": (
        "text[]",
        "VARCHAR",
        [("""'{a,NULL,"NULL","q\\"x",""}'""", """'["a",null,"NULL","q\\"x",""]'"""), ("'{}'", "'[]'")],
    ),
    "grid": ("int[]", "VARCHAR", [("'{{1,2},{3,NULL}}'", "'[[1,2],[3,null]]'")]),
}

#: For every column a literal of the warehouse that is the first one's closest neighbour.
NEIGHBOURS = {
    "whole": "-9223372036854775807",
    "exact": "12.51",
    "free": "'1.1'",
    "float": "100000000000000016384",
    "small": "0.10000001",
    "words": "' '",
    "fixed": "'ab'",
    "truth": "false",
    "day": "'2026-11-23'",
    "before": "'0045-03-15 (BC)'",
    "clock": "'00:00:00'",
    "local": "'2026-11-22 18:18:44.500001'",
    "instant": "'2026-11-22 16:18:44.123457+00'",
    "length": "'14 months -3 days 14706700001 microseconds'",
    "name": "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12'",
    "document": """'{"a": 9007199254740992}'""",
    "raw": r"'\x00\xFFB'",
    "list": """'["a","NULL","NULL","q\\"x",""]'""",
    "grid": "'[[1,2],[3,4]]'",
}

Judge = Callable[[], Comparison]


@pytest.fixture
def warehouse() -> Iterator[duckdb.DuckDBPyConnection]:
    connection = duckdb.connect()
    connection.execute("SET timezone = 'UTC'; CREATE SCHEMA public")
    yield connection
    connection.close()


def asking(warehouse: duckdb.DuckDBPyConnection) -> Ask:
    return lambda sql: warehouse.execute(sql).fetchall()


@pytest.fixture
def judge(postgres: Database, warehouse: duckdb.DuckDBPyConnection) -> Judge:
    """Both sides with the same rows of every type; gives the comparison of their table `kinds`."""
    rows = max(len(pairs) for _, _, pairs in KINDS_OF_VALUES.values())
    for side, place in ((postgres.execute, 0), (warehouse.execute, 1)):
        columns = ", ".join(f'"{name}" {kind[place]}' for name, kind in KINDS_OF_VALUES.items())
        key = "PRIMARY KEY" if place == 0 else ""
        side(f"CREATE TABLE public.kinds (id int {key}, {columns})")
        side(f"INSERT INTO public.kinds (id) VALUES ({rows})")  # all else NULL
        for row in range(rows):
            values = [
                pairs[row][place] if row < len(pairs) else "NULL" for _, _, pairs in KINDS_OF_VALUES.values()
            ]
            side(f"INSERT INTO public.kinds VALUES ({row}, {', '.join(values)})")
    connection = postgres.connect()
    return lambda: compare(connection, asking(warehouse), ["kinds"])[0]


def test_equal_values_of_every_type_are_identical(judge: Judge) -> None:
    found = judge()
    assert found.verdict == "identical"
    assert found.source == found.warehouse > 3


def test_the_smallest_change_of_a_value_of_any_type_is_found(
    judge: Judge, warehouse: duckdb.DuckDBPyConnection
) -> None:
    unseen = []
    for column, literal in NEIGHBOURS.items():
        for changed in (literal, "NULL"):
            warehouse.execute("BEGIN")
            warehouse.execute(f'UPDATE public.kinds SET "{column}" = {changed} WHERE id = 0')
            found = judge()
            if found.columns != {column: 1} or found.differing != 1:
                unseen.append((column, changed))
            warehouse.execute("ROLLBACK")
    assert not unseen
    assert NEIGHBOURS.keys() == KINDS_OF_VALUES.keys()


def test_columns_that_do_not_match_are_named(judge: Judge, warehouse: duckdb.DuckDBPyConnection) -> None:
    warehouse.execute("ALTER TABLE public.kinds RENAME COLUMN words TO letters")
    verdict = judge().verdict
    assert "no column words" in verdict
    assert "a column letters" in verdict


def test_a_table_that_the_warehouse_lacks_is_different(
    judge: Judge, warehouse: duckdb.DuckDBPyConnection
) -> None:
    warehouse.execute("DROP TABLE public.kinds")
    found = judge()
    assert not found.identical
    assert "no such table" in found.verdict


def test_a_table_without_a_key_is_compared_as_a_collection(
    postgres: Database, warehouse: duckdb.DuckDBPyConnection
) -> None:
    for side in (postgres.execute, warehouse.execute):
        side("CREATE TABLE public.views (path text)")
        side("INSERT INTO public.views VALUES ('/'), ('/'), ('/cart'), (NULL)")
    connection = postgres.connect()
    assert compare(connection, asking(warehouse), ["views"])[0].identical
    warehouse.execute("UPDATE public.views SET path = '/carT' WHERE path = '/cart'")
    found = compare(connection, asking(warehouse), ["views"])[0]
    assert (found.missing, found.extra) == (1, 1)


def test_every_kind_of_transaction_runs_and_a_rolled_back_one_leaves_nothing(postgres: Database) -> None:
    connection = postgres.connect()
    goods = Goods(7)
    stock = open_shop(connection, goods)
    shopping = Shopping(connection, goods, stock)
    committed = [shopping.transact(kind) for _ in range(8) for kind in KINDS]
    assert 0 < sum(committed) < len(committed)
    assert _known(connection) == _remembered(stock)


def _known(connection: psycopg.Connection[Any]) -> tuple[set[Any], ...]:
    queries = (
        "SELECT id FROM customers",
        "SELECT sku FROM products",
        "SELECT id FROM orders WHERE status <> 'delivered'",
        "SELECT id FROM support_tickets WHERE status <> 'closed'",
    )
    return tuple({row[0] for row in connection.execute(query)} for query in queries)


def _remembered(stock: Stock) -> tuple[set[Any], ...]:
    return (set(stock.customers), set(stock.products), set(stock.open_orders), set(stock.open_tickets))


def test_rows_that_the_webhook_makes_otherwise_than_the_source_are_counted(
    postgres: Database, tmp_path: Path
) -> None:
    postgres.execute("CREATE TABLE offers (sku text PRIMARY KEY, percent numeric(4,1), digest bytea)")
    postgres.execute(r"INSERT INTO offers VALUES ('a', 5.0, '\x00ff'), ('b', NULL, NULL)")
    relation = make_relation(
        "offers", [Column("sku", 25, key=True), Column("percent", 1700, 262_149), Column("digest", 17)]
    )
    rows: list[Row] = [
        {"sku": "a", "percent": "5.0", "digest": r"\x00ff"},
        {"sku": "b", "percent": None, "digest": None},
    ]
    batch = make_batch(relation, [(Op.INSERT, row, None) for row in rows])
    writer = Writer.open(tmp_path / "journal", Identity("1", 1, "shop", "slot", "publication"))
    writer.append(batch)
    writer.sync()
    writer.close()
    record = tmp_path / "received.jsonl"
    record.write_bytes(
        b"".join(b'{"verified":true,"status":204,"body":%s}\n' % encode(event) for _, event in events(batch))
    )
    connection = postgres.connect()
    assert check(connection, tmp_path / "journal", record, ["offers"]).complete

    postgres.execute("UPDATE offers SET percent = 5.1 WHERE sku = 'a'")
    found = check(connection, tmp_path / "journal", record, ["offers"])
    assert found.differing == {"offers": 1}
    assert not found.complete
