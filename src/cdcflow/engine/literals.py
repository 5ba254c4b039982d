"""Values as people write them in YAML and JSON, as Postgres' own text, and whether the two are the same."""

import json
from collections.abc import Mapping
from datetime import UTC, date, datetime
from decimal import Decimal, InvalidOperation
from typing import Any

from cdcflow.model import UNCHANGED, Column, Value

BOOL, JSON, JSONB, NUMERIC, TIMESTAMP, TIMESTAMPTZ = 16, 114, 3802, 1700, 1114, 1184
NUMBERS = frozenset({20, 21, 23, 700, 701, NUMERIC})

#: How a value is written that an update did not send.
UNSENT = "UNCHANGED"


def text_of(value: Any, column: Column) -> Value:
    """Postgres' text of a value for a column of that type."""
    if value is None:
        return None
    if value == UNSENT:
        return UNCHANGED
    oid = column.type_oid
    if oid == BOOL:
        return "t" if str(value).lower() in ("true", "t", "1", "yes", "on") else "f"
    if isinstance(value, list) and oid not in (JSON, JSONB):
        return _array(value)
    if oid in (JSON, JSONB) and not isinstance(value, str):
        return json.dumps(_plain(value), ensure_ascii=False)
    if oid in (TIMESTAMP, TIMESTAMPTZ):
        return _moment(value, zone=oid == TIMESTAMPTZ)
    if isinstance(value, dict):
        return json.dumps(_plain(value), ensure_ascii=False)
    if oid == NUMERIC and column.typmod >= 4:
        return _scaled(str(value), (column.typmod - 4) & 0x7FF)
    return str(value)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, date | Decimal) else value


def _array(values: list[Any]) -> str:
    parts = []
    for value in values:
        if value is None:
            parts.append("NULL")
        elif isinstance(value, list):
            parts.append(_array(value))
        else:
            text = ("t" if value else "f") if isinstance(value, bool) else str(value)
            escaped = text.replace("\\", "\\\\").replace('"', '\\"')
            plain = text and not set(text) & set('{},"\\ \t\n') and text.upper() != "NULL"
            parts.append(text if plain else f'"{escaped}"')
    return "{" + ",".join(parts) + "}"


def _moment(value: Any, *, zone: bool) -> str:
    """As Postgres writes it under TimeZone = UTC."""
    try:
        found = value if isinstance(value, datetime) else datetime.fromisoformat(str(value))
    except ValueError:
        return str(value)
    if zone:
        found = found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
    text = found.replace(tzinfo=None).isoformat(" ")
    text = text.rstrip("0").rstrip(".") if "." in text else text
    return f"{text}+00" if zone else text


def _scaled(text: str, scale: int) -> str:
    try:
        return str(Decimal(text).quantize(Decimal(1).scaleb(-scale))) if scale < 1024 else text
    except InvalidOperation:
        return text


def same(expected: Any, found: Value, column: Column) -> bool:
    """Whether a value that somebody expects is the one that came. Numbers and documents are compared by
    what they mean."""
    wanted = text_of(expected, column)
    if wanted == found or wanted is None or found is None or not isinstance(wanted, str):
        return wanted == found or wanted is found
    if not isinstance(found, str):
        return False
    if column.type_oid in NUMBERS:
        try:
            return Decimal(wanted) == Decimal(found)
        except InvalidOperation:
            return False
    if column.type_oid in (JSON, JSONB):
        try:
            return bool(json.loads(wanted) == json.loads(found))
        except ValueError:
            return False
    return False
