"""ltree (extension): label paths and the queries on them, as text."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "ltree",
    (as_text("ltree", "top.science"), as_text("lquery", "*.science"), as_text("ltxtquery", "a & b")),
    notes="",
)
