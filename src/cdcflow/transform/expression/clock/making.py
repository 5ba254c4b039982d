"""Dates, times and moments made of numbers, and `now()`: the time at which the change was committed, so
that a replay gives the same again.
"""

import pyarrow as pa

from cdcflow.transform.expression.clock.limits import MICRO, OUT_OF_RANGE
from cdcflow.transform.expression.frame import Rows
from cdcflow.transform.expression.function import Fails, Supported, Variant, by_row
from cdcflow.transform.expression.moments import DAY
from cdcflow.transform.expression.reading import civil, moment_in_range
from cdcflow.types.datetime import INFINITE_MICROSECOND


def _make_date(year: int, month: int, day: int) -> int:
    if year == 0:
        raise Fails("date field value out of range")
    return civil(str(abs(year)), str(month), str(day), "BC" if year < 0 else None)


def _make_time(hour: int, minute: int, second: float) -> int:
    # datetime.c, float_time_overflows: seconds are rounded to microseconds before they are checked.
    part = round(second * MICRO) if abs(second) < 1e6 else -1
    if not (0 <= minute <= 59 and 0 <= part <= 60 * MICRO and 0 <= hour <= 24):
        raise Fails("time field value out of range")
    micros = (hour * 60 + minute) * 60 * MICRO + part
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
        raise Fails(OUT_OF_RANGE)
    # Counted from 2000, as Postgres does, so that the same is lost to rounding.
    shifted = (seconds - 946_684_800.0) * 1_000_000.0
    return moment_in_range(round(shifted) + 946_684_800 * MICRO)


def _commit_time(rows: Rows) -> pa.Array:
    return rows.meta("commit_time")


SUPPORTED: tuple[Supported, ...] = (
    Supported(
        "now",
        "when the change was committed, so that a replay gives the same; `current_timestamp` and the like",
        "now() - interval '7 days'",
        {"": Variant(_commit_time, stable=True)},
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
)
