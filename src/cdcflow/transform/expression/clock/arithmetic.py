"""Sums and differences of dates, moments and intervals, and an interval several times."""

from collections.abc import Callable

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import exact
from cdcflow.transform.expression.casts import date_to_moment
from cdcflow.transform.expression.clock.limits import MICRO, infinite_day, is_infinite, toward_zero
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
from cdcflow.transform.expression.moments import DAY, civil_from_days
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.reading import FIRST_DAY, LAST_DAY, moment_in_range
from cdcflow.transform.expression.spans import in_range, span, span_text
from cdcflow.transform.expression.sqltype import INTERVAL
from cdcflow.types.datetime import days_from_civil


def shifted_months(days: int, months: int) -> int:
    """The day that many months later; the last of the month where there is no such day."""
    year, month, day = civil_from_days(days)
    index = year * 12 + month - 1 + months
    year, month = index // 12, index % 12 + 1
    return days_from_civil(year, month, min(day, month_length(year, month)))


def month_length(year: int, month: int) -> int:
    if month == 2:
        return 29 if year % 4 == 0 and (year % 100 != 0 or year % 400 == 0) else 28
    return 30 if month in (4, 6, 9, 11) else 31


def add_span(micros: int, text: str, sign: int = 1) -> int:
    """timestamp.c, timestamp_pl_interval: months, then days, then the time."""
    if is_infinite(micros):
        span(text)
        return micros
    months, day_count, rest = span(text)
    days, time = divmod(micros, DAY)
    if months:
        days = shifted_months(days, sign * months)
        moment_in_range(days * DAY + time)
    return moment_in_range((days + sign * day_count) * DAY + time + sign * rest)


def _date_plus(days: int, count: int) -> int:
    if infinite_day(days):
        return days
    if not FIRST_DAY <= days + count <= LAST_DAY:
        raise Fails("date out of range")
    return days + count


def _date_minus_date(a: int, b: int) -> int:
    if infinite_day(a) or infinite_day(b):
        raise Fails("cannot subtract infinite dates")
    return a - b


def _difference(a: int, b: int) -> str:
    """timestamp.c, timestamp_mi: whole days and the time that is left."""
    if is_infinite(a) or is_infinite(b):
        # An infinite interval since PostgreSQL 17, an error before.
        raise Fails("the difference of infinite timestamps is not supported here")
    days, rest = toward_zero(a - b, DAY)
    if not -(2**63) <= a - b < 2**63:
        raise Fails("interval out of range")
    return span_text((0, days, rest))


def _time_plus(micros: int, text: str, sign: int) -> int:
    return (micros + sign * span(text)[2]) % DAY


def _sum(a: str, b: str, sign: int = 1) -> str:
    x, y = span(a), span(b)
    return span_text(in_range(*(p + sign * q for p, q in zip(x, y, strict=True))))


def _negative(text: str) -> str:
    months, days, micros = span(text)
    return span_text(in_range(-months, -days, -micros))


def _date_time(days: int, micros: int) -> int:
    return date_to_moment(days) if infinite_day(days) else moment_in_range(date_to_moment(days) + micros)


def _plus_constant(sign: int) -> Callable[[Bound, Bound], Kernel]:
    """A moment and an interval: with a constant of days and time only, and no infinity, one addition."""

    def bind(moment: Bound, interval: Bound) -> Kernel:
        exactly = row_kernel(lambda m, i: add_span(m, i, sign), [moment.type, INTERVAL], moment.type)
        if interval.constant is None:
            return exactly
        months, days, micros = span(constant_value(interval))
        step = sign * (days * DAY + micros)
        if months or abs(step) > 2**60:
            return exactly

        def kernel(rows: Rows, values: Datum, spans: Datum) -> pa.Array:
            raw = as_array(values, rows.count).view(pa.int64())
            bounds = pc.min_max(raw)
            low, high = bounds["min"].as_py(), bounds["max"].as_py()
            if low is not None and (low < -(2**57) or high > 2**57):
                return exactly(rows, values, spans)
            return pc.add(raw, step).view(values.type)

        return kernel

    return bind


def _swapped(variant: Variant) -> Variant:
    bind = variant.bind
    if bind is not None:

        def bound(left: Bound, right: Bound) -> Kernel:
            kernel = bind(right, left)
            return lambda rows, a, b: kernel(rows, b, a)

        return Variant(bind=bound, fails=variant.fails)
    inner = variant.kernel
    assert inner is not None
    return Variant(lambda rows, a, b: inner(rows, b, a), fails=variant.fails)


def _by_date(function: Callable[[int, str], int]) -> Callable[[int, str], int]:
    return lambda days, text: function(date_to_moment(days), text)


