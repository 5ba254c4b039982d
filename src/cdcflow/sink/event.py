"""The native JSON form of a change, the same wherever events leave cdcflow: webhook, files, `cdcflow tail`.

    {"id": "0/1A2B3C8:7", "op": "update", "schema": "public", "table": "orders",
     "key": {"id": 42}, "new": {"id": 42, "status": "paid"}, "old": null, "unchanged": ["body"],
     "position": "0/1A2B3C8:7", "xid": 733, "commit_time": "2026-11-22T18:18:44.123456Z"}

| field         |                                                                                           |
|---------------|-------------------------------------------------------------------------------------------|
| `id`          | the change's position as text. It never changes: not by a retry, a restart or a rewind, so |
|               | that a receiver can drop what it has seen. It is unique within one source database; a      |
|               | receiver of several sources must keep them apart itself, by the address it gives to each.  |
|               | Where a flow makes several changes of one, `+1`, `+2` … follow it from the second on       |
| `op`          | `insert`, `update`, `delete`, `truncate`, or `read`: an existing row, read by a backfill   |
| `key`         | the row's identity after the change (before it, for a delete); null where nothing but the  |
|               | whole row identifies it, and for a truncate                                                |
| `new`         | the row; null for a delete and a truncate                                                  |
| `old`         | what the server sent of the row before: the key's columns, or all of them under REPLICA    |
|               | IDENTITY FULL; null where it sent nothing                                                  |
| `unchanged`   | only where there are any: TOASTed columns that the update left alone and the server did not|
|               | send. They are not in `new`: their value is what it was. Under REPLICA IDENTITY FULL there |
|               | are none                                                                                   |
| `json_null`   | only where there are any: columns of `new` that hold the JSON document null, not SQL NULL  |
| `position`    | commit LSN and ordinal; tells order, which `id` does not promise to                        |
| `xid`         | the transaction on the source; 0 for a row read by a backfill                              |
| `commit_time` | in UTC, with microseconds                                                                  |
| `truncate`    | only for a truncate: `{"cascade": bool, "restart_identity": bool}`                         |

A logical message has no table and no row, but what `pg_logical_emit_message` was given:

    {"id": "0/1A2B3C8:8", "op": "message", "prefix": "orders.paid", "content": "42", "transactional": true,
     "position": "0/1A2B3C8:8", "xid": 733, "commit_time": "2026-11-22T18:18:44.123456Z"}

| field           |                                                                                         |
|-----------------|-----------------------------------------------------------------------------------------|
| `content`       | as text; null where it is not UTF-8 or holds a NUL                                      |
| `bytes`         | only where `content` is null: the content in base64                                     |
| `transactional` | false: it belongs to no transaction. `xid` is 0 then, `commit_time` when the server sent |
|                 | the message                                                                             |

Values are JSON by `cdcflow.types`; `numbers` says how the ones that JavaScript would change are written. SQL
NULL is null.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import orjson
import pyarrow.compute as pc

from cdcflow import types
from cdcflow.model import (
    META,
    TRUNCATE_CASCADE,
    TRUNCATE_RESTART_IDENTITY,
    Batch,
    Change,
    Group,
    Op,
    Relation,
    Unchanged,
    Value,
    format_lsn,
)
from cdcflow.model.position import format_ordinal
from cdcflow.types import Numbers
from cdcflow.types.base import as_it_stands
from cdcflow.types.json import Json

Event = dict[str, Any]
Converter = Callable[[str], object]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_WORDS = {int(op): op.word for op in Op}
# Comparing with an enum's member looks it up each time.
_MESSAGE, _TRUNCATE = int(Op.MESSAGE), int(Op.TRUNCATE)
_WITHOUT_NEW = frozenset((int(Op.DELETE), int(Op.TRUNCATE)))


def event(change: Change, numbers: Numbers = "safe") -> Event:
    """The event of one change. For a whole batch `events` costs a third of it."""
    relation = change.relation
    converters = _converters(relation, numbers)
    position = change.position
    new, old = change.new, change.old
    if change.op is Op.MESSAGE:
        assert new is not None
        return _message(
            _present(new, converters) or {}, str(position), change.xid, timestamp(change.commit_time)
        )
    found = _head(
        op=int(change.op),
        relation=relation,
        key=_key(relation, new, old, converters),
        new=_present(new, converters),
        old=_present(old, converters),
        unchanged=[name for name, value in new.items() if isinstance(value, Unchanged)] if new else (),
        json_null=[name for _, name in _documents(relation) if _is_json_null(new[name])] if new else (),
        identity=str(position),
        xid=change.xid,
        commit_time=timestamp(change.commit_time),
    )
    if change.op is Op.TRUNCATE:
        found["truncate"] = _truncate(change.truncate_options)
    return found


def events(batch: Batch, numbers: Numbers = "safe") -> Iterator[tuple[int, Event]]:
    """The index and the event of every change, in total order, made as they are asked for."""
    made = [_group_events(group, batch, numbers) for group in batch.groups]
    indexes = [group.meta("index").to_pylist() for group in batch.groups]
    if len(made) == 1:
        yield from zip(indexes[0], made[0], strict=True)
        return
    # What was made of one change has its index, and its parts are in the ordinal.
    ordinals = [group.meta("ordinal").to_pylist() for group in batch.groups]
    places = (
        (index, ordinal, which)
        for which, given in enumerate(zip(indexes, ordinals, strict=True))
        for index, ordinal in zip(*given, strict=True)
    )
    for index, _, which in sorted(places):
        yield index, next(made[which])


def encode(event: Event) -> bytes:
    """The event as JSON on a single line, without a newline at its end."""
    body = orjson.dumps(event)
    # A value of type json is passed on as it was written, and a newline in it is white space: inside of
    # a JSON string it would have to be escaped (RFC 8259, section 7).
    return body.replace(b"\n", b" ") if b"\n" in body else body


@lru_cache(maxsize=1024)
def timestamp(microseconds: int) -> str:
    """`2026-11-22T18:18:44.123456Z` for microseconds since 1970 (RFC 3339, always six digits)."""
    moment = _EPOCH + timedelta(microseconds=microseconds)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06}Z"


#: Converters by fingerprint and by column name: as many as there are table generations in the journal.
_BOUND: dict[tuple[str, Numbers], Mapping[str, Converter]] = {}


def _converters(relation: Relation, numbers: Numbers) -> Mapping[str, Converter]:
    found = _BOUND.get((relation.fingerprint, numbers))
    if found is None:
        found = {column.name: types.of(column).converter(numbers) for column in relation.columns}
        _BOUND[relation.fingerprint, numbers] = found
    return found


def _head(
    op: int,
    relation: Relation,
    key: Event | None,
    new: Event | None,
    old: Event | None,
    unchanged: Sequence[str],
    json_null: Sequence[str],
    identity: str,
    xid: int,
    commit_time: str,
) -> Event:
    """The one place that knows the fields and their order."""
    found: Event = {
        "id": identity,
        "op": _WORDS[op],
        "schema": relation.schema,
        "table": relation.name,
        "key": key,
        "new": new,
        "old": old,
    }
    if unchanged:
        found["unchanged"] = list(unchanged)
    if json_null:
        found["json_null"] = list(json_null)
    found["position"] = identity
    found["xid"] = xid
    found["commit_time"] = commit_time
    return found


def _message(row: Event, identity: str, xid: int, commit_time: str) -> Event:
    """The fields of a message and their order; `row` holds JSON values."""
    found: Event = {"id": identity, "op": Op.MESSAGE.word, "prefix": row["prefix"], "content": row["content"]}
    if row["bytes"] is not None:
        found["bytes"] = row["bytes"]
    found["transactional"] = row["transactional"]
    found["position"] = identity
    found["xid"] = xid
    found["commit_time"] = commit_time
    return found


def _truncate(options: int) -> dict[str, bool]:
    return {
        "cascade": bool(options & TRUNCATE_CASCADE),
        "restart_identity": bool(options & TRUNCATE_RESTART_IDENTITY),
    }


def _present(row: Mapping[str, Value] | None, converters: Mapping[str, Converter]) -> Event | None:
    """The row without what is unchanged."""
    if row is None:
        return None
    return {
        name: None if value is None else converters[name](value)
        for name, value in row.items()
        if not isinstance(value, Unchanged)
    }


def _key(
    relation: Relation,
    new: Mapping[str, Value] | None,
    old: Mapping[str, Value] | None,
    converters: Mapping[str, Converter],
) -> Event | None:
    """As `Change.key`, by column name."""
    row = old if new is None else new
    if relation.full or not relation.key or row is None:
        return None
    found: Event = {}
    for index in relation.key:
        name = relation.columns[index].name
        value = row[name]  # a TOASTed key that did not change came with the old one: see `Change.new`
        found[name] = converters[name](value) if isinstance(value, str) else None
    return found


def _group_events(group: Group, batch: Batch, numbers: Numbers) -> Iterator[Event]:
    """The events of a group in order. Works by column: what depends on the type is looked up once."""
    relation = group.relation
    names = relation.names
    key = () if relation.full else relation.key
    key_names = tuple(names[i] for i in key)
    # A comprehension costs as much as all the rest of the key: most tables have one column of it.
    one_key = key_names[0] if len(key_names) == 1 else ""
    # A typed tuple would cost a conversion per column; the values are what the converters gave.
    convert = _converters(relation, numbers)
    columns = [_column(group.new(i), convert[name]) for i, name in enumerate(names)]
    rows: Iterator[tuple[Any, ...]] = zip(*columns, strict=True) if columns else iter([()] * len(group))
    olds = _olds(group, convert)
    json_nulls = _json_nulls(group)
    unchanged = group.data.column("unchanged").to_pylist() if group.unchanged else None
    meta = zip(*(group.meta(name).to_pylist() for name, _ in META), strict=True)
    last_lsn, lsn_text = -1, ""
    for number, ((index, op, lsn, ordinal, xid, time), values) in enumerate(zip(meta, rows, strict=True)):
        # As many values as names: the columns are those of the relation.
        new: Event | None = None if op in _WITHOUT_NEW else dict(zip(names, values))  # noqa: B905
        old: Event | None = olds[number] if olds is not None else None
        absent: Sequence[str] = ()
        bits = unchanged[number] if unchanged is not None else None
        if bits and new is not None:
            absent = [name for i, name in enumerate(names) if bits[i >> 3] >> (i & 7) & 1]
            if old is not None:
                # The old row holds it: all columns under FULL, a TOASTed key always.
                new.update((name, old[name]) for name in absent if name in old)
                absent = [name for name in absent if name not in old]
            for name in absent:
                del new[name]
        if lsn != last_lsn:
            last_lsn, lsn_text = lsn, format_lsn(lsn)
        position = f"{lsn_text}:{format_ordinal(ordinal)}"
        if op == _MESSAGE:
            assert new is not None
            yield _message(new, position, xid, timestamp(time))
            continue
        row = old if new is None else new
        identity: Event | None = None
        if row is not None and key_names:
            identity = {one_key: row.get(one_key)} if one_key else {name: row.get(name) for name in key_names}
        nulls = json_nulls.get(number, ()) if json_nulls else ()
        found = _head(op, relation, identity, new, old, absent, nulls, position, xid, timestamp(time))
        if op == _TRUNCATE:
            found["truncate"] = _truncate(batch.truncates.get(index, 0))
        yield found


def _column(values: Any, convert: Converter) -> list[Any]:
    texts: list[Any] = values.to_pylist()
    if convert is as_it_stands:
        return texts
    return [None if value is None else convert(value) for value in texts]


def _documents(relation: Relation) -> list[tuple[int, str]]:
    """Index and name of each column of type json or jsonb."""
    return [(i, c.name) for i, c in enumerate(relation.columns) if isinstance(types.of(c), Json)]


def _is_json_null(value: Value) -> bool:
    return isinstance(value, str) and value.strip() == "null"


def _json_nulls(group: Group) -> dict[int, list[str]]:
    """Row → names of the columns whose new value is JSON's null."""
    found: dict[int, list[str]] = {}
    for i, name in _documents(group.relation):
        nulls = pc.match_substring_regex(group.new(i), r"^\s*null\s*$")
        for row in pc.indices_nonzero(nulls).to_pylist():
            found.setdefault(row, []).append(name)
    return found


def _olds(group: Group, convert: Mapping[str, Converter]) -> list[Event | None] | None:
    """Per row its old values, or None; None for a group that has none at all."""
    if not group.old:
        return None
    relation = group.relation
    names = [relation.columns[i].name for i in relation.key]
    columns = [
        _column(group.old_values(i), convert[name]) for i, name in zip(relation.key, names, strict=True)
    ]
    rows: Iterator[tuple[Any, ...]] = zip(*columns, strict=True) if columns else iter([()] * len(group))
    return [
        dict(zip(names, row, strict=True)) if has_old else None
        for has_old, row in zip(group.data.column("has_old").to_pylist(), rows, strict=True)
    ]
