"""Between Postgres' text and the form in which kernels hold a type, exactly and in both directions.

| types                       | Arrow                                | a value in Python                    |
|-----------------------------|--------------------------------------|--------------------------------------|
| integers, floats, boolean   | their own                            | int, float, bool                     |
| numeric                     | decimal of one scale, else text      | Decimal                              |
| date, time, timestamp(tz)   | date32, time64, timestamp in µs      | int: days or µs since 1970           |
| bytea                       | binary                               | bytes                                |
| everything else             | string: Postgres' text               | str                                  |

A numeric column is a decimal array only where every value has the same display scale, which then is part of
the array's type. Anything else (mixed scales, NaN, more than 76 digits) is text, and goes through Decimal.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow import types
from cdcflow.errors import CdcflowError
from cdcflow.model import Column
from cdcflow.transform.expression import floats, moments
from cdcflow.transform.expression.sqltype import SqlType

#: Says that a row cannot be converted, and why.
Fail = Callable[[int, str], None]

_NULL_TEXT = pa.scalar(None, pa.string())


@dataclass(frozen=True)
class Codec:
    """How values of one type are held. `read` and `write` are between Postgres' text and Arrow, `values` and
    `build` between Arrow and Python."""

    arrow: pa.DataType
    read: Callable[[pa.StringArray, Fail], pa.Array]
    write: Callable[[pa.Array], pa.StringArray]
    values: Callable[[pa.Array], list[Any]]
    build: Callable[[Sequence[Any]], pa.Array]


def codec(of: SqlType) -> Codec:
    return _codec(of.key, of.typmod if of.key == "numeric" else -1)


@lru_cache(maxsize=1024)
def _codec(key: str, typmod: int) -> Codec:
    if key == "numeric":
        return _numeric(typmod)
    return _CODECS.get(key, _TEXT)


def _by_arrow(
    arrow: pa.DataType, raw: pa.DataType | None, oid: int, write: Callable[[pa.Array], pa.StringArray]
) -> Codec:
    """A type whose text `cdcflow.types` converts. `raw` is the integer type behind a date or time."""
    kind = types.of(Column("", oid))

    def read(values: pa.StringArray, fail: Fail) -> pa.Array:
        try:
            return kind.to_arrow(values)
        except CdcflowError:
            return _read_one_by_one(kind, values, fail)

    def to_values(values: pa.Array) -> list[Any]:
        found: list[Any] = (values if raw is None else values.view(raw)).to_pylist()
        return found

    def build(values: Sequence[Any]) -> pa.Array:
        return pa.array(values, arrow) if raw is None else pa.array(values, raw).view(arrow)

    return Codec(arrow, read, write, to_values, build)


def _read_one_by_one(kind: types.PgType, values: pa.StringArray, fail: Fail) -> pa.Array:
    parts = []
    for row in range(len(values)):
        try:
            parts.append(kind.to_arrow(values.slice(row, 1)))
        except CdcflowError as error:
            fail(row, str(error))
            parts.append(pa.nulls(1, kind.arrow))
    return pa.concat_arrays(parts)


def _write_bool(values: pa.Array) -> pa.StringArray:
    return pc.if_else(values, "t", "f")


def _write_by_cast(values: pa.Array) -> pa.StringArray:
    return pc.cast(values, pa.string())


def _write_bytea(values: pa.Array) -> pa.StringArray:
    return pa.array([None if v is None else "\\x" + v.hex() for v in values.to_pylist()], pa.string())


# --- numeric -----------------------------------------------------------------------------------------------

#: Digits of Arrow's two decimals.
NARROW, WIDE = 38, 76


def decimal_type(precision: int, scale: int) -> pa.DataType | None:
    """The narrowest decimal of that many digits, or None where none has them."""
    precision = max(precision, scale, 1)
    if precision <= NARROW:
        return pa.decimal128(precision, scale)
    return pa.decimal256(precision, scale) if precision <= WIDE else None


def numeric_text(value: Decimal) -> str:
    """As numeric_out writes it: no exponent, no sign of zero."""
    if value.is_finite():
        text = format(value, "f")
        return text[1:] if value.is_zero() and text[0] == "-" else text
    return "NaN" if value.is_nan() else ("-Infinity" if value < 0 else "Infinity")


def rescaled(values: pa.Array | pa.Scalar, digits: int, mode: str) -> pa.Array | None:
    """Decimals at another scale, or None where Arrow's do not hold the result."""
    if not pa.types.is_decimal(values.type):
        return None
    before = values.type
    # Rounding can carry into one more digit, which Arrow drops without a word where the type has no room.
    wider = decimal_type(before.precision + 1, before.scale)
    target = decimal_type(before.precision - before.scale + 1 + digits, digits)
    if target is None or wider is None:
        return None
    if before.scale > digits:
        values = pc.round(pc.cast(values, wider), digits, round_mode=mode)
    return pc.cast(values, target)


