import asyncio
import itertools
import random
import resource
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import duckdb
import pytest

from cdcflow.delivery.handover import chosen
from cdcflow.errors import Permanent, Rejected, Transient
from cdcflow.model import UNCHANGED, Batch, Column, Op, Position, Relation
from cdcflow.sink import (
    FlowContext,
    Probe,
    QuerySink,
    SchemaSink,
    Sink,
    SinkOptions,
    TransactionalSink,
)
from cdcflow.testing.batches import Made, Row, batch_of, made_message, make_batch, make_relation
from cdcflow.testing.conformance import SinkConformance
from cdcflow.testing.waiting import eventually
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink, plugin
from cdcflow_sinks.duckdb.database import row_group

Result = TypeVar("Result")

INT4, INT8, FLOAT8, NUMERIC, TIMESTAMPTZ, INTERVAL = 23, 20, 701, 1700, 1184, 1186


def numeric(precision: int, scale: int) -> int:
    """The type modifier of numeric(precision, scale)."""
    return (precision << 16 | scale) + 4


def make_sink(path: Path, flow: str = "flow", **settings: Any) -> DuckDBSink:
    return DuckDBSink(
        DuckDBSettings(type="duckdb", path=path, **settings),
        SinkOptions(),
        FlowContext(flow=flow, state=path.parent),
    )


def with_sink(path: Path, work: Callable[[DuckDBSink], Awaitable[Result]], **settings: Any) -> Result:
    """Runs `work` with an open sink and closes it."""

    async def run() -> Result:
        sink = make_sink(path, **settings)
        try:
            await sink.open()
            return await work(sink)
        finally:
            await sink.close()

    return asyncio.run(run())


def rows_of(path: Path, sql: str) -> list[tuple[Any, ...]]:
    """What another program sees in the file."""
    connection = duckdb.connect(str(path), read_only=True)
    try:
        found: list[tuple[Any, ...]] = connection.execute(sql).fetchall()
        return found
    finally:
        connection.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb"


class TestConformance(SinkConformance):
    holds = "state"

    def make_sink(self, context: FlowContext) -> Sink:
        settings = DuckDBSettings(type="duckdb", path=self.place / "warehouse.duckdb")
        return plugin.create(settings, SinkOptions(), context)

    def make_failing_sink(self, context: FlowContext) -> Sink | None:
        settings = DuckDBSettings(type="duckdb", path=self.place / "missing" / "warehouse.duckdb")
        return plugin.create(settings, SinkOptions(), context)

    def rows(self, relation: Relation) -> Sequence[Mapping[str, str | None]]:
        def quoted(name: str) -> str:
            return '"' + name.replace('"', '""') + '"'

        columns = ", ".join(f"{quoted(name)}::VARCHAR" for name in relation.names)
        table = f"{quoted(relation.schema)}.{quoted(relation.name)}"
        found = rows_of(self.place / "warehouse.duckdb", f"SELECT {columns} FROM {table}")
        return [dict(zip(relation.names, row, strict=True)) for row in found]


def test_the_plugin_is_found_and_its_sink_has_every_extra(path: Path) -> None:
    sink = plugin.create(
        DuckDBSettings(type="duckdb", path=path), SinkOptions(), FlowContext("f", path.parent)
    )

    for extra in (Sink, TransactionalSink, SchemaSink, QuerySink, Probe):
        assert isinstance(sink, extra)
    assert not path.exists(), "creating a sink must not touch the disk"


def test_flows_to_one_file_are_exclusive_however_its_path_is_written(path: Path) -> None:
    roundabout = path.parent / "x" / ".." / path.name

    first, second = (DuckDBSettings(type="duckdb", path=p) for p in (path, roundabout))

    assert plugin.exclusive(first) == plugin.exclusive(second) == str(path)


