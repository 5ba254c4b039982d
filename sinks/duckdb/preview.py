"""What a batch would do to the warehouse's tables, in words and rows, change by change."""

from collections.abc import Sequence

import orjson

from cdcflow.model import Batch
from cdcflow.sink import Rendered
from cdcflow.sink.event import Event, events
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.settings import DuckDBSettings


def preview(batch: Batch, settings: DuckDBSettings) -> Sequence[Rendered]:
    return [_rendered(index, event, settings) for index, event in events(batch)]


def _rendered(index: int, event: Event, settings: DuckDBSettings) -> Rendered:
    if event["op"] == "message":
        return Rendered((index,), "table cdcflow.messages", f"a row more: {_json(event)}")
    schema = settings.schemas.get(event["schema"], event["schema"])
    target = f"table {statements.qualified(schema, event['table'])}"
    which = "equal to " + _json(event["old"]) if event["key"] is None else "with key " + _json(event["key"])
    match event["op"]:
        case "truncate":
            text = "all rows go"
        case "delete":
            text = f"the row {which} goes"
        case "update":
            text = f"the row {which} becomes {_json(event['new'])}"
            if event.get("unchanged"):
                text += f", and keeps {', '.join(event['unchanged'])}"
        case _:
            text = f"a row comes: {_json(event['new'])}"
    return Rendered((index,), target, text)


def _json(value: object) -> str:
    return orjson.dumps(value).decode()
