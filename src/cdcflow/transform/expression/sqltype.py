"""What a type is to the compiler: OID, modifier and name, and how Postgres writes it.

Only `catalog.py` knows facts about types; here is the value that carries them around.
"""

from dataclasses import dataclass
from functools import lru_cache

from cdcflow.model import Column
from cdcflow.transform.expression import catalog

#: typmod of varchar(n), char(n) and numeric(p,s) is offset by the length of a varlena header.
_VARHDRSZ = 4

_SQL_NAMES = {
    "bool": "boolean",
    "int2": "smallint",
    "int4": "integer",
    "int8": "bigint",
    "float4": "real",
    "float8": "double precision",
    "varchar": "character varying",
    "bpchar": "character",
    "timestamp": "timestamp without time zone",
    "timestamptz": "timestamp with time zone",
    "time": "time without time zone",
    "timetz": "time with time zone",
    "char": '"char"',
    "varbit": "bit varying",
}


@dataclass(frozen=True, slots=True)
class SqlType:
    """A type as `model.Column` has it. `key` is `typname` for what is built in (`int4`, `_text` for an
    array), else `schema.name` of a type that somebody has declared."""

    key: str
    oid: int
    typmod: int = -1
    type_name: str = ""

    @property
    def declared(self) -> bool:
        """Whether it is a type of an extension or of the users' own."""
        return bool(self.type_name)

    @property
    def is_array(self) -> bool:
        return self.key.startswith("_") and not self.declared

    @property
    def element(self) -> "SqlType":
        """The type of an array's elements."""
        return builtin(self.key[1:])

    @property
    def array(self) -> "SqlType":
        """The type of an array of these."""
        return builtin(f"_{self.key}")

    @property
    def name(self) -> str:
        """As Postgres writes it for people: `numeric(12,2)`, `text[]`."""
        if self.declared:
            return self.key
        if self.is_array:
            return f"{self.element.name}[]"
        name = _SQL_NAMES.get(self.key, self.key)
        if self.typmod < 0:
            return name
        if self.key in ("varchar", "bpchar"):
            return f"{name}({self.typmod - _VARHDRSZ})"
        if self.key == "numeric":
            return f"numeric({self.precision},{self.scale})"
        if self.key in ("timestamp", "timestamptz", "time", "timetz"):
            head, _, tail = name.partition(" ")
            return f"{head}({self.typmod}) {tail}"
        return name

    @property
    def length(self) -> int | None:
        """n of varchar(n) and char(n)."""
        return self.typmod - _VARHDRSZ if self.typmod >= _VARHDRSZ else None

    @property
    def precision(self) -> int:
        """p of numeric(p,s)."""
        return self.typmod - _VARHDRSZ >> 16 & 0xFFFF

    @property
    def scale(self) -> int:
        """s of numeric(p,s): 11 bits with a sign (numeric.c, numeric_typmod_scale)."""
        return (self.typmod - _VARHDRSZ & 0x7FF ^ 1024) - 1024

    def with_typmod(self, typmod: int) -> "SqlType":
        return self if typmod == self.typmod else SqlType(self.key, self.oid, typmod, self.type_name)

    @property
    def bare(self) -> "SqlType":
        """The type without its modifier."""
        return self.with_typmod(-1)


@lru_cache(maxsize=1024)
def builtin(key: str, typmod: int = -1) -> SqlType:
    """The built-in type of that `typname`. Raises KeyError where there is none."""
    return SqlType(key, catalog.OIDS[key], typmod)


def numeric_typmod(precision: int, scale: int) -> int:
    return (precision << 16 | scale & 0x7FF) + _VARHDRSZ


def length_typmod(length: int) -> int:
    return length + _VARHDRSZ


def of_column(column: Column) -> SqlType:
    """The type of a column. A domain is announced as its base type's name under an OID of its own."""
    schema, _, name = column.type_name.rpartition(".")
    if not column.type_name:
        key = catalog.NAMES.get(column.type_oid)
        if key is not None:
            return SqlType(key, column.type_oid, column.typmod)
        return SqlType(f"type {column.type_oid}", column.type_oid, column.typmod, f"type {column.type_oid}")
    if schema in ("", "pg_catalog") and name in catalog.OIDS:
        return builtin(name)
    return SqlType(column.type_name, column.type_oid, column.typmod, column.type_name)


BOOL, BYTEA, INT2, INT4, INT8 = (builtin(k) for k in ("bool", "bytea", "int2", "int4", "int8"))
FLOAT4, FLOAT8, NUMERIC = (builtin(k) for k in ("float4", "float8", "numeric"))
TEXT, VARCHAR, BPCHAR, NAME, UNKNOWN = (builtin(k) for k in ("text", "varchar", "bpchar", "name", "unknown"))
DATE, TIME, TIMESTAMP, TIMESTAMPTZ, INTERVAL = (
    builtin(k) for k in ("date", "time", "timestamp", "timestamptz", "interval")
)
JSON, JSONB, UUID = (builtin(k) for k in ("json", "jsonb", "uuid"))
