"""Postgres' built-in types by OID, and by name for domains over them. The families say what they are."""

from cdcflow.types import (
    binary,
    bits,
    boolean,
    catalog,
    datetime,
    geometric,
    interval,
    json,
    money,
    network,
    numbers,
    ranges,
    text,
    textsearch,
    uuid,
    wal,
    xml,
)
from cdcflow.types.arrays import Array
from cdcflow.types.base import Family, PgType

FAMILIES: tuple[Family, ...] = tuple(
    module.FAMILY
    for module in (
        *(numbers, text, binary, boolean, datetime, interval, uuid, json, ranges, network, geometric),
        *(bits, money, xml, textsearch, catalog, wal),
    )
)


def _tables() -> tuple[dict[int, PgType], dict[str, PgType]]:
    by_oid: dict[int, PgType] = {}
    by_name: dict[str, PgType] = {}
    for known in (known for family in FAMILIES for known in family.types if known.oid):
        by_oid[known.oid] = by_name[known.typname] = known.kind
        if known.array_oid:
            array = Array.of(known.kind, known.delimiter)
            by_oid[known.array_oid] = by_name[f"_{known.typname}"] = array
    return by_oid, by_name


BY_OID, BY_NAME = _tables()
