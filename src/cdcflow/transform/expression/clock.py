"""Dates, times and moments: arithmetic, fields, truncation, ages, time zones. The session's time zone is
UTC, as in capture. `now()` is the time at which the change was committed, so that a replay gives the
same again.

A named zone is looked up in the time zone database of Python's `zoneinfo`; Postgres has one of its own,
which may be of another year.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Any
from zoneinfo import ZoneInfo

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import comparison, exact
from cdcflow.transform.expression.casts import date_to_moment
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Refused,
    Supported,
    Variant,
    by_row,
    constant_value,
    operator,
    row_kernel,
)
from cdcflow.transform.expression.moments import DAY, civil_from_days
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.reading import FIRST_DAY, LAST_DAY, civil, moment_in_range
from cdcflow.transform.expression.spans import comparable, in_range, span, span_text
from cdcflow.transform.expression.sqltype import BOOL, FLOAT8, INTERVAL, NUMERIC, builtin
from cdcflow.types.datetime import INFINITE_DAY, INFINITE_MICROSECOND, days_from_civil

_MICRO = 1_000_000
_HOUR = 3_600 * _MICRO
_OUT_OF_RANGE = "timestamp out of range"


def is_infinite(micros: int) -> bool:
    return abs(micros) >= INFINITE_MICROSECOND


def _infinite_day(days: int) -> bool:
    return abs(days) >= INFINITE_DAY


# --- arithmetic --------------------------------------------------------------------------------------------


def _shifted_months(days: int, months: int) -> int:
    """The day that many months later; the last of the month where there is no such day."""
    year, month, day = civil_from_days(days)
    index = year * 12 + month - 1 + months
    year, month = index // 12, index % 12 + 1
    return days_from_civil(year, month, min(day, _month_length(year, month)))


def _month_length(year: int, month: int) -> int:
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
        days = _shifted_months(days, sign * months)
        moment_in_range(days * DAY + time)
    return moment_in_range((days + sign * day_count) * DAY + time + sign * rest)


def _date_plus(days: int, count: int) -> int:
    if _infinite_day(days):
        return days
    if not FIRST_DAY <= days + count <= LAST_DAY:
        raise Fails("date out of range")
    return days + count


def _date_minus_date(a: int, b: int) -> int:
    if _infinite_day(a) or _infinite_day(b):
        raise Fails("cannot subtract infinite dates")
    return a - b


def _difference(a: int, b: int) -> str:
    """timestamp.c, timestamp_mi: whole days and the time that is left."""
    if is_infinite(a) or is_infinite(b):
        # An infinite interval since PostgreSQL 17, an error before.
        raise Fails("the difference of infinite timestamps is not supported here")
    days, rest = _toward_zero(a - b, DAY)
    if not -(2**63) <= a - b < 2**63:
        raise Fails("interval out of range")
    return span_text((0, days, rest))


def _toward_zero(value: int, unit: int) -> tuple[int, int]:
    quotient, rest = divmod(abs(value), unit)
    return (-quotient, -rest) if value < 0 else (quotient, rest)


def _time_plus(micros: int, text: str, sign: int) -> int:
    return (micros + sign * span(text)[2]) % DAY


def _sum(a: str, b: str, sign: int = 1) -> str:
    x, y = span(a), span(b)
    return span_text(in_range(*(p + sign * q for p, q in zip(x, y, strict=True))))


def _negative(text: str) -> str:
    months, days, micros = span(text)
    return span_text(in_range(-months, -days, -micros))


def _date_time(days: int, micros: int) -> int:
    return date_to_moment(days) if _infinite_day(days) else moment_in_range(date_to_moment(days) + micros)


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
    time = _int64(micros * factor + seconds * _MICRO)
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
    time = _int64(micros / divisor + seconds * _MICRO)
    return span_text(in_range(new_months, new_days, time))


# --- fields ------------------------------------------------------------------------------------------------

#: datetime.c, deltatktbl: the names of units and what they are.
_UNIT_NAMES: dict[str, str] = {}
for _names, _meaning in (
    ("microsecond microseconds us usec usecs", "microseconds"),
    ("millisecond milliseconds ms msec msecs", "milliseconds"),
    ("second seconds sec secs s", "second"),
    ("minute minutes min mins m", "minute"),
    ("hour hours hr hrs h", "hour"),
    ("day days d", "day"),
    ("week weeks w", "week"),
    ("month months mon mons", "month"),
    ("quarter qtr", "quarter"),
    ("year years yr yrs y", "year"),
    ("decade decades", "decade"),
    ("century centuries c", "century"),
    ("millennium millennia", "millennium"),
    ("epoch", "epoch"),
    ("dow", "dow"),
    ("isodow", "isodow"),
    ("doy", "doy"),
    ("isoyear", "isoyear"),
):
    for _name in _names.split():
        _UNIT_NAMES[_name] = _meaning

_OF_TIME = ("microseconds", "milliseconds", "second", "minute", "hour", "epoch")
_OF_DATE = (
    "day",
    "week",
    "month",
    "quarter",
    "year",
    "decade",
    "century",
    "millennium",
    "epoch",
    "dow",
    "isodow",
    "doy",
    "isoyear",
)
#: Fields of ±infinity are ±infinity where they grow, else NULL (timestamp.c, NonFiniteTimestampTzPart).
_GROWING = ("year", "decade", "century", "millennium", "isoyear", "epoch")


def _unit(argument: Bound, allowed: tuple[str, ...]) -> str:
    if argument.constant is None:
        raise Refused("the field must be a constant here")
    name = str(constant_value(argument)).lower()
    unit = _UNIT_NAMES.get(name)
    if unit is None or unit not in allowed:
        raise Refused(f"the field {name} is not supported here", hint=f"one of {', '.join(allowed)}")
    return unit


def iso_week(days: int) -> tuple[int, int]:
    """ISO year and week."""
    thursday = days - (days + 3) % 7 + 3
    year, _, _ = civil_from_days(thursday)
    return year, (thursday - days_from_civil(year, 1, 1)) // 7 + 1


def date_field(days: int, unit: str) -> int:
    year, month, day = civil_from_days(days)
    match unit:
        case "day":
            return day
        case "month":
            return month
        case "quarter":
            return (month - 1) // 3 + 1
        case "year":
            # There is no year 0: 1 BC is -1.
            return year if year > 0 else year - 1
        case "decade":
            return year // 10
        case "century":
            return (year + 99) // 100 if year > 0 else -((99 - (year - 1)) // 100)
        case "millennium":
            return (year + 999) // 1000 if year > 0 else -((999 - (year - 1)) // 1000)
        case "dow":
            return (days + 4) % 7
        case "isodow":
            return (days + 3) % 7 + 1
        case "doy":
            return days - days_from_civil(year, 1, 1) + 1
        case "week":
            return iso_week(days)[1]
        case _:
            iso = iso_week(days)[0]
            return iso if iso > 0 else iso - 1


def _time_field(micros: int, unit: str) -> Decimal:
    """Of a time of the day, as extract gives it: with six digits for seconds, three for milliseconds."""
    match unit:
        case "hour":
            return Decimal(micros // _HOUR)
        case "minute":
            return Decimal(micros // (60 * _MICRO) % 60)
        case "second":
            return Decimal(micros % (60 * _MICRO)).scaleb(-6)
        case "milliseconds":
            return Decimal(micros % (60 * _MICRO)).scaleb(-3)
        case _:
            return Decimal(micros % (60 * _MICRO))


def _field_of_moment(unit: str) -> Callable[[int], Decimal | None]:
    def read(micros: int) -> Decimal | None:
        if is_infinite(micros):
            return exact.INFINITY.copy_sign(Decimal(micros)) if unit in _GROWING else None
        if unit == "epoch":
            return Decimal(micros).scaleb(-6)
        days, time = divmod(micros, DAY)
        return _time_field(time, unit) if unit in _OF_TIME else Decimal(date_field(days, unit))

    return read


def _field_of_date(unit: str) -> Callable[[int], Decimal | None]:
    def read(days: int) -> Decimal | None:
        if _infinite_day(days):
            return exact.INFINITY.copy_sign(Decimal(days)) if unit in _GROWING else None
        return Decimal(days * 86_400) if unit == "epoch" else Decimal(date_field(days, unit))

    return read


def _field_of_time(unit: str) -> Callable[[int], Decimal | None]:
    def read(micros: int) -> Decimal | None:
        return Decimal(micros).scaleb(-6) if unit == "epoch" else _time_field(micros, unit)

    return read


def _field_of_span(unit: str) -> Callable[[str], Decimal | None]:
    def read(text: str) -> Decimal | None:
        months, days, micros = span(text)
        match unit:
            case "day":
                return Decimal(days)
            case "month":
                return Decimal(_toward_zero(months, 12)[1])
            case "year":
                return Decimal(_toward_zero(months, 12)[0])
            case "quarter":
                raise Fails("the quarter of an interval is not supported here")
            case "hour":
                return Decimal(_toward_zero(micros, _HOUR)[0])
            case "minute":
                return Decimal(_toward_zero(_toward_zero(micros, 60 * _MICRO)[0], 60)[1])
            case "second":
                return Decimal(_toward_zero(micros, 60 * _MICRO)[1]).scaleb(-6)
            case "milliseconds":
                return Decimal(_toward_zero(micros, 60 * _MICRO)[1]).scaleb(-3)
            case "microseconds":
                return Decimal(_toward_zero(micros, 60 * _MICRO)[1])
        # A year has 365.25 days here, and a month 30 (timestamp.c, interval_part_common).
        years, rest = _toward_zero(months, 12)
        seconds = (years * 1461 * 21_600 * _MICRO) + (rest * 30 + days) * DAY + micros
        return Decimal(seconds).scaleb(-6)

    return read


_FIELDS: dict[str, tuple[tuple[str, ...], Callable[[str], Callable[[Any], Decimal | None]]]] = {
    "date": (_OF_DATE, _field_of_date),
    "time": (_OF_TIME, _field_of_time),
    "timestamp": (tuple(dict.fromkeys((*_OF_DATE, *_OF_TIME))), _field_of_moment),
    "timestamptz": (tuple(dict.fromkeys((*_OF_DATE, *_OF_TIME))), _field_of_moment),
    "interval": (("day", "month", "year", *_OF_TIME), _field_of_span),
}


def _extract(key: str) -> Variant:
    allowed, field = _FIELDS[key]

    def bind(unit: Bound, _value: Bound) -> Kernel:
        read = field(_unit(unit, allowed))
        kernel = row_kernel(read, [builtin(key)], NUMERIC)
        return lambda rows, _unit, values: kernel(rows, values)

    return Variant(bind=bind, fails=key == "interval", immutable=key != "timestamptz")


def _seconds(found: Decimal) -> float:
    """As Postgres adds them up (timestamp.c, DTK_SECOND), which is not always the nearest float."""
    whole, micros = _toward_zero(int(found.scaleb(6)), _MICRO)
    return whole + micros / 1_000_000.0


def _milliseconds(found: Decimal) -> float:
    """As `_seconds` (DTK_MILLISEC)."""
    whole, micros = _toward_zero(int(found.scaleb(3)), _MICRO)
    return whole * 1000.0 + micros / 1000.0


_FLOATS: dict[str, Callable[[Decimal], float]] = {"second": _seconds, "milliseconds": _milliseconds}


def _date_part(key: str) -> Variant:
    """The same as a float. Of a date, by way of its timestamp."""
    allowed, field = _FIELDS["timestamp" if key == "date" else key]

    def bind(unit: Bound, _value: Bound) -> Kernel:
        name = _unit(unit, allowed)
        read, to_float = field(name), _FLOATS.get(name, float)

        def as_float(value: Any) -> float | None:
            found = read(date_to_moment(value) if key == "date" else value)
            return None if found is None else to_float(found)

        kernel = row_kernel(as_float, [builtin(key)], FLOAT8)
        return lambda rows, _unit, values: kernel(rows, values)

    return Variant(bind=bind, fails=True, immutable=key != "timestamptz")


# --- truncation --------------------------------------------------------------------------------------------

_STEPS = {
    "microseconds": 1,
    "milliseconds": 1000,
    "second": _MICRO,
    "minute": 60 * _MICRO,
    "hour": _HOUR,
    "day": DAY,
}
_TRUNCATED = (*_STEPS, "week", "month", "quarter", "year", "decade", "century", "millennium")


def _truncated(micros: int, unit: str) -> int:
    if is_infinite(micros):
        return micros
    step = _STEPS.get(unit)
    if step is not None:
        return moment_in_range(micros // step * step)
    days = micros // DAY
    year, month, _ = civil_from_days(days)
    match unit:
        case "week":
            days -= (days + 3) % 7
        case "month":
            days = days_from_civil(year, month, 1)
        case "quarter":
            days = days_from_civil(year, (month - 1) // 3 * 3 + 1, 1)
        case "year":
            days = days_from_civil(year, 1, 1)
        case "decade":
            days = days_from_civil(year // 10 * 10, 1, 1)
        case "century":
            first = (year + 99) // 100 * 100 - 99 if year > 0 else -((99 - (year - 1)) // 100 * 100) + 1
            days = days_from_civil(first, 1, 1)
        case _:
            first = (
                (year + 999) // 1000 * 1000 - 999 if year > 0 else -((999 - (year - 1)) // 1000 * 1000) + 1
            )
            days = days_from_civil(first, 1, 1)
    return moment_in_range(days * DAY)


def _date_trunc(key: str) -> Variant:
    kind = builtin(key)

    def bind(unit: Bound, _value: Bound) -> Kernel:
        name = _unit(unit, _TRUNCATED)
        exactly = row_kernel(lambda micros: _truncated(micros, name), [kind], kind)
        step = _STEPS.get(name)

        def kernel(rows: Rows, _unit: Datum, values: Datum) -> pa.Array:
            raw = as_array(values, rows.count).view(pa.int64())
            low = pc.min(raw).as_py()
            if step is None or low is None or low < 0 or pc.max(raw).as_py() >= INFINITE_MICROSECOND:
                return exactly(rows, values)
            return pc.multiply(pc.divide(raw, step), step).view(values.type)

        return kernel

    return Variant(bind=bind, fails=True)


def _trunc_span(text: str, unit: str) -> str:
    months, days, micros = span(text)
    match unit:
        case "microseconds":
            pass
        case "day":
            micros = 0
        case "month" | "quarter" | "year" | "decade" | "century" | "millennium":
            days = micros = 0
            size = {
                "month": 1,
                "quarter": 3,
                "year": 12,
                "decade": 120,
                "century": 1200,
                "millennium": 12_000,
            }[unit]
            years, rest = _toward_zero(months, 12)
            if unit in ("month", "quarter"):
                months = years * 12 + _toward_zero(rest, size)[0] * size
            else:
                months = _toward_zero(months, size)[0] * size
        case _:
            micros = _toward_zero(micros, _STEPS[unit])[0] * _STEPS[unit]
    return span_text((months, days, micros))


def _date_trunc_span(unit: Bound, _value: Bound) -> Kernel:
    name = _unit(unit, tuple(u for u in _TRUNCATED if u != "week"))
    kernel = row_kernel(lambda text: _trunc_span(text, name), [INTERVAL], INTERVAL)
    return lambda rows, _unit, values: kernel(rows, values)


# --- age ---------------------------------------------------------------------------------------------------


def _age(a: int, b: int) -> str:
    """timestamp.c, timestamp_age: years, months, days and time, field by field."""
    if is_infinite(a) or is_infinite(b):
        raise Fails("the age of an infinite timestamp is not supported here")
    sign = 1
    later, earlier = a, b
    if a < b:
        sign, later, earlier = -1, b, a
    late_days, late_time = divmod(later, DAY)
    early_days, early_time = divmod(earlier, DAY)
    y1, m1, d1 = civil_from_days(late_days)
    y2, m2, d2 = civil_from_days(early_days)
    time = late_time - early_time
    days, months, years = d1 - d2, m1 - m2, y1 - y2
    if time < 0:
        time += DAY
        days -= 1
    while days < 0:
        days += _month_length(y2, m2)
        months -= 1
    if months < 0:
        months += 12
        years -= 1
    return span_text((sign * (years * 12 + months), sign * days, sign * time))


# --- time zones --------------------------------------------------------------------------------------------

_ABBREVIATIONS = frozenset({"utc", "gmt", "z", "zulu", "ut"})
_SECOND_1970 = datetime(1970, 1, 1, tzinfo=UTC)
#: Where Python's datetime ends.
_FIRST_KNOWN, _LAST_KNOWN = -62_135_596_800 * _MICRO + DAY * 2, 253_402_300_800 * _MICRO - DAY * 2


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo | None:
    """The zone, or None for UTC."""
    if name.lower() in _ABBREVIATIONS:
        return None
    if "/" not in name:
        raise Refused(
            f"the time zone {name!r} is not supported", hint="write UTC or a name such as Europe/Berlin"
        )
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):
        raise Refused(f"the time zone {name!r} is not known") from None


def _named(argument: Bound) -> ZoneInfo | None:
    if argument.constant is None:
        raise Refused("the time zone must be a constant here")
    return _zone(constant_value(argument))


def _offset_of_moment(micros: int, zone: ZoneInfo) -> int:
    """Microseconds east of UTC at a moment."""
    if not _FIRST_KNOWN <= micros <= _LAST_KNOWN:
        raise Fails("a time zone is not supported for years before 1 or after 9999")
    moment = _SECOND_1970 + timedelta(microseconds=micros)
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)


def _to_local(micros: int, zone: ZoneInfo) -> int:
    return micros if is_infinite(micros) else micros + _offset_of_moment(micros, zone)


def _from_local(micros: int, zone: ZoneInfo) -> int:
    """datetime.c, DetermineTimeZoneOffset: a time that is skipped or comes twice is taken as standard
    time, that is with the offset from before a gap and from behind an overlap."""
    if is_infinite(micros):
        return micros
    before = _offset_of_moment(micros - DAY, zone)
    after = _offset_of_moment(micros + DAY, zone)
    if before == after:
        middle = _offset_of_moment(micros - before, zone)
        return micros - middle
    first, second = micros - before, micros - after
    first_holds = _offset_of_moment(first, zone) == before
    second_holds = _offset_of_moment(second, zone) == after
    if first_holds and not second_holds:
        return first
    if second_holds and not first_holds:
        return second
    if first_holds:
        return second
    return first


def _timezone(source: str, target: str, convert: Callable[[int, ZoneInfo], int]) -> Variant:
    arrow = pa.timestamp("us", "UTC") if target == "timestamptz" else pa.timestamp("us")

    def bind(name: Bound, _value: Bound) -> Kernel:
        zone = _named(name)
        if zone is None:
            return lambda rows, _zone, values: as_array(values, rows.count).view(arrow)
        kernel = row_kernel(lambda micros: convert(micros, zone), [builtin(source)], builtin(target))
        return lambda rows, _zone, values: kernel(rows, values)

    return Variant(bind=bind, fails=True)


# --- making ------------------------------------------------------------------------------------------------


def _make_date(year: int, month: int, day: int) -> int:
    if year == 0:
        raise Fails("date field value out of range")
    return civil(str(abs(year)), str(month), str(day), "BC" if year < 0 else None)


def _make_time(hour: int, minute: int, second: float) -> int:
    # datetime.c, float_time_overflows: seconds are rounded to microseconds before they are checked.
    part = round(second * _MICRO) if abs(second) < 1e6 else -1
    if not (0 <= minute <= 59 and 0 <= part <= 60 * _MICRO and 0 <= hour <= 24):
        raise Fails("time field value out of range")
    micros = (hour * 60 + minute) * 60 * _MICRO + part
    if micros > DAY:
        raise Fails("time field value out of range")
    return micros


def _make_timestamp(year: int, month: int, day: int, hour: int, minute: int, second: float) -> int:
    return moment_in_range(_make_date(year, month, day) * DAY + _make_time(hour, minute, second))


def _to_timestamp(seconds: float) -> int:
    if seconds != seconds:
        raise Fails("timestamp cannot be NaN")
    if abs(seconds) == float("inf"):
        return INFINITE_MICROSECOND if seconds > 0 else -INFINITE_MICROSECOND
    if not -210_866_803_200 <= seconds < 9_224_318_016_000:
        raise Fails(_OUT_OF_RANGE)
    # Counted from 2000, as Postgres does, so that the same is lost to rounding.
    shifted = (seconds - 946_684_800.0) * 1_000_000.0
    return moment_in_range(round(shifted) + 946_684_800 * _MICRO)


def _justify(hours: bool, days: bool) -> Callable[[str], str]:
    def justify(text: str) -> str:
        months, day_count, micros = span(text)
        if hours:
            extra, micros = _toward_zero(micros, DAY)
            day_count += extra
        if days:
            extra, day_count = _toward_zero(day_count, 30)
            months += extra
        if days and hours:
            if months > 0 and (day_count < 0 or (day_count == 0 and micros < 0)):
                day_count += 30
                months -= 1
            elif months < 0 and (day_count > 0 or (day_count == 0 and micros > 0)):
                day_count -= 30
                months += 1
        elif days:
            if months > 0 and day_count < 0:
                day_count += 30
                months -= 1
            elif months < 0 and day_count > 0:
                day_count -= 30
                months += 1
        if hours:
            if day_count > 0 and micros < 0:
                micros += DAY
                day_count -= 1
            elif day_count < 0 and micros > 0:
                micros -= DAY
                day_count += 1
        return span_text(in_range(months, day_count, micros))

    return justify


def _commit_time(rows: Rows) -> pa.Array:
    return rows.meta("commit_time")


# --- comparison --------------------------------------------------------------------------------------------


def _between_kinds(name: str, left: str, right: str) -> Variant:
    """A date against a timestamp. A date beyond all timestamps is beyond them here as well."""
    compare = comparison.PYTHON[name]

    def value(of: int, key: str) -> int:
        if key != "date":
            return of
        if _infinite_day(of):
            return INFINITE_MICROSECOND if of > 0 else -INFINITE_MICROSECOND
        # Finite, however far: less than infinity.
        return min(of * DAY, INFINITE_MICROSECOND - 1)

    return by_row(lambda a, b: compare(value(a, left), value(b, right)), f"{left},{right}", "bool")


def _spans(name: str) -> Variant:
    compare = comparison.PYTHON[name]
    return Variant(row_kernel(lambda a, b: compare(comparable(a), comparable(b)), [INTERVAL, INTERVAL], BOOL))


def _comparisons(name: str) -> dict[str, Variant]:
    pairs = [("date", "timestamp"), ("date", "timestamptz"), ("timestamp", "date"), ("timestamptz", "date")]
    found = {f"{a},{b}": _between_kinds(name, a, b) for a, b in pairs}
    as_they_are = comparison.PYTHON[name]
    for a, b in (("timestamp", "timestamptz"), ("timestamptz", "timestamp")):
        found[f"{a},{b}"] = by_row(as_they_are, f"{a},{b}", "bool")
    return {**found, "interval,interval": _spans(name)}


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
    *(
        operator(
            name,
            "dates, moments and intervals with each other",
            f"created_at {name} '2026-01-01'",
            _comparisons(name),
        )
        for name in ("=", "<>", "<", "<=", ">", ">=")
    ),
    Supported(
        "now",
        "when the change was committed, so that a replay gives the same; `current_timestamp` and the like",
        "now() - interval '7 days'",
        {"": Variant(_commit_time, stable=True)},
    ),
    Supported(
        "date_trunc",
        "down to a unit",
        "date_trunc('month', created_at)",
        {
            "text,timestamp": _date_trunc("timestamp"),
            "text,timestamptz": _date_trunc("timestamptz"),
            "text,interval": Variant(bind=_date_trunc_span, fails=True),
        },
    ),
    Supported(
        "extract",
        "a field, as numeric",
        "extract(year from created_at)",
        {f"text,{key}": _extract(key) for key in _FIELDS},
    ),
    Supported(
        "date_part",
        "a field, as a float",
        "date_part('year', created_at)",
        {f"text,{key}": _date_part(key) for key in _FIELDS},
    ),
    Supported(
        "age",
        "years, months and days between two moments",
        "age(ended_at, started_at)",
        {
            "timestamp,timestamp": by_row(_age, "timestamp,timestamp", "interval", fails=True),
            "timestamptz,timestamptz": by_row(_age, "timestamptz,timestamptz", "interval", fails=True),
        },
    ),
    Supported(
        "timezone",
        "`at time zone`: UTC, or a name such as Europe/Berlin",
        "created_at at time zone 'Europe/Berlin'",
        {
            "text,timestamptz": _timezone("timestamptz", "timestamp", _to_local),
            "text,timestamp": _timezone("timestamp", "timestamptz", _from_local),
        },
    ),
    Supported(
        "make_date",
        "of year, month and day",
        "make_date(2026, 2, 28)",
        {"int4,int4,int4": by_row(_make_date, "int4,int4,int4", "date", fails=True)},
    ),
    Supported(
        "make_time",
        "of hour, minute and second",
        "make_time(8, 15, 23.5)",
        {"int4,int4,float8": by_row(_make_time, "int4,int4,float8", "time", fails=True)},
    ),
    Supported(
        "make_timestamp",
        "of all six",
        "make_timestamp(2026, 2, 28, 8, 15, 23.5)",
        {
            "int4,int4,int4,int4,int4,float8": by_row(
                _make_timestamp, "int4,int4,int4,int4,int4,float8", "timestamp", fails=True
            )
        },
    ),
    Supported(
        "to_timestamp",
        "of seconds since 1970",
        "to_timestamp(created_epoch)",
        {"float8": by_row(_to_timestamp, "float8", "timestamptz", fails=True)},
    ),
    Supported(
        "isfinite",
        "whether it is no infinity",
        "isfinite(valid_until)",
        {
            "date": by_row(lambda d: not _infinite_day(d), "date", "bool"),
            **{k: by_row(lambda m: not is_infinite(m), k, "bool") for k in ("timestamp", "timestamptz")},
        },
    ),
    Supported(
        "justify_hours",
        "24 hours as days",
        "justify_hours(waited)",
        {"interval": by_row(_justify(True, False), "interval", "interval", fails=True)},
    ),
    Supported(
        "justify_days",
        "30 days as months",
        "justify_days(waited)",
        {"interval": by_row(_justify(False, True), "interval", "interval", fails=True)},
    ),
    Supported(
        "justify_interval",
        "both",
        "justify_interval(waited)",
        {"interval": by_row(_justify(True, True), "interval", "interval", fails=True)},
    ),
)
