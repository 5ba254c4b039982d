"""boolean: `t` and `f`."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.types.base import Family, Known, PgType


@dataclass(frozen=True)
class Boolean(PgType):
    """boolean ⇄ true and false."""

    @classmethod
    def of(cls) -> "Boolean":
        return cls("boolean", pa.bool_(), "BOOLEAN")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return pc.equal(values, "t")

    def json(self, text: str) -> object:
        return text == "t"


FAMILY = Family("Boolean", (Known("bool", Boolean.of(), "t", 16, 1000),), notes="")
