"""Bit strings: zeros and ones as text, leading zeros and the empty string included."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "Bit strings",
    (as_text("bit", "00101", 1560, 1561), as_text("varbit", "0001", 1562, 1563)),
    notes="`VARCHAR` in the warehouse: DuckDB's `BIT` makes `0` of an empty string.",
)
