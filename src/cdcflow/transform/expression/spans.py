"""Intervals: months, days and microseconds, each with a sign of its own; as Postgres writes and compares
them."""

import re
from functools import lru_cache

from cdcflow.transform.expression.function import Fails
from cdcflow.types.interval import parts

#: (months, days, microseconds). The infinities of PostgreSQL 17 are not computed with.
Span = tuple[int, int, int]

_DAY = 86_400_000_000
_INT4 = 2**31
_INT8 = 2**63
_INFINITE = ("infinity", "-infinity")


@lru_cache(maxsize=4096)
def span(text: str) -> Span:
    """Of Postgres' own text."""
    if text in _INFINITE:
        raise Fails("infinite intervals are not supported here")
    return parts(text)


def in_range(months: int, days: int, micros: int) -> Span:
    if not (-_INT4 <= months < _INT4 and -_INT4 <= days < _INT4 and -_INT8 <= micros < _INT8):
        raise Fails("interval out of range")
    return months, days, micros


def span_text(value: Span) -> str:
    """datetime.c, EncodeInterval with IntervalStyle postgres."""
    months, days, micros = value
    year, month = _toward_zero(months, 12)
    hour, rest = _toward_zero(micros, 3_600_000_000)
    minute, rest = _toward_zero(rest, 60_000_000)
    second, fraction = _toward_zero(rest, 1_000_000)
    pieces: list[str] = []
    negative_before = False
    for number, unit in ((year, "year"), (month, "mon"), (days, "day")):
        if number:
            sign = "+" if negative_before and number > 0 else ""
            pieces.append(f"{sign}{number} {unit}{'' if number == 1 else 's'}")
            negative_before = number < 0
    if not pieces or hour or minute or second or fraction:
        minus = micros < 0
        sign = "-" if minus else "+" if negative_before else ""
        point = f".{abs(fraction):06}".rstrip("0") if fraction else ""
        pieces.append(f"{sign}{abs(hour):02}:{abs(minute):02}:{abs(second):02}{point}")
    return " ".join(pieces)


def _toward_zero(value: int, unit: int) -> tuple[int, int]:
    quotient, rest = divmod(abs(value), unit)
    return (-quotient, -rest) if value < 0 else (quotient, rest)


def comparable(text: str) -> int:
    """timestamp.c, interval_cmp_value: a month has 30 days, a day 24 hours."""
    if text in _INFINITE:
        return (1 if text[0] == "i" else -1) * 2**200
    months, days, micros = span(text)
    return (months * 30 + days) * _DAY + micros


_UNITS: dict[str, tuple[str, int]] = {}
for _names, _part, _factor in (
    ("microsecond microseconds us usec usecs", "us", 1),
    ("millisecond milliseconds ms msec msecs", "us", 1000),
    ("second seconds sec secs s", "us", 1_000_000),
    ("minute minutes min mins m", "us", 60_000_000),
    ("hour hours hr hrs h", "us", 3_600_000_000),
    ("day days d", "day", 1),
    ("week weeks w", "day", 7),
    ("month months mon mons", "month", 1),
    ("year years yr yrs y", "month", 12),
    ("decade decades", "month", 120),
    ("century centuries", "month", 1200),
):
    for _name in _names.split():
        _UNITS[_name] = (_part, _factor)

_WORD = re.compile(
    r"\s*(?:([+-]?)(\d+):(\d\d)(?::(\d\d)(?:\.(\d{1,6}))?)?(?![\d:.])"
    r"|([+-]?\d+)(?:\.(\d{1,6}))?\s*([a-z]+)|(ago)\s*$)",
    re.IGNORECASE | re.ASCII,
)


def read_interval(text: str) -> str:
    """`1 year -2 days +03:00:00.5`, `90 minutes`, `1.5 hours ago`. A fraction is taken of days and less.

    Raises Fails for other forms; Postgres has more of them.
    """
    months = days = micros = 0
    at, end = 0, len(text.rstrip())
    seen_time = False
    if not text.strip():
        raise Fails("invalid input syntax for type interval")
    if text.strip().lower() in ("infinity", "-infinity", "+infinity"):
        raise Fails("infinite intervals are not supported here")
    while at < end:
        match = _WORD.match(text, at)
        if match is None:
            raise Fails("the text is not an interval of a form like 1 day 02:03:04")
        sign, hours, minutes, seconds, fraction, number, point, unit, ago = match.groups()
        at = match.end()
        if ago is not None:
            months, days, micros = -months, -days, -micros
        elif hours is not None:
            if seen_time or int(minutes) > 59 or int(seconds or 0) > 59:
                raise Fails("the text is not an interval of a form like 1 day 02:03:04")
            seen_time = True
            value = ((int(hours) * 60 + int(minutes)) * 60 + int(seconds or 0)) * 1_000_000
            value += int((fraction or "").ljust(6, "0"))
            micros += -value if sign == "-" else value
        else:
            if unit.lower() not in _UNITS:
                raise Fails("invalid input syntax for type interval")
            part, factor = _UNITS[unit.lower()]
            whole = int(number)
            parts_of_million = int((point or "").ljust(6, "0")) * (-1 if number.startswith("-") else 1)
            if parts_of_million and part != "us" and unit.lower() not in ("day", "days", "d"):
                raise Fails("a fraction of a week, month or year is not supported: write it in smaller units")
            if part == "us":
                micros += whole * factor + parts_of_million * factor // 1_000_000
            elif part == "day":
                days += whole * factor
                micros += parts_of_million * _DAY // 1_000_000
            else:
                months += whole * factor
    return span_text(in_range(months, days, micros))
