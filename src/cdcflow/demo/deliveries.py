"""Checks what a webhook's receiver got against the journal and against the source's final rows.

* every change of the flow's tables in the journal was accepted, and nothing else;
* every request was signed;
* per key, changes came in the journal's order (a changed key has two, a TRUNCATE or a change without a key
  is ordered with all of its table). A change that came again, as at-least-once allows, counts where it
  came first;
* a receiver that applies the events in the order in which they came, dropping repeated ids, ends with
  exactly the source's rows.

Values are compared as JSON, which Postgres itself writes for its side. What cdcflow writes as a string for
JavaScript's sake counts as equal to the number with the same digits, in a column of its own only.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from cdcflow.demo.compare import FETCH, SETTINGS, source_columns
from cdcflow.journal import Reader
from cdcflow.model import Change

#: What the journal is read in.
READ_CHANGES, READ_BYTES = 20_000, 16 << 20

#: A table's rows by their key as JSON.
Rows = dict[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class Expected:
    """A change of the journal: its place in the order of all, and the keys that it is ordered by. Without
    keys it is ordered with everything of its table."""

    number: int
    table: str
    keys: tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Receipt:
    """One event of a request. `signed` is None where the receiver does not check."""

    event: Mapping[str, Any]
    accepted: bool = True
    signed: bool | None = None

    @property
    def id(self) -> str:
        return str(self.event["id"])


@dataclass
class Deliveries:
    """What was found: numbers of changes, never their values."""

    changes: int = 0
    received: int = 0
    repeated: int = 0
    missing: int = 0
    unknown: int = 0
    refused: int = 0
    unsigned: int = 0
    misordered: int = 0
    #: Table → rows that a receiver which applies the events would hold differently from the source.
    differing: dict[str, int] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        return not (self.missing or self.unknown or self.unsigned or self.misordered or self.differing)

    @property
    def verdict(self) -> str:
        """`in order per key, identical`, or what is not."""
        repeated = f" ({self.repeated} more than once)" if self.repeated else ""
        if self.complete:
            return f"in order per key, identical{repeated}"
        wrong = {
            "missing": self.missing,
            "that the journal does not hold": self.unknown,
            "without a valid signature": self.unsigned,
            "out of order": self.misordered,
        }
        found = [f"{count} {what}" for what, count in wrong.items() if count]
        found += [f"{count} rows of {table} different" for table, count in sorted(self.differing.items())]
        return f"WRONG: {'; '.join(found)}{repeated}"


def check(
    connection: psycopg.Connection[Any],
    journal: Path,
    record: Path,
    tables: Sequence[str],
    schema: str = "public",
) -> Deliveries:
    """Checks the receiver's `record` file. The source must be at rest and everything delivered."""
    wanted = expected(journal, {f"{schema}.{table}" for table in tables})
    found, rows = judge(wanted, receipts(record))
    for table in tables:
        final = source_rows(connection, schema, table)
        held = rows.get(f"{schema}.{table}", {})
        different = sum(final.get(key) != held.get(key) for key in final.keys() | held.keys())
        if different:
            found.differing[table] = different
    return found


def expected(journal: Path, tables: set[str]) -> dict[str, Expected]:
    """The journal's changes of these tables (`schema.table`) by the id that their events carry."""
    found: dict[str, Expected] = {}
    with Reader(journal) as reader:
        offset = reader.first_offset()
        while batches := reader.read(offset, max_changes=READ_CHANGES, max_bytes=READ_BYTES):
            for batch in batches:
                for change in batch.changes():
                    table = change.relation.qualified
                    if table in tables:
                        found[str(change.position)] = Expected(len(found), table, _keys(change))
            offset = batches[-1].end
    return found


def _keys(change: Change) -> tuple[object, ...]:
    key = change.key
    if not key:
        return ()
    before = change.old_key
    return (key,) if before is None else (key, before)