def _numeric(typmod: int) -> Codec:
    exact = types.of(Column("", types.numbers.NUMERIC, typmod))
    declared = exact.arrow if pa.types.is_decimal(exact.arrow) else None

    def read(values: pa.StringArray, _fail: Fail) -> pa.Array:
        if declared is not None:
            try:
                return pc.cast(values, declared)
            except pa.ArrowInvalid:  # a NaN
                return values
        return of_one_scale(values)

    return Codec(pa.string(), read, write_numeric, numeric_values, build_numeric)


def of_one_scale(values: pa.StringArray) -> pa.Array:
    """As decimals where all have the same number of digits behind the point, else as they are."""
    lengths = pc.binary_length(values)
    longest = pc.max(lengths).as_py()
    if longest is None or longest > WIDE:
        return values
    point = pc.find_substring(values, ".")
    scales = pc.if_else(pc.less(point, 0), 0, pc.subtract(lengths, pc.add(point, 1)))
    bounds = pc.min_max(scales)
    low, high = bounds["min"].as_py(), bounds["max"].as_py()
    kind = decimal_type(longest, low)
    if low != high or kind is None:
        return values
    try:
        return pc.cast(values, kind)
    except pa.ArrowInvalid:
        return values


def write_numeric(values: pa.Array) -> pa.StringArray:
    if pa.types.is_string(values.type):
        return values
    texts = pc.cast(values, pa.string())
    # Arrow writes small numbers with an exponent.
    if values.type.scale > 5 and pc.any(pc.match_substring(texts, "E"), min_count=0).as_py():
        return build_numeric(values.to_pylist())
    return texts


def numeric_values(values: pa.Array) -> list[Any]:
    # By way of the text, which is several times faster than Arrow's own conversion to Decimal.
    texts = values if pa.types.is_string(values.type) else pc.cast(values, pa.string())
    return [None if text is None else Decimal(text) for text in texts.to_pylist()]


def build_numeric(values: Sequence[Any]) -> pa.StringArray:
    return pa.array([None if value is None else numeric_text(value) for value in values], pa.string())


_TEXT = Codec(
    pa.string(),
    lambda values, _fail: values,
    lambda values: values,
    lambda values: values.to_pylist(),
    lambda values: pa.array(values, pa.string()),
)

_US, _UTC = pa.timestamp("us"), pa.timestamp("us", "UTC")

_CODECS = {
    "bool": _by_arrow(pa.bool_(), None, 16, _write_bool),
    "int2": _by_arrow(pa.int16(), None, 21, _write_by_cast),
    "int4": _by_arrow(pa.int32(), None, 23, _write_by_cast),
    "int8": _by_arrow(pa.int64(), None, 20, _write_by_cast),
    "float4": _by_arrow(pa.float32(), None, 700, floats.write_float4),
    "float8": _by_arrow(pa.float64(), None, 701, floats.write_float8),
    "bytea": _by_arrow(pa.binary(), None, 17, _write_bytea),
    "date": _by_arrow(pa.date32(), pa.int32(), 1082, moments.write_date),
    "time": _by_arrow(pa.time64("us"), pa.int64(), 1083, moments.write_time),
    "timestamp": _by_arrow(_US, pa.int64(), 1114, moments.write_timestamp),
    "timestamptz": _by_arrow(_UTC, pa.int64(), 1184, moments.write_timestamptz),
}


def datum_values(datum: pa.Array | pa.Scalar, how: Codec, count: int) -> list[Any]:
    """A datum's values in Python, one per row."""
    if isinstance(datum, pa.Scalar):
        return (
            how.values(pa.array([datum.as_py()], datum.type) if _plain(datum) else pa.repeat(datum, 1))
            * count
        )
    return how.values(datum)


def _plain(datum: pa.Scalar) -> bool:
    return bool(pa.types.is_string(datum.type) or pa.types.is_integer(datum.type))