TYPED = Relation(
    1,
    "shop",
    "typed",
    "d",
    (
        Column("id", INT8, key=True),
        Column("price", NUMERIC, numeric(12, 2)),
        Column("total", NUMERIC),
        Column("at", TIMESTAMPTZ),
        Column("ratio", FLOAT8),
        Column("tags", 1009),
        Column("doc", 3802),
        Column("raw", 17),
        Column("took", INTERVAL),
        Column("ref", 2950),
    ),
)


def typed_row(**values: str | None) -> Row:
    return {
        "id": "1",
        "price": "1.10",
        "total": "1.10",
        "at": "2026-11-22 18:18:44.5+00",
        "ratio": "-0",
        "tags": '{a,NULL,"b c"}',
        "doc": '{"n": 12345678901234567890}',
        "raw": "\\x00ff",
        "took": "1 mon -1 days +01:00:00",
        "ref": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11",
        **values,
    }


def test_values_have_their_types_in_the_warehouse(path: Path) -> None:
    with_sink(path, lambda sink: sink.write(make_batch(TYPED, [("insert", typed_row(), None)])))

    [found] = rows_of(
        path,
        "SELECT typeof(price), price::VARCHAR, total, epoch_us(typed.at), ratio::VARCHAR,"
        " tags->>'$[2]', tags, doc, raw, took = INTERVAL '1 month -1 days 1 hour', ref = "
        "'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11'::UUID FROM shop.typed",
    )

    assert found == (
        "DECIMAL(12,2)",
        "1.10",
        "1.10",
        1_795_371_524_500_000,
        "-0.0",
        "b c",
        '["a",null,"b c"]',
        '{"n": 12345678901234567890}',
        b"\x00\xff",
        True,
        True,
    )


def test_a_value_that_its_column_cannot_hold_stops_the_flow_until_the_column_is_text(path: Path) -> None:
    batch = make_batch(
        TYPED, [("insert", typed_row(), None), ("insert", typed_row(id="2", price="NaN"), None)]
    )

    with_sink(path, lambda sink: sink.prepare([TYPED]))
    with pytest.raises(Permanent) as caught:
        with_sink(path, lambda sink: sink.write(batch))

    assert "shop.typed, column price: NaN of type numeric(12,2) does not fit DECIMAL(12,2)" in str(
        caught.value
    )
    assert rows_of(path, "SELECT * FROM shop.typed") == [], "nothing of a failed batch may stay"
    remedy = caught.value.hint.partition("warehouse: ")[2].partition(";")[0]
    connection = duckdb.connect(str(path))
    connection.execute(remedy)
    connection.close()
    with_sink(path, lambda sink: sink.write(batch))
    assert rows_of(path, "SELECT id, price FROM shop.typed ORDER BY id") == [(1, "1.10"), (2, "NaN")]


