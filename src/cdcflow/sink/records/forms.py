"""Postgres text → the forms of values that JSON APIs have in common. Exactly or not at all: what has no form
raises `Unfit`, which names the field and never the value."""

import re
from collections.abc import Callable
from decimal import Decimal

import orjson

from cdcflow import types
from cdcflow.model import Column
from cdcflow.sink.records.collapse import Convert, Planned, Unfit
from cdcflow.types import PgType
from cdcflow.types.arrays import Array
from cdcflow.types.boolean import Boolean

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(?:\+00)?")


def matched(field: str, converter: Callable[[PgType], Convert]) -> Callable[[Column, int], Planned]:
    """The plan of the field that records are found by, which must have a value. `converter` raises ValueError
    where no value of a type fits it."""

    def plan(column: Column, index: int) -> Planned:
        convert = converter(types.of(column))
        missing = Unfit(
            f"{column.name} is NULL, and records are matched by {field}: give the row a value, or filter"
            " such rows out in the flow"
        )

        def given(text: str) -> str:
            value = str(convert(text))
            if not value.strip():
                raise Unfit(f"{column.name} is empty, and records are matched by {field}")
            return value

        return Planned(field, index, given, missing)

    return plan


def text_of(kind: PgType) -> Convert:
    """Text: as Postgres writes it, but booleans as `true` and `false`, and arrays as JSON."""
    if isinstance(kind, Boolean):
        return boolean
    if isinstance(kind, Array):
        convert = kind.converter("exact")
        return lambda text: orjson.dumps(convert(text)).decode()
    return str


def boolean(text: str) -> str:
    return "true" if text == "t" else "false"


def number(field: str, text: str) -> str:
    """All digits, without an exponent."""
    if not text[-1:].isdigit():
        raise Unfit(f"{field} is a number, and the value is NaN or infinite")
    return format(Decimal(text), "f") if "e" in text or "E" in text else text


def day(field: str, text: str) -> str:
    """`2026-11-24`."""
    if not _DATE.fullmatch(text):
        raise Unfit(f"{field} takes days from year 1 to 9999, and the value is none of them")
    return text


def moment(field: str, text: str) -> str:
    """`2026-11-24T10:00:00.123Z`: what is behind the milliseconds is cut off."""
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise Unfit(f"{field} takes moments from year 1 to 9999, and the value is none of them")
    date, time, fraction = match.groups()
    return f"{date}T{time}.{(fraction or '').ljust(3, '0')[:3]}Z"


def choices(field: str, values: object) -> str:
    """The values of an array with `;` between."""
    if not isinstance(values, list):
        raise Unfit(f"an array with bounds of its own is no choice of values for {field}")
    parts = []
    for value in values:
        if isinstance(value, bool):
            parts.append("true" if value else "false")
        elif isinstance(value, str | int | float) and ";" not in str(value) and value != "":
            parts.append(str(value))
        else:
            raise Unfit(
                f"an array for {field} holds NULL, an empty text, an array, or a text with a semicolon"
            )
    return ";".join(parts)
