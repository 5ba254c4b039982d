"""Postgres text → the text that a HubSpot property takes, exactly or not at all.

HubSpot's values are strings, whatever the property's type
(developers.hubspot.com/docs/api-reference/crm-properties-v3/guide, "Property type and fieldType values"):

* string, phone_number and others: any type. Arrays become JSON, booleans `true` and `false`.
* number: numbers, with all their digits and without an exponent.
* bool: booleans.
* date: dates, as `2026-11-24`.
* datetime: timestamptz, timestamp (taken for UTC) and date, as ISO 8601 in UTC. HubSpot keeps milliseconds;
  what is behind them is cut off.
* enumeration: text, enums, numbers, booleans; arrays where the property has checkboxes, with `;` between.

An empty string clears a property ("To clear a value, send an empty string"): '' and NULL are the same there.
Whether an option exists is for HubSpot to say: somebody may add it while a flow runs.
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
from cdcflow.types.datetime import Date, Timestamp
from cdcflow.types.numbers import Float, Integer, Numeric
from cdcflow_sinks.hubspot.describe import Property

Text = Callable[[str], str]

_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"(\d{4}-\d\d-\d\d) (\d\d:\d\d:\d\d)(?:\.(\d{1,6}))?(?:\+00)?")


def planned(found: Property, nulls: Nulls) -> Callable[[Column, int], Planned]:
    """How values of a column become values of a property. What it returns raises ValueError when none can."""

    def plan(column: Column, index: int) -> Planned:
        null: object = "" if nulls == "clear" else SKIP
        return Planned(found.name, index, converter(found, types.of(column)), null)

    return plan


def matched(found: Property) -> Callable[[Column, int], Planned]:
    """The same for the property that records are found by, which must have a value."""

    def plan(column: Column, index: int) -> Planned:
        convert = converter(found, types.of(column))
        missing = Unfit(
            f"{column.name} is NULL, and records are matched by {found.name}: give the row a value, or filter"
            " such rows out in the flow"
        )

        def given(text: str) -> str:
            value = convert(text)
            if not value.strip():
                raise Unfit(f"{column.name} is empty, and records are matched by {found.name}")
            return value

        return Planned(found.name, index, given, missing)

    return plan


def converter(found: Property, kind: PgType) -> Text:
    """Raises ValueError where no value of the type fits the property."""
    match found.type:
        case "number":
            if isinstance(kind, Integer):
                return str
            if isinstance(kind, Float | Numeric):
                return lambda text: _number(found, text)
        case "bool":
            if isinstance(kind, Boolean):
                return _boolean
        case "date":
            if isinstance(kind, Date):
                return lambda text: _date(found, text)
            if isinstance(kind, Timestamp):
                raise ValueError(
                    f"a {kind.name} has a time of day, and {found.name} is a date without one: make the"
                    " column a date, or map it to a property with date and time"
                )
        case "datetime":
            if isinstance(kind, Date):
                return lambda text: _date(found, text)
            if isinstance(kind, Timestamp):
                return lambda text: _moment(found, text)
        case "enumeration":
            return _option(found, kind)
        case _:
            return _text(kind)
    raise ValueError(f"{found.name} is a {found.type}, and the column is {kind.name}")


def _text(kind: PgType) -> Text:
    if isinstance(kind, Boolean):
        return _boolean
    if isinstance(kind, Array):
        convert = kind.converter("exact")
        return lambda text: orjson.dumps(convert(text)).decode()
    return str


def _option(found: Property, kind: PgType) -> Text:
    if isinstance(kind, Array):
        if not found.multiple:
            raise ValueError(f"{found.name} takes one option, and the column is {kind.name}")
        elements = kind.converter("safe")
        return lambda text: _options(found, elements(text))
    if isinstance(kind, Boolean):
        return _boolean
    return lambda text: _one_option(found, text)


def _one_option(found: Property, text: str) -> str:
    if found.multiple and text.startswith(";"):
        # "Add a semicolon before the first value": that appends, and by retries and replays it would not be
        # the row's state.
        raise Unfit(f"a value for {found.name} begins with a semicolon, which would add to what is there")
    return text


def _options(found: Property, values: object) -> str:
    if not isinstance(values, list):
        raise Unfit(f"an array with bounds of its own is no choice of options for {found.name}")
    parts = []
    for value in values:
        if isinstance(value, bool):
            parts.append("true" if value else "false")
        elif isinstance(value, str | int | float) and ";" not in str(value) and value != "":
            parts.append(str(value))
        else:
            raise Unfit(
                f"an array for {found.name} holds NULL, an empty text, an array, or a text with a semicolon"
            )
    return ";".join(parts)


def _boolean(text: str) -> str:
    return "true" if text == "t" else "false"


def _number(found: Property, text: str) -> str:
    if not text[-1:].isdigit():
        raise Unfit(f"{found.name} is a number, and the value is NaN or infinite")
    return format(Decimal(text), "f") if "e" in text or "E" in text else text


def _date(found: Property, text: str) -> str:
    if not _DATE.fullmatch(text):
        raise Unfit(f"{found.name} takes days from year 1 to 9999, and the value is none of them")
    return text


def _moment(found: Property, text: str) -> str:
    match = _MOMENT.fullmatch(text)
    if match is None:
        raise Unfit(f"{found.name} takes moments from year 1 to 9999, and the value is none of them")
    day, time, fraction = match.groups()
    return f"{day}T{time}.{(fraction or '').ljust(3, '0')[:3]}Z"