@pytest.mark.parametrize(
    ("column", "texts"),
    [
        (Column("k", FLOAT8, key=True), ["0", "-0", "NaN", "Infinity", "0"]),
        (Column("k", NUMERIC, key=True), ["1.0", "1.00", "NaN", "1.0"]),
        (Column("k", NUMERIC, numeric(6, 3), key=True), ["1.000", "-1.000", "1.000"]),
        (Column("k", 25, key=True), ["a", "A", "a ", "", "ä", "a"]),
        (Column("k", 17, key=True), ["\\x", "\\x00", "\\x61", "\\x"]),
        (Column("k", TIMESTAMPTZ, key=True), ["infinity", "0044-03-15 00:00:00+00 BC", "infinity"]),
        (Column("k", INTERVAL, key=True), ["1 mon", "30 days", "1 mon"]),
        (Column("k", 2950, key=True), ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"] * 2),
    ],
    ids=lambda value: str(value.type_oid) if isinstance(value, Column) else "",
)
@pytest.mark.parametrize("together", [True, False], ids=["one batch", "batch by batch"])
def test_a_row_is_found_by_its_key_through_every_change_of_it(
    path: Path, column: Column, texts: list[str], together: bool
) -> None:
    relation = make_relation("t", [column, "v"])
    changes: list[tuple[Op | str, Row | None, Row | None]] = [("insert", {"k": texts[0], "v": "0"}, None)]
    for number, (before, after) in enumerate(itertools.pairwise(texts), start=1):
        old = {"k": before} if before != after else None
        changes.append(("update", {"k": after, "v": str(number)}, old))
    whole = make_batch(relation, changes)
    batches = [whole] if together else [whole.slice(i, i + 1) for i in range(whole.count)]

    async def write(sink: DuckDBSink) -> None:
        for batch in batches:
            await sink.write(batch)

    with_sink(path, write)
    assert rows_of(path, "SELECT v FROM public.t") == [(str(len(texts) - 1),)]
    gone = make_batch(relation, [("delete", None, {"k": texts[-1]})], base=whole.count)
    with_sink(path, lambda sink: sink.write(gone))
    assert rows_of(path, "SELECT v FROM public.t") == []


def test_an_update_that_leaves_out_a_value_nobody_has_is_refused_alone(path: Path) -> None:
    relation = make_relation("t", ["id", "a", "b"])
    batch = make_batch(
        relation,
        [
            ("insert", {"id": "1", "a": "x", "b": "y"}, None),
            ("update", {"id": "7", "a": "z", "b": UNCHANGED}, None),
            ("update", {"id": "1", "a": UNCHANGED, "b": "w"}, None),
        ],
    )

    async def write_in_two(sink: DuckDBSink) -> None:
        await sink.write(batch.slice(0, 1))
        with pytest.raises(Rejected) as caught:
            await sink.write(batch)
        assert list(caught.value.rows) == [1]
        # It is to be kept elsewhere before the checkpoint moves past it.
        assert await sink.checkpoint() == 1
        await sink.write(chosen(batch, [0, 2]))
        assert await sink.checkpoint() == 3
        assert await sink.position() == batch.last

    with_sink(path, write_in_two)
    assert rows_of(path, "SELECT id, a, b FROM public.t") == [("1", "x", "w")]


def test_a_table_that_changes_its_shape_back_and_forth_in_one_batch_ends_right(path: Path) -> None:
    keyed = make_relation("t", ["id", "a"])
    full = make_relation("t", ["id", "a"], replica_identity="f")
    changes = [
        Made(keyed, Op.INSERT, {"id": "1", "a": "x"}),
        Made(full, Op.UPDATE, {"id": "1", "a": "y"}, {"id": "1", "a": "x"}),
        Made(full, Op.INSERT, {"id": "2", "a": "y"}),
        Made(keyed, Op.UPDATE, {"id": "1", "a": "z"}),
        Made(full, Op.DELETE, None, {"id": "2", "a": "y"}),
    ]

    with_sink(path, lambda sink: sink.write(batch_of(changes)))

    assert rows_of(path, "SELECT id, a FROM public.t") == [("1", "z")]


def test_a_new_column_is_added_and_older_rows_have_null_there(path: Path) -> None:
    older, newer = make_relation("t", ["id", "a"]), make_relation("t", ["id", "a", "b"])

    async def write(sink: DuckDBSink) -> None:
        await sink.write(make_batch(older, [("insert", {"id": "1", "a": "x"}, None)]))
        await sink.prepare([newer])
        await sink.write(make_batch(newer, [("insert", {"id": "2", "a": "y", "b": "z"}, None)], base=1))

    with_sink(path, write)
    assert rows_of(path, "SELECT id, a, b FROM public.t ORDER BY id") == [("1", "x", None), ("2", "y", "z")]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (make_relation("a"), make_relation("A")),
        (make_relation("a", schema="s"), make_relation("b", schema="S")),
        (None, make_relation("a", ["x", "X"], key=["x"])),
        (None, make_relation("checkpoint", schema="cdcflow")),
        (None, make_relation("empty", [])),
    ],
    ids=["tables", "schemas", "columns", "our own schema", "no columns"],
)
def test_names_that_duckdb_cannot_tell_apart_stop_with_a_remedy(
    path: Path, first: Relation | None, second: Relation
) -> None:
    async def prepare(sink: DuckDBSink) -> None:
        if first is not None:
            await sink.prepare([first])
        with pytest.raises(Permanent) as caught:
            await sink.prepare([second])
        assert caught.value.hint

    with_sink(path, prepare)


