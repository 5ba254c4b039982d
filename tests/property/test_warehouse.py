"""Random histories through the DuckDB sink, against the same history applied to Python lists."""

import asyncio
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from cdcflow.model import ORIGIN, UNCHANGED, Batch, Column, Op, Relation, Value
from cdcflow.sink import FlowContext, SinkOptions
from cdcflow.testing.batches import Made, batch_of, make_relation
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink

#: Where a file costs no fsync, if there is such a place.
MEMORY = Path("/dev/shm")

INT4, FLOAT8, NUMERIC, INTERVAL = 23, 701, 1700, 1186

Row = dict[str, Value]

KEYED = make_relation("keyed", [Column("id", INT4, key=True), "small", "big", "huge"], oid=1)
PAIR = make_relation("pair", ["v", Column("b", 25, key=True), Column("a", NUMERIC, key=True), "big"], oid=2)
FULL = make_relation(
    "full",
    [Column("f", FLOAT8, key=True), Column("i", INTERVAL, key=True), Column("big", 25, key=True)],
    replica_identity="f",
    oid=3,
)
KEYLESS = make_relation("keyless", ["a", "b"], key=[], oid=4)

#: Per relation and column, few values, so that keys are reused and rows are equal.
VALUES: dict[Relation, dict[str, list[str | None]]] = {
    KEYED: {
        "id": ["1", "2", "3", "-1"],
        "small": ["a", "", None],
        "big": ["x" * 40, "y" * 40, None],
        "huge": ["h1", "h2"],
    },
    PAIR: {
        "v": ["1", None],
        "b": ["", "B", "b"],
        "a": ["1.0", "2", "NaN"],
        "big": ["p" * 40, "q" * 40, None],
    },
    FULL: {"f": ["0", "-0", "NaN", None], "i": ["1 mon", "30 days", None], "big": ["", None, "z" * 40]},
    KEYLESS: {"a": ["1", None], "b": ["x", ""]},
}

#: Columns whose values may be left out of an update (TOASTed).
TOASTED = {KEYED: ("big", "huge"), PAIR: ("big",), FULL: ("big",), KEYLESS: ()}

#: How DuckDB writes what Postgres writes as the value.
SPELLING = {"0.0": "0", "-0.0": "-0", "nan": "NaN", "1 month": "1 mon"}


def row_of(draw: st.DrawFn, relation: Relation) -> Row:
    return {name: draw(st.sampled_from(values)) for name, values in VALUES[relation].items()}


def key_of(relation: Relation, row: Mapping[str, Value]) -> tuple[Value, ...]:
    return tuple(row[relation.names[i]] for i in relation.key)


#: Where nothing but the whole row identifies one, changes cannot come again.
IDENTIFIED = (KEYED, KEYED, PAIR)


@st.composite
def histories(
    draw: st.DrawFn, relations: Sequence[Relation] = (*IDENTIFIED, FULL, KEYLESS)
) -> tuple[list[Made], dict[Relation, list[Row]]]:
    """Changes that a source could make, and its tables after them."""
    tables: dict[Relation, list[Row]] = {relation: [] for relation in VALUES}
    changes: list[Made] = []
    for _ in range(draw(st.integers(1, 40))):
        relation = draw(st.sampled_from(relations))
        changes.append(_change(draw, relation, tables[relation]))
    return changes, tables


def _change(draw: st.DrawFn, relation: Relation, table: list[Row]) -> Made:
    """One valid change, done to `table` too."""
    number = draw(st.integers(0, 19))
    if number == 0:
        table.clear()
        return Made(relation, Op.TRUNCATE)
    keyed = bool(relation.key) and not relation.full
    if number < 8 or not table or relation is KEYLESS:
        row = row_of(draw, relation)
        taken = next((old for old in table if keyed and key_of(relation, old) == key_of(relation, row)), None)
        if taken is None:
            table.append(row)
            return Made(relation, draw(st.sampled_from([Op.INSERT, Op.READ])), dict(row))
        before = taken
    else:
        before = draw(st.sampled_from(table))
    old: Row = {relation.names[i]: before[relation.names[i]] for i in relation.key}
    if number < 12:
        table[:] = [row for row in table if row is not before]
        return Made(relation, Op.DELETE, None, old)
    after = row_of(draw, relation)
    if keyed and (number < 16 or any(key_of(relation, after) == key_of(relation, row) for row in table)):
        after.update(old)
    sent = dict(after)
    for name in TOASTED[relation]:
        if draw(st.booleans()):
            after[name] = before[name]
            # NULL is never out of line.
            sent[name] = UNCHANGED if before[name] is not None else None
    moved = key_of(relation, after) != key_of(relation, before)
    change = Made(relation, Op.UPDATE, sent, old if relation.full or moved else None)
    before.update(after)
    return change


