"""Every type family as a real Postgres prints it, held against what the same Postgres says of the value."""

import struct
from collections.abc import Iterator
from hashlib import md5
from pathlib import Path
from typing import Any

import duckdb
import orjson
import psycopg
import pyarrow as pa
import pytest

from cdcflow import types
from cdcflow.decode import Decoder
from cdcflow.errors import Permanent
from cdcflow.model import Batch, Column, Op
from cdcflow.source.connection import connect
from cdcflow.testing.database import Database
from cdcflow.types import PgType
from cdcflow.types.builtin import BY_NAME, BY_OID
from integration.capturing import capturing, journaled, publish
from oracle.answers import ask, said_by_duckdb, said_by_postgres

Connection = psycopg.Connection[Any]

#: Type → values as literals. Every value also goes through an array of its type.
VALUES: dict[str, list[str]] = {
    "smallint": ["-32768", "32767"],
    "integer": ["-2147483648", "0", "2147483647"],
    "bigint": ["-9223372036854775808", "9007199254740993", "9223372036854775807"],
    "oid": ["0", "4294967295"],
    "real": ["0.1", "-0", "1e-45", "3.4028235e+38", "16777217", "NaN", "Infinity", "-Infinity"],
    "double precision": [
        *("0.1", "-0", "5e-324", "1.7976931348623157e+308", "123456789012345680", "1e22", "1e23"),
        *("NaN", "Infinity", "-Infinity"),
    ],
    "numeric": ["1.10", "-0.00", "1" * 60, "1e-30", "NaN", "Infinity", "-Infinity"],
    "numeric(12,2)": ["1.1", "-9999999999.99", "0", "0.005"],
    "numeric(38,10)": ["1234567890123456789012345678.0123456789", "-0.0000000001"],
    "numeric(3,-2)": ["99949", "-100"],
    "numeric(2,4)": ["0.0099"],
    "text": ["", " ", "NULL", "ü😀", 'a"b\\c', "{x}", "tab\tline\nend"],
    "varchar(5)": ["abc"],
    "char(5)": ["ab", ""],
    "name": ["abc"],
    '"char"': ["a"],
    "boolean": ["true", "false"],
    "bytea": ["\\x", "\\x00ff5c", "abc"],
    "date": [
        "2026-11-22",
        "infinity",
        "-infinity",
        "4714-11-24 BC",
        "0001-12-31 BC",
        "10000-01-01",
        "5874897-12-31",
    ],
    "time": ["00:00:00", "18:18:44.5", "24:00:00"],
    "timetz": ["00:00:00+15:59:59", "24:00:00-15:59:59"],
    "timestamp": [
        *(
            "2026-11-22 18:18:44.123456",
            "infinity",
            "-infinity",
            "4714-11-24 00:00:00 BC",
            "0001-01-01 00:00:00",
        ),
        *("10000-01-01 00:00:00", "294247-01-10 04:00:54.775806", "1969-12-31 23:59:59.999999"),
    ],
    "timestamptz": [
        *(
            "2026-11-22 18:18:44.5+05:30",
            "infinity",
            "-infinity",
            "0044-03-15 12:00:00 BC",
            "1800-01-01 00:00:00",
        ),
        *("10000-01-01 00:00:00", "294247-01-10 04:00:54.775806+00"),
    ],
    "timestamptz(0)": ["2026-11-22 18:18:44.5"],
    "interval": [
        *(
            "0",
            "1 year 2 mons -3 days 04:05:06.7",
            "-1 year 2 days -00:00:00.000001",
            "1 mon -1 day",
            "100 hours",
        ),
        *("-2147483648 days", "178000000 years", "2562047788:00:54.775807", "1 day 00:00:01", "-1 mon"),
    ],
    "uuid": ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"],
    "json": ['{"a":1,"a":2, "n": 123456789012345678901234567890.5}', "null", '"\\ud800"', "[1,\n2]"],
    "jsonb": ['{"b":1,"a":{"n": 12345678901234567890}}', "null", "1e400", '"x"'],
    "xml": ["<a>1</a>"],
    "money": ["-12.50"],
    "inet": ["10.0.0.1/8", "::1"],
    "cidr": ["10.0.0.0/8"],
    "macaddr": ["08:00:2b:01:02:03"],
    "macaddr8": ["08:00:2b:01:02:03:04:05"],
    "bit(5)": ["00101"],
    "varbit": ["", "0001"],
    "int4range": ["[1,5)", "empty", "(,)"],
    "tstzrange": ["[2026-01-01,infinity)"],
    "int4multirange": ["{}", "{[1,2),[5,9)}"],
    "tsvector": ["'a':1 'b c':2"],
    "tsquery": ["'a' & 'b'"],
    "pg_lsn": ["16/B374D848"],
    "regclass": ["pg_class"],
    "xid8": ["18446744073709551615"],
    "point": ["(1.5,-0)"],
    "box": ["(1,1),(0,0)"],
    "jsonpath": ["$.a"],
}


