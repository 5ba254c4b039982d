"""Compares tables of the source with the warehouse value by value, without a word of cdcflow's own types.

Both servers are asked to write every value as text, by one rule per type that makes equal values equal text
and different values different text. Postgres and DuckDB do the writing: what the engine's converters think
of a type plays no part, so a mistake of theirs cannot hide itself.

| type                   | both sides write                                                                |
|------------------------|---------------------------------------------------------------------------------|
| date                   | days since 1970-01-01; an infinity as its word                                  |
| timestamp, timestamptz | microseconds since 1970-01-01 (UTC); an infinity as its word                    |
| time                   | microseconds since midnight, so that 24:00 is not 00:00                         |
| interval               | months, days and microseconds                                                   |
| real, double precision | the number that the text reads back as, so that 1e+20 is 1e20                   |
| bytea                  | hexadecimal digits                                                              |
| arrays                 | JSON of the elements' texts: the warehouse holds JSON, Postgres holds `{…}`     |
| everything else        | the text itself, to the last character: `1.10` is not `1.1`, `''` is not NULL   |
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg
from psycopg import sql

from cdcflow.sql import load

#: Answers SQL about the warehouse with rows of text.
Ask = Callable[[str], Iterable[tuple[str | None, ...]]]

Row = tuple[str | None, ...]

#: Rows fetched from Postgres at once.
FETCH = 5_000

#: What the text of a value depends on (manual, 20.11 and 26.3.6).
SETTINGS = "SET timezone = 'UTC'; SET datestyle = 'ISO'; SET extra_float_digits = 3; SET bytea_output = 'hex'"


def _as_it_is(text: str) -> str:
    return text


def _number(text: str) -> str:
    return repr(float(text))


def _elements(text: str) -> str:
    """JSON with every scalar as its text; `true` is what Postgres' cast of a boolean to text gives."""
    value = json.loads(text, parse_int=str, parse_float=str, parse_constant=str)
    return json.dumps(_texts(value), ensure_ascii=True)


def _texts(value: Any) -> Any:
    if isinstance(value, list):
        return [_texts(element) for element in value]
    return str(value).lower() if isinstance(value, bool) else value


@dataclass(frozen=True)
class Rule:
    """How a type is written: an SQL expression for each side, `{}` being the quoted column, and what
    then still makes equal values equal text."""

    source: str
    warehouse: str
    normalise: Callable[[str], str] = _as_it_is


_TEXT = Rule("{}::text", "{}::VARCHAR")
_MOMENT = Rule(
    "CASE WHEN isfinite({0}) THEN trunc(extract(epoch FROM {0}) * 1000000)::text ELSE {0}::text END",
    "CASE WHEN isfinite({0}) THEN epoch_us({0})::VARCHAR ELSE {0}::VARCHAR END",
)
_FLOAT = Rule("{}::text", "{}::VARCHAR", _number)
_ARRAY = Rule("to_json({}::text[])::text", "{}::VARCHAR", _elements)

RULES = {
    "date": Rule(
        "CASE WHEN isfinite({0}) THEN ({0} - DATE '1970-01-01')::text ELSE {0}::text END",
        "CASE WHEN isfinite({0}) THEN ({0} - DATE '1970-01-01')::VARCHAR ELSE {0}::VARCHAR END",
    ),
    "timestamp": _MOMENT,
    "timestamptz": _MOMENT,
    "time": Rule("(extract(epoch FROM {}) * 1000000)::bigint::text", "epoch_us({})::VARCHAR"),
    "interval": Rule(
        "concat_ws(' ', (extract(year FROM {0}) * 12 + extract(month FROM {0}))::bigint,"
        " extract(day FROM {0})::bigint, (extract(hour FROM {0}) * 3600000000"
        " + extract(minute FROM {0}) * 60000000 + extract(microsecond FROM {0}))::bigint)",
        "concat_ws(' ', (extract('year' FROM {0}) * 12 + extract('month' FROM {0}))::BIGINT,"
        " extract('day' FROM {0})::BIGINT, (extract('hour' FROM {0}) * 3600000000"
        " + extract('minute' FROM {0}) * 60000000 + extract('microsecond' FROM {0}))::BIGINT)",
    ),
    "float4": _FLOAT,
    "float8": _FLOAT,
    "bytea": Rule("encode({}, 'hex')", "lower(hex({}))"),
    # A cast to text would drop the padding (manual, 8.3); concat keeps it.
    "bpchar": Rule("concat({})", "{}::VARCHAR"),
}
#: concat_ws makes a text of NULL too.
_NULL_SAFE = "CASE WHEN {0} IS NOT NULL THEN {1} END"


@dataclass(frozen=True)
class Column:
    """A column of the source: the name of its type, and whether it is part of the primary key."""

    name: str
    kind: str
    rule: Rule
    key: bool


