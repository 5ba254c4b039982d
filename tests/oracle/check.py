"""The oracle: random values of every type, written to a real Postgres, which then says itself what they are.

Each value is read by the backfill, and again by the stream from a copy of its row. Held against Postgres:

* the text of both, against a SELECT of the same column;
* our JSON, against `to_json`;
* the warehouse's typed column, after the DuckDB sink, against the number or text that Postgres has for it.
"""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import duckdb
import orjson
import psycopg
import pyarrow as pa

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Batch, Op, Relation
from cdcflow.sink import FlowContext, SinkOptions
from cdcflow.source.connection import connect
from cdcflow.testing.database import Database
from cdcflow_sinks.duckdb import DuckDBSettings, DuckDBSink
from integration.capturing import batches, capturing, journaled, publish
from oracle.answers import ask, said_by_duckdb, said_by_postgres, same_json
from oracle.values import DECLARATIONS, EXTENSIONS, NULL, TYPES, Type, array

Connection = psycopg.Connection[Any]

#: What a database may be set to that would change the text of values: nothing of it may show.
HOSTILE = {
    "DateStyle": "SQL, DMY",
    "IntervalStyle": "sql_standard",
    "TimeZone": "Asia/Kolkata",
    "extra_float_digits": "-5",
    "bytea_output": "escape",
    "search_path": "public",
    "quote_all_identifiers": "on",
}

#: Columns of one table, besides its key.
WIDTH = 24
#: How often a column is one that gets its type's misfits, and how often a value of it is one.
MISFIT_COLUMN, MISFIT = 0.5, 0.1
#: Differences that a report shows; one bug makes thousands.
SHOWN = 20


@dataclass(frozen=True)
class Column:
    name: str
    of: Type
    is_array: bool
    misfits: bool

    @property
    def sql(self) -> str:
        return f"{self.of.name}[]" if self.is_array else self.of.name

    def value(self, r: Random) -> str | None:
        if r.random() < NULL:
            return None
        misfits = self.of.misfits if self.misfits else ()
        if self.is_array:
            return array(r, self.of, self.of.misfits)
        return r.choice(misfits) if misfits and r.random() < MISFIT else self.of.make(r)


@dataclass
class Report:
    """What was compared, and every difference: table, column, type, what differs, and the values."""

    seed: int
    values: int = 0
    types: set[str] = field(default_factory=set)
    without: list[str] = field(default_factory=list)
    comparisons: int = 0
    differences: list[str] = field(default_factory=list)

    def compare(self, what: str, column: Column, found: Sequence[Any], wanted: Sequence[Any]) -> None:
        self.comparisons += len(wanted)
        if len(found) != len(wanted):
            self.differences.append(f"{column.sql}: {what}: {len(found)} values instead of {len(wanted)}")
        self.differences += [
            f"{column.sql}, row {row}: {what}: {ours!r} instead of {theirs!r}"
            for row, (ours, theirs) in enumerate(zip(found, wanted, strict=False))
            if ours != theirs
        ]

    def __str__(self) -> str:
        missing = f"; not on this server: {', '.join(self.without)}" if self.without else ""
        lines = [
            f"{self.values:,} values of {len(self.types)} types, {self.comparisons:,} comparisons,"
            f" {len(self.differences)} differences{missing}",
            *self.differences[:SHOWN],
            f"replay with CDCFLOW_SEED={self.seed}, or `make oracle ARGS='--seed {self.seed}'`",
        ]
        return "\n".join(lines)


