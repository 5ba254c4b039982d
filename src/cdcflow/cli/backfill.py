"""`cdcflow backfill`: reading the rows that tables hold already, while their changes go on coming."""

import math
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import load_config
from cdcflow.errors import ConfigurationError

if TYPE_CHECKING:
    from cdcflow.config import Config
    from cdcflow.source.wanted import Wanted

app = typer.Typer(
    help="Read the rows that tables hold already, while their changes go on coming.", no_args_is_help=True
)

AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]
Name = Annotated[str, typer.Argument(help="The backfill's name, as `status` shows it.")]

#: Seconds between two looks of --wait and --watch.
_INTERVAL = 0.5
_BAR = 24


@app.command("start")
def start(
    context: typer.Context,
    tables: Annotated[list[str], typer.Argument(help="Tables, as schema.table.", metavar="TABLE…")],
    where: Annotated[
        str, typer.Option("--where", metavar="SQL", help="Only rows that meet this condition.")
    ] = "",
    columns: Annotated[
        str,
        typer.Option(
            "--columns",
            metavar="A,B,…",
            help="Only these columns and the key: the others stay as a sink has them, and rows that it has"
            " not are left out.",
        ),
    ] = "",
    flows: Annotated[
        list[str] | None,
        typer.Option("--for", metavar="FLOW", help="Only this flow gets the rows; may be repeated."),
    ] = None,
    rate: Annotated[
        float | None, typer.Option("--rate", metavar="ROWS/S", min=1, help="At most so many rows a second.")
    ] = None,
    replace: Annotated[
        bool,
        typer.Option(
            "--replace", help="At the end, a warehouse deletes the rows that are not at the source any more."
        ),
    ] = False,
    halt: Annotated[
        bool,
        typer.Option(
            "--halt",
            help="Let live changes wait while a table without a key is read, in one long transaction.",
        ),
    ] = False,
    wait: Annotated[bool, typer.Option("--wait", help="Until it is over, with a progress bar.")] = False,
    as_json: AsJson = False,
) -> None:
    """Start a backfill in the running engine. It survives whatever is stopped or killed."""
    from dataclasses import asdict

    from cdcflow.engine import control
    from cdcflow.engine.backfills import require_flows, require_taken
    from cdcflow.source.requests import Request
    from cdcflow.source.wanted import look

    config = load_config(context)
    names = tuple(name.strip() for name in columns.split(",") if name.strip())
    if columns and not names:
        raise ConfigurationError("--columns names none", hint="name some, as A,B, or leave it out for all")
    if where and not where.strip():
        raise ConfigurationError("--where is empty", hint="leave it out for all rows")
    if rate is not None and not math.isfinite(rate):
        raise ConfigurationError("--rate must be a number of rows", hint="leave it out for no limit")
    if replace and (where or names):
        raise ConfigurationError(
            "--replace takes away what the backfill does not bring, and --where and --columns leave rows out",
            hint="leave out --replace, or the others",
        )
    wanted_by = tuple(dict.fromkeys(flows or ()))
    request = Request("", tuple(dict.fromkeys(tables)), where, names, wanted_by, rate, replace, halt)
    require_flows(config, request.flows)
    wanted = look(config.source.dsn.get_secret_value(), config.source.publication, request)
    require_taken(config, request.flows, [table.relation for table in wanted])
    for table in wanted:
        _tell_cost(table, halt=halt, where=where, columns=names, rate=rate)
        rows = f"about {table.rows:,} rows, " if table.rows >= 0 else ""
        output.say(f"{table.table}: {rows}{output.size(table.nbytes)}")
    asked = {"do": "start", "request": asdict(request)}
    kept = control.backfill(config.engine.state, asked)
    if as_json:
        output.json(kept)
    else:
        output.data(kept["name"])
    if wait:
        raise typer.Exit(_follow(config, kept["name"]))
    output.next_step(
        f"`cdcflow backfill status --watch` shows how far it is; `pause {kept['name']}` pauses it"
    )


#: Rows and bytes that one COPY brings in a second at least, for an estimate that does not promise too much.
_COPY_ROWS, _COPY_BYTES = 50_000, 20_000_000


def _tell_cost(
    table: "Wanted", *, halt: bool, where: str, columns: Sequence[str], rate: float | None
) -> None:
    """What a table without a key costs, before anything happens. Raises ConfigurationError."""
    if table.keyed:
        return
    seconds = max(max(table.rows, 0) / _COPY_ROWS, table.nbytes / _COPY_BYTES)
    cost = (
        f"nothing tells the rows of {table.table} apart: its destinations empty it first, then all of it is"
        f" read in one transaction of about {output.duration(seconds)}, while all other changes wait"
    )
    if not halt:
        raise ConfigurationError(cost, hint="say --halt where that is bearable, or give the table a key")
    if where or columns or rate is not None:
        raise ConfigurationError(
            f"{table.table} is read as a whole, without --where, --columns and --rate", hint="leave them out"
        )
    output.warn(cost)


