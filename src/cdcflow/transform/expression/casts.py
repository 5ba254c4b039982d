"""From one type to another: kernels for the casts that Postgres has, and through text where it has none.

A cast that is not here is refused. `cast(source, target)` changes the type, `fit(kind)` applies the
modifier of `varchar(n)`, `char(n)` and `numeric(p,s)`, as an explicit cast does: what is too long is
cut, not an error.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import documents, exact, reading
from cdcflow.transform.expression.conversion import codec, decimal_type, rescaled, write_numeric
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Fails, Variant, row_kernel
from cdcflow.transform.expression.moments import DAY, ordinary
from cdcflow.transform.expression.node import as_array
from cdcflow.transform.expression.numbers import in_range, out_of_range
from cdcflow.transform.expression.spans import span, span_text
from cdcflow.transform.expression.sqltype import BPCHAR, NUMERIC, TEXT, SqlType, builtin
from cdcflow.types.datetime import INFINITE_DAY, INFINITE_MICROSECOND

_TEXTS = ("text", "varchar", "bpchar", "name")
_INTEGERS = ("int2", "int4", "int8")
_ARROW = {"int2": pa.int16(), "int4": pa.int32(), "int8": pa.int64()}
_DIGITS = {"int2": 5, "int4": 10, "int8": 19}


def cast(source: SqlType, target: SqlType) -> Variant | None:
    """The kernel from `source` to the bare `target`, or None where it is not supported."""
    if source.key == target.key:
        return Variant(_same)
    found = _CASTS.get((source.key, target.key))
    if found is not None:
        return found
    if target.key in ("text", "varchar"):
        return _to_text(source)
    if target.key == "bpchar":
        to_text = _to_text(source)
        return None if source.key in ("name",) else to_text
    if source.key in ("text", "varchar", "bpchar") and not target.declared:
        return _from_text(source, target)
    return None


def _same(_rows: Rows, values: Datum) -> Datum:
    return values


def _to_text(source: SqlType) -> Variant:
    if source.key == "bool":
        return Variant(lambda _rows, values: pc.if_else(values, "true", "false"))
    if source.key == "bpchar":
        return Variant(lambda _rows, values: pc.utf8_rtrim(values, characters=" "))
    if source.key == "inet":
        # Unlike the output function, the cast always shows the mask (network.c, network_show).
        return Variant(row_kernel(_with_mask, [source], TEXT))
    write = codec(source).write
    return Variant(lambda rows, values: write(as_array(values, rows.count)))


def _with_mask(address: str) -> str:
    return address if "/" in address else f"{address}/{128 if ':' in address else 32}"


def _from_text(source: SqlType, target: SqlType) -> Variant | None:
    read = reading.reader(target)
    if read is None:
        return None
    kernel = row_kernel(read, [TEXT], target)
    if source.key == "bpchar":
        # Through text, which has no padding; a conversion by input function sees it.
        kernel = row_kernel(read, [BPCHAR], target)
    return Variant(kernel, fails=True)


# --- numbers -----------------------------------------------------------------------------------------------


def _integer_to_integer(target: str) -> Variant:
    arrow = _ARROW[target]
    exactly = row_kernel(lambda value: in_range(value, target), [builtin("int8")], builtin(target))

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        try:
            return pc.cast(values, arrow)
        except pa.ArrowInvalid:
            return exactly(rows, values)

    return Variant(kernel, fails=True)


def _arrow_cast(arrow: pa.DataType) -> Variant:
    return Variant(lambda _rows, values: pc.cast(values, arrow, safe=False))


def _float_to_integer(target: str) -> Variant:
    # rint() of what is in range, else an error (float.c, dtoi8 and its like).
    low, high = -(2.0 ** (_ARROW[target].bit_width - 1)), 2.0 ** (_ARROW[target].bit_width - 1)

    def convert(value: float) -> int:
        if value != value or not low <= (near := _rint(value)) < high:
            raise Fails(out_of_range(target))
        return int(near)

    return Variant(row_kernel(convert, [builtin("float8")], builtin(target)), fails=True)


def _rint(value: float) -> float:
    return float(round(value)) if abs(value) < 2.0**52 else value


def _float_to_numeric(digits: int) -> Variant:
    # numeric.c, float8_numeric: by way of printf's %.15g (%.6g for float4).
    def convert(value: float) -> Decimal:
        if value != value or abs(value) == float("inf"):
            return Decimal(value)
        return reading.numeric(f"{value:.{digits}g}")

    return Variant(row_kernel(convert, [builtin("float8")], NUMERIC))


def _integer_to_numeric(source: str) -> Variant:
    kind = decimal_type(_DIGITS[source], 0)
    return Variant(lambda _rows, values: pc.cast(values, kind))


def _numeric_to_integer(target: str) -> Variant:
    arrow = _ARROW[target]

    def convert(value: Decimal) -> int:
        if not value.is_finite():
            what = "NaN" if value.is_nan() else "infinity"
            names = {"int2": "smallint", "int4": "integer", "int8": "bigint"}
            raise Fails(f"cannot convert {what} to {names[target]}")
        return in_range(int(exact.rounded(value, 0)), target)

    exactly = row_kernel(convert, [NUMERIC], builtin(target))

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        whole = rescaled(values, 0, "half_towards_infinity")
        if whole is None:
            return exactly(rows, values)
        try:
            return pc.cast(whole, arrow)
        except pa.ArrowInvalid:
            return exactly(rows, values)

    return Variant(kernel, fails=True)


def _numeric_to_float(target: str) -> Variant:
    arrow = pa.float32() if target == "float4" else pa.float64()
    read: Callable[[str], float] = reading.single if target == "float4" else reading.double

    def exactly(rows: Rows, values: Datum) -> pa.Array:
        def convert(value: Decimal) -> float:
            return float(value) if not value.is_finite() else read(format(value, "f"))

        result: pa.Array = row_kernel(convert, [NUMERIC], builtin(target))(rows, values)
        return result

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        if pa.types.is_decimal(values.type) and values.type.precision <= 30:
            return pc.cast(write_numeric(as_array(values, rows.count)), arrow)
        return exactly(rows, values)

    return Variant(kernel, fails=True)


def _narrow_float() -> Variant:
    def kernel(rows: Rows, values: Datum) -> pa.Array:
        values = as_array(values, rows.count)
        narrow = pc.cast(values, pa.float32(), safe=False)
        over = pc.and_(pc.is_inf(narrow), pc.is_finite(values))
        under = pc.and_(pc.equal(narrow, 0.0), pc.not_equal(values, 0.0))
        rows.fail_where(pc.fill_null(over, False), "value out of range: overflow")
        rows.fail_where(pc.fill_null(under, False), "value out of range: underflow")
        return narrow

    return Variant(kernel, fails=True)


# --- dates and moments -------------------------------------------------------------------------------------


def date_to_moment(days: int) -> int:
    if abs(days) >= INFINITE_DAY:
        return INFINITE_MICROSECOND if days > 0 else -INFINITE_MICROSECOND
    if days * DAY >= INFINITE_MICROSECOND:
        raise Fails("date out of range for timestamp")
    return days * DAY


#: Days that are microseconds of 64 bits.
_ORDINARY = 100_000_000


def _date_to_moment(target: str) -> Variant:
    kind = builtin(target)
    arrow = codec(kind).arrow
    exactly = row_kernel(date_to_moment, [builtin("date")], kind)

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        if isinstance(values, pa.Array):
            raw = values.view(pa.int32())
            bounds = pc.min_max(raw)
            low, high = bounds["min"].as_py(), bounds["max"].as_py()
            if low is None or (low > -_ORDINARY and high < _ORDINARY):
                return pc.multiply(pc.cast(raw, pa.int64()), DAY).view(arrow)
        return exactly(rows, values)

    return Variant(kernel, fails=True)


def moment_to_date(micros: int) -> int:
    if abs(micros) >= INFINITE_MICROSECOND:
        return INFINITE_DAY if micros > 0 else -INFINITE_DAY
    return micros // DAY


def _moment_to_date(source: str) -> Variant:
    exactly = row_kernel(moment_to_date, [builtin(source)], builtin("date"))

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        raw = as_array(values, rows.count).view(pa.int64())
        if not ordinary(raw):
            return exactly(rows, values)
        return pc.cast(raw.view(pa.timestamp("us")), pa.date32(), safe=False)

    return Variant(kernel)


def _moment_to_time(micros: int) -> int | None:
    return None if abs(micros) >= INFINITE_MICROSECOND else micros % DAY


def _view(arrow: pa.DataType) -> Variant:
    return Variant(lambda rows, values: as_array(values, rows.count).view(arrow))


def _interval_to_time(text: str) -> int:
    return span(text)[2] % DAY


def _row(function: Callable[[Any], Any], source: str, target: str, *, fails: bool = True) -> Variant:
    return Variant(row_kernel(function, [builtin(source)], builtin(target)), fails=fails)


# --- JSON --------------------------------------------------------------------------------------------------


def _json_scalar(read: Callable[[Any], Any], kind: type, name: str) -> Callable[[str], Any]:
    """jsonb.c, cannotCastJsonbValue: a document is cast to a number or a boolean only if it is one."""

    def convert(text: str) -> Any:
        value = documents.load(text)
        if value is None:
            # NULL since PostgreSQL 18, an error before.
            raise Fails("a cast of a JSON null is not supported here")
        if not isinstance(value, kind):
            raise Fails(f"cannot cast jsonb value to type {name}")
        return read(value)

    return convert


def _decimal_to(target: str) -> Callable[[Decimal], int]:
    return lambda value: in_range(int(exact.rounded(value, 0)), target)


_CASTS: dict[tuple[str, str], Variant] = {
    **{(s, t): _integer_to_integer(t) for s in _INTEGERS for t in _INTEGERS if s != t},
    **{(s, "float8"): _arrow_cast(pa.float64()) for s in (*_INTEGERS, "float4")},
    **{(s, "float4"): _arrow_cast(pa.float32()) for s in _INTEGERS},
    **{(s, "numeric"): _integer_to_numeric(s) for s in _INTEGERS},
    **{("numeric", t): _numeric_to_integer(t) for t in _INTEGERS},
    **{(s, t): _float_to_integer(t) for s in ("float4", "float8") for t in _INTEGERS},
    ("float4", "numeric"): _float_to_numeric(6),
    ("float8", "numeric"): _float_to_numeric(15),
    ("numeric", "float4"): _numeric_to_float("float4"),
    ("numeric", "float8"): _numeric_to_float("float8"),
    ("float8", "float4"): _narrow_float(),
    ("bool", "int4"): Variant(lambda _rows, values: pc.cast(values, pa.int32())),
    ("int4", "bool"): Variant(lambda _rows, values: pc.not_equal(values, 0)),
    ("text", "varchar"): Variant(_same),
    ("varchar", "text"): Variant(_same),
    ("text", "bpchar"): Variant(_same),
    ("varchar", "bpchar"): Variant(_same),
    ("date", "timestamp"): _date_to_moment("timestamp"),
    ("date", "timestamptz"): _date_to_moment("timestamptz"),
    ("timestamp", "date"): _moment_to_date("timestamp"),
    ("timestamptz", "date"): _moment_to_date("timestamptz"),
    ("timestamp", "timestamptz"): _view(pa.timestamp("us", "UTC")),
    ("timestamptz", "timestamp"): _view(pa.timestamp("us")),
    ("timestamp", "time"): _row(_moment_to_time, "timestamp", "time", fails=False),
    ("timestamptz", "time"): Variant(
        row_kernel(_moment_to_time, [builtin("timestamptz")], builtin("time")), immutable=False
    ),
    ("time", "interval"): _row(lambda micros: span_text((0, 0, micros)), "time", "interval", fails=False),
    ("interval", "time"): _row(_interval_to_time, "interval", "time"),
    ("json", "jsonb"): _row(documents.canonical, "json", "jsonb"),
    ("jsonb", "json"): Variant(_same),
    ("jsonb", "float8"): _row(
        _json_scalar(lambda v: reading.double(str(v)), Decimal, "double precision"), "jsonb", "float8"
    ),
    ("jsonb", "float4"): _row(
        _json_scalar(lambda v: reading.single(str(v)), Decimal, "real"), "jsonb", "float4"
    ),
    ("jsonb", "bool"): _row(_json_scalar(bool, bool, "boolean"), "jsonb", "bool"),
    ("jsonb", "numeric"): _row(_json_scalar(lambda v: v, Decimal, "numeric"), "jsonb", "numeric"),
    **{
        ("jsonb", t): _row(
            _json_scalar(
                _decimal_to(t), Decimal, {"int2": "smallint", "int4": "integer", "int8": "bigint"}[t]
            ),
            "jsonb",
            t,
        )
        for t in _INTEGERS
    },
}


# --- modifiers ---------------------------------------------------------------------------------------------


def fit(kind: SqlType) -> Variant | None:
    """What an explicit cast to a type with a modifier does to a value of the bare type; None where that
    is not supported."""
    if kind.typmod < 0:
        return Variant(_same)
    if kind.key == "numeric":
        return _fit_numeric(kind)
    if kind.length is not None and kind.key in ("varchar", "bpchar"):
        length = kind.length
        if kind.key == "varchar":
            return Variant(lambda _rows, values: pc.utf8_slice_codeunits(values, 0, length))
        return Variant(
            lambda _rows, values: pc.utf8_rpad(
                pc.utf8_slice_codeunits(values, 0, length), length, padding=" "
            )
        )
    return None


def _fit_numeric(kind: SqlType) -> Variant:
    precision, scale = kind.precision, kind.scale
    arrow = decimal_type(max(precision, scale), scale) if scale >= 0 else None

    def convert(value: Decimal) -> Decimal:
        if not value.is_finite():
            if value.is_nan():
                return value
            raise Fails("numeric field overflow")
        result = exact.rounded(value, scale)
        if not result.is_zero() and result.adjusted() >= precision - scale:
            raise Fails("numeric field overflow")
        return result

    exactly = row_kernel(convert, [NUMERIC], NUMERIC)

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        fitted = rescaled(values, scale, "half_towards_infinity") if arrow is not None else None
        if fitted is not None and precision >= scale:
            try:
                return pc.cast(fitted, arrow)
            except pa.ArrowInvalid:
                pass
        return exactly(rows, values)

    return Variant(kernel, fails=True)
