"""Geometric types: their coordinates in the shortest text that reads back, −0, NaN and Infinity included."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "Geometry",
    (
        as_text("point", "(1.5,-0)", 600, 1017),
        as_text("line", "{1,-1,0}", 628, 629),
        as_text("lseg", "[(0,0),(1,1)]", 601, 1018),
        # The one built-in type whose array delimiter is not a comma: its text holds commas.
        as_text("box", "(1,1),(0,0)", 603, 1020, delimiter=";"),
        as_text("path", "((0,0),(1,1))", 602, 1019),
        as_text("polygon", "((0,0),(1,1),(1,0))", 604, 1027),
        as_text("circle", "<(0,0),1>", 718, 719),
    ),
    notes="A `path` in brackets is open, one in parentheses closed. Postgres orders the corners of a `box`.",
)