@pytest.fixture
def source(postgres: Database) -> Iterator[Connection]:
    """A connection with the session settings of capture."""
    connection = connect(postgres.dsn, purpose="tests")
    connection.autocommit = True
    yield connection
    connection.close()


def raw(source: Connection, sql: str) -> list[str]:
    """A query's one column, without NULL."""
    [values] = ask(source, sql)
    return [value or "" for value in values]


def filled(source: Connection, name: str) -> PgType:
    """Makes the table `public.t` with the values of a type in `v`, in the order of `n`."""
    source.execute(f"CREATE TABLE public.t (n serial, v {name})".encode())
    for value in VALUES[name]:
        try:
            source.execute("INSERT INTO public.t (v) VALUES (%s)", [value])
        except psycopg.errors.FeatureNotSupported as error:
            pytest.skip(f"this server is built without it: {error.diag.message_primary}")
    query = (
        "SELECT atttypid::int8, atttypmod FROM pg_attribute"
        " WHERE attrelid = 'public.t'::regclass AND attname = 'v'"
    )
    row = source.execute(query).fetchone()
    assert row is not None
    return types.of(Column("v", row[0], row[1]))


@pytest.mark.parametrize("name", VALUES)
def test_the_warehouse_holds_the_value_that_postgres_has(source: Connection, name: str) -> None:
    kind = filled(source, name)
    texts = raw(source, "SELECT v FROM public.t ORDER BY n")
    values = kind.to_arrow(pa.array(texts, pa.string()))
    warehouse = duckdb.connect()
    warehouse.execute("SET TimeZone = 'UTC'")
    warehouse.execute(f"CREATE TABLE t (n INTEGER, v {kind.duckdb})")
    warehouse.register("stage", pa.table({"n": pa.array(range(len(values))), "v": values}))
    warehouse.execute("INSERT INTO t SELECT n, v FROM stage")

    found = said_by_duckdb(warehouse, kind.duckdb, "t", "v")

    assert found == raw(source, f"SELECT {said_by_postgres(kind.duckdb, 'v')} FROM public.t ORDER BY n")


#: Types whose JSON is not Postgres' own, and how Postgres says it all the same.
JSON_BY_POSTGRES = {"oid": "to_json(v::int8)", "bytea": "to_json(translate(encode(v, 'base64'), E'\\n', ''))"}


@pytest.mark.parametrize("name", VALUES)
def test_json_says_what_postgres_says(source: Connection, name: str) -> None:
    kind = filled(source, name)
    texts = raw(source, "SELECT v FROM public.t ORDER BY n")
    if name == "interval":
        source.execute("SET IntervalStyle = iso_8601")
    expression = JSON_BY_POSTGRES.get(name, "to_json(v)")
    if name not in ("json", "jsonb"):
        said = [orjson.loads(text) for text in raw(source, f"SELECT {expression} FROM public.t ORDER BY n")]
    else:
        said = raw(source, "SELECT v FROM public.t ORDER BY n")

    for text, wanted in zip(texts, said, strict=True):
        found = orjson.dumps(kind.json(text))
        if name in ("json", "jsonb"):
            assert found.decode() == wanted.replace("\n", " ")
        elif isinstance(wanted, str | bool):
            assert orjson.loads(found) == wanted
        else:
            # A number to Postgres: here it is one too, or its text where a double would change it.
            value = orjson.loads(found)
            assert value == (text if isinstance(value, str) else wanted)
            assert isinstance(value, str) or float(text) == value


@pytest.mark.parametrize("name", [name for name in VALUES if name != "jsonpath"])
def test_an_array_holds_the_same_values(source: Connection, name: str) -> None:
    element = filled(source, name)
    source.execute(f"CREATE TABLE public.lists (v {name}[])".encode())
    source.execute(
        "INSERT INTO public.lists SELECT array_append(array_agg(v ORDER BY n), NULL) FROM public.t"
    )
    [oid] = raw(source, "SELECT pg_typeof(v)::oid FROM public.lists")
    kind = types.of(Column("v", int(oid)))
    texts = raw(source, "SELECT v FROM public.t ORDER BY n")
    [text] = raw(source, "SELECT v FROM public.lists")

    assert orjson.dumps(kind.json(text)) == orjson.dumps([*map(element.json, texts), None])
    [stored] = kind.to_arrow(pa.array([text])).to_pylist()
    assert stored.encode() == orjson.dumps(kind.json(text))


