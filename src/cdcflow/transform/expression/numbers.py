"""Arithmetic of integers, floats and numerics: Arrow's kernels where they are exact, and the exact way of
`exact.py` for the batches where they are not."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import division, exact
from cdcflow.transform.expression.conversion import WIDE, decimal_type
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Fails, Kernel, Supported, Variant, operator, row_kernel
from cdcflow.transform.expression.sqltype import NUMERIC, builtin

_INTEGERS = {"int2": ("smallint", 16), "int4": ("integer", 32), "int8": ("bigint", 64)}
_WIDTH = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}


def out_of_range(key: str) -> str:
    return f"{_INTEGERS[key][0]} out of range"


def in_range(value: int, key: str) -> int:
    bits = _INTEGERS[key][1]
    if not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise Fails(out_of_range(key))
    return value


# --- integers ----------------------------------------------------------------------------------------------


def _truncated(a: int, b: int) -> int:
    quotient = abs(a) // abs(b)
    return quotient if (a < 0) == (b < 0) else -quotient


def _int_divide(a: int, b: int) -> int:
    if b == 0:
        raise Fails(exact.DIVISION_BY_ZERO)
    return _truncated(a, b)


def _int_modulo(a: int, b: int) -> int:
    if b == 0:
        raise Fails(exact.DIVISION_BY_ZERO)
    return a - _truncated(a, b) * b


def integer(
    fast: Callable[[Any, Any], pa.Array] | None, slow: Callable[[int, int], int], a: str, b: str, result: str
) -> Kernel:
    """`fast` refuses the whole batch where a row fails; then `slow` finds which."""
    exactly = row_kernel(lambda x, y: in_range(slow(x, y), result), [builtin(a), builtin(b)], builtin(result))
    if fast is None:
        return exactly
    arrow = _WIDTH[_INTEGERS[result][1]]

    def kernel(rows: Rows, left: Datum, right: Datum) -> pa.Array:
        try:
            return fast(_as(left, arrow), _as(right, arrow))
        except pa.ArrowInvalid:
            return exactly(rows, left, right)

    return kernel


def _as(values: Datum, arrow: pa.DataType) -> Datum:
    return values if values.type == arrow else pc.cast(values, arrow)


def _modulo_kernel(left: Datum, right: Datum) -> pa.Array:
    return pc.subtract_checked(left, pc.multiply_checked(pc.divide_checked(left, right), right))


# --- floats ------------------------------------------------------------------------------------------------

#: float.c: an infinite result of finite operands, and a zero that lost a non-zero value, are errors.
FLOAT_OVERFLOW = "value out of range: overflow"
FLOAT_UNDERFLOW = "value out of range: underflow"


def floating(name: str, a: str, b: str) -> Kernel:
    fast = {"+": pc.add, "-": pc.subtract, "*": pc.multiply, "/": pc.divide}[name]
    arrow = pa.float32() if (a, b) == ("float4", "float4") else pa.float64()

    def kernel(rows: Rows, left: Datum, right: Datum) -> pa.Array:
        left, right = _as(left, arrow), _as(right, arrow)
        if name == "/":
            zero = pc.and_(pc.equal(right, 0.0), pc.invert(pc.is_nan(left)))
            if _any(zero):
                rows.fail_where(_column(zero, rows), exact.DIVISION_BY_ZERO)
        result = fast(left, right)
        finite = pc.and_(pc.is_finite(left), pc.is_finite(right))
        overflow = pc.and_(pc.is_inf(result), finite)
        if name == "/":
            overflow = pc.and_(overflow, pc.not_equal(right, 0.0))
        if _any(overflow):
            rows.fail_where(_column(overflow, rows), FLOAT_OVERFLOW)
        if name in "*/":
            vanished = pc.and_(pc.equal(result, 0.0), pc.not_equal(left, 0.0))
            if name == "*":
                vanished = pc.and_(vanished, pc.not_equal(right, 0.0))
            else:
                vanished = pc.and_(vanished, pc.is_finite(right))
            if _any(vanished):
                rows.fail_where(_column(vanished, rows), FLOAT_UNDERFLOW)
        return result

    return kernel


def _any(mask: Datum) -> bool:
    if isinstance(mask, pa.Scalar):
        return bool(mask.as_py())
    return bool(pc.any(mask, min_count=0).as_py())


def _column(mask: Datum, rows: Rows) -> pa.BooleanArray:
    values = mask if isinstance(mask, pa.Array) else pa.repeat(mask, rows.count)
    return pc.fill_null(values, False)


# --- numeric -----------------------------------------------------------------------------------------------


def numeric(
    fast: Callable[[Datum, Datum], pa.Array | None] | None, slow: Callable[[Decimal, Decimal], Decimal]
) -> Kernel:
    """`fast` is called with two decimals, and gives None where no Arrow decimal holds the result."""
    exactly = row_kernel(slow, [NUMERIC, NUMERIC], NUMERIC)
    if fast is None:
        return exactly

    def kernel(rows: Rows, left: Datum, right: Datum) -> pa.Array:
        if pa.types.is_decimal(left.type) and pa.types.is_decimal(right.type):
            result = fast(left, right)
            if result is not None:
                return result
        return exactly(rows, left, right)

    return kernel


def _sum(operation: Callable[[Datum, Datum], pa.Array]) -> Callable[[Datum, Datum], pa.Array | None]:
    def fast(left: Datum, right: Datum) -> pa.Array | None:
        a, b = left.type, right.type
        scale = max(a.scale, b.scale)
        precision = max(a.precision - a.scale, b.precision - b.scale) + scale + 1
        return _widened(operation, left, right, precision)

    return fast


def _product(left: Datum, right: Datum) -> pa.Array | None:
    return _widened(pc.multiply, left, right, left.type.precision + right.type.precision + 1)


def _widened(
    operation: Callable[[Datum, Datum], pa.Array], left: Datum, right: Datum, precision: int
) -> pa.Array | None:
    """The operation on decimals that are wide enough for a result of that precision."""
    if precision > WIDE:
        return None
    kind = decimal_type(precision, 0)
    if pa.types.is_decimal256(kind):
        left, right = _wide(left), _wide(right)
    return operation(left, right)


def _wide(values: Datum) -> Datum:
    if pa.types.is_decimal256(values.type):
        return values
    return pc.cast(values, pa.decimal256(values.type.precision, values.type.scale))


# --- the table ---------------------------------------------------------------------------------------------


def _arithmetic(name: str) -> dict[str, Variant]:
    fast_int = {
        "+": pc.add_checked,
        "-": pc.subtract_checked,
        "*": pc.multiply_checked,
        "/": pc.divide_checked,
        "%": _modulo_kernel,
    }[name]
    slow_int: Callable[[int, int], int] = {
        "+": lambda x, y: x + y,
        "-": lambda x, y: x - y,
        "*": lambda x, y: x * y,
        "/": _int_divide,
        "%": _int_modulo,
    }[name]
    variants = {}
    keys = list(_INTEGERS)
    for a in keys:
        for b in keys:
            if name == "%" and a != b:
                continue
            result = keys[max(keys.index(a), keys.index(b))]
            variants[f"{a},{b}"] = Variant(integer(fast_int, slow_int, a, b, result), fails=True)
    if name != "%":
        for a in ("float4", "float8"):
            for b in ("float4", "float8"):
                variants[f"{a},{b}"] = Variant(floating(name, a, b), fails=True)
    fast: dict[str, Callable[[Datum, Datum], pa.Array | None]] = {
        "+": _sum(pc.add),
        "-": _sum(pc.subtract),
        "*": _product,
        "/": division.divide,
    }
    slow = {
        "+": exact.add,
        "-": exact.subtract,
        "*": exact.multiply,
        "/": exact.divide,
        "%": exact.modulo,
    }[name]
    variants["numeric,numeric"] = Variant(numeric(fast.get(name), slow), fails=name in "/%")
    return variants


def unary(
    fast: Callable[[Any], pa.Array], slow: Callable[[int], int], exactly: Callable[[Decimal], Decimal]
) -> dict[str, Variant]:
    """A prefix operator or a function of one number that is exact in every type."""
    variants = {}
    for key in _INTEGERS:
        variants[key] = Variant(_unary_integer(fast, slow, key), fails=True)
    for key in ("float4", "float8"):
        variants[key] = Variant(lambda _rows, values: fast(values))
    by_decimal = row_kernel(exactly, [NUMERIC], NUMERIC)
    variants["numeric"] = Variant(
        lambda rows, values: fast(values) if pa.types.is_decimal(values.type) else by_decimal(rows, values)
    )
    return variants


def _unary_integer(fast: Callable[[Any], pa.Array], slow: Callable[[int], int], key: str) -> Kernel:
    exactly = row_kernel(lambda x: in_range(slow(x), key), [builtin(key)], builtin(key))

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        try:
            return fast(values)
        except pa.ArrowInvalid:
            return exactly(rows, values)

    return kernel


_MINUS = unary(pc.negate_checked, lambda x: -x, exact.negate)
#: `%`, which mod() is as well.
MODULO = _arithmetic("%")
_PLUS = {key: Variant(lambda _rows, values: values) for key in (*_INTEGERS, "float4", "float8", "numeric")}

SUPPORTED: tuple[Supported, ...] = (
    operator("+", "sum", "a + 1", {**_arithmetic("+"), **_PLUS}),
    operator("-", "difference, or the negative", "a - 1", {**_arithmetic("-"), **_MINUS}),
    operator("*", "product", "a * 2", _arithmetic("*")),
    operator("/", "quotient; of integers, what is left of the point", "a / 2", _arithmetic("/")),
    operator("%", "remainder, with the sign of the dividend", "a % 2", MODULO),
)
