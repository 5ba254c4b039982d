"""A change beside what each step made of it, as a terminal shows it: a line per column of the row, a column
per step."""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from cdcflow.cli.output import ABSENT, visible

if TYPE_CHECKING:
    from cdcflow.engine.preview import Traced

#: A value that would push the next step off the screen is cut.
WIDEST = 24

_Values = Mapping[str, str]


def grid(one: "Traced") -> Table | None:
    """None where a step makes several changes of it, which have no place side by side."""
    stages: list[tuple[str, _Values]] = [("came", _values(one.came))]
    for passage in one.passages:
        if passage.state != "kept":
            stages.append((passage.step, {"op": f"✗ {passage.state}"}))
            break
        if len(passage.changes) != 1:
            return None
        stages.append((passage.step, _values(passage.changes[0])))
    names = list(dict.fromkeys(name for _, values in stages for name in values))
    if len({values["table"] for _, values in stages if "table" in values}) == 1:
        names.remove("table")
    table = Table(box=None, header_style="bold", pad_edge=False)
    for head in ("", *(step for step, _ in stages)):
        table.add_column(Text(visible(head)), overflow="fold")
    for name in names:
        cells = [_cell(stages, index, name) for index in range(len(stages))]
        table.add_row(Text(visible(name.removeprefix(_COLUMN)), style="bold"), *cells)
    return table


#: Before the names of the row's own columns, one of which may be called `op`.
_COLUMN = "."


def _values(event: Mapping[str, Any]) -> _Values:
    table = event.get("table")
    found = {"op": str(event["op"]), "table": f"{event.get('schema')}.{table}" if table else ""}
    row = event.get("new") or event.get("old") or {}
    found |= {_COLUMN + name: _cut(value) for name, value in row.items()}
    return found | {_COLUMN + name: "(not sent)" for name in event.get("unchanged") or ()}


def _cell(stages: list[tuple[str, _Values]], index: int, name: str) -> Text:
    value = stages[index][1].get(name)
    before = stages[index - 1][1].get(name) if index else value
    if value is None:
        return Text("" if before is None or _stopped(stages[index][1]) else ABSENT, style="red")
    if _stopped(stages[index][1]):
        return Text(visible(value), style="red")
    style = "" if not index else "dim" if value == before else "green" if before is None else "yellow"
    return Text(visible(value), style=style)


def _stopped(values: _Values) -> bool:
    return values.keys() == {"op"}


def _cut(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= WIDEST else f"{text[: WIDEST - 1]}…"