@pytest.mark.parametrize(
    ("literal", "expected"),
    [
        ("'{}'::int[]", []),
        ("'{{1,2},{3,NULL}}'::int[]", [[1, 2], [3, None]]),
        ("'[0:1]={1,2}'::int[]", {"lower_bounds": [0], "elements": [1, 2]}),
        ("'[-1:0][5:5]={{1},{2}}'::int[]", {"lower_bounds": [-1, 5], "elements": [[1], [2]]}),
        ("ARRAY['NULL', NULL, 'null', '', ' ', 'a,b', '{']", ["NULL", None, "null", "", " ", "a,b", "{"]),
        ("ARRAY['back\\slash', '\"quoted\"']", ["back\\slash", '"quoted"']),
    ],
)
def test_arrays_keep_dimensions_bounds_and_quotes(source: Connection, literal: str, expected: object) -> None:
    [text] = raw(source, f"SELECT {literal}")
    oid = 1007 if "int" in literal else 1009

    assert types.of(Column("v", oid)).json(text) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("numeric(12,2)", "NaN"),
        ("timestamp", "294276-12-31 23:59:59.999999"),
        ("timestamptz", "294276-12-31 23:59:59.999999+00"),
    ],
)
def test_a_value_that_the_column_cannot_hold_is_refused(source: Connection, name: str, value: str) -> None:
    kind = filled(source, name)
    source.execute(b"INSERT INTO public.t (v) VALUES (%s)", [value])

    with pytest.raises(Permanent, match="does not fit"):
        kind.to_arrow(pa.array(raw(source, "SELECT v FROM public.t ORDER BY n")))


def test_every_built_in_type_of_the_server_is_known(source: Connection) -> None:
    found = source.execute(
        "SELECT t.oid::int8, t.typname, e.oid::int8 FROM pg_type AS t"
        " LEFT JOIN pg_type AS e ON e.typarray = t.oid"
        " WHERE t.oid < 10000 AND t.typtype IN ('b', 'r', 'm')"
        " AND (e.oid IS NULL OR e.typtype IN ('b', 'r', 'm')) AND t.typname NOT LIKE 'pg\\_%'"
    ).fetchall()

    unknown = [name for oid, name, *_ in found if oid not in BY_OID]
    assert unknown == []
    for oid, name, element in found:
        assert BY_NAME[name] is BY_OID[oid]
        if element is not None:
            assert BY_OID[oid].name == f"{BY_OID[element].name}[]"


def streamed(postgres: Database, source: Connection, *statements: str) -> Batch:
    """The statements' changes of `public.t` as pgoutput sends them."""
    source.execute(f"CREATE PUBLICATION {postgres.publication} FOR TABLE public.t".encode())
    source.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [postgres.slot])
    for statement in statements:
        source.execute(statement.encode())
    decoder = Decoder()
    rows = source.execute(
        "SELECT (lsn - '0/0')::int8, data FROM pg_logical_slot_get_binary_changes(%s, NULL, NULL,"
        " 'proto_version', '1', 'publication_names', %s)",
        [postgres.slot, postgres.publication],
    ).fetchall()
    decoder.feed([b"w" + struct.pack(">QQQ", lsn, lsn, 0) + bytes(data) for lsn, data in rows])
    batch = decoder.take()
    assert batch is not None
    return batch


def test_types_of_users_and_extensions_are_known_from_the_stream(
    postgres: Database, source: Connection
) -> None:
    available = {name for (name,) in source.execute("SELECT name FROM pg_available_extensions")}
    columns: dict[str, tuple[str, str, object]] = {
        "small": ("public.small", "7", 7),
        "list": ("public.list", "{1,NULL}", [1, None]),
        "mood": ("public.mood", "so so", "so so"),
        "moods": ("public.mood[]", "{ok,NULL}", ["ok", None]),
        "pair": ("public.pair", "(1,)", "(1,)"),
    }
    for name, kind, text, expected in (
        ("hstore", "hstore", '"a"=>NULL, "b"=>"1"', {"a": None, "b": "1"}),
        ("citext", "citext", "Abc", "Abc"),
        ("ltree", "ltree", "a.b", "a.b"),
        ("vector", "vector(2)", "[1,2.5]", [1, 2.5]),
    ):
        if name in available:
            source.execute(f"CREATE EXTENSION {name} SCHEMA public".encode())
            columns[name] = (f"public.{kind}", text, expected)
    for statement in (
        "CREATE DOMAIN public.tiny AS int2 CHECK (VALUE > 0)",
        "CREATE DOMAIN public.small AS public.tiny",
        "CREATE DOMAIN public.list AS int4[]",
        "CREATE TYPE public.mood AS ENUM ('ok', 'so so')",
        "CREATE TYPE public.pair AS (a int, b text)",
        "CREATE TABLE public.t ("
        + ", ".join(f"{name} {kind}" for name, (kind, _, _) in columns.items())
        + ")",
    ):
        source.execute(statement.encode())
    values = ", ".join(f"'{text}'" for _, text, _ in columns.values())

    [group] = streamed(postgres, source, f"INSERT INTO public.t VALUES ({values})").groups

    for i, (name, (*_, wanted)) in enumerate(columns.items()):
        kind_of_column = types.of(group.relation.columns[i])
        [text] = group.new(i).to_pylist()
        assert orjson.loads(orjson.dumps(kind_of_column.json(text))) == wanted, name


