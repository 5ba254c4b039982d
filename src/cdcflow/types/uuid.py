"""uuid: the canonical 36 characters; DuckDB's cast from them is exact."""

from dataclasses import dataclass

import pyarrow as pa

from cdcflow.types.base import Family, Known, PgType


@dataclass(frozen=True)
class Uuid(PgType):
    """Text in Arrow and JSON, UUID in DuckDB."""

    @classmethod
    def of(cls) -> "Uuid":
        return cls("uuid", pa.string(), "UUID")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        return text


FAMILY = Family(
    "UUID", (Known("uuid", Uuid.of(), "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", 2950, 2951),), notes=""
)
