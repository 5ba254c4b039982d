"""Ranges and multiranges: Postgres' canonical text, `empty`, infinite and unbounded ones included."""

from cdcflow.types.base import Family
from cdcflow.types.text import as_text

FAMILY = Family(
    "Ranges and multiranges",
    (
        as_text("int4range", "[1,5)", 3904, 3905),
        as_text("int8range", "empty", 3926, 3927),
        as_text("numrange", "(,1.10]", 3906, 3907),
        as_text("tsrange", '["2026-01-01 00:00:00",infinity)', 3908, 3909),
        as_text("tstzrange", '["2026-01-01 00:00:00+00",)', 3910, 3911),
        as_text("daterange", "[2026-01-01,2026-01-02)", 3912, 3913),
        as_text("int4multirange", "{[1,2),[5,9)}", 4451, 6150),
        as_text("int8multirange", "{}", 4536, 6157),
        as_text("nummultirange", "{[1.10,2]}", 4532, 6151),
        as_text("tsmultirange", '{["2026-01-01 00:00:00",)}', 4533, 6152),
        as_text("tstzmultirange", '{["2026-01-01 00:00:00+00",)}', 4534, 6153),
        as_text("datemultirange", "{[2026-01-01,2026-01-02)}", 4535, 6155),
    ),
    notes="""\
Postgres brings discrete ranges into one form, `[1,4]` to `[1,5)`, before anybody sees them. An unbounded side
(`(,5)`) and one that ends at infinity (`[1,infinity)`) are different values, and stay so. Ranges that users
declare are text too.""",
)
