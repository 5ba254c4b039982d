"""What the body of a request looks like: one event, or several.

| shape                | one                                 | several                                    |
|----------------------|-------------------------------------|--------------------------------------------|
| `native`             | `cdcflow.sink.event`                | `{"id": …, "events": […]}`                 |
| `debezium`           | Debezium's envelope, without schema | a JSON array of them                       |
| `cloudevents`        | CloudEvents 1.0, structured         | the JSON batch format                      |
| `cloudevents-binary` | the native event; `ce-…` headers    | none: the HTTP binding has no binary batch |

Debezium's envelope has its fields and its meaning of them (`before`, `after`, `source`, `op`, `ts_ms`), so
that code which reads it goes on working; the values are those of the native form, not Kafka Connect's
numbers of days and base64 of decimals. What an update left out is `__debezium_unavailable_value`, as there.
https://debezium.io/documentation/reference/stable/connectors/postgresql.html (Change event values)

CloudEvents: https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/ spec.md, formats/json-format.md and
bindings/http-protocol-binding.md.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal
from urllib.parse import quote

import orjson

from cdcflow.sink.event import Event, encode

ShapeName = Literal["native", "debezium", "cloudevents", "cloudevents-binary"]
Headers = list[tuple[bytes, bytes]]

_JSON = b"application/json"

#: Debezium's `op`. A message is `m`, a truncate `t`.
_OPS = {"insert": "c", "update": "u", "delete": "d", "truncate": "t", "read": "r", "message": "m"}

_UNAVAILABLE = "__debezium_unavailable_value"


@dataclass(frozen=True)
class Shape:
    """`one` makes the body of an event, `several` that of a request for more, given its id and the bodies;
    `headers` are those that an event brings to its request."""

    content_type: bytes
    one: Callable[[Event], bytes]
    several_type: bytes = _JSON
    several: Callable[[str, Sequence[bytes]], bytes] | None = None
    headers: Callable[[Event], Headers] | None = None


def shape(name: ShapeName, flow: str) -> Shape:
    """`flow` is what the events say they come from."""
    match name:
        case "native":
            return Shape(_JSON, encode, several=_native)
        case "debezium":
            return Shape(_JSON, lambda event: encode(debezium(event, flow)), several=_array)
        case "cloudevents":
            return Shape(
                b"application/cloudevents+json; charset=utf-8",
                lambda event: encode({**attributes(event, flow), "data": event}),
                several_type=b"application/cloudevents-batch+json; charset=utf-8",
                several=_array,
            )
        case "cloudevents-binary":
            return Shape(_JSON, encode, headers=lambda event: binary_headers(event, flow))


def _native(identity: str, bodies: Sequence[bytes]) -> bytes:
    return b'{"id":"%s","events":[%s]}' % (identity.encode(), b",".join(bodies))


def _array(_identity: str, bodies: Sequence[bytes]) -> bytes:
    return b"[%s]" % b",".join(bodies)


def debezium(event: Event, flow: str) -> Event:
    op = event["op"]
    milliseconds = _milliseconds(event["commit_time"])
    lsn, _, ordinal = event["position"].partition(":")
    high, _, low = lsn.partition("/")
    source: Event = {
        "connector": "postgresql",
        "name": flow,
        "ts_ms": milliseconds,
        "snapshot": "true" if op == "read" else "false",
        "sequence": f'["{lsn}","{ordinal}"]',
        "schema": event.get("schema", ""),
        "table": event.get("table", ""),
        "txId": event["xid"],
        "lsn": (int(high, 16) << 32) | int(low, 16),
    }
    found: Event = {"source": source, "op": _OPS[op], "ts_ms": milliseconds, "transaction": None}
    if op == "message":
        content = {name: event[name] for name in ("prefix", "content", "bytes") if name in event}
        return {"message": content, **found}
    after: Event | None = event["new"]
    if after is not None and event.get("unchanged"):
        after = {**after, **dict.fromkeys(event["unchanged"], _UNAVAILABLE)}
    before = event["old"]
    if op == "delete" and before is None:
        before = event["key"]
    return {"before": before, "after": after, **found}


def attributes(event: Event, flow: str) -> Event:
    """The context attributes of CloudEvents. `source` and `id` together are unique (spec, 3.1)."""
    found: Event = {
        "specversion": "1.0",
        "id": event["id"],
        "source": f"/cdcflow/{quote(flow, safe='')}",
        "type": f"io.cdcflow.{event['op']}",
        "time": event["commit_time"],
        "datacontenttype": "application/json",
    }
    if event["op"] == "message":
        found["subject"] = event["prefix"]
    else:
        name = f"{event['schema']}.{event['table']}"
        key = event["key"]
        found["subject"] = name if key is None else f"{name}/{'/'.join(_plain(v) for v in key.values())}"
    return found


def binary_headers(event: Event, flow: str) -> Headers:
    """The attributes as headers (HTTP binding, 3.1.3); `datacontenttype` is Content-Type itself."""
    return [
        (b"ce-" + name.encode(), header_value(str(value)).encode("ascii"))
        for name, value in attributes(event, flow).items()
        if name != "datacontenttype"
    ]


def header_value(text: str) -> str:
    """Percent-encoded as the HTTP binding says (3.1.3.2): whatever is not printable ASCII, and space, `"` and
    `%`. So no value can end a header or begin another one. Half a character, which a json column may hold, is
    `?`."""
    return "".join(
        character
        if "!" <= character <= "~" and character not in '"%'
        else quote(character, safe="", errors="replace")
        for character in text
    )


def single(value: Any) -> str | None:
    """The text of a value of an event; None: it is NULL, an object or a list."""
    if isinstance(value, orjson.Fragment):
        # Of a json column, or a number with all its digits.
        value = json.loads(orjson.dumps(value), parse_int=str, parse_float=str)
    if value is None or isinstance(value, dict | list):
        return None
    return ("true" if value else "false") if isinstance(value, bool) else str(value)


def _plain(value: Any) -> str:
    text = single(value)
    return "null" if text is None else quote(text, safe="", errors="replace")


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)
