"""The character types, and `Text`: whatever is Postgres' own text everywhere, because that is the one form
that loses nothing."""

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa

from cdcflow.types.base import Family, Known, Numbers, PgType, as_it_stands


@dataclass(frozen=True)
class Text(PgType):
    """Text as it stands: padding of `bpchar`, leading zeros of `bit`, the label of an enum."""

    @classmethod
    def of(cls, name: str) -> "Text":
        return cls(name, pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        return text

    def converter(self, numbers: Numbers) -> Callable[[str], object]:
        return as_it_stands


def as_text(
    typname: str, example: str, oid: int = 0, array_oid: int = 0, *, name: str = "", delimiter: str = ","
) -> Known:
    """A type that is kept as text. `name` is what it is called where that is not its `typname`."""
    return Known(typname, Text.of(name or typname), example, oid, array_oid, delimiter)


FAMILY = Family(
    "Text",
    (
        as_text("text", "a 'quoted' word", 25, 1009),
        as_text("varchar", "abc", 1043, 1015),
        as_text("bpchar", "ab   ", 1042, 1014),
        as_text("char", "a", 18, 1002),
        as_text("name", "orders", 19, 1003),
        as_text("refcursor", "c1", 1790, 2201),
        as_text("citext", "Abc"),
    ),
    notes="""\
`char(n)` (`bpchar`) keeps its padding. `citext` (extension) keeps its case, and compares as any text in the
warehouse.""",
)