def found_in(path: Path) -> dict[str, Counter[tuple[Any, ...]]]:
    connection = duckdb.connect(str(path), read_only=True)
    tables = {}
    for relation in VALUES:
        columns = ", ".join(f'"{name}"::VARCHAR' for name in relation.names)
        try:
            rows = connection.execute(f"SELECT {columns} FROM public.{relation.name}").fetchall()
        except duckdb.CatalogException:
            rows = []  # nothing of it came yet
        spell: Callable[[Any], Any] = lambda value: SPELLING.get(value, value)  # noqa: E731
        tables[relation.name] = Counter(
            tuple(
                spell(value) if relation.columns[i].type_oid in (FLOAT8, INTERVAL) else value
                for i, value in enumerate(row)
            )
            for row in rows
        )
    connection.close()
    return tables


def expected(state: Mapping[Relation, list[Row]]) -> dict[str, Counter[tuple[Any, ...]]]:
    return {
        relation.name: Counter(tuple(row[name] for name in relation.names) for row in rows)
        for relation, rows in state.items()
    }


def cuts(data: st.DataObject, count: int, stored: int = 0) -> list[tuple[int, int, bool]]:
    """Runs (start, stop, by a new sink) that cover `stored` … count, some again, without a gap."""
    runs = []
    least = stored
    while stored < count:
        start = data.draw(st.integers(max(least, stored - 6), stored), "start")
        stop = data.draw(st.integers(start + 1, count), "stop")
        runs.append((start, stop, data.draw(st.booleans(), "restart")))
        stored = max(stored, stop)
    return runs


def made(path: Path) -> DuckDBSink:
    context = FlowContext(flow="flow", state=path.parent)
    return DuckDBSink(DuckDBSettings(type="duckdb", path=path), SinkOptions(), context)


async def deliver(
    path: Path, batch: Batch, runs: list[tuple[int, int, bool]], back_to: int | None = None
) -> None:
    sink = made(path)
    await sink.open()
    if back_to is not None:
        await sink.move(back_to, ORIGIN, whole=False)
    for start, stop, restart in runs:
        part = batch.slice(start, stop)
        await sink.prepare([group.relation for group in part.groups])
        await sink.write(part)
        if restart:
            await sink.close()
            sink = made(path)
            await sink.open()
    await sink.close()


@contextmanager
def warehouse() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(dir=MEMORY if MEMORY.is_dir() else None) as directory:
        yield Path(directory) / "warehouse.duckdb"


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(), st.data())
def test_the_warehouse_equals_the_source_however_its_history_is_cut_and_repeated(
    history: tuple[list[Made], dict[Relation, list[Row]]], data: st.DataObject
) -> None:
    changes, tables = history
    runs = cuts(data, len(changes))

    with warehouse() as path:
        asyncio.run(deliver(path, batch_of(changes), runs))
        assert found_in(path) == expected(tables)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(histories(IDENTIFIED), st.data())
def test_a_warehouse_that_goes_back_anywhere_equals_the_source_again(
    history: tuple[list[Made], dict[Relation, list[Row]]], data: st.DataObject
) -> None:
    changes, tables = history
    batch = batch_of(changes)
    reached = data.draw(st.integers(1, len(changes)), "reached")
    back_to = data.draw(st.integers(0, reached - 1), "back to")
    with warehouse() as path:
        asyncio.run(deliver(path, batch, [(0, reached, False)]))
        refused = made(path).unrepeatable([batch.slice(back_to, reached)])
        event("refused" if refused else "goes back")
        if refused:
            assert "change of a key" in refused
            back = None
            runs = cuts(data, len(changes), reached)
        else:
            back = back_to
            runs = cuts(data, len(changes), back_to)
        asyncio.run(deliver(path, batch, runs, back))
        assert found_in(path) == expected(tables)
