"""Postgres text → Arrow, JSON and warehouse columns, one family of types per module.

`of(column)` gives the type of a column. A type that is not known is text, which loses nothing.
`docs/types.md` is made of the families: `python -m cdcflow.types > docs/types.md`.
"""

from functools import lru_cache

from cdcflow.model import Column
from cdcflow.types.base import Numbers, PgType
from cdcflow.types.builtin import BY_OID
from cdcflow.types.declared import named
from cdcflow.types.numbers import NUMERIC, numeric

__all__ = ["Numbers", "PgType", "named", "of"]


def of(column: Column) -> PgType:
    """The type of a column, by its OID and modifier, or by `type_name` where it is not built in."""
    return _of(column.type_oid, column.typmod, column.type_name)


@lru_cache(maxsize=4096)
def _of(oid: int, typmod: int, type_name: str) -> PgType:
    if oid == NUMERIC:
        return numeric(typmod) or BY_OID[NUMERIC]
    return BY_OID.get(oid) or named(type_name or f"type {oid}")
