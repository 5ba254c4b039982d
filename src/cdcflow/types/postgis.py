"""PostGIS (extension): geometries as EWKB in hex, which is how PostGIS prints them.

EWKB keeps the reference system (SRID), Z and M exactly, where GeoJSON and WKT would round or drop them.
"""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

#: POINT(1 2) in SRID 4326.
_POINT = "0101000020E6100000000000000000F03F0000000000000040"

FAMILY = Family(
    "PostGIS",
    (
        as_text("geometry", _POINT, delimiter=":"),
        as_text("geography", _POINT, delimiter=":"),
        as_text("box2d", "BOX(0 0,1 1)"),
        as_text("box3d", "BOX3D(0 0 0,1 1 1)"),
    ),
    notes="""\
EWKB in hex, with its SRID. DuckDB's spatial extension reads it with `ST_GeomFromHEXEWKB`.""",
)
