"""Identifiers of catalog objects: oid, the reg* types that show names, and what only catalogs hold.

A reg* value is a name under `search_path = pg_catalog`, which capture pins: qualified unless it is built in,
and a number where the object is gone. The stream shows the name of the time of the change.
"""

import pyarrow as pa

from cdcflow.types.base import Family, Known
from cdcflow.types.numbers import Integer
from cdcflow.types.text import as_text

FAMILY = Family(
    "Object identifiers",
    (
        Known("oid", Integer("oid", pa.uint32(), "UINTEGER"), "4294967295", 26, 1028),
        as_text("regclass", "public.orders", 2205, 2210),
        as_text("regtype", "integer", 2206, 2211),
        as_text("regproc", "now", 24, 1008),
        as_text("regprocedure", "abs(integer)", 2202, 2207),
        as_text("regoper", "pg_catalog.=", 2203, 2208),
        as_text("regoperator", "=(integer,integer)", 2204, 2209),
        as_text("regnamespace", "public", 4089, 4090),
        as_text("regrole", "app", 4096, 4097),
        as_text("regcollation", '"C"', 4191, 4192),
        as_text("regconfig", "english", 3734, 3735),
        as_text("regdictionary", "simple", 3769, 3770),
        as_text("oidvector", "23 25", 30, 1013),
        as_text("int2vector", "1 2", 22, 1006),
        as_text("aclitem", "app=r/owner", 1033, 1034),
        as_text("pg_node_tree", "{CONST …}", 194),
    ),
    notes="""\
`oid` is a number, up to 2^32 − 1. The `reg…` types are names, qualified unless they are built in; the stream
has the name that the object had when the row was written, the backfill the one that it has now.""",
)
