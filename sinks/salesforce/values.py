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
from functools import partial

from cdcflow import types
from cdcflow.model import Column
from cdcflow.sink.records import SKIP, Convert, Planned, Unfit, forms
from cdcflow.sink.records.mapping import Nulls
from cdcflow.types import PgType
from cdcflow.types.arrays import Array
from cdcflow.types.boolean import Boolean
from cdcflow.types.datetime import Date, Time, Timestamp
from cdcflow.types.numbers import Float, Integer, Numeric
from cdcflow_sinks.salesforce.describe import FieldInfo

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
    return forms.matched(found.name, partial(converter, found))


def converter(found: FieldInfo, kind: PgType) -> Convert:
    """Raises ValueError where no value of the type fits the field."""
    if found.type in _NUMBERS:
        if isinstance(kind, Integer):
            return Digits
        if isinstance(kind, Float | Numeric) and found.type != "int":
            return lambda text: Digits(forms.number(found.name, text))
    elif found.type == "boolean":
        if isinstance(kind, Boolean):
            return lambda text: text == "t"
    elif found.type == "date":
        if isinstance(kind, Date):
            return partial(forms.day, found.name)
        if isinstance(kind, Timestamp):
            raise ValueError(
                f"a {kind.name} has a time of day, and {found.name} is a date: make the column a date"
            )
    elif found.type == "datetime":
        if isinstance(kind, Date):
            return lambda text: f"{forms.day(found.name, text)}T00:00:00.000Z"
        if isinstance(kind, Timestamp):
            return partial(forms.moment, found.name)
    elif found.type == "time":
        if isinstance(kind, Time):
            return lambda text: _time(found, text)
    elif found.type == "base64":
        raise ValueError(f"{found.name} holds a file, which cannot be mapped")
    elif found.type == "multipicklist" and isinstance(kind, Array):
        elements = kind.converter("safe")
        return lambda text: forms.choices(found.name, elements(text))
    else:
        return forms.text_of(kind)
    raise ValueError(f"{found.name} is a {found.type}, and the column is {kind.name}")


def _time(found: FieldInfo, text: str) -> str:
    match = _TIME.fullmatch(text)
    if match is None:
        raise Unfit(f"{found.name} takes times before 24:00, and the value is none")
    time, fraction = match.groups()
    return f"{time}.{(fraction or '').ljust(3, '0')[:3]}Z"
