"""Places in the write-ahead log, and transactions: pg_lsn, xid, xid8, cid, tid, snapshots."""

import pyarrow as pa

from cdcflow.types.base import Family, Known
from cdcflow.types.numbers import Integer
from cdcflow.types.text import as_text

FAMILY = Family(
    "LSNs and transactions",
    (
        as_text("pg_lsn", "16/B374D848", 3220, 3221),
        Known("xid", Integer("xid", pa.uint32(), "UINTEGER"), "4294967295", 28, 1011),
        Known("xid8", Integer("xid8", pa.uint64(), "UBIGINT"), "18446744073709551615", 5069, 271),
        Known("cid", Integer("cid", pa.uint32(), "UINTEGER"), "0", 29, 1012),
        as_text("tid", "(0,1)", 27, 1010),
        as_text("pg_snapshot", "10:20:10,14", 5038, 5039),
        as_text("txid_snapshot", "10:20:10,14", 2970, 2949),
    ),
    notes="`xid8` is a number as `int8` is: a string in JSON beyond 2^53 − 1.",
)
