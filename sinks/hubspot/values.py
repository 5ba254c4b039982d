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

from collections.abc import Callable
from functools import partial

from cdcflow import types
from cdcflow.model import Column
from cdcflow.sink.records import SKIP, Convert, Planned, Unfit, forms
from cdcflow.sink.records.mapping import Nulls
from cdcflow.types import PgType
from cdcflow.types.arrays import Array
from cdcflow.types.boolean import Boolean
from cdcflow.types.datetime import Date, Timestamp
from cdcflow.types.numbers import Float, Integer, Numeric
from cdcflow_sinks.hubspot.describe import Property


def planned(found: Property, nulls: Nulls) -> Callable[[Column, int], Planned]:
    """How values of a column become values of a property. What it returns raises ValueError when none can."""

    def plan(column: Column, index: int) -> Planned:
        null: object = "" if nulls == "clear" else SKIP
        return Planned(found.name, index, converter(found, types.of(column)), null)

    return plan


def matched(found: Property) -> Callable[[Column, int], Planned]:
    """The same for the property that records are found by, which must have a value."""
    return forms.matched(found.name, partial(converter, found))


def converter(found: Property, kind: PgType) -> Convert:
    """Raises ValueError where no value of the type fits the property."""
    match found.type:
        case "number":
            if isinstance(kind, Integer):
                return str
            if isinstance(kind, Float | Numeric):
                return partial(forms.number, found.name)
        case "bool":
            if isinstance(kind, Boolean):
                return forms.boolean
        case "date":
            if isinstance(kind, Date):
                return partial(forms.day, found.name)
            if isinstance(kind, Timestamp):
                raise ValueError(
                    f"a {kind.name} has a time of day, and {found.name} is a date without one: make the"
                    " column a date, or map it to a property with date and time"
                )
        case "datetime":
            if isinstance(kind, Date):
                return partial(forms.day, found.name)
            if isinstance(kind, Timestamp):
                return partial(forms.moment, found.name)
        case "enumeration":
            return _option(found, kind)
        case _:
            return forms.text_of(kind)
    raise ValueError(f"{found.name} is a {found.type}, and the column is {kind.name}")


def _option(found: Property, kind: PgType) -> Convert:
    if isinstance(kind, Array):
        if not found.multiple:
            raise ValueError(f"{found.name} takes one option, and the column is {kind.name}")
        elements = kind.converter("safe")
        return lambda text: forms.choices(found.name, elements(text))
    if isinstance(kind, Boolean):
        return forms.boolean
    return lambda text: _one_option(found, text)


def _one_option(found: Property, text: str) -> str:
    if found.multiple and text.startswith(";"):
        # "Add a semicolon before the first value": that appends, and by retries and replays it would not be
        # the row's state.
        raise Unfit(f"a value for {found.name} begins with a semicolon, which would add to what is there")
    return text