@app.command("status")
def status(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Only this one.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Until all are over, or Ctrl-C.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how far backfills are, and how the last ones ended."""
    config = load_config(context)
    if watch:
        try:
            raise typer.Exit(_follow(config, name))
        except KeyboardInterrupt:
            return
    found = _found(config, name)
    if as_json:
        output.json(found)
        return
    output.table(COLUMNS, [row for one in found for row in _rows(one)])
    for line in troubles(found):
        output.say(line)
    if not found:
        output.next_step("`cdcflow backfill start schema.table`")


@app.command("pause")
def pause(context: typer.Context, name: Name) -> None:
    """Pause a backfill. What it has read stays read, for as long as you like."""
    _wish(context, name, "pause")
    output.next_step(f"`cdcflow backfill resume {name}`")


@app.command("resume")
def resume(context: typer.Context, name: Name) -> None:
    """Let a backfill go on that was paused, or that has failed, where it was."""
    _wish(context, name, "run")


@app.command("cancel")
def cancel(context: typer.Context, name: Name) -> None:
    """End a backfill. The rows that it has brought stay where they are."""
    _wish(context, name, "cancel")


def _wish(context: typer.Context, name: str, wish: str) -> None:
    from cdcflow.engine import control

    config = load_config(context)
    kept = control.backfill(config.engine.state, {"do": wish, "name": name})
    if kept["halt"] and wish != "run":
        output.warn(
            "where a table without a key is being read now, its destinations hold what of it has come until"
            " it is read to its end"
        )


def _found(config: "Config", name: str | None) -> list[dict[str, Any]]:
    """From the running engine; from the files where none runs."""
    from cdcflow.engine import backfills, control

    document = control.status(config.engine.state)
    found: list[dict[str, Any]] = (
        document["backfills"] if document is not None else backfills.document(config, ())
    )
    if name is None:
        return found
    chosen = [one for one in found if one["name"] == name]
    if not chosen:
        raise ConfigurationError(
            f"there is no backfill {name!r}", hint="`cdcflow backfill status` lists them"
        )
    return chosen


COLUMNS = ("backfill", "table", "state", "read", "rows", "of about", "rows/s", "left", "chunks", "bytes")


def _rows(one: Mapping[str, Any]) -> Iterator[tuple[object, ...]]:
    for table in one["tables"]:
        share, left, rate = table.get("share"), table.get("remaining_seconds"), table.get("rate")
        yield (
            one["name"],
            table["table"],
            state_of(one, table),
            None if share is None else f"{share:.0%}",
            table.get("rows"),
            table.get("estimated_rows"),
            None if rate is None else round(rate),
            None if left is None else output.duration(left),
            table.get("chunks"),
            None if table.get("bytes") is None else output.size(table["bytes"]),
        )


#: What capture calls its steps, in a word for people.
_WORDS = {
    "beginning": "starting",
    "seeding": "starting",
    "seeded": "starting",
    "lookup": "reading",
    "whole": "waiting",
    "copying": "reading",
    "read": "reading",
    "rereading": "finishing",
    "ending": "finishing",
}


def state_of(one: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    if one["state"] == "paused" and table["state"] not in ("done", "failed", "cancelled"):
        return "paused"
    return _WORDS.get(table["state"], str(table["state"]))


def troubles(found: Sequence[Mapping[str, Any]]) -> list[str]:
    lines = []
    for one in found:
        for table in one["tables"]:
            if table.get("error"):
                lines.append(f"{one['name']}, {table['table']}: {table['error']}")
                if table.get("hint"):
                    lines.append(f"hint: {table['hint']}")
    return lines


def bar(share: float | None) -> str:
    """A bar of the share that is read."""
    if share is None:
        return "·" * _BAR
    full = round(min(max(share, 0.0), 1.0) * _BAR)
    return "━" * full + "·" * (_BAR - full)


def _line(one: Mapping[str, Any], table: Mapping[str, Any]) -> str:
    share, rate, left = table.get("share"), table.get("rate"), table.get("remaining_seconds")
    parts = [f"{table['table']} {bar(share)} {'' if share is None else f'{share:4.0%}'}"]
    if table.get("rows") is not None:
        parts.append(f"{table['rows']:,} rows")
    if rate:
        parts.append(f"{rate:,.0f}/s")
    if left is not None:
        parts.append(f"{output.duration(left)} left")
    state = state_of(one, table)
    return "  ".join([*parts, *([] if state == "reading" else [state])])


def under_way(found: Sequence[Mapping[str, Any]]) -> list[str]:
    """A line for every table that is not over, for `cdcflow status`."""
    lines = []
    for one in found:
        for table in one["tables"]:
            if table["state"] in ("done", "cancelled"):
                continue
            share, rate, left = table.get("share"), table.get("rate"), table.get("remaining_seconds")
            parts = [f"{one['name']}: {table['table']} {state_of(one, table)}"]
            parts += [] if share is None else [f"{share:.0%} read"]
            parts += [f"{rate:,.0f} rows/s"] if rate else []
            parts += [] if left is None else [f"{output.duration(left)} left"]
            lines.append(", ".join(parts))
    return lines


def _follow(config: "Config", name: str | None) -> int:
    """Shows progress until all is over; the exit code."""
    if not output.on_terminal():
        while not _over(found := _found(config, name)):
            time.sleep(_INTERVAL)
    else:
        from rich.console import Console, Group
        from rich.live import Live
        from rich.text import Text

        with Live(console=Console(), auto_refresh=False) as live:
            while True:
                found = _found(config, name)
                lines = [_line(one, table) for one in found for table in one["tables"]]
                live.update(Group(*map(Text, lines)), refresh=True)
                if _over(found):
                    break
                time.sleep(_INTERVAL)
    for line in troubles(found):
        output.say(line)
    return 1 if any(one["state"] == "failed" for one in found) else 0


def _over(found: Sequence[Mapping[str, Any]]) -> bool:
    return all(one["state"] in ("done", "cancelled", "failed", "paused") for one in found)