def test_names_that_differ_in_the_case_of_other_letters_are_kept_apart(path: Path) -> None:
    relation = make_relation("Ärger", ["ä", "Ä", "rowid"], key=["ä"], schema="temp")
    other = make_relation("ärger", ["ä"], key=["ä"], schema="temp")
    row = {"ä": "1", "Ä": "2", "rowid": "3"}

    async def write(sink: DuckDBSink) -> None:
        await sink.write(make_batch(relation, [("insert", row, None)]))
        await sink.write(make_batch(other, [("insert", {"ä": "9"}, None)], base=1))

    with_sink(path, write)
    assert rows_of(path, 'SELECT "ä", "Ä", "rowid" FROM warehouse.temp."Ärger"') == [("1", "2", "3")]
    assert rows_of(path, 'SELECT "ä" FROM warehouse.temp."ärger"') == [("9",)]


def test_equal_rows_go_one_by_one_even_beside_a_column_named_rowid(path: Path) -> None:
    columns: list[str | Column] = ["rowid", Column("f", FLOAT8, key=True), Column("i", INTERVAL, key=True)]
    relation = make_relation("t", columns, replica_identity="f")

    def line(f: str | None, i: str | None) -> Row:
        return {"rowid": "a" if f else None, "f": f, "i": i}

    # DuckDB calls the first two equal, and the third and the fourth: Postgres writes all of them differently.
    zero, minus, month, days, nothing = (
        *(line("0", "1 day"), line("-0", "1 day"), line("1", "1 mon"), line("1", "30 days")),
        line(None, None),
    )

    async def write(sink: DuckDBSink) -> None:
        lines = [zero, zero, zero, minus, minus, month, days, nothing]
        await sink.write(make_batch(relation, [("read", row, None) for row in lines]))
        deleted = [("delete", None, row) for row in (zero, minus, days, nothing)]
        await sink.write(make_batch(relation, deleted, base=8))

    with_sink(path, write)
    found = rows_of(path, 'SELECT "rowid", f::VARCHAR, i::VARCHAR FROM public.t ORDER BY 2')
    assert found == [
        ("a", "-0.0", "1 day"),
        ("a", "0.0", "1 day"),
        ("a", "0.0", "1 day"),
        ("a", "1.0", "1 month"),
    ]


def test_a_change_that_does_not_say_which_row_it_means_is_not_guessed(path: Path) -> None:
    relation = make_relation("t", ["a"], key=[], replica_identity="d")

    with pytest.raises(Permanent, match="does not say which row") as caught:
        with_sink(path, lambda sink: sink.write(make_batch(relation, [("update", {"a": "secret"}, None)])))

    assert "REPLICA IDENTITY FULL" in caught.value.hint
    assert "secret" not in str(caught.value)


def test_schemas_can_be_mapped_but_not_two_tables_to_one(path: Path) -> None:
    orders, other = make_relation("orders"), make_relation("orders", schema="old")

    async def write(sink: DuckDBSink) -> None:
        await sink.prepare([orders])
        with pytest.raises(Permanent, match=r"old\.orders and public\.orders would go to the same table"):
            await sink.prepare([other])

    with_sink(path, write, schemas={"public": "raw", "old": "raw"})
    assert rows_of(path, "SELECT * FROM raw.orders") == []