def test_an_enum_is_the_label_of_its_time(postgres: Database, source: Connection) -> None:
    source.execute(b"CREATE TYPE public.mood AS ENUM ('ok', 'so so')")
    source.execute(b"CREATE TABLE public.t (v public.mood, w public.mood[], x regclass)")
    source.execute(b"CREATE VIEW public.here AS SELECT 1 AS a")

    [group] = streamed(
        postgres,
        source,
        "INSERT INTO public.t VALUES ('ok', '{ok,NULL}', 'public.here')",
        "ALTER TYPE public.mood ADD VALUE 'new, and quoted' BEFORE 'ok'",
        "INSERT INTO public.t VALUES ('new, and quoted', '{\"new, and quoted\"}', 'public.here')",
        "ALTER TYPE public.mood RENAME VALUE 'ok' TO 'fine'",
        "ALTER VIEW public.here RENAME TO there",
        "INSERT INTO public.t VALUES ('fine', '{fine}', 'public.there')",
        "ALTER TYPE public.mood RENAME TO feeling",
        "ALTER TYPE public.feeling SET SCHEMA pg_catalog",
        "INSERT INTO public.t VALUES ('fine', '{so so}', 'public.there')",
    ).groups

    assert group.new(0).to_pylist() == ["ok", "new, and quoted", "fine", "fine"]
    lists = types.of(group.relation.columns[1])
    assert [lists.json(text) for text in group.new(1).to_pylist()] == [
        ["ok", None],
        ["new, and quoted"],
        ["fine"],
        ["so so"],
    ]
    assert group.new(2).to_pylist() == ["public.here", "public.here", "public.there", "public.there"]


def test_a_composite_is_text_since_its_attributes_change_without_a_word(
    postgres: Database, source: Connection
) -> None:
    source.execute(b"CREATE TYPE public.pair AS (a int, b text)")
    source.execute(b"CREATE TABLE public.t (v public.pair, w public.pair[])")

    # One group is one generation: pgoutput says nothing of the ALTER TYPEs. The first value and the last
    # look alike, and their second attributes are different ones.
    [group] = streamed(
        postgres,
        source,
        "INSERT INTO public.t VALUES (ROW(1, '3'), ARRAY[ROW(1, NULL), ROW(1, ''), NULL]::public.pair[])",
        "ALTER TYPE public.pair RENAME ATTRIBUTE a TO alpha",
        "ALTER TYPE public.pair ADD ATTRIBUTE c int",
        "INSERT INTO public.t VALUES (ROW(1, 'x', 3), NULL)",
        "ALTER TYPE public.pair DROP ATTRIBUTE b",
        "INSERT INTO public.t VALUES (ROW(1, 3), NULL)",
    ).groups

    single, several = map(types.of, group.relation.columns)
    assert [single.json(text) for text in group.new(0).to_pylist()] == ["(1,3)", "(1,x,3)", "(1,3)"]
    assert several.json(group.new(1)[0].as_py()) == ["(1,)", '(1,"")', None]


def test_values_beyond_eight_megabytes_arrive_whole_on_both_paths(postgres: Database, tmp_path: Path) -> None:
    postgres.execute("CREATE TABLE public.t (n int PRIMARY KEY, v text, w bytea)")
    huge = "SELECT {n}, repeat('ü\\\t', 4 << 20), decode(repeat('00ff5c0a', 3 << 20), 'hex')"
    postgres.execute(f"INSERT INTO public.t {huge.format(n=1)}")
    publish(postgres, "t")
    with capturing(postgres, tmp_path / "journal", backfill=True):
        postgres.execute(f"INSERT INTO public.t {huge.format(n=2)}")
        found = journaled(tmp_path / "journal", 2)

    assert [change.op for change in found] == [Op.READ, Op.INSERT]
    [(text, data)] = postgres.execute(
        "SELECT md5(v), md5('\\x' || encode(w, 'hex')) FROM public.t WHERE n = 1"
    )
    for change in found:
        assert change.new is not None
        assert [md5(str(change.new[name]).encode()).hexdigest() for name in "vw"] == [text, data]
