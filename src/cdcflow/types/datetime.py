"""date, time, timestamp and timestamptz, without losing infinity, BC, years beyond 9999, or 24:00:00.

Arrow and DuckDB count the same units as Postgres (days; microseconds), so every value is its integer.
±infinity are the integers that DuckDB reserves for it. JSON is the text of Postgres' own `to_json`.
Ordinary rows go through Arrow's parser, which refuses all the others; those are read one by one.
"""

import re
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.types.base import Family, Known, PgType, by_kernel_or_value
from cdcflow.types.text import Text

#: DuckDB's `date_t::infinity()` and `timestamp_t::infinity()`; the negative of each is -infinity.
INFINITE_DAY = 2**31 - 1
INFINITE_MICROSECOND = 2**63 - 1

_DAY = 86_400_000_000

_DATE = r"(\d{4,7})-(\d\d)-(\d\d)"
_TIME = r"(\d\d):(\d\d):(\d\d)(?:\.(\d{1,6}))?"
_DATE_TEXT = re.compile(rf"{_DATE}( BC)?")
_TIME_TEXT = re.compile(_TIME)
# With TimeZone=UTC the offset is always +00.
_TIMESTAMP_TEXT = re.compile(rf"{_DATE} {_TIME}(?:\+00)?( BC)?")


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 1970-01-01 in the proleptic Gregorian calendar, any year (1 BC is 0).

    Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
    """
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month + (-3 if month > 2 else 9)) + 2) // 5 + day - 1
    day_of_era = year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year
    return era * 146_097 + day_of_era - 719_468


def _days(year: str, month: str, day: str, bc: str | None) -> int:
    return days_from_civil(1 - int(year) if bc else int(year), int(month), int(day))


def _micros(hour: str, minute: str, second: str, fraction: str | None) -> int:
    whole = (int(hour) * 60 + int(minute)) * 60 + int(second)
    return whole * 1_000_000 + int((fraction or "").ljust(6, "0"))


@dataclass(frozen=True)
class Date(PgType):
    """date: 4713 BC to 5874897 AD, and ±infinity. All of it fits DuckDB's DATE."""

    @classmethod
    def of(cls) -> "Date":
        return cls("date", pa.date32(), "DATE")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return by_kernel_or_value(
            values, r"^\d{4}-\d\d-\d\d$", lambda v: pc.cast(v, pa.date32()), self._exact
        )

    def _exact(self, text: str) -> int:
        if text in ("infinity", "-infinity"):
            return -INFINITE_DAY if text[0] == "-" else INFINITE_DAY
        match = _DATE_TEXT.fullmatch(text)
        if match is None:
            raise ValueError("not a date")
        return _days(*match.groups())

    def json(self, text: str) -> object:
        return text


@dataclass(frozen=True)
class Time(PgType):
    """time without time zone: 00:00:00 to 24:00:00."""

    @classmethod
    def of(cls) -> "Time":
        return cls("time", pa.time64("us"), "TIME")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return by_kernel_or_value(values, r"^(?:[01]\d|2[0-3]):\d\d:\d\d(?:\.\d+)?$", _cast_time, self._exact)

    def _exact(self, text: str) -> int:
        match = _TIME_TEXT.fullmatch(text)
        micros = _micros(*match.groups()) if match else -1
        if not 0 <= micros <= _DAY:
            raise ValueError("not a time")
        return micros

    def json(self, text: str) -> object:
        return text


def _cast_time(values: pa.StringArray) -> pa.Array:
    # Arrow has no cast from text to time, but to timestamp: read it as a moment of the first day.
    day = pc.binary_join_element_wise("1970-01-01", values, " ")
    return pc.cast(day, pa.timestamp("us")).view(pa.int64()).view(pa.time64("us"))


@dataclass(frozen=True)
class Timestamp(PgType):
    """timestamp and timestamptz: 4713 BC to 294247-01-10, and ±infinity.

    Postgres goes on to 294276, which is behind the last 64-bit microsecond since 1970: refused.
    """

    @classmethod
    def of(cls) -> "Timestamp":
        return cls("timestamp", pa.timestamp("us"), "TIMESTAMP")

    @classmethod
    def with_zone(cls) -> "Timestamp":
        return cls("timestamptz", pa.timestamp("us", "UTC"), "TIMESTAMP WITH TIME ZONE")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return by_kernel_or_value(
            values,
            r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(?:\.\d+)?(?:\+00)?$",
            lambda v: pc.cast(v, self.arrow),
            self._exact,
        )

    def _exact(self, text: str) -> int:
        if text in ("infinity", "-infinity"):
            return -INFINITE_MICROSECOND if text[0] == "-" else INFINITE_MICROSECOND
        match = _TIMESTAMP_TEXT.fullmatch(text)
        if match is None:
            raise ValueError("not a timestamp in UTC")
        year, month, day, hour, minute, second, fraction, bc = match.groups()
        value = _days(year, month, day, bc) * _DAY + _micros(hour, minute, second, fraction)
        if abs(value) >= INFINITE_MICROSECOND:
            raise self.misfit("a moment after the year 294247")
        return value

    def json(self, text: str) -> object:
        """ISO 8601 with a T, and `+00:00` for timestamptz; `infinity` and ` BC` as Postgres has them."""
        stamp = text.replace(" ", "T", 1)
        return stamp.replace("+00", "+00:00", 1) if self.name == "timestamptz" else stamp


FAMILY = Family(
    "Dates and times",
    (
        Known("date", Date.of(), "0044-03-15 BC", 1082, 1182),
        Known("time", Time.of(), "24:00:00", 1083, 1183),
        # Neither Arrow nor DuckDB's Arrow form keeps its offset.
        Known("timetz", Text.of("timetz"), "18:18:44.5+05:30", 1266, 1270),
        Known("timestamp", Timestamp.of(), "2026-11-22 18:18:44.123456", 1114, 1115),
        Known("timestamptz", Timestamp.with_zone(), "2026-11-22 18:18:44.5+00", 1184, 1185),
    ),
    notes="""\
* Moments are in UTC, whatever the server's time zone. JSON is what Postgres' own `to_json` gives: ISO 8601,
  with `infinity`, `-infinity` and ` BC` as Postgres writes them.
* The warehouse has infinities, years BC and years beyond 9999 too. Moments after 294247-01-10 (Postgres goes
  on to 294276) stop the flow.""",
)
