"""Text search: documents and queries in Postgres' own notation, with positions and weights."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "Text search",
    (
        as_text("tsvector", "'a':1A 'b c':2", 3614, 3643),
        as_text("tsquery", "'a' & !'b'", 3615, 3645),
        as_text("gtsvector", "2 unique words", 3642, 3644),
    ),
    notes="",
)