def test_two_flows_in_one_process_share_the_file_and_keep_their_own_checkpoints(path: Path) -> None:
    relations = [make_relation("a"), make_relation("b", oid=2)]

    async def run() -> None:
        sinks = [make_sink(path, flow=f"flow {i}") for i in range(2)]
        for sink in sinks:
            await sink.open()
        for base in range(0, 30, 3):
            await asyncio.gather(
                *(
                    sink.write(
                        make_batch(
                            relation,
                            [
                                ("insert", {"id": str(base + i), "status": "", "note": ""}, None)
                                for i in range(3)
                            ],
                            base=base,
                        )
                    )
                    for sink, relation in zip(sinks, relations, strict=True)
                )
            )
        await sinks[0].close()
        assert await sinks[1].checkpoint() == 30
        await sinks[1].close()

    asyncio.run(run())
    assert rows_of(path, "SELECT (SELECT count(*) FROM public.a), (SELECT count(*) FROM public.b)") == [
        (30, 30)
    ]
    assert rows_of(path, 'SELECT flow, "offset", position FROM cdcflow.checkpoint ORDER BY flow') == [
        ("flow 0", 30, str(Position(8, 3))),
        ("flow 1", 30, str(Position(8, 3))),
    ]


def test_the_file_can_be_read_by_duckdb_1(path: Path) -> None:
    with_sink(path, lambda sink: sink.prepare([make_relation("a")]))

    [(tags,)] = rows_of(path, "SELECT tags FROM duckdb_databases() WHERE database_name = 'warehouse'")

    assert str(tags["storage_version"]).startswith("v1.2.0")


HOLDER = """
import sys, duckdb
connection = duckdb.connect(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
"""


