"""Where words go: stdout is data, for people a table and for machines JSON or tab-separated lines;
stderr is everything that is said along the way."""

import csv
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

#: What a table shows for an unknown or absent value on a terminal. Off it the field is empty.
ABSENT = "–"

#: What a terminal would obey, as signs that it shows instead: values come from anybody who can write to a
#: table. Tabs and line ends are for the table to lay out.
_SIGNS = {code: 0x2400 + code for code in range(0x20) if chr(code) not in "\t\n"}
_SIGNS |= {0x7F: 0x2421} | dict.fromkeys(range(0x80, 0xA0), 0xFFFD)


def say(text: str) -> None:
    """One line of progress."""
    typer.echo(text, err=True)


def next_step(text: str) -> None:
    """What to do now that the command is done."""
    typer.secho(f"next: {text}", err=True, bold=True)


def warn(text: str) -> None:
    typer.secho(f"warning: {text}", err=True, fg=typer.colors.YELLOW)


def error(text: str, hint: str = "") -> None:
    typer.secho("error: ", err=True, fg=typer.colors.RED, nl=False)
    typer.echo(text, err=True)
    if hint:
        typer.secho("hint: ", err=True, fg=typer.colors.CYAN, nl=False)
        typer.echo(hint, err=True)


def interactive() -> bool:
    """Whether a person is there to answer a question."""
    return sys.stdin.isatty() and sys.stderr.isatty()


def on_terminal() -> bool:
    """Whether stdout is read by a person."""
    return sys.stdout.isatty()


def data(text: str) -> None:
    """Lines of data as they are."""
    typer.echo(text)


def json(value: object) -> None:
    """One JSON document: indented for a person, on one line for a machine."""
    typer.echo(dumps(value, indent=on_terminal()))


def dumps(value: object, *, indent: bool = False) -> str:
    import orjson

    options = orjson.OPT_NON_STR_KEYS | (orjson.OPT_INDENT_2 if indent else 0)
    return orjson.dumps(value, default=_plain, option=options).decode()


def _plain(value: Any) -> object:
    if isinstance(value, bytes | memoryview):
        import base64

        return base64.b64encode(value).decode()
    # Decimals, intervals, paths: their text is exact, a float would not be.
    return str(value)


def table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """A table for a person, tab-separated lines with a header for anybody else."""
    if not on_terminal():
        writer = csv.writer(sys.stdout, dialect="excel-tab", lineterminator="\n")
        writer.writerow(columns)
        writer.writerows([["" if value is None else cell(value) for value in row] for row in rows])
        return
    from rich.console import Console

    Console().print(rich_table(columns, rows))


def rich_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> Any:
    """The table that a terminal shows, for whoever draws it again and again."""
    from rich.table import Table
    from rich.text import Text

    body = [list(row) for row in rows]
    shown = Table(box=None, header_style="bold", pad_edge=False)
    for index, name in enumerate(columns):
        numeric = all(isinstance(row[index], int | float | None) for row in body)
        shown.add_column(
            Text(visible(name)), justify="right" if numeric and body else "left", overflow="fold"
        )
    for row in body:
        shown.add_row(*(Text(ABSENT, style="dim") if v is None else Text(visible(cell(v))) for v in row))
    return shown


def cell(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list | tuple | dict):
        return dumps(value)
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, bytes):
        return f"\\x{value.hex()}"
    return str(value)


def visible(text: str) -> str:
    """The text with every control character as a sign, for a terminal."""
    return text.translate(_SIGNS)


def size(count: int) -> str:
    """Bytes for a person: `340.0 MB`."""
    amount = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1_000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1_000
    return f"{amount:.1f} TB"


def moment(seconds: float) -> str:
    """A time since 1970 for a person, with its zone."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def duration(seconds: float) -> str:
    """Seconds for a person: `0.4 s`, `12 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    for unit, length in (("min", 60), ("h", 3_600)):
        if seconds < length * 60:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds / 86_400:.1f} d"