def check(database: Database, directory: Path, *, values: int, seed: int) -> Report:
    """Writes about `values` values and compares them all, each on both paths."""
    report = Report(seed)
    r = Random(seed)
    for name, value in HOSTILE.items():
        database.execute(f"ALTER DATABASE {database.name} SET {name} = '{value}'")
    source = connect(database.dsn, purpose="oracle")
    try:
        _declare(source)
        tables = _tables(r, _known(source, report))
        rows = max(values // sum(map(len, tables.values())), 1)
        for name, columns in tables.items():
            _fill(source, name, columns, rows, r)
            report.values += rows * len(columns)
            report.types |= {column.sql for column in columns}
        publish(database)
        journal = directory / "journal"
        with capturing(database, journal, backfill=True):
            for name, columns in tables.items():
                names = ", ".join(column.name for column in columns)
                copies = f"SELECT n + {rows}, {names} FROM public.{name}"
                source.execute(f"INSERT INTO public.{name} (n, {names}) {copies}".encode())
            journaled(journal, 2 * rows * len(tables))
        captured = batches(journal)
        _compare_texts(source, captured, tables, rows, report)
        _compare_warehouse(source, captured, tables, directory / "warehouse.duckdb", report)
    finally:
        source.close()
    return report


def _declare(source: Connection) -> None:
    available = {name for (name,) in source.execute("SELECT name FROM pg_available_extensions")}
    for name in EXTENSIONS:
        if name in available:
            source.execute(f"CREATE EXTENSION {name} SCHEMA public".encode())
    for statement in DECLARATIONS:
        source.execute(statement.encode())
    source.execute(
        b'CREATE VIEW public.here AS SELECT 1 AS a; CREATE VIEW public."Not Folded" AS SELECT 1 AS a'
    )


def _known(source: Connection, report: Report) -> Iterator[Type]:
    """The types that this server has."""
    installed = {name for (name,) in source.execute("SELECT extname FROM pg_extension")}
    for kind in TYPES:
        if isinstance(kind.needs, int):
            there = source.info.server_version >= kind.needs * 10_000
        else:
            there = not kind.needs or kind.needs in installed
        if kind.name == "xml":
            there = _reads_xml(source)
        if there:
            yield kind
        else:
            report.without.append(f"{kind.name} ({kind.needs or 'libxml'})")


def _reads_xml(source: Connection) -> bool:
    try:
        source.execute(b"SELECT xml '<a/>'")
    except psycopg.errors.FeatureNotSupported:
        return False
    return True


def _tables(r: Random, known: Iterator[Type]) -> dict[str, list[Column]]:
    """Every type, and an array of it, in tables of random columns."""
    wanted = [(kind, is_array) for kind in known for is_array in (False, True)]
    r.shuffle(wanted)
    columns = [
        Column(f"c{i}", kind, is_array, r.random() < MISFIT_COLUMN)
        for i, (kind, is_array) in enumerate(wanted)
    ]
    return {f"t{i // WIDTH}": columns[i : i + WIDTH] for i in range(0, len(columns), WIDTH)}


def _fill(source: Connection, name: str, columns: Sequence[Column], rows: int, r: Random) -> None:
    defined = ", ".join(f"{column.name} {column.sql}" for column in columns)
    source.execute(f"CREATE TABLE public.{name} (n int PRIMARY KEY, {defined})".encode())
    with source.cursor() as cursor, cursor.copy(f"COPY public.{name} FROM STDIN".encode()) as copy:
        for n in range(rows):
            copy.write_row([n, *(column.value(r) for column in columns)])


def _compare_texts(
    source: Connection,
    captured: Sequence[Batch],
    tables: Mapping[str, Sequence[Column]],
    rows: int,
    report: Report,
) -> None:
    for name, columns in tables.items():
        groups = [group for batch in captured for group in batch.groups if group.relation.name == name]
        shapes = {group.relation.fingerprint for group in groups}
        if len(shapes) != 1:
            report.differences.append(f"{name}: the backfill's shape is not the stream's")
        relation = groups[0].relation
        ops = [op for group in groups for op in group.meta("op").to_pylist()]
        assert ops == [Op.READ] * rows + [Op.INSERT] * rows
        order = sorted(
            range(2 * rows), key=[int(n) for g in groups for n in g.new(0).to_pylist()].__getitem__
        )
        names = ", ".join(column.name for column in columns)
        answers = ask(source, f"SELECT {names} FROM public.{name} ORDER BY n")
        for place, (column, answer) in enumerate(zip(columns, answers, strict=True), start=1):
            texts = [text for group in groups for text in group.new(place).to_pylist()]
            texts = [texts[row] for row in order]
            report.compare("backfill", column, texts[:rows], answer[:rows])
            report.compare("stream", column, texts[rows:], answer[rows:])
            _compare_json(source, relation, place, name, column, texts, report)


#: Where Postgres' JSON is not like ours: composites are objects to it, its own two vectors lists, and the
#: elements of an array of a domain over an array lists, all of which are text here; a sparsevec is text to
#: it, and an object here.
WITHOUT_JSON = (
    "public.pair",
    "public.nest",
    "oidvector",
    "int2vector",
    "public.ids[]",
    "public.sparsevec(5)",
)


def _compare_json(
    source: Connection,
    relation: Relation,
    place: int,
    table: str,
    column: Column,
    texts: Sequence[str | None],
    report: Report,
) -> None:
    if column.of.name in WITHOUT_JSON or column.sql in WITHOUT_JSON:
        return
    kind = types.of(relation.columns[place])
    # The one type whose JSON is not in Postgres' ordinary text.
    source.execute(
        f"SET IntervalStyle = {'iso_8601' if column.of.name.startswith('interval') else 'postgres'}".encode()
    )
    [said] = ask(source, f"SELECT to_json({column.name}) FROM public.{table} ORDER BY n")
    source.execute(b"SET IntervalStyle = postgres")
    report.comparisons += len(texts)
    for row, (text, wanted) in enumerate(zip(texts, said, strict=True)):
        if text is None or wanted is None:
            if text is not wanted:
                report.differences.append(f"{column.sql}, row {row}: JSON: NULL on one side only")
            continue
        ours = orjson.dumps(kind.json(text))
        if not same_json(ours, wanted, kind):
            report.differences.append(f"{column.sql}, row {row}: JSON: {ours.decode()} instead of {wanted}")


def _compare_warehouse(
    source: Connection,
    captured: Sequence[Batch],
    tables: Mapping[str, Sequence[Column]],
    path: Path,
    report: Report,
) -> None:
    relations = {g.relation.name: g.relation for batch in captured for g in batch.groups}
    asyncio.run(_deliver(path, [*relations.values()], []))
    _widen(path, relations, captured)
    asyncio.run(_deliver(path, [*relations.values()], captured))
    connection = duckdb.connect(str(path), read_only=True)
    connection.execute("SET TimeZone = 'UTC'")
    for name, columns in tables.items():
        kinds = dict(
            connection.execute(
                "SELECT column_name, data_type FROM duckdb_columns() WHERE table_name = ?", [name]
            ).fetchall()
        )
        said = ", ".join(said_by_postgres(kinds[column.name], column.name) for column in columns)
        answers = ask(source, f"SELECT {said} FROM public.{name} ORDER BY n")
        for place, (column, wanted) in enumerate(zip(columns, answers, strict=True), start=1):
            found = said_by_duckdb(connection, kinds[column.name], f"public.{name}", column.name)
            if kinds[column.name] == "VARCHAR":
                kind = types.of(relations[name].columns[place])
                if kind.duckdb == "VARCHAR":
                    # Arrays and hstore are stored as JSON, which Postgres has judged before.
                    wanted = kind.to_arrow(pa.array(wanted, pa.string())).to_pylist()
            report.compare(f"warehouse ({kinds[column.name]})", column, found, wanted)
    connection.close()


def _widen(path: Path, relations: Mapping[str, Relation], captured: Sequence[Batch]) -> None:
    """Makes VARCHAR what holds a value that its typed column refuses, as the refusal's hint says."""
    connection = duckdb.connect(str(path))
    for name, relation in relations.items():
        for place, column in enumerate(relation.columns):
            kind = types.of(column)
            try:
                for group in (g for batch in captured for g in batch.groups if g.relation.name == name):
                    kind.to_arrow(group.new(place))
            except Permanent:
                connection.execute(f"ALTER TABLE public.{name} ALTER {column.name} TYPE VARCHAR")
    connection.close()


async def _deliver(path: Path, relations: Sequence[Relation], captured: Sequence[Batch]) -> None:
    context = FlowContext(flow="oracle", state=path.parent)
    sink = DuckDBSink(DuckDBSettings(type="duckdb", path=path), SinkOptions(), context)
    await sink.open()
    await sink.prepare(relations)
    for batch in captured:
        await sink.write(batch)
    await sink.close()