@dataclass(frozen=True)
class Comparison:
    """What a table's comparison found: numbers of rows, never their values.

    `missing` rows are in the source alone, `extra` rows in the warehouse alone. `differing` rows have the
    same key and other values; `columns` says in how many of them each column differs. Where a table has no
    key, a row that differs counts as one missing and one extra. `shape` says what is wrong with the
    warehouse's columns, in which case the rows are not compared.
    """

    table: str
    source: int
    warehouse: int
    missing: int = 0
    extra: int = 0
    differing: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    shape: str = ""

    @property
    def identical(self) -> bool:
        return not (self.shape or self.missing or self.extra or self.differing)

    @property
    def verdict(self) -> str:
        """`identical`, or what is not."""
        if self.identical:
            return "identical"
        if self.shape:
            return f"DIFFERENT: {self.shape}"
        found = [f"{self.missing} missing"] if self.missing else []
        found += [f"{self.extra} too many"] if self.extra else []
        if self.differing:
            where = ", ".join(f"{name} ({count})" for name, count in sorted(self.columns.items()))
            found.append(f"{self.differing} different in {where}")
        return f"DIFFERENT: {'; '.join(found)}"


def compare(
    connection: psycopg.Connection[Any], ask: Ask, tables: Sequence[str], schema: str = "public"
) -> list[Comparison]:
    """Compares each of the schema's `tables` with the warehouse's table of the same name, all of them as
    of one moment of the source. The connection must be in autocommit mode."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
        connection.execute(SETTINGS.replace("SET ", "SET LOCAL "))
        return [_compare(connection, ask, schema, table) for table in tables]


def _compare(connection: psycopg.Connection[Any], ask: Ask, schema: str, table: str) -> Comparison:
    columns = source_columns(connection, schema, table)
    source = list(_source_rows(connection, columns, schema, table))
    wrong = _shape(ask, columns, schema, table)
    if wrong:
        return Comparison(table, len(source), 0, shape=wrong)
    warehouse = list(_warehouse_rows(ask, columns, schema, table))
    return judge(table, columns, source, warehouse)


def judge(
    table: str, columns: Sequence[Column], source: Sequence[Row], warehouse: Sequence[Row]
) -> Comparison:
    """Compares rows that are written by the rules. By the primary key, each row once; where there is none,
    as collections in which equal rows count."""
    totals = (table, len(source), len(warehouse))
    places = [place for place, column in enumerate(columns) if column.key]
    if not places:
        ours, theirs = Counter(source), Counter(warehouse)
        return Comparison(*totals, missing=(ours - theirs).total(), extra=(theirs - ours).total())
    by_key = {tuple(row[place] for place in places): row for row in source}
    extra = differing = 0
    different: Counter[str] = Counter()
    for row in warehouse:
        # Taken out: a second row of the same key in the warehouse is one too many.
        ours_row = by_key.pop(tuple(row[place] for place in places), None)
        if ours_row is None:
            extra += 1
        elif ours_row != row:
            differing += 1
            different.update(
                column.name
                for column, left, right in zip(columns, ours_row, row, strict=True)
                if left != right
            )
    return Comparison(*totals, missing=len(by_key), extra=extra, differing=differing, columns=dict(different))


def source_columns(connection: psycopg.Connection[Any], schema: str, table: str) -> list[Column]:
    """The table's columns in their order."""
    found = connection.execute(load("compare_columns"), (schema, table)).fetchall()
    return [
        Column(name, kind, _ARRAY if is_array else RULES.get(kind, _TEXT), place is not None)
        for name, kind, is_array, place in found
    ]


def _source_rows(
    connection: psycopg.Connection[Any], columns: Sequence[Column], schema: str, table: str
) -> Iterator[Row]:
    names = [sql.Identifier(column.name).as_string() for column in columns]
    expressions = _expressions(names, [column.rule.source for column in columns])
    query = sql.SQL("SELECT {} FROM {}").format(
        sql.SQL(expressions),
        sql.Identifier(schema, table),
    )
    with connection.cursor(name="compare") as cursor:
        cursor.itersize = FETCH
        cursor.execute(query)
        for row in cursor:
            yield _normalised(columns, row)


def _warehouse_rows(ask: Ask, columns: Sequence[Column], schema: str, table: str) -> Iterator[Row]:
    names = [_quoted(column.name) for column in columns]
    expressions = _expressions(names, [column.rule.warehouse for column in columns])
    for row in ask(f"SELECT {expressions} FROM {_quoted(schema)}.{_quoted(table)}"):  # noqa: S608 - quoted
        yield _normalised(columns, row)


def _shape(ask: Ask, columns: Sequence[Column], schema: str, table: str) -> str:
    """What is wrong with the warehouse's columns, or nothing."""
    wanted = " AND ".join(
        f"{name} = '{value.replace(chr(39), chr(39) * 2)}'"
        for name, value in (("table_schema", schema), ("table_name", table))
    )
    query = f"SELECT column_name FROM information_schema.columns WHERE {wanted}"  # noqa: S608 - quoted
    found = {str(name) for (name,) in ask(query)}
    if not found:
        return "the warehouse has no such table"
    ours = {column.name for column in columns}
    wrong = [f"no column {name}" for name in sorted(ours - found)]
    wrong += [f"a column {name} that the source has not" for name in sorted(found - ours)]
    return f"the warehouse has {', '.join(wrong)}" if wrong else ""


def _expressions(names: Sequence[str], templates: Sequence[str]) -> str:
    return ", ".join(
        _NULL_SAFE.format(name, template.format(name))
        for name, template in zip(names, templates, strict=True)
    )


def _normalised(columns: Sequence[Column], row: Sequence[str | None]) -> Row:
    return tuple(
        None if value is None else column.rule.normalise(value)
        for column, value in zip(columns, row, strict=True)
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
