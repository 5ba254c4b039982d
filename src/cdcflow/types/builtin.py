"""Postgres' built-in types by OID, and by name for domains over them.

The OIDs are fixed for ever (src/include/catalog/pg_type.dat). For a domain the server's Type message
gives the domain's OID and the base type's name.
"""

import pyarrow as pa

from cdcflow.types.arrays import Array
from cdcflow.types.base import PgType
from cdcflow.types.binary import Bytea
from cdcflow.types.boolean import Boolean
from cdcflow.types.datetime import Date, Time, Timestamp
from cdcflow.types.interval import Interval
from cdcflow.types.json import Json
from cdcflow.types.numbers import Float, Integer
from cdcflow.types.text import Text
from cdcflow.types.uuid import Uuid

NUMERIC = 1700

#: (OID, typname, type). numeric stands here without a modifier; `cdcflow.types.of` looks at that.
_SCALARS: tuple[tuple[int, str, PgType], ...] = (
    (16, "bool", Boolean.of()),
    (17, "bytea", Bytea.of()),
    (20, "int8", Integer("bigint", pa.int64(), "BIGINT")),
    (21, "int2", Integer("smallint", pa.int16(), "SMALLINT")),
    (23, "int4", Integer("integer", pa.int32(), "INTEGER")),
    (26, "oid", Integer("oid", pa.uint32(), "UINTEGER")),
    (28, "xid", Integer("xid", pa.uint32(), "UINTEGER")),
    (29, "cid", Integer("cid", pa.uint32(), "UINTEGER")),
    (5069, "xid8", Integer("xid8", pa.uint64(), "UBIGINT")),
    (700, "float4", Float("real", pa.float32(), "FLOAT")),
    (701, "float8", Float("double precision", pa.float64(), "DOUBLE")),
    (NUMERIC, "numeric", Text.of("numeric")),
    (114, "json", Json.of("json")),
    (3802, "jsonb", Json.of("jsonb")),
    (1082, "date", Date.of()),
    (1083, "time", Time.of()),
    (1114, "timestamp", Timestamp.of()),
    (1184, "timestamptz", Timestamp.with_zone()),
    (1186, "interval", Interval.of()),
    (2950, "uuid", Uuid.of()),
)

#: Types kept as text. timetz is here since neither Arrow nor DuckDB's Arrow form keeps its offset.
_TEXTS = """
18:char 19:name 22:int2vector 24:regproc 25:text 27:tid 30:oidvector 142:xml 194:pg_node_tree
600:point 601:lseg 602:path 603:box 604:polygon 628:line 650:cidr 718:circle 774:macaddr8 790:money
829:macaddr 869:inet 1033:aclitem 1042:bpchar 1043:varchar 1266:timetz 1560:bit 1562:varbit
1790:refcursor 2202:regprocedure 2203:regoper 2204:regoperator 2205:regclass 2206:regtype
2970:txid_snapshot 3220:pg_lsn 3614:tsvector 3615:tsquery 3642:gtsvector 3734:regconfig
3769:regdictionary 3904:int4range 3906:numrange 3908:tsrange 3910:tstzrange 3912:daterange
3926:int8range 4072:jsonpath 4089:regnamespace 4096:regrole 4191:regcollation 4451:int4multirange
4532:nummultirange 4533:tsmultirange 4534:tstzmultirange 4535:datemultirange 4536:int8multirange
5038:pg_snapshot
"""

#: OID of an array type : OID of its element type.
_ARRAYS = """
143:142 199:114 271:5069 629:628 651:650 719:718 775:774 791:790 1000:16 1001:17 1002:18 1003:19
1005:21 1006:22 1007:23 1008:24 1009:25 1010:27 1011:28 1012:29 1013:30 1014:1042 1015:1043 1016:20
1017:600 1018:601 1019:602 1020:603 1021:700 1022:701 1027:604 1028:26 1034:1033 1040:829 1041:869
1115:1114 1182:1082 1183:1083 1185:1184 1187:1186 1231:1700 1270:1266 1561:1560 1563:1562 2201:1790
2207:2202 2208:2203 2209:2204 2210:2205 2211:2206 2949:2970 2951:2950 3221:3220 3643:3614 3644:3642
3645:3615 3735:3734 3770:3769 3807:3802 3905:3904 3907:3906 3909:3908 3911:3910 3913:3912 3927:3926
4073:4072 4090:4089 4097:4096 4192:4191 5039:5038 6150:4451 6151:4532 6152:4533 6153:4534 6155:4535
6157:4536
"""

#: box is the one built-in type whose array delimiter is not a comma: its text holds commas.
_BOX = 603


def _pairs(table: str) -> list[tuple[int, str]]:
    return [(int(oid), rest) for oid, _, rest in (entry.partition(":") for entry in table.split())]


def _tables() -> tuple[dict[int, PgType], dict[str, PgType]]:
    entries = [*_SCALARS, *((oid, name, Text.of(name)) for oid, name in _pairs(_TEXTS))]
    by_oid = {oid: kind for oid, _, kind in entries}
    names = {oid: name for oid, name, _ in entries}
    by_name = {name: kind for _, name, kind in entries}
    for oid, element in _pairs(_ARRAYS):
        array = Array.of(by_oid[int(element)], ";" if int(element) == _BOX else ",")
        by_oid[oid] = array
        by_name[f"_{names[int(element)]}"] = array
    return by_oid, by_name


BY_OID, BY_NAME = _tables()