def _scaled(text: str, factor: float) -> str:
    """timestamp.c, interval_mul: fractions of months go to days (of 30 a month), those of days to the
    time."""
    if factor != factor or abs(factor) == float("inf"):
        # An infinite interval since PostgreSQL 17, an error before.
        raise Fails("the factor of an interval is not supported here")
    months, days, micros = span(text)
    new_months = _int32(months * factor)
    new_days = _int32(days * factor)
    month_days = _rounded6((months * factor - new_months) * 30)
    seconds = _rounded6((days * factor - new_days + month_days - int(month_days)) * 86_400)
    if abs(seconds) >= 86_400:
        extra = int(seconds / 86_400)
        new_days += extra
        seconds -= extra * 86_400
    new_days += int(month_days)
    time = _int64(micros * factor + seconds * MICRO)
    return span_text(in_range(new_months, new_days, time))


def _int32(value: float) -> int:
    if not -(2.0**31) <= value < 2.0**31:
        raise Fails("interval out of range")
    return int(value)


def _int64(value: float) -> int:
    if not -(2.0**63) <= value < 2.0**63:
        raise Fails("interval out of range")
    return round(value)


def _rounded6(value: float) -> float:
    """TSROUND: to the microsecond."""
    return float(round(value * 1_000_000.0)) / 1_000_000.0


def _divided(text: str, divisor: float) -> str:
    if divisor == 0:
        raise Fails(exact.DIVISION_BY_ZERO)
    if divisor != divisor or abs(divisor) == float("inf"):
        raise Fails("the divisor of an interval is not supported here")
    months, days, micros = span(text)
    new_months = _int32(months / divisor)
    new_days = _int32(days / divisor)
    month_days = _rounded6((months / divisor - new_months) * 30)
    seconds = _rounded6((days / divisor - new_days + month_days - int(month_days)) * 86_400)
    if abs(seconds) >= 86_400:
        extra = int(seconds / 86_400)
        new_days += extra
        seconds -= extra * 86_400
    new_days += int(month_days)
    time = _int64(micros / divisor + seconds * MICRO)
    return span_text(in_range(new_months, new_days, time))


_PLUS = {
    key: Variant(bind=_plus_constant(1), fails=True) for key in ("timestamp,interval", "timestamptz,interval")
}
_DATE_PLUS = by_row(_date_plus, "date,int4", "date", fails=True)
_DATE_SPAN = by_row(_by_date(add_span), "date,interval", "timestamp", fails=True)
_TIME_PLUS = by_row(lambda m, t: _time_plus(m, t, 1), "time,interval", "time", fails=True)
_DATE_TIME = by_row(_date_time, "date,time", "timestamp", fails=True)
_TIMES = by_row(_scaled, "interval,float8", "interval", fails=True)

SUPPORTED: tuple[Supported, ...] = (
    operator(
        "+",
        "a date and days, or a moment and an interval",
        "created_at + interval '1 day'",
        {
            **_PLUS,
            "interval,timestamp": _swapped(_PLUS["timestamp,interval"]),
            "interval,timestamptz": _swapped(_PLUS["timestamptz,interval"]),
            "date,int4": _DATE_PLUS,
            "int4,date": _swapped(_DATE_PLUS),
            "date,interval": _DATE_SPAN,
            "interval,date": _swapped(_DATE_SPAN),
            "time,interval": _TIME_PLUS,
            "interval,time": _swapped(_TIME_PLUS),
            "date,time": _DATE_TIME,
            "time,date": _swapped(_DATE_TIME),
            "interval,interval": by_row(_sum, "interval,interval", "interval", fails=True),
        },
    ),
    operator(
        "-",
        "the difference of dates or moments, or an earlier one",
        "now() - created_at",
        {
            "timestamp,interval": Variant(bind=_plus_constant(-1), fails=True),
            "timestamptz,interval": Variant(bind=_plus_constant(-1), fails=True),
            "date,int4": by_row(lambda d, n: _date_plus(d, -n), "date,int4", "date", fails=True),
            "date,date": by_row(_date_minus_date, "date,date", "int4", fails=True),
            "date,interval": by_row(
                _by_date(lambda m, t: add_span(m, t, -1)), "date,interval", "timestamp", fails=True
            ),
            "timestamp,timestamp": by_row(_difference, "timestamp,timestamp", "interval", fails=True),
            "timestamptz,timestamptz": by_row(_difference, "timestamptz,timestamptz", "interval", fails=True),
            "time,time": by_row(lambda a, b: span_text((0, 0, a - b)), "time,time", "interval"),
            "time,interval": by_row(lambda m, t: _time_plus(m, t, -1), "time,interval", "time", fails=True),
            "interval,interval": by_row(
                lambda a, b: _sum(a, b, -1), "interval,interval", "interval", fails=True
            ),
            "interval": by_row(_negative, "interval", "interval", fails=True),
        },
    ),
    operator(
        "*",
        "an interval several times",
        "interval '1 hour' * hours",
        {"interval,float8": _TIMES, "float8,interval": _swapped(_TIMES)},
    ),
    operator(
        "/",
        "a part of an interval",
        "interval '1 day' / 2",
        {"interval,float8": by_row(_divided, "interval,float8", "interval", fails=True)},
    ),
)
