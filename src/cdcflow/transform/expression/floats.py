"""The text of float4 and float8 as Postgres writes it: the shortest digits that read back as the same
value, with an exponent below 1e-4 and from 1e6 (float4) or 1e15 (float8) on (src/common/f2s.c and
d2s.c)."""

import math
import struct
from fractions import Fraction

import pyarrow as pa
import pyarrow.compute as pc

_FLOAT4_DIGITS, _FLOAT8_DIGITS = 6, 15
#: Arrow writes numbers of this form as Postgres does.
_SAME = r"^-?(?:0|[1-9]\d{0,4}|[1-9]\d{0,4}\.\d+|0\.0{0,2}[1-9]\d*)$"


def write_float4(values: pa.Array) -> pa.StringArray:
    return _write(values, _FLOAT4_DIGITS)


def write_float8(values: pa.Array) -> pa.StringArray:
    return _write(values, _FLOAT8_DIGITS)


def _write(values: pa.Array, digits: int) -> pa.StringArray:
    # Arrow finds the same shortest digits below 2^53 (2^24), but puts the exponent elsewhere.
    texts = pc.cast(values, pa.string())
    same = pc.match_substring_regex(texts, _SAME)
    if pc.all(same, min_count=0).as_py():
        return texts
    narrow = digits == _FLOAT4_DIGITS
    limit = 2.0**24 if narrow else 2.0**53
    written = [
        None
        if value is None
        else _form(_large(value, narrow) if limit <= abs(value) < math.inf else text, digits)
        for value, text in zip(values.to_pylist(), texts.to_pylist(), strict=True)
    ]
    return pa.array(written, pa.string())


def _large(value: float, narrow: bool) -> str:
    """The shortest digits of a number from 2^53 (2^24) on, where half-way between two floats can be a short
    decimal. Postgres does not take that for either of them (d2s.c, acceptBounds), unlike Arrow and Python."""
    below, above = _neighbours(value, narrow)
    exact = Fraction(value)
    low = (Fraction(below) + exact) / 2 if math.isfinite(below) else exact - (Fraction(above) - exact) / 2
    high = (exact + Fraction(above)) / 2 if math.isfinite(above) else exact + (exact - Fraction(below)) / 2
    for precision in range(18):
        text = f"{value:.{precision}e}"
        if low < Fraction(text) < high:
            return text
    return repr(value)


def _neighbours(value: float, narrow: bool) -> tuple[float, float]:
    if not narrow:
        return math.nextafter(value, -math.inf), math.nextafter(value, math.inf)
    (bits,) = struct.unpack("<i", struct.pack("<f", value))
    step = 1 if value > 0 else -1

    def of(bits: int) -> float:
        (found,) = struct.unpack("<f", struct.pack("<i", bits))
        return float(found)

    return of(bits - step), of(bits + step)


_WORDS = {"nan": "NaN", "-nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _form(text: str, digits: int) -> str:
    """Postgres' form of a number that is written in any other."""
    if text in _WORDS:
        return _WORDS[text]
    sign = "-" if text.startswith("-") else ""
    mantissa, _, exponent = text.lstrip("-").partition("e")
    whole, _, fraction = mantissa.partition(".")
    all_digits = (whole + fraction).lstrip("0")
    if not all_digits:
        return f"{sign}0"
    # The number is 0.D1D2D3… times 10^point.
    point = len(whole) + int(exponent or 0) - (len(whole + fraction) - len(all_digits))
    all_digits = all_digits.rstrip("0")
    power = point - 1
    if power < -4 or power >= digits:
        rest = f".{all_digits[1:]}" if len(all_digits) > 1 else ""
        return f"{sign}{all_digits[0]}{rest}e{'-' if power < 0 else '+'}{abs(power):02}"
    if point <= 0:
        return f"{sign}0.{'0' * -point}{all_digits}"
    if len(all_digits) <= point:
        return f"{sign}{all_digits.ljust(point, '0')}"
    return f"{sign}{all_digits[:point]}.{all_digits[point:]}"
