"""What a Postgres type is to the rest of cdcflow: how its text becomes Arrow, JSON and a warehouse column.

Every conversion is exact or refuses loudly. Nothing is rounded, clamped, or turned into NULL.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import Permanent

#: How JSON writes the numbers that JavaScript would change: as strings (`safe`), or as JSON numbers with all
#: their digits (`exact`), for readers that have exact numbers.
Numbers = Literal["safe", "exact"]


def as_it_stands(text: str) -> object:
    """The converter to JSON of what is Postgres' own text there: a column of it need not be converted."""
    return text


@dataclass(frozen=True)
class PgType(ABC):
    """A Postgres type with its modifier. The text it reads is what the type's output function writes
    under the session settings of capture (`DateStyle=ISO`, `IntervalStyle=postgres`, `TimeZone=UTC`,
    `bytea_output=hex`, `extra_float_digits=3`), in the stream and in a backfill alike."""

    #: As Postgres writes it: `numeric(12,2)`.
    name: str
    #: What `to_arrow` gives.
    arrow: pa.DataType
    #: The column type in the DuckDB warehouse, spelt as DuckDB's catalog spells it. DuckDB's own cast
    #: from `arrow` to it is exact.
    duckdb: str

    def to_arrow(self, values: pa.StringArray) -> pa.Array:
        """Converts a column of Postgres text to `arrow`; null stays null.

        Raises Permanent where a value does not fit `arrow` or `duckdb` exactly. The message names the
        type and what kind of value it is, never the value itself.
        """
        try:
            return self._convert(values)
        except (ValueError, OverflowError):  # pa.ArrowInvalid is a ValueError
            # Without a cause: pyarrow's and Python's messages quote the value.
            raise self.misfit("a value") from None

    @abstractmethod
    def json(self, text: str) -> object:
        """One value for orjson, such that a JavaScript reader gets it unharmed."""

    def converter(self, numbers: Numbers) -> Callable[[str], object]:
        """`json` for that choice of numbers."""
        return self.json

    @abstractmethod
    def _convert(self, values: pa.StringArray) -> pa.Array:
        """`to_arrow`, which may leave with ValueError or OverflowError where a value does not fit."""

    def misfit(self, what: str) -> Permanent:
        """The error for a value that the typed column cannot hold exactly."""
        return Permanent(
            f"{what} of type {self.name} does not fit {self.duckdb} exactly",
            hint="make the destination's column VARCHAR: it then holds Postgres' own text",
        )


@dataclass(frozen=True)
class Known:
    """A type that is known by name: `typname` as pg_type has it, and a value of it for the documentation.

    `oid` and `array_oid` are those of a built-in type, fixed for ever (src/include/catalog/pg_type.dat); a
    type of an extension has none. `delimiter` is `typdelim`, what separates it in an array.
    """

    typname: str
    kind: PgType
    example: str
    oid: int = 0
    array_oid: int = 0
    delimiter: str = ","


@dataclass(frozen=True)
class Family:
    """What one module of this package knows. `notes` is what its users must know, in Markdown."""

    title: str
    types: tuple[Known, ...]
    notes: str = field(kw_only=True)


def by_value(values: pa.StringArray, convert: Callable[[str], object], kind: pa.DataType) -> pa.Array:
    """Converts value by value in Python: the exact path for what no kernel gets right."""
    return pa.array([None if text is None else convert(text) for text in values.to_pylist()], kind)


def by_kernel_or_value(
    values: pa.StringArray,
    ordinary: str,
    cast: Callable[[pa.StringArray], pa.Array],
    special: Callable[[str], int],
) -> pa.Array:
    """Casts the column with a vectorised kernel, and the rows that the kernel must not see one by one.

    `ordinary` is the pattern of texts that `cast` converts exactly. It is only asked when the cast of
    the whole column fails, so `cast` must refuse every text that it would get wrong. `special` gives
    the 64-bit integer (32-bit for a date) behind the Arrow type.
    """
    try:
        return cast(values)
    except pa.ArrowInvalid:
        pass
    plain = pc.fill_null(pc.match_substring_regex(values, ordinary), True)
    converted = cast(pc.if_else(plain, values, pa.scalar(None, values.type)))
    raw = pa.int32() if converted.type.bit_width == 32 else pa.int64()
    exceptions = by_value(values.filter(pc.invert(plain)), special, raw)
    patched = pc.replace_with_mask(converted.view(raw), pc.invert(plain), exceptions)
    return patched.view(converted.type)
