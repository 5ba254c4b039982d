"""`extract` and `date_part`: the fields of dates, times, moments and intervals, and the names of units."""

from collections.abc import Callable
from decimal import Decimal
from typing import Any

from cdcflow.transform.expression import exact
from cdcflow.transform.expression.casts import date_to_moment
from cdcflow.transform.expression.clock.limits import HOUR, MICRO, infinite_day, is_infinite, toward_zero
from cdcflow.transform.expression.clock.units import unit_named
from cdcflow.transform.expression.function import Fails, Kernel, Supported, Variant, row_kernel
from cdcflow.transform.expression.moments import DAY, civil_from_days
from cdcflow.transform.expression.node import Bound
from cdcflow.transform.expression.spans import span
from cdcflow.transform.expression.sqltype import FLOAT8, NUMERIC, builtin
from cdcflow.types.datetime import days_from_civil

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
            return Decimal(micros // HOUR)
        case "minute":
            return Decimal(micros // (60 * MICRO) % 60)
        case "second":
            return Decimal(micros % (60 * MICRO)).scaleb(-6)
        case "milliseconds":
            return Decimal(micros % (60 * MICRO)).scaleb(-3)
        case _:
            return Decimal(micros % (60 * MICRO))


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
        if infinite_day(days):
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
                return Decimal(toward_zero(months, 12)[1])
            case "year":
                return Decimal(toward_zero(months, 12)[0])
            case "quarter":
                raise Fails("the quarter of an interval is not supported here")
            case "hour":
                return Decimal(toward_zero(micros, HOUR)[0])
            case "minute":
                return Decimal(toward_zero(toward_zero(micros, 60 * MICRO)[0], 60)[1])
            case "second":
                return Decimal(toward_zero(micros, 60 * MICRO)[1]).scaleb(-6)
            case "milliseconds":
                return Decimal(toward_zero(micros, 60 * MICRO)[1]).scaleb(-3)
            case "microseconds":
                return Decimal(toward_zero(micros, 60 * MICRO)[1])
        # A year has 365.25 days here, and a month 30 (timestamp.c, interval_part_common).
        years, rest = toward_zero(months, 12)
        seconds = (years * 1461 * 21_600 * MICRO) + (rest * 30 + days) * DAY + micros
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
        read = field(unit_named(unit, allowed))
        kernel = row_kernel(read, [builtin(key)], NUMERIC)
        return lambda rows, _unit, values: kernel(rows, values)

    return Variant(bind=bind, fails=key == "interval", immutable=key != "timestamptz")


def _seconds(found: Decimal) -> float:
    """As Postgres adds them up (timestamp.c, DTK_SECOND), which is not always the nearest float."""
    whole, micros = toward_zero(int(found.scaleb(6)), MICRO)
    return whole + micros / 1_000_000.0


def _milliseconds(found: Decimal) -> float:
    """As `_seconds` (DTK_MILLISEC)."""
    whole, micros = toward_zero(int(found.scaleb(3)), MICRO)
    return whole * 1000.0 + micros / 1000.0


_FLOATS: dict[str, Callable[[Decimal], float]] = {"second": _seconds, "milliseconds": _milliseconds}


def _date_part(key: str) -> Variant:
    """The same as a float. Of a date, by way of its timestamp."""
    allowed, field = _FIELDS["timestamp" if key == "date" else key]

    def bind(unit: Bound, _value: Bound) -> Kernel:
        name = unit_named(unit, allowed)
        read, to_float = field(name), _FLOATS.get(name, float)

        def as_float(value: Any) -> float | None:
            found = read(date_to_moment(value) if key == "date" else value)
            return None if found is None else to_float(found)

        kernel = row_kernel(as_float, [builtin(key)], FLOAT8)
        return lambda rows, _unit, values: kernel(rows, values)

    return Variant(bind=bind, fails=True, immutable=key != "timestamptz")


SUPPORTED: tuple[Supported, ...] = (
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
)
