"""What Postgres itself and DuckDB say of stored values, in forms that can be compared.

Postgres is asked for the text of its output functions, for the number behind a value, or for its own JSON;
never is our own code.
"""

import json
import struct
from base64 import b64encode
from decimal import Decimal, InvalidOperation
from typing import Any

import psycopg
import pyarrow as pa

from cdcflow.types import PgType

#: DuckDB type → an SQL expression of Postgres that says exactly which value `{v}` is. Types that are not
#: here are said by their text.
SAID_BY_POSTGRES = {
    "FLOAT": "encode(float8send({v}), 'hex')",
    "DOUBLE": "encode(float8send({v}), 'hex')",
    "BLOB": "encode({v}, 'hex')",
    "DATE": "CASE WHEN isfinite({v}) THEN ({v} - DATE '1970-01-01')::text ELSE {v}::text END",
    "TIME": "(extract(epoch FROM {v}) * 1000000)::int8",
    "TIMESTAMP": (
        "CASE WHEN isfinite({v}) THEN (extract(epoch FROM {v}) * 1000000)::int8::text ELSE {v}::text END"
    ),
    "INTERVAL": (
        "CASE WHEN {v} IS NOT NULL THEN concat_ws(' ', extract(year FROM {v}) * 12 + extract(month FROM {v}),"
        " extract(day FROM {v}), ((extract(hour FROM {v}) * 3600 + extract(minute FROM {v}) * 60) * 1000000"
        " + extract(microseconds FROM {v}))::int8) END"
    ),
    "BOOLEAN": "{v}::text",
}
SAID_BY_POSTGRES["TIMESTAMP WITH TIME ZONE"] = SAID_BY_POSTGRES["TIMESTAMP"]

#: The same of DuckDB, as far as SQL is needed for it.
SAID_BY_DUCKDB = {
    "INTERVAL": (
        "CASE WHEN {v} IS NOT NULL THEN concat_ws(' ', datepart('year', {v}) * 12 + datepart('month', {v}),"
        " datepart('day', {v}), datepart('hour', {v}) * 3600000000 + datepart('minute', {v}) * 60000000"
        " + datepart('microsecond', {v})) END"
    ),
    "FLOAT": "{v}::DOUBLE",
    "BLOB": "lower(hex({v}))",
}

#: DuckDB type → the integer that its Arrow form is.
_NUMBERED = {
    "DATE": pa.int32(),
    "TIME": pa.int64(),
    "TIMESTAMP": pa.int64(),
    "TIMESTAMP WITH TIME ZONE": pa.int64(),
}


def ask(connection: psycopg.Connection[Any], sql: str) -> list[list[str | None]]:
    """A query's columns as the types' output functions write them: what COPY and pgoutput carry."""
    result = connection.pgconn.exec_(sql.encode())
    assert not result.error_message, result.error_message.decode()

    def value(row: int, column: int) -> str | None:
        raw = result.get_value(row, column)
        return None if raw is None else bytes(raw).decode()

    return [[value(row, column) for row in range(result.ntuples)] for column in range(result.nfields)]


def said_by_postgres(duckdb_type: str, column: str) -> str:
    """The expression that says which value the column holds, to hold against `said_by_duckdb`."""
    return SAID_BY_POSTGRES.get(duckdb_type, "{v}").format(v=column)


def said_by_duckdb(connection: Any, duckdb_type: str, table: str, column: str) -> list[str | None]:
    """Which values a column of the warehouse holds, in the order of the column `n`."""
    plain = duckdb_type in SAID_BY_POSTGRES or duckdb_type.startswith("DECIMAL")
    expression = SAID_BY_DUCKDB.get(duckdb_type, "{v}" if plain else "{v}::VARCHAR").format(v=column)
    query = connection.sql(f"SELECT {expression} AS v FROM {table} ORDER BY n")
    values = pa.chunked_array(query.to_arrow_table().column("v")).combine_chunks()
    if isinstance(values, pa.ChunkedArray):
        values = pa.concat_arrays(values.chunks)
    if duckdb_type in ("FLOAT", "DOUBLE"):
        return [None if v is None else struct.pack(">d", v).hex() for v in values.to_pylist()]
    if duckdb_type in _NUMBERED:
        most = 2**31 - 1 if duckdb_type == "DATE" else 2**63 - 1
        words = {most: "infinity", -most: "-infinity"}
        numbers = values.view(_NUMBERED[duckdb_type]).to_pylist()
        return [None if v is None else words.get(v, str(v)) for v in numbers]
    if duckdb_type.startswith("DECIMAL"):
        # DuckDB's own text leaves out the zero before the point where no digit can stand there.
        return [None if v is None else f"{v:f}" for v in values.to_pylist()]
    return [{True: "true", False: "false"}.get(v, v) for v in values.to_pylist()]


class _Number(str):
    """A number as JSON writes it."""

    __slots__ = ()


def same_json(ours: bytes, postgres: str, kind: PgType) -> bool:
    """Whether our JSON says what Postgres' `to_json` says of the same value.

    Allowed to differ, as documented: a number of Postgres' may be a string here, bytea is base64, lower
    bounds are kept, a vector is a list.
    """
    return _same(_read(ours.decode()), _read(postgres), kind)


def _read(text: str) -> Any:
    # Pairs, since keys may come twice.
    return json.loads(
        text, parse_int=_Number, parse_float=_Number, object_pairs_hook=lambda pairs: {"pairs": pairs}
    )


def _same(ours: Any, theirs: Any, kind: PgType) -> bool:
    if isinstance(ours, dict) and isinstance(theirs, list):
        # {"lower_bounds": […], "elements": […]}
        return _same(dict(ours["pairs"])["elements"], theirs, kind)
    if isinstance(ours, list) and isinstance(theirs, str):
        return _same(ours, _read(theirs), kind)
    if isinstance(ours, list) and isinstance(theirs, list):
        return len(ours) == len(theirs) and all(map(_same, ours, theirs, [kind] * len(ours)))
    if isinstance(ours, str) and isinstance(theirs, str):
        if kind.name.startswith("bytea") and theirs.startswith("\\x"):
            return ours == b64encode(bytes.fromhex(theirs[2:])).decode()
        if isinstance(ours, _Number) or isinstance(theirs, _Number):
            return _number(ours, kind) == _number(theirs, kind)
        return ours == theirs
    return bool(ours == theirs)


def _number(text: str, kind: PgType) -> object:
    try:
        # The shortest text of a double need not be the same everywhere: 1e+23 is 9.999999999999999e+22.
        if kind.name.startswith("double"):
            return struct.pack(">d", float(text))
        return str(Decimal(text).normalize())
    except (InvalidOperation, ValueError):
        return text
