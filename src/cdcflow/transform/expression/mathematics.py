"""Functions of numbers. What Postgres computes as a float by way of the C library (power, exp, ln …) is
not here:
its last digit depends on the machine."""

import math
from collections.abc import Callable
from decimal import ROUND_DOWN, Decimal
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import exact
from cdcflow.transform.expression.conversion import rescaled
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Supported,
    Variant,
    by_row,
    constant_value,
    operator,
    row_kernel,
)
from cdcflow.transform.expression.node import Bound
from cdcflow.transform.expression.numbers import MODULO, in_range, unary
from cdcflow.transform.expression.sqltype import INT4, NUMERIC

#: Up to here, all versions round and cut alike (numeric.c, NUMERIC_MAX_RESULT_SCALE).
_MAX_RESULT_SCALE = 2000


def _bounded(scale: int) -> int:
    if abs(scale) > _MAX_RESULT_SCALE:
        raise Fails(f"a scale beyond {_MAX_RESULT_SCALE} is not supported here")
    return scale


def _round(value: Decimal, scale: int) -> Decimal:
    if not value.is_finite():
        return value
    return exact.checked(exact.rounded(value, _bounded(scale)))


def _trunc(value: Decimal, scale: int) -> Decimal:
    if not value.is_finite():
        return value
    scale = _bounded(scale)
    cut = value.quantize(Decimal(1).scaleb(-scale), rounding=ROUND_DOWN, context=exact.LOOSE)
    return cut if scale >= 0 else cut.quantize(Decimal(1), context=exact.LOOSE)


def _ceil(value: Decimal) -> Decimal:
    return value if not value.is_finite() else Decimal(math.ceil(value))


def _floor(value: Decimal) -> Decimal:
    return value if not value.is_finite() else Decimal(math.floor(value))


def _to_scale(slow: Callable[[Decimal, int], Decimal], mode: str) -> Callable[..., Kernel]:
    """round(v, n) and trunc(v, n): Arrow's kernel where n is a constant that it can take."""
    exactly = row_kernel(slow, [NUMERIC, INT4], NUMERIC)

    def bind(_value: Bound, scale: Bound) -> Kernel:
        if scale.constant is None or not 0 <= constant_value(scale) <= 30:
            return exactly
        digits = constant_value(scale)

        def kernel(rows: Rows, values: Datum, scales: Datum) -> pa.Array:
            result = rescaled(values, digits, mode)
            return exactly(rows, values, scales) if result is None else result

        return kernel

    return bind


def _whole(slow: Callable[[Decimal], Decimal], mode: str) -> Variant:
    exactly = row_kernel(slow, [NUMERIC], NUMERIC)

    def kernel(rows: Rows, values: Datum) -> pa.Array:
        result = rescaled(values, 0, mode)
        return exactly(rows, values) if result is None else result

    return Variant(kernel)


def _floating(kernel: Callable[[Any], pa.Array]) -> Variant:
    return Variant(lambda _rows, values: kernel(values))


def _sign(value: Decimal) -> Decimal:
    if value.is_nan():
        return value
    return Decimal(0 if value.is_zero() else -1 if value.is_signed() else 1)


def _float_sign(value: float) -> float:
    return 0.0 if not value > 0 and not value < 0 else math.copysign(1.0, value)


def _div(a: Decimal, b: Decimal) -> Decimal:
    if exact.is_special(a, b):
        return exact.divide(a, b)
    if b.is_zero():
        raise Fails(exact.DIVISION_BY_ZERO)
    whole = int(_trunc_fraction(a, b))
    return Decimal(whole)