def receipts(record: Path) -> Iterator[Receipt]:
    """What the receiver recorded, event by event, in the order in which requests came."""
    with record.open(encoding="utf-8") as lines:
        for line in lines:
            request = loads(line)
            body = request["body"] or {}
            accepted = 200 <= int(request["status"][1]) < 300
            for event in body.get("events", [body]):
                yield Receipt(event, accepted, request["verified"])


def judge(wanted: Mapping[str, Expected], given: Iterable[Receipt]) -> tuple[Deliveries, dict[str, Rows]]:
    """The verdict on order and completeness, and the rows that the events make when they are applied."""
    found = Deliveries(changes=len(wanted))
    rows: dict[str, Rows] = {}
    seen: set[str] = set()
    by_key: dict[tuple[str, object], int] = {}
    by_table: dict[str, int] = {}
    barriers: dict[str, int] = {}
    for receipt in given:
        found.unsigned += receipt.signed is False
        found.refused += not receipt.accepted
        if not receipt.accepted:
            continue
        change = wanted.get(receipt.id)
        if change is None:
            found.unknown += 1
            continue
        if receipt.id in seen:
            found.repeated += 1
            continue
        seen.add(receipt.id)
        number, table = change.number, change.table
        if change.keys:
            places = [(table, key) for key in change.keys]
            latest = max(barriers.get(table, -1), *(by_key.get(place, -1) for place in places))
            by_key.update(dict.fromkeys(places, number))
        else:
            latest = by_table.get(table, -1)
            barriers[table] = number
        by_table[table] = max(by_table.get(table, -1), number)
        found.misordered += number < latest
        apply(rows.setdefault(table, {}), receipt.event)
    found.received = len(seen)
    found.missing = len(wanted) - len(seen)
    return found, rows


def apply(rows: Rows, event: Mapping[str, Any]) -> None:
    """What a receiver that keeps a copy does with an event of a table with a key."""
    if event["op"] == "truncate":
        rows.clear()
        return
    if event["key"] is None:
        return
    key = _key(event["key"])
    if event["op"] == "delete":
        rows.pop(key, None)
        return
    new = {name: _plain(value) for name, value in event["new"].items()}
    if event["op"] == "update":
        old = event["old"]
        before = rows.pop(key if old is None else _key({name: old[name] for name in event["key"]}), {})
        new |= {name: before.get(name) for name in event.get("unchanged", ())}
    rows[key] = new


def source_rows(connection: psycopg.Connection[Any], schema: str, table: str) -> Rows:
    """The table's rows as Postgres writes them in JSON, by primary key; none for a table without one."""
    columns = source_columns(connection, schema, table)
    if not any(column.key for column in columns):
        return {}
    expressions = []
    for column in columns:
        # JSON has no bytes; to_json gives hexadecimal digits, and events base64 (RFC 4648).
        template = "replace(encode({0}, 'base64'), chr(10), '')" if column.kind == "bytea" else "{0}"
        expression = sql.SQL(template).format(sql.Identifier(column.name))
        expressions.append(sql.SQL("{}, {}").format(sql.Literal(column.name), expression))
    query = sql.SQL("SELECT json_build_object({})::text FROM {}").format(
        sql.SQL(", ").join(expressions), sql.Identifier(schema, table)
    )
    rows: Rows = {}
    with connection.transaction():
        connection.execute(SETTINGS.replace("SET ", "SET LOCAL "))
        connection.execute("SET LOCAL intervalstyle = 'iso_8601'")
        with connection.cursor(name="rows") as cursor:
            cursor.itersize = FETCH
            for (text,) in cursor.execute(query):
                row = {name: _plain(value) for name, value in loads(text).items()}
                rows[_key({column.name: row[column.name] for column in columns if column.key})] = row
    return rows


def loads(text: str) -> Any:
    """JSON without a float in between: a number is `("number", its digits)`."""
    return json.loads(text, parse_int=_digits, parse_float=_digits)


def _digits(text: str) -> tuple[str, str]:
    return ("number", text)


def _plain(value: Any) -> Any:
    """A column's value, in which a number and the string of its digits are one."""
    return value[1] if isinstance(value, tuple) else value


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps({name: _plain(values[name]) for name in sorted(values)})
