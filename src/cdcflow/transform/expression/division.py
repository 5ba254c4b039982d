"""Division of numerics as numeric.c does it, by Arrow's decimals: for the operands that fit them.

A quotient's display scale follows from both operands' first digits, so rows differ in it. They are divided
scale by scale; `exact.divide` is what it must equal.
"""

from decimal import Decimal

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import exact
from cdcflow.transform.expression.conversion import WIDE, decimal_type, write_numeric
from cdcflow.transform.expression.frame import Datum

#: Digits behind the point that Arrow adds to a quotient of whole numbers, at least.
_ARROW_SCALE = 6


def divide(left: Datum, right: Datum) -> pa.Array | None:
    """The quotients of two decimals, of which one at least is a column: a decimal where all have one scale,
    else text. None where a divisor is zero or Arrow's decimals are too narrow."""
    if not all(isinstance(one, pa.Array) or one.is_valid for one in (left, right)):
        return None
    if pc.any(pc.equal(right, pa.scalar(Decimal(0), right.type)), min_count=0).as_py():
        return None
    scales = _scales(left, right)
    if isinstance(scales, pa.Scalar):
        return None
    wanted = [scale for scale in pc.unique(scales).to_pylist() if scale is not None]
    if not wanted:
        return pa.nulls(len(scales), pa.string())
    if len(wanted) == 1:
        return _at_scale(left, right, wanted[0])
    found = pa.nulls(len(scales), pa.string())
    for scale in wanted:
        mask = pc.fill_null(pc.equal(scales, scale), False)
        part = _at_scale(_where(left, mask), _where(right, mask), scale)
        if part is None:
            return None
        found = pc.replace_with_mask(found, mask, write_numeric(part))
    return found


def _where(values: Datum, mask: pa.BooleanArray) -> Datum:
    return values.filter(mask) if isinstance(values, pa.Array) else values


def _at_scale(left: Datum, right: Datum, scale: int) -> pa.Array | None:
    """The quotients with so many digits behind the point, ties away from zero."""
    power = scale + right.type.scale - left.type.scale
    precision = left.type.precision + power
    if precision + max(_ARROW_SCALE, right.type.precision + 1) > WIDE:
        return None
    top = _whole(left, pa.decimal256(precision, left.type.scale + power))
    bottom = _whole(right, pa.decimal256(right.type.precision, right.type.scale))
    # Arrow cuts digits off behind those that decide about rounding.
    whole = pc.round(pc.divide(top, bottom), 0, round_mode="half_towards_infinity")
    whole = pc.cast(whole, pa.decimal256(precision, 0))
    return pc.cast(_with_scale(whole, precision, scale), decimal_type(precision, scale))


def _whole(values: Datum, kind: pa.DataType) -> Datum:
    """Decimals of that type without their point."""
    if isinstance(values, pa.Scalar):
        return _with_scale(pa.repeat(values, 1).cast(kind), kind.precision, 0)[0]
    return _with_scale(values.cast(kind), kind.precision, 0)


def _with_scale(values: pa.Array, precision: int, scale: int) -> pa.Array:
    """The same digits with the point elsewhere."""
    return pa.Array.from_buffers(
        pa.decimal256(precision, scale), len(values), values.buffers(), offset=values.offset
    )


def _scales(left: Datum, right: Datum) -> Datum:
    """numeric.c, select_div_scale, as `exact.division_scale`; null where an operand is."""
    (a_weight, a_first), (b_weight, b_first) = _leading(left), _leading(right)
    weight = pc.subtract(
        pc.subtract(a_weight, b_weight), pc.cast(pc.less_equal(a_first, b_first), pa.int64())
    )
    least = max(left.type.scale, right.type.scale, 0)
    scale = pc.subtract(exact.MIN_SIGNIFICANT, pc.multiply(weight, exact.BASE_DIGITS))
    # Decimals have at most 76 digits: the largest display scale, 1000, is out of their reach.
    return pc.if_else(pc.less(scale, least), pa.scalar(least, pa.int64()), scale)


def _leading(values: Datum) -> tuple[Datum, Datum]:
    """Weight and value of each first digit to the base 10000, as `exact.leading`."""
    scale = values.type.scale
    if isinstance(values, pa.Scalar):
        weight, first = exact.leading(int(values.as_py().scaleb(scale, context=exact.CONTEXT)), scale)
        return pa.scalar(weight, pa.int64()), pa.scalar(first, pa.int64())
    kind = pa.decimal256(values.type.precision, scale)
    digits = pc.cast(pc.abs(_whole(values, kind)), pa.string())
    zero = pc.equal(digits, "0")
    magnitude = pc.cast(pc.subtract(pc.binary_length(digits), 1 + scale), pa.int64())
    behind = pc.bit_wise_and(magnitude, pa.scalar(3, pa.int64()))
    padded = pc.ascii_rpad(digits, 4, "0")
    firsts = [pc.cast(pc.utf8_slice_codeunits(padded, 0, size), pa.int64()) for size in (1, 2, 3, 4)]
    nothing = pa.scalar(0, pa.int64())
    weight = pc.shift_right(magnitude, pa.scalar(2, pa.int64()))
    return pc.if_else(zero, nothing, weight), pc.if_else(zero, nothing, pc.choose(behind, *firsts))