def test_a_file_that_another_process_has_open_is_waited_for(path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"open\n"
        with pytest.raises(Transient, match="another process"):
            with_sink(path, lambda sink: sink.checkpoint())
        [finding] = asyncio.run(make_sink(path).probe())
        assert finding.severity == "warning"
        holder.communicate()

    assert with_sink(path, lambda sink: sink.checkpoint()) is None


def test_a_file_that_is_no_warehouse_is_left_alone(path: Path) -> None:
    path.write_text("precious notes " * 1000)

    with pytest.raises(Permanent, match="cannot open the warehouse"):
        with_sink(path, lambda sink: sink.checkpoint())

    assert path.read_text() == "precious notes " * 1000
    [finding] = asyncio.run(make_sink(path).probe())
    assert finding.severity == "error"


def test_a_probe_says_what_it_finds_and_writes_nothing(path: Path) -> None:
    [before] = asyncio.run(make_sink(path).probe())
    assert (before.severity, path.exists()) == ("ok", False)
    [nowhere] = asyncio.run(make_sink(path.parent / "none" / "w.duckdb").probe())
    assert (nowhere.severity, nowhere.remedy) == ("error", "create it")

    with_sink(path, lambda sink: sink.checkpoint())

    [after] = asyncio.run(make_sink(path).probe())
    assert after.severity == "ok"


def test_settings_name_what_is_wrong() -> None:
    with pytest.raises(ValueError, match="memory_limit"):
        DuckDBSettings(type="duckdb", path=Path("x"), memory_limit="much")
    with pytest.raises(ValueError, match="colour"):
        DuckDBSettings.model_validate({"type": "duckdb", "path": "x", "colour": "red"})


def test_a_disk_that_is_full_at_a_checkpoint_is_waited_for_and_nothing_is_lost(path: Path) -> None:
    relation = make_relation("t", ["id", "a"])
    noise = random.Random(1)

    def batch(base: int) -> Batch:
        rows = [{"id": str(base + i), "a": noise.randbytes(5_000).hex()} for i in range(100)]
        return make_batch(relation, [("insert", row, None) for row in rows], base=base)

    def size() -> int:
        return path.stat().st_size

    async def write(sink: DuckDBSink) -> int:
        idle = make_sink(path, "idle flow")
        await idle.open()
        written = 0
        while size() < 12 << 20:
            await sink.write(batch(written))
            written += 100
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        # Nothing may grow beyond what DuckDB's log needs until its checkpoint: the checkpoint then fails.
        resource.setrlimit(resource.RLIMIT_FSIZE, (19 << 20, before[1]))
        failed = None
        try:
            while failed is None:
                try:
                    await sink.write(batch(written))
                    written += 100
                except Transient as error:
                    failed = error
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "opened anew" in str(failed)
        stored = await sink.checkpoint()
        assert stored in (written, written + 100), "what was committed must still be there"
        await sink.write(batch(stored))
        assert await idle.checkpoint() is None
        await idle.close()
        return stored + 100

    written = with_sink(path, write)
    assert rows_of(path, "SELECT count(*), count(DISTINCT id) FROM public.t") == [(written, written)]


def test_a_checkpoint_of_long_rows_needs_little_memory(path: Path) -> None:
    """120 MB in rows of 2 kB, written, changed, and counted by a query, in 80 MB."""
    relation = make_relation("t", ["id", "a"])
    noise = random.Random(8)

    def batch(kind: str, base: int, keys: range) -> Batch:
        rows = [{"id": str(key), "a": noise.randbytes(1_000).hex()} for key in keys]
        return make_batch(relation, [(kind, row, None) for row in rows], base=base)

    async def write(sink: DuckDBSink) -> list[dict[str, Any]]:
        for base in range(0, 60_000, 5_000):
            await sink.write(batch("insert", base, range(base, base + 5_000)))
        for base in range(60_000, 80_000, 5_000):
            await sink.write(batch("update", base, range(base // 5_000 % 12, 60_000, 12)))
        distinct = "SELECT count(*) AS n FROM (SELECT DISTINCT a FROM public.t)"
        found: list[dict[str, Any]] = (await sink.query(distinct)).to_pylist()
        return found

    assert with_sink(path, write, memory_limit="80MB") == [{"n": 60_000}]
    assert rows_of(path, "SELECT count(*), count(DISTINCT id) FROM public.t") == [(60_000, 60_000)]


@pytest.mark.parametrize(
    ("limit", "threads", "rows"),
    [("256MB", 2, 30_720), ("80MB", 2, 8_192), ("1GB", 2, 122_880), ("1GB", 4, 61_440), ("1MB", 2, 2_048)],
)
def test_row_groups_are_as_large_as_memory_allows(limit: str, threads: int, rows: int) -> None:
    settings = DuckDBSettings(type="duckdb", path=Path("x"), memory_limit=limit, threads=threads)
    assert row_group(settings) == rows


def test_changes_all_over_a_large_table_need_no_more_memory_than_there_is(path: Path) -> None:
    """Each row group that has lost a row takes 256 kB until a checkpoint, which comes by itself only after
    16 MB of changes."""
    relation = make_relation("t", ["id", "a"])
    rows, groups = 200_000, 8

    async def write(sink: DuckDBSink) -> list[str]:
        hints = []
        for base in range(0, rows, 50_000):
            await sink.write(
                make_batch(
                    relation,
                    [("insert", {"id": str(key), "a": "x"}, None) for key in range(base, base + 50_000)],
                    base=base,
                )
            )
        for turn in range(groups):
            base = rows + turn * 250
            start = turn * rows // groups
            keys = range(start, start + rows // groups, rows // groups // 250)
            changes = [("update", {"id": str(key), "a": "y"}, None) for key in keys]
            try:
                await sink.write(make_batch(relation, changes, base=base))
            except Transient as error:
                hints.append(error.hint)
                await sink.write(make_batch(relation, changes, base=base))
        return hints

    hints = with_sink(path, write, memory_limit="24MB")
    assert hints, "the limit was never met"
    assert all("memory_limit" in hint for hint in hints)
    assert rows_of(path, "SELECT count(*), sum((a = 'y')::int) FROM public.t") == [(rows, 250 * groups)]


@pytest.mark.parametrize("words", [40_000, 12], ids=["hardly any text twice", "the same texts again"])
@pytest.mark.parametrize(("compression", "spared"), [("light", "FSST"), ("full", "")])
def test_text_is_compressed_by_what_suits_it(path: Path, words: int, compression: str, spared: str) -> None:
    """Where a dictionary cannot win it is not tried; where it can, it is taken."""
    relation = make_relation("t", ["id", "a"])
    noise = random.Random(5)
    texts = [noise.randbytes(12).hex() for _ in range(words)]
    rows = [{"id": str(key), "a": texts[key % words]} for key in range(40_000)]

    async def write(sink: DuckDBSink) -> list[dict[str, Any]]:
        await sink.write(make_batch(relation, [("insert", row, None) for row in rows]))
        setting = "SELECT current_setting('disabled_compression_methods') AS n"
        found: list[dict[str, Any]] = (await sink.query(setting)).to_pylist()
        return found

    assert with_sink(path, write, compression=compression) == [{"n": spared}]
    most = (
        "SELECT compression FROM pragma_storage_info('public.t')"
        " WHERE column_name = 'a' AND segment_type = 'VARCHAR' GROUP BY 1 ORDER BY sum(count) DESC LIMIT 1"
    )
    plain = "FSST" if compression == "full" else "Uncompressed"
    assert rows_of(path, most) == [(plain if words > 12 else "Dictionary",)]
    assert rows_of(path, "SELECT count(*), count(DISTINCT a) FROM public.t") == [(40_000, words)]


@pytest.mark.parametrize("kinds", [["insert"], ["insert", "update"]], ids=" and ".join)
@pytest.mark.parametrize("twice", [False, True])
def test_the_last_of_a_key_stays_whether_or_not_keys_come_twice(
    path: Path, kinds: list[str], twice: bool
) -> None:
    relation = make_relation("t", [Column("id", INT8, key=True), Column("a", 25)])
    noise = random.Random(6)
    keys = list(range(-500, 500))
    noise.shuffle(keys)
    if twice:
        keys += noise.sample(keys, 100)
    changes = [
        (noise.choice(kinds), {"id": str(key), "a": str(place)}, None) for place, key in enumerate(keys)
    ]
    with_sink(path, lambda sink: sink.write(make_batch(relation, changes)))
    last = {key: str(place) for place, key in enumerate(keys)}
    assert rows_of(path, "SELECT id, a FROM public.t ORDER BY id") == sorted(last.items())


def test_a_query_under_way_is_ended_with_the_sink(path: Path) -> None:
    """Not waited for, however long it would take, and nothing is closed under it."""

    async def write(sink: DuckDBSink) -> BaseException | None:
        asked = asyncio.create_task(sink.query("SELECT count(*) FROM range(10_000_000_000) a, range(100) b"))
        await asyncio.to_thread(eventually, lambda: sink._asked)
        await sink.close()
        await asyncio.wait([asked])
        return asked.exception()

    error = with_sink(path, write)
    assert isinstance(error, Permanent)
    assert "was broken off" in str(error)


READABLE = [
    ("SELECT count(*) AS n FROM public.t", [{"n": 2}]),
    ("FROM public.t SELECT a ORDER BY a;", [{"a": "x"}, {"a": "y"}]),
    ("WITH c AS (SELECT a FROM public.t) SELECT max(a) AS m FROM c", [{"m": "y"}]),
    ("SELECT count(*) AS n FROM t", [{"n": 2}]),
    ("SHOW TABLES", [{"name": "t"}]),
    ("VALUES (1)", [{"col0": 1}]),
    ("SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00'::VARCHAR AS t", [{"t": "2026-01-01 00:00:00+00"}]),
]

REFUSED = [
    "INSERT INTO public.t VALUES ('3', 'z')",
    "WITH c AS (INSERT INTO public.t VALUES ('3', 'z') RETURNING *) SELECT * FROM c",
    "EXPLAIN ANALYZE DELETE FROM public.t",
    "SELECT 1; DROP TABLE public.t",
    "COPY public.t TO 'stolen.csv'",
    "ATTACH 'other.duckdb'",
    "SET memory_limit = '10GB'",
    "BEGIN",
    "CREATE TABLE public.u AS SELECT 1",
    "CREATE TEMP TABLE u AS SELECT 1",
    "SELECT * FROM read_text('/etc/hostname')",
    "SELECT * FROM secret_variable",
    "SELECT nonsense FROM public.t",
    "SELEKT",
    "",
]


def filled(path: Path, work: Callable[[DuckDBSink], Awaitable[Result]]) -> Result:
    async def run(sink: DuckDBSink) -> Result:
        relation = make_relation("t", ["id", "a"])
        rows = [("insert", {"id": "1", "a": "x"}, None), ("insert", {"id": "2", "a": "y"}, None)]
        if await sink.checkpoint() is None:
            await sink.write(make_batch(relation, rows))
        return await work(sink)

    return with_sink(path, run)


@pytest.mark.parametrize(("sql", "rows"), READABLE)
def test_a_query_answers_from_what_is_committed(path: Path, sql: str, rows: list[dict[str, Any]]) -> None:
    assert filled(path, lambda sink: sink.query(sql)).to_pylist() == rows


@pytest.mark.parametrize("sql", REFUSED)
def test_a_query_that_would_do_more_than_read_is_refused(path: Path, sql: str) -> None:
    secret_variable = {"a": [1]}

    async def ask(sink: DuckDBSink) -> None:
        with pytest.raises(Permanent):
            await sink.query(sql)
        # The sink goes on as though nothing had been asked.
        relation = make_relation("t", ["id", "a"])
        await sink.write(make_batch(relation, [("insert", {"id": "3", "a": "z"}, None)], base=2))

    filled(path, ask)
    assert secret_variable
    assert rows_of(path, "SELECT id FROM public.t ORDER BY id") == [("1",), ("2",), ("3",)]
    assert not Path("stolen.csv").exists()


def test_queries_run_beside_writes(path: Path) -> None:
    relation = make_relation("t", ["id", "a"])

    async def both(sink: DuckDBSink) -> None:
        batches = [
            make_batch(relation, [("insert", {"id": str(i + 1), "a": ""}, None)], base=i)
            for i in range(2, 22)
        ]

        async def write() -> None:
            for batch in batches:
                await sink.write(batch)

        async def ask() -> list[int]:
            return [
                (await sink.query("SELECT count(*) AS n FROM public.t")).to_pylist()[0]["n"]
                for _ in range(20)
            ]

        _, counts = await asyncio.gather(write(), ask())
        assert counts == sorted(counts)
        assert (await sink.query("SELECT count(*) AS n FROM public.t")).to_pylist() == [{"n": 22}]

    filled(path, both)


def test_messages_are_kept_one_by_one_and_once(path: Path) -> None:
    orders = make_relation("orders", ["id"])
    row = Made(orders, Op.INSERT, {"id": "1"}, position=Position(8, 1))
    said = [
        made_message("orders.paid", b"one", position=Position(8, 2)),
        made_message("orders.paid", b"\xff", position=Position(16, 0), transactional=False),
    ]
    batch = batch_of([row, *said], base=10)

    async def work(sink: DuckDBSink) -> None:
        await sink.prepare([group.relation for group in batch.groups])
        await sink.write(batch.slice(0, 2))
        await sink.write(batch)  # again, and more
        await sink.write(batch)

    with_sink(path, work)
    found = rows_of(path, 'SELECT * EXCLUDE (commit_time) FROM cdcflow.messages ORDER BY "offset"')
    assert found == [
        ("flow", 11, "0/8:2", "orders.paid", "one", None, True, 700),
        ("flow", 12, "0/10:0", "orders.paid", None, b"\xff", False, 0),
    ]
    assert rows_of(path, "SELECT DISTINCT epoch_us(commit_time) FROM cdcflow.messages") == [
        (1_767_225_600_000_000,)
    ]
    assert rows_of(path, "SELECT id FROM public.orders") == [("1",)]
