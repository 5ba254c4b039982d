"""Expressions in a flow's `with:`. A sink reads columns and computes nothing: it names the expressions in its
options, and the engine makes columns of them, as a last step of the flow's transforms."""

from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from cdcflow.sink.settings import Settings

#: Where a value stands within `with:`.
Way = tuple[str | int, ...]


class Computed(Settings):
    """`{formula: round(amount * 0.92, 2)}` in the place of a column."""

    formula: str = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Formula:
    """An SQL expression over a row, and the column that the sink will find its value in."""

    column: str
    expression: str
    way: Way


#: A column, or an expression in its place.
Source = str | Computed


def column_of(name: str, source: Source) -> str:
    """The column that the value of a field comes from. No table's column is named like a formula's."""
    return source if isinstance(source, str) else f"{name}: formula"


def formula_of(name: str, source: Source, way: Way) -> Sequence[Formula]:
    """The formula of a field, if it has one."""
    if isinstance(source, str):
        return ()
    return (Formula(column_of(name, source), source.formula, way),)
