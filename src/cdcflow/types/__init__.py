"""Postgres text → Arrow, JSON and warehouse columns, one family of types per module.

`of(column)` gives the type of a column. A type that is not known is text, which loses nothing.
"""

from functools import lru_cache

from cdcflow.model import Column
from cdcflow.types.arrays import Array
from cdcflow.types.base import PgType
from cdcflow.types.builtin import BY_NAME, BY_OID, NUMERIC
from cdcflow.types.extensions import Hstore, SparseVector, Vector
from cdcflow.types.numbers import numeric
from cdcflow.types.text import Text

__all__ = ["PgType", "of"]

_EXTENSIONS: dict[str, PgType] = {
    "hstore": Hstore.of(),
    "vector": Vector.of("vector"),
    "halfvec": Vector.of("halfvec"),
    "sparsevec": SparseVector.of(),
}


def of(column: Column) -> PgType:
    """The type of a column, by its OID and modifier, or by `type_name` where it is not built in."""
    return _of(column.type_oid, column.typmod, column.type_name)


@lru_cache(maxsize=4096)
def _of(oid: int, typmod: int, type_name: str) -> PgType:
    if oid == NUMERIC:
        return numeric(typmod) or BY_OID[NUMERIC]
    known = BY_OID.get(oid)
    if known is not None:
        return known
    schema, _, name = type_name.rpartition(".")
    # A domain is announced under its base type's name, and pg_catalog as the empty schema
    # (logicalrep_write_typ in src/backend/replication/logical/proto.c).
    if schema in ("", "pg_catalog") and name in BY_NAME:
        return BY_NAME[name]
    if name in _EXTENSIONS:
        return _EXTENSIONS[name]
    if name.startswith("_"):
        # An array of a type that is not built in: `_mood`, `_citext`.
        return Array.of(_EXTENSIONS.get(name[1:]) or Text.of(name[1:]))
    return Text.of(type_name or f"type {oid}")
