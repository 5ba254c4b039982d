"""Postgres text → the value that a Salesforce field takes, exactly or not at all.

Types of fields: developer.salesforce.com/docs/atlas.en-us.api.meta/api/field_types.htm.

* text, picklists and others: any type. Arrays become JSON, booleans `true` and `false`.
* multipicklist: arrays, joined with `;`, or text.
* int, double, currency, percent: numbers, with all their digits. Salesforce itself keeps at most 18.
* boolean: booleans, and never NULL: a checkbox is one or the other.
* date: dates. datetime: timestamptz, timestamp (taken for UTC) and date; milliseconds, the rest is cut off.
* time: times. reference, id: text. A parent by external ID takes what its field takes as text.

NULL empties a field (or is skipped, as the flow says). An empty text empties it too.
"""

import re
from collections.abc import Callable
from decimal import Decimal

import orjson

from cdcflow import types
from cdcflow.model import Column
from cdcflow.sink.records import SKIP, Planned, Unfit
from cdcflow.sink.records.mapping import Nulls
from cdcflow.types import PgType
from cdcflow.types.arrays import Array
from cdcflow.types.boolean import Boolean
from cdcflow.types.datetime import Date, Time, Timestamp
from cdcflow.types.numbers import Float, Integer, Numeric
from cdcflow_sinks.salesforce.describe import FieldInfo

Convert = Callable[[str], object]

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(?:\+00)?")
_TIME = re.compile(r"((?:[01]\d|2[0-3]):\d\d:\d\d)(?:\.(\d{1,6}))?")
_NUMBERS = frozenset({"int", "double", "currency", "percent"})


class Digits(str):
    """A number with all its digits: JSON writes it without quotes."""


def planned(found: FieldInfo, nulls: Nulls, name: str = "") -> Callable[[Column, int], Planned]:
    """How values of a column become values of a field (called `name`, if not by its own name). What it
    returns raises ValueError when none can."""

    def plan(column: Column, index: int) -> Planned:
        null: object = None if nulls == "clear" else SKIP
        if null is None and found.type == "boolean":
            null = Unfit(
                f"{column.name} is NULL, and {found.name} is a checkbox, which is never empty: give it a"
                " default in the flow, or set `nulls: skip`"
            )
        return Planned(name or found.name, index, converter(found, types.of(column)), null)

    return plan


def matched(found: FieldInfo) -> Callable[[Column, int], Planned]:
    """The same for the external ID, which must have a value."""

    def plan(column: Column, index: int) -> Planned:
        convert = converter(found, types.of(column))
        missing = Unfit(
            f"{column.name} is NULL, and records are matched by {found.name}: give the row a value, or filter"
            " such rows out in the flow"
        )

        def given(text: str) -> str:
            value = str(convert(text))
            if not value.strip():
                raise Unfit(f"{column.name} is empty, and records are matched by {found.name}")
            return value

        return Planned(found.name, index, given, missing)

    return plan


def converter(found: FieldInfo, kind: PgType) -> Convert:
    """Raises ValueError where no value of the type fits the field."""
    if found.type in _NUMBERS:
        if isinstance(kind, Integer):
            return Digits
        if isinstance(kind, Float | Numeric) and found.type != "int":
            return lambda text: _number(found, text)
    elif found.type == "boolean":
        if isinstance(kind, Boolean):
            return lambda text: text == "t"
    elif found.type == "date":
        if isinstance(kind, Date):
            return lambda text: _date(found, text)
        if isinstance(kind, Timestamp):
            raise ValueError(
                f"a {kind.name} has a time of day, and {found.name} is a date: make the column a date"
            )
    elif found.type == "datetime":
        if isinstance(kind, Date):
            return lambda text: f"{_date(found, text)}T00:00:00.000Z"
        if isinstance(kind, Timestamp):
            return lambda text: _moment(found, text)
    elif found.type == "time":
        if isinstance(kind, Time):
            return lambda text: _time(found, text)
    elif found.type == "base64":
        raise ValueError(f"{found.name} holds a file, which cannot be mapped")
    elif found.type == "multipicklist" and isinstance(kind, Array):
        elements = kind.converter("safe")
        return lambda text: _choices(found, elements(text))
    else:
        return _text(kind)
    raise ValueError(f"{found.name} is a {found.type}, and the column is {kind.name}")


def _text(kind: PgType) -> Convert:
    if isinstance(kind, Boolean):
        return lambda text: "true" if text == "t" else "false"
    if isinstance(kind, Array):
        convert = kind.converter("exact")
        return lambda text: orjson.dumps(convert(text)).decode()
    return str


def _choices(found: FieldInfo, values: object) -> str:
    if not isinstance(values, list):
        raise Unfit(f"an array with bounds of its own is no choice of values for {found.name}")
    if any(not isinstance(one, str | int) or ";" in str(one) or one == "" for one in values):
        raise Unfit(
            f"an array for {found.name} holds NULL, an empty text, an array, or a text with a semicolon"
        )
    return ";".join(str(one) for one in values)


def _number(found: FieldInfo, text: str) -> Digits:
    if not text[-1:].isdigit():
        raise Unfit(f"{found.name} is a number, and the value is NaN or infinite")
    return Digits(format(Decimal(text), "f") if "e" in text or "E" in text else text)


def _date(found: FieldInfo, text: str) -> str:
    if not _DATE.fullmatch(text):
        raise Unfit(f"{found.name} takes days from year 1 to 9999, and the value is none of them")
    return text


def _moment(found: FieldInfo, text: str) -> str:
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise Unfit(f"{found.name} takes moments from year 1 to 9999, and the value is none of them")
    day, time, fraction = match.groups()
    return f"{day}T{time}.{(fraction or '').ljust(3, '0')[:3]}Z"


def _time(found: FieldInfo, text: str) -> str:
    match = _TIME.fullmatch(text)
    if match is None:
        raise Unfit(f"{found.name} takes times before 24:00, and the value is none")
    time, fraction = match.groups()
    return f"{time}.{(fraction or '').ljust(3, '0')[:3]}Z"
