"""Types that are kept as Postgres' own text everywhere: the character types, and every type for which
text is the one form that loses nothing (network addresses, ranges, bit strings, money, XML, enums …)."""

from dataclasses import dataclass

import pyarrow as pa

from cdcflow.types.base import PgType


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