def _trunc_fraction(a: Decimal, b: Decimal) -> int:
    negative, top, bottom = exact.fraction(a, b)
    return -(top // bottom) if negative else top // bottom


def _gcd(key: str) -> Callable[[int, int], int]:
    return lambda a, b: in_range(math.gcd(a, b), key)


def _lcm(key: str) -> Callable[[int, int], int]:
    return lambda a, b: in_range(math.lcm(a, b), key)


def _sqrt_float(value: float) -> float:
    if value < 0:
        raise Fails("cannot take square root of a negative number")
    return math.sqrt(value)


def _sqrt(value: Decimal) -> Decimal:
    if not value.is_finite():
        if value.is_nan() or not value.is_signed():
            return value
        raise Fails("cannot take square root of a negative number")
    if value.is_signed() and not value.is_zero():
        raise Fails("cannot take square root of a negative number")
    # numeric.c, numeric_sqrt: at least 16 significant digits.
    weight = 0 if value.is_zero() else value.adjusted() // 4
    # C divides toward zero.
    half = int(weight * 4 / 2) + 1
    scale = min(max(16 - half, exact.scale_of(value), 0), 1000)
    digits = exact.scale_of(value)
    unscaled = int(value.scaleb(digits, context=exact.CONTEXT)) * 10 ** (2 * (scale + 1) + digits % 2)
    root = math.isqrt(unscaled)
    result = Decimal(root).scaleb(-(scale + 1) - (digits + 1) // 2, context=exact.CONTEXT)
    return exact.rounded(result, scale)


def _factorial(value: int) -> Decimal:
    if value < 0:
        raise Fails("factorial of a negative number is undefined")
    if value > 32_177:
        raise Fails(exact.OVERFLOW)
    if value > 2_000:
        raise Fails("factorials above 2000 are not supported here")
    return Decimal(math.factorial(value))


def _min_scale(value: Decimal) -> int | None:
    return exact.scale_of(exact.trimmed(value)) if value.is_finite() else None


def _scale(value: Decimal) -> int | None:
    return exact.scale_of(value) if value.is_finite() else None


SUPPORTED: tuple[Supported, ...] = (
    Supported("abs", "without its sign", "abs(balance)", unary(pc.abs_checked, abs, exact.absolute)),
    operator("@", "without its sign", "@ balance", unary(pc.abs_checked, abs, exact.absolute)),
    Supported(
        "round",
        "to the nearest: numeric away from zero where there are two, floats to the even one",
        "round(amount * 0.92, 2)",
        {
            "numeric,int4": Variant(
                bind=_to_scale(_round, "half_towards_infinity"), fails=True, fails_by_constant=False
            ),
            "numeric": _whole(lambda v: _round(v, 0), "half_towards_infinity"),
            "float8": _floating(lambda v: pc.round(v, 0, round_mode="half_to_even")),
        },
    ),
    Supported(
        "trunc",
        "without the digits behind",
        "trunc(amount, 1)",
        {
            "numeric,int4": Variant(
                bind=_to_scale(_trunc, "towards_zero"), fails=True, fails_by_constant=False
            ),
            "numeric": _whole(lambda v: _trunc(v, 0), "towards_zero"),
            "float8": _floating(pc.trunc),
        },
    ),
    Supported(
        "ceil",
        "the next integer above",
        "ceil(amount)",
        {"numeric": _whole(_ceil, "up"), "float8": _floating(pc.ceil)},
    ),
    Supported(
        "floor",
        "the next integer below",
        "floor(amount)",
        {"numeric": _whole(_floor, "down"), "float8": _floating(pc.floor)},
    ),
    Supported(
        "sign",
        "-1, 0 or 1",
        "sign(balance)",
        {"numeric": by_row(_sign, "numeric", "numeric"), "float8": by_row(_float_sign, "float8", "float8")},
    ),
    Supported(
        "mod",
        "remainder, as `%`",
        "mod(id, 10)",
        MODULO,
    ),
    Supported(
        "div",
        "quotient without what is left of the point",
        "div(amount, 3)",
        {"numeric,numeric": by_row(_div, "numeric,numeric", "numeric", fails=True)},
    ),
    Supported(
        "gcd",
        "greatest common divisor",
        "gcd(a, b)",
        {f"{k},{k}": by_row(_gcd(k), f"{k},{k}", k, fails=True) for k in ("int4", "int8")},
    ),
    Supported(
        "lcm",
        "least common multiple",
        "lcm(a, b)",
        {f"{k},{k}": by_row(_lcm(k), f"{k},{k}", k, fails=True) for k in ("int4", "int8")},
    ),
    Supported(
        "sqrt",
        "square root",
        "sqrt(area)",
        {
            "numeric": by_row(_sqrt, "numeric", "numeric", fails=True),
            "float8": by_row(_sqrt_float, "float8", "float8", fails=True),
        },
    ),
    Supported(
        "factorial",
        "1 × 2 × … × n",
        "factorial(5)",
        {"int8": by_row(_factorial, "int8", "numeric", fails=True)},
    ),
    Supported(
        "scale", "digits behind the point", "scale(amount)", {"numeric": by_row(_scale, "numeric", "int4")}
    ),
    Supported(
        "min_scale",
        "digits behind the point that are needed",
        "min_scale(amount)",
        {"numeric": by_row(_min_scale, "numeric", "int4")},
    ),
    Supported(
        "trim_scale",
        "without zeros at the end",
        "trim_scale(amount)",
        {"numeric": by_row(exact.trimmed, "numeric", "numeric")},
    ),
)
