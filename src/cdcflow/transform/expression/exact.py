"""numeric arithmetic as src/backend/utils/adt/numeric.c does it, on Python's Decimal: of any size, with
NaN and infinities, and with Postgres' display scale, which a Decimal's exponent carries.
"""

from decimal import ROUND_HALF_UP, Context, Decimal, DivisionByZero, Inexact, InvalidOperation, Overflow

from cdcflow.transform.expression.function import Fails

#: numeric.c: NUMERIC_MIN_SIG_DIGITS, NUMERIC_MAX_DISPLAY_SCALE, DEC_DIGITS, and the limits of the format.
MIN_SIGNIFICANT = 16
_MAX_DISPLAY_SCALE = 1000
BASE_DIGITS = 4
_MAX_SCALE = 16_383
_MAX_WEIGHT_DIGITS = 131_072

#: Wide enough for every result that Postgres' format has; libmpdec takes only the memory that a value needs.
CONTEXT = Context(
    prec=400_000, Emax=999_999, Emin=-999_999, traps=[InvalidOperation, DivisionByZero, Overflow, Inexact]
)
#: For quantizing, which is inexact on purpose.
LOOSE = Context(prec=400_000, Emax=999_999, Emin=-999_999, rounding=ROUND_HALF_UP, traps=[InvalidOperation])

NAN = Decimal("NaN")
INFINITY = Decimal("Infinity")
ZERO = Decimal(0)
OVERFLOW = "value overflows numeric format"
DIVISION_BY_ZERO = "division by zero"


def scale_of(value: Decimal) -> int:
    """The display scale: digits behind the point."""
    text = str(value)
    if "E" in text:
        text = format(value, "f")
    return len(text) - 1 - text.index(".") if "." in text else 0


def _digits(value: Decimal) -> tuple[int, int]:
    """The value without its point, and its scale; by way of the text, the fastest that Decimal offers."""
    text = str(value)
    if "E" in text:
        text = format(value, "f")
    whole, _, behind = text.partition(".")
    return int(whole + behind), len(behind)


def checked(value: Decimal) -> Decimal:
    """The value, if Postgres' format holds it."""
    if value.is_finite() and not value.is_zero() and value.adjusted() >= _MAX_WEIGHT_DIGITS:
        raise Fails(OVERFLOW)
    return value


def rounded(value: Decimal, scale: int) -> Decimal:
    """To that many digits behind the point (or before it), ties away from zero."""
    if not value.is_finite():
        return value
    result = value.quantize(Decimal(1).scaleb(-scale), context=LOOSE)
    return result if scale >= 0 else result.quantize(Decimal(1), context=LOOSE)


def is_special(a: Decimal, b: Decimal) -> bool:
    return not (a.is_finite() and b.is_finite())


def add(a: Decimal, b: Decimal) -> Decimal:
    if is_special(a, b):
        if a.is_nan() or b.is_nan() or (a.is_infinite() and b.is_infinite() and a != b):
            return NAN
        return a if a.is_infinite() else b
    return checked(CONTEXT.add(a, b))


def subtract(a: Decimal, b: Decimal) -> Decimal:
    return add(a, b.copy_negate())


def multiply(a: Decimal, b: Decimal) -> Decimal:
    if is_special(a, b):
        if a.is_nan() or b.is_nan() or a.is_zero() or b.is_zero():
            return NAN
        return INFINITY.copy_sign(Decimal(1) if a.is_signed() == b.is_signed() else Decimal(-1))
    product = CONTEXT.multiply(a, b)
    if scale_of(product) > _MAX_SCALE:
        product = rounded(product, _MAX_SCALE)
    return checked(product)


def divide(a: Decimal, b: Decimal) -> Decimal:
    if is_special(a, b):
        return _divide_special(a, b)
    if b.is_zero():
        raise Fails(DIVISION_BY_ZERO)
    (top, a_scale), (bottom, b_scale) = _digits(a), _digits(b)
    scale = division_scale(top, a_scale, bottom, b_scale)
    power = scale + b_scale - a_scale
    negative = (top < 0) != (bottom < 0)
    top, bottom = abs(top), abs(bottom)
    if power >= 0:
        top *= 10**power
    else:
        bottom *= 10**-power
    whole, rest = divmod(top, bottom)
    whole += 2 * rest >= bottom
    return checked(Decimal(-whole if negative else whole).scaleb(-scale, context=CONTEXT))


def _divide_special(a: Decimal, b: Decimal) -> Decimal:
    if a.is_nan() or b.is_nan() or (a.is_infinite() and b.is_infinite()):
        return NAN
    if b.is_infinite():
        return ZERO
    if b.is_zero():
        raise Fails(DIVISION_BY_ZERO)
    return a if not b.is_signed() else a.copy_negate()


def fraction(a: Decimal, b: Decimal) -> tuple[bool, int, int]:
    """a / b as (negative, numerator, denominator) of integers."""
    (top, a_scale), (bottom, b_scale) = _digits(a), _digits(b)
    return (top < 0) != (bottom < 0), abs(top) * 10**b_scale, abs(bottom) * 10**a_scale


def division_scale(a: int, a_scale: int, b: int, b_scale: int) -> int:
    """numeric.c, select_div_scale: at least 16 significant digits, and no fewer than the operands show.

    The operands are given without their point, each with its scale.
    """
    a_weight, a_first = leading(a, a_scale)
    b_weight, b_first = leading(b, b_scale)
    weight = a_weight - b_weight - (a_first <= b_first)
    scale = MIN_SIGNIFICANT - weight * BASE_DIGITS
    return min(max(scale, a_scale, b_scale, 0), _MAX_DISPLAY_SCALE)


def leading(value: int, scale: int) -> tuple[int, int]:
    """Weight and value of the first digit to the base 10000; zeros for zero."""
    if value == 0:
        return 0, 0
    digits = str(abs(value))
    magnitude = len(digits) - 1 - scale
    weight = magnitude // BASE_DIGITS
    # The first base-10000 digit has as many decimal ones as lie above its weight.
    return weight, int(digits.ljust(magnitude % BASE_DIGITS + 1, "0")[: magnitude % BASE_DIGITS + 1])


def modulo(a: Decimal, b: Decimal) -> Decimal:
    if is_special(a, b):
        if a.is_nan() or b.is_nan():
            return NAN
        if a.is_infinite():
            if b.is_zero():
                raise Fails(DIVISION_BY_ZERO)
            return NAN
        return a
    if b.is_zero():
        raise Fails(DIVISION_BY_ZERO)
    scale = max(scale_of(a), scale_of(b))
    return rounded(CONTEXT.remainder(a, b), scale)


def negate(a: Decimal) -> Decimal:
    return a.copy_negate()


def absolute(a: Decimal) -> Decimal:
    return a.copy_abs()


def sort_key(a: Decimal) -> tuple[int, Decimal]:
    """NaN equals itself and is greater than everything."""
    return (1, ZERO) if a.is_nan() else (0, a)


def trimmed(a: Decimal) -> Decimal:
    """Without the zeros at the end behind the point."""
    if not a.is_finite():
        return a
    short = a.normalize(CONTEXT)
    exponent = short.as_tuple().exponent
    assert isinstance(exponent, int)
    return short if exponent <= 0 else short.quantize(Decimal(1), context=CONTEXT)
