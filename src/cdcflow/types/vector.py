"""pgvector (extension): vector and halfvec are lists of floats, sparsevec an object.

They are known by their names only, so a text that does not read as theirs (somebody's own type of that name)
stays text.
"""

import re
from dataclasses import dataclass

import orjson
import pyarrow as pa

from cdcflow.types.base import Family, Known, PgType

_NUMBER = r"-?\d+(?:\.\d+)?(?:e[-+]?\d+)?"
_LIST = re.compile(rf"\[{_NUMBER}(?:,{_NUMBER})*\]")
_SPARSE = re.compile(rf"\{{(\d+:{_NUMBER}(?:,\d+:{_NUMBER})*)?\}}/(\d+)")


@dataclass(frozen=True)
class Vector(PgType):
    """vector and halfvec: their text is a JSON list of numbers already, without NaN or infinity."""

    @classmethod
    def of(cls, name: str) -> "Vector":
        return cls(name, pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        return orjson.Fragment(text) if _LIST.fullmatch(text) else text


@dataclass(frozen=True)
class SparseVector(PgType):
    """sparsevec: `{1:0.5,3:2}/5` as `{"dimensions": 5, "elements": {"1": 0.5, "3": 2.0}}`; indexes
    count from 1."""

    @classmethod
    def of(cls) -> "SparseVector":
        return cls("sparsevec", pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        match = _SPARSE.fullmatch(text)
        if match is None:
            return text
        elements, dimensions = match.groups("")
        pairs = (pair.partition(":") for pair in elements.split(",") if pair)
        return {"dimensions": int(dimensions), "elements": {index: float(value) for index, _, value in pairs}}


FAMILY = Family(
    "pgvector",
    (
        Known("vector", Vector.of("vector"), "[1,-2.5,1e-05]"),
        Known("halfvec", Vector.of("halfvec"), "[0.5]"),
        Known("sparsevec", SparseVector.of(), "{1:0.5,3:2}/5"),
    ),
    notes="""\
Indexes of a `sparsevec` count from 1. In the warehouse they are `VARCHAR` with Postgres' own text, which
DuckDB casts where it is asked to: `embedding::FLOAT[]`.""",
)
