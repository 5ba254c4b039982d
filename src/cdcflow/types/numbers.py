"""Integers, floats and numeric.

JSON readers in JavaScript hold numbers as doubles (RFC 8259, section 6), so what a double would change
is a string there: integers beyond ±(2^53 − 1), every numeric, and the floats that JSON cannot write.
"""

from collections.abc import Callable
from dataclasses import dataclass

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.types.base import Family, Known, Numbers, PgType, as_it_stands

#: JavaScript's Number.MAX_SAFE_INTEGER. Integers beyond it are strings in JSON.
SAFE_INTEGER = 2**53 - 1

#: The floats that are strings in JSON: three are not JSON at all, and readers drop the sign of −0.
SPECIAL_FLOATS = frozenset({"NaN", "Infinity", "-Infinity", "-0"})

#: DuckDB's DECIMAL holds at most so many digits.
MAX_DECIMAL = 38

NUMERIC = 1700

#: numeric's modifier is ((precision << 16) | scale) + VARHDRSZ (src/backend/utils/adt/numeric.c).
_VARHDRSZ = 4


@dataclass(frozen=True)
class Integer(PgType):
    """int2, int4, int8 and the unsigned identifiers: oid, xid, cid, xid8."""

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return pc.cast(values, self.arrow)

    def json(self, text: str) -> object:
        value = int(text)
        return value if -SAFE_INTEGER <= value <= SAFE_INTEGER else text

    def converter(self, numbers: Numbers) -> Callable[[str], object]:
        return int if numbers == "exact" else self.json


@dataclass(frozen=True)
class Float(PgType):
    """float4 and float8: the shortest text that reads back as the same value."""

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return pc.cast(values, self.arrow)

    def json(self, text: str) -> object:
        return text if text in SPECIAL_FLOATS else float(text)


@dataclass(frozen=True)
class Numeric(PgType):
    """numeric of any size, with NaN and infinities: text in Arrow and DuckDB, where no type has them all."""

    @classmethod
    def of(cls) -> "Numeric":
        return cls("numeric", pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        return text

    def converter(self, numbers: Numbers) -> Callable[[str], object]:
        return _digits if numbers == "exact" else as_it_stands


def _digits(text: str) -> object:
    """The number itself; numeric_out's form of it is JSON's, but for NaN and the infinities."""
    return orjson.Fragment(text) if text[-1].isdigit() else text


@dataclass(frozen=True)
class Decimal(Numeric):
    """numeric with a precision and scale that DECIMAL holds exactly.

    Such a column may still hold NaN (an infinity it may not), which DECIMAL has no form for: `to_arrow`
    refuses it.
    """

    @classmethod
    def sized(cls, name: str, precision: int, scale: int) -> "Decimal":
        return cls(name, pa.decimal128(precision, scale), f"DECIMAL({precision},{scale})")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        try:
            return pc.cast(values, self.arrow)
        except pa.ArrowInvalid:
            if pc.any(pc.equal(values, "NaN")).as_py():
                raise self.misfit("NaN") from None
            raise


def numeric(typmod: int) -> PgType | None:
    """The type of a numeric column whose modifier bounds it to 38 digits, else None: an unconstrained
    numeric has no DECIMAL that holds it, and stays text."""
    if typmod < _VARHDRSZ:
        return None
    bits = typmod - _VARHDRSZ
    precision = bits >> 16 & 0xFFFF
    # 11 bits, signed, since PostgreSQL 15; before, it was 0 to 1000, which reads the same.
    scale = (bits & 0x7FF ^ 1024) - 1024
    name = f"numeric({precision},{scale})"
    # numeric(3,-2) holds 99900: five digits before the point. numeric(2,4) holds 0.0099: four behind it.
    digits = max(precision - min(scale, 0), scale)
    return Decimal.sized(name, digits, max(scale, 0)) if digits <= MAX_DECIMAL else None


FAMILY = Family(
    "Numbers",
    (
        Known("int2", Integer("smallint", pa.int16(), "SMALLINT"), "-32768", 21, 1005),
        Known("int4", Integer("integer", pa.int32(), "INTEGER"), "2147483647", 23, 1007),
        Known("int8", Integer("bigint", pa.int64(), "BIGINT"), "9007199254740993", 20, 1016),
        Known("float4", Float("real", pa.float32(), "FLOAT"), "0.1", 700, 1021),
        Known("float8", Float("double precision", pa.float64(), "DOUBLE"), "-0", 701, 1022),
        Known("numeric", Numeric.of(), "1.10", NUMERIC, 1231),
    ),
    notes="""\
* Integers beyond ±(2^53 − 1), every numeric, and the floats NaN, Infinity, −Infinity and −0 are strings in
  JSON: a JavaScript reader would change them. `numbers: exact` on a webhook or jsonl sink writes integers and
  finite numerics as JSON numbers with all their digits instead. Numbers inside of `json` and `jsonb` values
  are passed on as they stand either way.
* `numeric(p,s)` is `DECIMAL` in the warehouse where that holds it: up to 38 digits. NaN in such a column
  stops the flow; an infinity Postgres itself refuses there. A numeric without precision, or of more digits,
  is `VARCHAR`.""",
)
