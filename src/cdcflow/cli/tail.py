"""`cdcflow tail`: live changes on the terminal, with nothing but a DSN."""

import os
import signal
import threading
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import load_config

if TYPE_CHECKING:
    from cdcflow.model import Batch

#: How a change begins on a terminal, and its colour.
MARKS = {
    "insert": ("+", "green"),
    "read": ("+", "green"),
    "update": ("~", "yellow"),
    "delete": ("-", "red"),
    "truncate": ("!", "magenta"),
    "message": ("»", "cyan"),
}
#: A value on a terminal is cut to so many characters.
WIDTH = 40


def tail(
    context: typer.Context,
    dsn: Annotated[
        str | None, typer.Argument(help="The database. Without it, the one of the configuration.")
    ] = None,
    table: Annotated[
        list[str] | None, typer.Option("--table", "-t", help="Only tables that match; may be repeated.")
    ] = None,
    messages: Annotated[
        list[str] | None,
        typer.Option(
            "--messages",
            "-m",
            metavar="PREFIX",
            help="Logical messages whose prefix matches, such as 'orders.*'; may be repeated. Tables then"
            " only where --table says so.",
        ),
    ] = None,
    form: Annotated[
        str | None, typer.Option("--format", help="json or pretty. Pretty on a terminal, else json.")
    ] = None,
    limit: Annotated[
        int | None, typer.Option("--limit", "-n", min=1, help="End after so many changes.")
    ] = None,
) -> None:
    """Show what is committed from now on, one change a line.

    Makes a temporary slot and, where a DSN is given, publications of its own; both go away with it.
    """
    if form not in (None, "json", "pretty"):
        raise typer.BadParameter(f"{form!r} is neither json nor pretty", param_hint="--format")
    from cdcflow.model import PrefixPatterns
    from cdcflow.model.patterns import TablePatterns
    from cdcflow.source.tail import tail as stream
    from cdcflow.transform import Select

    publication = None
    if dsn is None:
        config = load_config(context)
        dsn, publication = config.source.dsn.get_secret_value(), config.source.publication
    prefixes = PrefixPatterns(messages or [])
    wanted = TablePatterns(table or ([] if prefixes else ["*.*"]))
    select = Select(wanted, prefixes)
    stop = threading.Event()
    # SIGTERM ends it like Ctrl-C does: the publications must go.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    # A wait goes on behind a signal's handler (PEP 475), unless the signal is there to read.
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.set_wakeup_fd(wakes)

    def ready(names: list[str]) -> None:
        shown = [n for n in names if wanted.matches(*n.split(".", 1))]
        if shown or not prefixes:
            named = ", ".join(map(_name, shown[:8])) + (" …" if len(shown) > 8 else "")
            output.say(f"watching {len(shown)} table(s): {named}")
        if prefixes:
            output.say(f"watching messages: {', '.join(map(_name, messages or []))}")

    pretty = form == "pretty" or (form is None and output.on_terminal())
    seen = 0
    found = stream(
        dsn,
        tables=table or [],
        publication=publication,
        messages=prefixes,
        stopping=stop.is_set,
        ready=ready,
        wake_on=woken,
    )
    for batch in found:
        for line in _lines(select(batch), pretty=pretty):
            output.data(line)
            seen += 1
            if limit is not None and seen >= limit:
                return


def _lines(batch: "Batch", *, pretty: bool) -> list[str]:
    import orjson

    from cdcflow.sink.event import encode, events

    lines = []
    for _, event in events(batch):
        encoded = encode(event)
        lines.append(_pretty(orjson.loads(encoded)) if pretty else encoded.decode())
    return lines


def _pretty(event: dict[str, Any]) -> str:
    """`~ public.orders id=7  status: paid`: the key, then what else is there."""
    mark, colour = MARKS[event["op"]]
    if event["op"] == "message":
        content = event["content"] if event["content"] is not None else f"(bytes) {event['bytes']}"
        return f"{typer.style(mark, fg=colour, bold=True)} {_name(event['prefix'])}  {_short(content)}"
    key = event["key"] or {}
    row = event["new"] if event["new"] is not None else event["old"]
    parts = [typer.style(mark, fg=colour, bold=True), _name(f"{event['schema']}.{event['table']}")]
    parts += [f"{_name(name)}={_short(value)}" for name, value in key.items()]
    line = " ".join(parts)
    rest = [f"{_name(name)}: {_short(value)}" for name, value in (row or {}).items() if name not in key]
    rest += [f"{_name(name)}: (unchanged)" for name in event.get("unchanged", ())]
    return f"{line}  {'  '.join(rest)}" if rest and event["op"] != "delete" else line


def _name(text: str) -> str:
    return output.visible(text).replace("\n", "⏎")


def _short(value: object) -> str:
    text = _name("NULL" if value is None else output.cell(value))
    return text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
