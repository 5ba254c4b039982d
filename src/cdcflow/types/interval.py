"""interval: months, days and microseconds, each with a sign of its own.

JSON is ISO 8601 as Postgres writes it under `IntervalStyle=iso_8601`. Arrow is text that names the three
parts, which DuckDB's cast reads exactly: its cast refuses Postgres' own text, and Arrow's interval type
counts nanoseconds, which hold 292 years where Postgres' microseconds hold 292,000.
"""

import re
from dataclasses import dataclass

import pyarrow as pa

from cdcflow.types.base import Family, Known, PgType, by_value

#: PostgreSQL 17 and later.
_INFINITE = frozenset({"infinity", "-infinity"})

_TEXT = re.compile(
    r"(?:([+-]?\d+) years? ?)?(?:([+-]?\d+) mons? ?)?(?:([+-]?\d+) days? ?)?"
    r"(?:([+-]?)(\d+):(\d\d):(\d\d)(?:\.(\d{1,6}))?)?"
)


def parts(text: str) -> tuple[int, int, int]:
    """(months, days, microseconds) of Postgres' text. Raises ValueError for anything else."""
    match = _TEXT.fullmatch(text)
    if match is None or not text:
        raise ValueError("not an interval")
    years, months, days, sign, hours, minutes, seconds, fraction = match.groups()
    micros = 0
    if hours is not None:
        whole = (int(hours) * 60 + int(minutes)) * 60 + int(seconds)
        micros = whole * 1_000_000 + int((fraction or "").ljust(6, "0"))
        micros = -micros if sign == "-" else micros
    return int(years or 0) * 12 + int(months or 0), int(days or 0), micros


def iso(text: str) -> str:
    """`1 year -2 days +03:00:00.5` → `P1Y-2DT3H0.5S`; infinities stay as they are."""
    if text in _INFINITE:
        return text
    months, days, micros = parts(text)
    years, months = _toward_zero(months, 12)
    hours, micros = _toward_zero(micros, 3_600_000_000)
    minutes, micros = _toward_zero(micros, 60_000_000)
    date = "".join(f"{n}{unit}" for n, unit in ((years, "Y"), (months, "M"), (days, "D")) if n)
    time = "".join(f"{n}{unit}" for n, unit in ((hours, "H"), (minutes, "M")) if n)
    if micros:
        seconds, fraction = divmod(abs(micros), 1_000_000)
        point = f".{fraction:06}".rstrip("0") if fraction else ""
        time += f"{'-' if micros < 0 else ''}{seconds}{point}S"
    if not date and not time:
        return "PT0S"
    return f"P{date}T{time}" if time else f"P{date}"


def _toward_zero(value: int, unit: int) -> tuple[int, int]:
    quotient, rest = divmod(abs(value), unit)
    return (-quotient, -rest) if value < 0 else (quotient, rest)


@dataclass(frozen=True)
class Interval(PgType):
    """interval, whatever its fields and precision."""

    @classmethod
    def of(cls) -> "Interval":
        return cls("interval", pa.string(), "INTERVAL")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return by_value(values, self._three_parts, self.arrow)

    def _three_parts(self, text: str) -> str:
        if text in _INFINITE:
            raise self.misfit("an infinity")
        months, days, micros = parts(text)
        # In two parts, since DuckDB reads a number before it applies the sign, and the least
        # microsecond count of 64 bits has no positive twin.
        hours, micros = _toward_zero(micros, 3_600_000_000)
        return f"{months} months {days} days {hours} hours {micros} microseconds"

    def json(self, text: str) -> object:
        return iso(text)


FAMILY = Family(
    "Interval",
    (Known("interval", Interval.of(), "1 year -2 days +03:00:00.5", 1186, 1187),),
    notes="""\
Months, days and microseconds stay apart, each with its sign. JSON is ISO 8601 as Postgres writes it under
`IntervalStyle = iso_8601`. ±infinity (PostgreSQL 17) is a string in JSON, and stops a flow to the warehouse,
whose `INTERVAL` has none.""",
)
