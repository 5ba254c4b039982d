"""`cdcflow journal`: what is in the journal, and whether all of it is sound."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cdcflow.cli import output
from cdcflow.cli.invocation import load_config
from cdcflow.errors import JournalDamaged

if TYPE_CHECKING:
    from cdcflow.engine.history import Event
    from cdcflow.journal import SegmentInfo
    from cdcflow.model import Position

app = typer.Typer(help="The journal: every captured change, on local disk.", no_args_is_help=True)

Where = Annotated[
    Path | None,
    typer.Argument(metavar="[PATH]", help="The journal's directory; else the configuration says it."),
]
AsJson = Annotated[bool, typer.Option("--json", help="For machines.")]


def _path(context: typer.Context, path: Path | None) -> Path:
    return path if path is not None else load_config(context).journal.path


@app.command("inspect")
def inspect(context: typer.Context, path: Where = None, as_json: AsJson = False) -> None:
    """List the segments: offsets, sizes, positions, and which tables they hold."""
    from cdcflow.journal import inspect as inspect_segments

    where = _path(context, path)
    found = inspect_segments(where)
    if as_json:
        output.json([_described(segment) for segment in found])
        return
    output.table(
        ("segment", "base", "end", "frames", "size", "first", "last", "last commit", "tables"),
        [
            (
                segment.file,
                segment.base,
                segment.end,
                segment.frames,
                output.size(segment.bytes) if output.on_terminal() else segment.bytes,
                _text(segment.first),
                _text(segment.last),
                _moment(segment.last_commit_time),
                ", ".join(_tables(segment)),
            )
            for segment in found
        ],
    )
    changes = found[-1].end - found[0].base if found else 0
    total = sum(segment.bytes for segment in found)
    output.say(f"{where}: {len(found)} segment(s), {changes} change(s), {output.size(total)}")
    if any(segment.bad_at is not None for segment in found):
        output.next_step("a segment cannot be read to its end: `cdcflow journal verify` says why")


@app.command("verify")
def verify(context: typer.Context, path: Where = None, as_json: AsJson = False) -> None:
    """Check every checksum, and that offsets and positions have no gap. Ends with 3 if there is damage."""
    from cdcflow.journal import verify as find_damage

    where = _path(context, path)
    found = list(find_damage(where))
    if as_json:
        output.json([asdict(damage) for damage in found])
    elif found:
        output.table(
            ("segment", "byte", "kind", "what"),
            [(d.segment, d.at, "torn tail" if d.torn else "damage", d.message) for d in found],
        )
    damaged = sum(not damage.torn for damage in found)
    if damaged:
        raise JournalDamaged(
            f"the journal at {where} is damaged in {damaged} place(s)",
            hint="keep a copy of it; flows that have read past the damage go on, the others need a backfill",
        )
    if found:
        output.say(f"{where}: sound up to a torn tail, which the next start cuts off; nothing is lost by it")
    else:
        output.say(f"{where}: sound")


@app.command("ddl")
def ddl(
    context: typer.Context,
    path: Where = None,
    table: Annotated[
        list[str] | None, typer.Option("--table", help="Only what is about it, such as public.orders.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Show the DDL that the source has run, oldest first. Captured where `source.ddl` is true."""
    from cdcflow.engine.history import ddl_history

    where = _path(context, path)
    found = [event for event in ddl_history(where) if not table or about(event) & set(table)]
    if as_json:
        output.json([_event(event) for event in found])
        return
    output.table(
        ("time", "position", "user", "command", "object", "what"),
        [
            (
                _moment(event.commit_time),
                str(event.position),
                event.command.user,
                event.summary.kind,
                event.summary.object,
                _what(event),
            )
            for event in found
        ],
    )
    output.say(f"{where}: {len(found)} DDL command(s)")


def about(event: "Event") -> set[str]:
    """The tables that a command names or has touched."""
    concerned = (*event.command.objects, *event.dropped)
    named = {".".join(o.identity.split(".")[:2]) for o in concerned if o.schema}
    return {event.summary.object, *event.summary.object.split(", "), *([event.summary.to or ""]), *named}


def _what(event: "Event") -> str:
    """The columns, or else the statement on one line."""
    summary = event.summary
    columns = [
        " ".join(filter(None, (c.action, c.name, c.to and f"to {c.to}", c.type))) for c in summary.columns
    ]
    if summary.to:
        columns.append(f"to {summary.to}")
    gone = [o.identity for o in event.dropped if o.identity != summary.object]
    if gone and not columns:
        columns.append(f"drop {', '.join(gone)}")
    return ", ".join(columns) or " ".join((summary.statement or event.command.text or "").split())


def _event(event: "Event") -> dict[str, Any]:
    command, summary = event.command, event.summary
    return {
        "offset": event.offset,
        "position": str(event.position),
        "commit_time": _moment(event.commit_time),
        "user": command.user,
        "search_path": command.search_path,
        "kind": summary.kind,
        "object": summary.object,
        "to": summary.to,
        "columns": [asdict(column) for column in summary.columns],
        "statement": summary.statement,
        "text": command.text,
        "objects": [asdict(o) for o in command.objects],
        "dropped": [asdict(o) for o in event.dropped],
    }


def _described(segment: "SegmentInfo") -> dict[str, Any]:
    return {
        "segment": segment.file,
        "base": segment.base,
        "end": segment.end,
        "frames": segment.frames,
        "bytes": segment.bytes,
        "first": _text(segment.first),
        "last": _text(segment.last),
        "first_commit_time": _moment(segment.first_commit_time),
        "last_commit_time": _moment(segment.last_commit_time),
        "tables": _tables(segment),
        "bad_at": segment.bad_at,
    }


def _text(position: "Position | None") -> str | None:
    return None if position is None else str(position)


def _tables(segment: "SegmentInfo") -> list[str]:
    return sorted({relation.qualified for relation in segment.relations})


def _moment(microseconds: int | None) -> str | None:
    """A commit time as ISO 8601 in UTC."""
    if microseconds is None:
        return None
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    return moment.isoformat(sep=" ", timespec="milliseconds")
