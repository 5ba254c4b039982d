"""`cdcflow status`: what the running engine says of itself. What is unknown is shown as such, never as 0."""

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow import __version__
from cdcflow.cli import output
from cdcflow.cli.backfill import under_way
from cdcflow.cli.invocation import load_valid

if TYPE_CHECKING:
    from cdcflow.config import Config

#: Seconds between two looks of --watch; the engine's parts report twice a second.
_INTERVAL = 1.0

#: Seconds from which an open transaction is worth a line: restart_lsn stays behind where it began.
_OLD = 60.0

#: As EnvironmentFault: whoever asks for the status of an engine expects one to run.
_NOT_RUNNING = 3

Document = Mapping[str, Any]


def status(
    context: typer.Context,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Again every second, until Ctrl-C.")] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="For machines; one line each with --watch.")
    ] = False,
) -> None:
    """Show what the engine does: capture, journal and every flow. Ends with 3 if none runs."""
    config = load_valid(context)
    if watch:
        _watch(config, as_json=as_json)
        return
    document = current(config)
    if as_json:
        output.json(document)
    else:
        _print(document)
    if document["capture"] is None:
        output.say("the engine is not running")
        output.next_step("`cdcflow run`")
        raise typer.Exit(_NOT_RUNNING)


def current(config: "Config") -> Document:
    """The status document of the running engine, or one that says that none runs."""
    from cdcflow.engine import control

    return control.status(config.engine.state) or _stopped(config)


def _stopped(config: "Config") -> Document:
    flows = [
        {
            "name": flow.name,
            "from": list(flow.sources),
            "to": flow.to,
            "sink": config.sinks[flow.to].plugin.name,
            "state": "unknown",
            "reason": "the engine is not running",
        }
        for flow in config.flows.values()
    ]
    engine = {"state": "stopped", "pid": None, "started": None, "version": __version__}
    return {"engine": engine, "capture": None, "flows": flows}


def _watch(config: "Config", *, as_json: bool) -> None:
    """Until the reader has enough: Ctrl-C is how this ends well."""
    try:
        if as_json or not output.on_terminal():
            while True:
                document = current(config)
                typer.echo(output.dumps(document)) if as_json else _print(document)
                sys.stdout.flush()
                time.sleep(_INTERVAL)
        from rich.console import Console
        from rich.live import Live

        with Live(console=Console(), auto_refresh=False, screen=False) as live:
            while True:
                live.update(_screen(current(config)), refresh=True)
                time.sleep(_INTERVAL)
    except KeyboardInterrupt:
        return


def _print(document: Document) -> None:
    for line in summary(document):
        output.say(line)
    if output.on_terminal():
        output.table(*_seen(document))
        lines = [*remarks(document), *troubles(document)]
    else:
        output.table(COLUMNS, rows(document))
        lines = troubles(document)
    for line in lines:
        output.say(line)


def _screen(document: Document) -> Any:
    from rich.console import Group
    from rich.text import Text

    table = output.rich_table(*_seen(document))
    lines = [*remarks(document), *troubles(document)]
    return Group(*map(Text, summary(document)), Text(), table, *map(Text, lines))


COLUMNS = (
    *("flow", "state", "lag", "behind", "delivered", "last delivery"),
    *("retries", "restarts", "dead", "parked", "reason"),
)

#: So many columns fit a terminal of 80; `remarks` tells the rest where there is something to tell.
_FITTING = 6


def _seen(document: Document) -> tuple[tuple[str, ...], list[tuple[object, ...]]]:
    return COLUMNS[:_FITTING], [row[:_FITTING] for row in rows(document)]


def remarks(document: Document) -> list[str]:
    """A line for every flow that is not simply fine."""
    found = []
    for flow in document["flows"]:
        counts = [
            f"{flow[name]} {name}" for name in ("retries", "restarts", "dead", "parked") if flow.get(name)
        ]
        told = [*([flow["reason"]] if flow.get("reason") else []), *counts]
        if told:
            found.append(f"{flow['name']}: {', '.join(told)}")
    return found


def troubles(document: Document) -> list[str]:
    """A line for everything that the engine's own checks found not in order, and where its remedy is."""
    findings = document.get("findings") or ()
    found = [f"{finding['severity']}: {finding['subject']}: {finding['message']}" for finding in findings]
    return [*found, "`cdcflow check` says what to do"] if found else []


def rows(document: Document) -> list[tuple[object, ...]]:
    """A row per flow; None where a figure is not known."""
    found: list[tuple[object, ...]] = []
    for flow in document["flows"]:
        seconds = flow.get("lag_seconds")
        found.append(
            (
                flow["name"],
                flow["state"],
                flow.get("lag_changes"),
                None if seconds is None else output.duration(seconds),
                flow.get("delivered"),
                _ago(flow.get("last_delivery")),
                flow.get("retries"),
                flow.get("restarts"),
                flow.get("dead"),
                flow.get("parked"),
                flow.get("reason") or None,
            )
        )
    return found


def _ago(moment: float | None) -> str | None:
    """How long ago a moment was, given in seconds since 1970."""
    return None if moment is None else f"{output.duration(max(time.time() - moment, 0.0))} ago"


def summary(document: Document) -> list[str]:
    """The lines about the engine, capture and the journal."""
    engine, capture = document["engine"], document["capture"]
    pid = engine.get("pid")
    started = engine.get("started")
    since = f", for {output.duration(max(time.time() - started, 0.0))}" if started else ""
    lines = [f"engine   {engine['state']}" + (f", process {pid}" if pid else "") + since]
    if capture is None:
        return lines
    lag = capture.get("lag_bytes")
    behind = "lag unknown" if lag is None else f"{output.size(lag)} behind the server"
    lines.append(f"capture  {capture['state']}, slot {capture['slot']}, {behind}")
    if capture.get("error"):
        lines.append(f"         {capture['error']}")
    for finding in capture.get("findings") or ():
        lines.append(f"{finding['severity']}  {finding['subject']}: {finding['message']}")
    lines += _held_back(capture)
    lines += [f"backfill {told}" for told in under_way(document.get("backfills") or ())]
    lines.append(f"journal  {_journal(capture.get('journal') or {})}")
    return lines


def _held_back(capture: Mapping[str, Any]) -> list[str]:
    """What the server keeps because of the slot, and what holds the slot itself back."""
    retained, age, oldest = (capture.get(n) for n in ("retained_bytes", "catalog_age", "oldest_transaction"))
    if retained is None:
        return []
    held = f"slot     the server keeps {output.size(retained)} of WAL for it"
    if age:
        held += f", and dead rows of its catalogs for {age:,} transactions"
    if oldest is None or (oldest["seconds"] or 0.0) < _OLD:
        return [held]
    whose = f"process {oldest['pid']}" if oldest["prepared"] is None else f"prepared {oldest['prepared']!r}"
    open_ = output.duration(oldest["seconds"])
    return [held, f"         held back by a transaction that is open for {open_}: {whose} ({oldest['who']})"]


def _journal(journal: Mapping[str, int | None]) -> str:
    offset, first, held = journal.get("offset"), journal.get("first_offset"), journal.get("bytes")
    if offset is None or first is None or held is None:
        return "unknown"
    return f"{offset - first:,} changes kept, head {offset:,}, {output.size(held)}"
