"""The history of the source's DDL, as the journal holds it: what was run, by whom, and what it did."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from cdcflow.engine.ddl import Summary, summarize
from cdcflow.journal import Reader, inspect
from cdcflow.model import MESSAGES, Change, Position
from cdcflow.model.ddl import DDL_PREFIX, DdlCommand, DdlObject

#: What one read of the journal may take in memory.
_READ_CHANGES = 100_000
_READ_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Event:
    """A DDL command and its place in the journal. `dropped` is what went away by it, `commit_time` in
    microseconds since 1970."""

    offset: int
    position: Position
    commit_time: int
    command: DdlCommand
    dropped: tuple[DdlObject, ...]
    summary: Summary


def ddl_history(path: Path) -> Iterator[Event]:
    """The DDL in the journal at `path`, oldest first. Raises JournalError."""
    #: How often a transaction has run the same text to the same effect: it can hold several statements.
    runs: Counter[tuple[int, str | None, str]] = Counter()

    def event(change: Change, command: DdlCommand, dropped: tuple[DdlObject, ...]) -> Event:
        key = (change.position.commit_lsn, command.text, command.tag)
        runs[key] += 1
        summary = summarize(command, runs[key] - 1)
        return Event(change.offset, change.position, change.commit_time, command, dropped, summary)

    # Who drops something while altering a table is told by both triggers: two messages, one event.
    first: tuple[Change, DdlCommand] | None = None
    for change, command in _commands(path):
        dropped: tuple[DdlObject, ...] = ()
        if first is not None:
            if _halves(first, (change, command)):
                dropped = first[1].objects
            else:
                yield event(*first, first[1].objects)
            first = None
        if command.event == "sql_drop":
            first = change, command
        else:
            yield event(change, command, dropped)
    if first is not None:
        yield event(*first, first[1].objects)


def _halves(first: tuple[Change, DdlCommand], second: tuple[Change, DdlCommand]) -> bool:
    """Whether the second message is the other half of what the first has told."""
    same = (first[1].tag, first[1].text) == (second[1].tag, second[1].text)
    together = first[0].position.commit_lsn == second[0].position.commit_lsn
    return same and together and second[1].event == "ddl_command_end"


def _commands(path: Path) -> Iterator[tuple[Change, DdlCommand]]:
    """Every message that tells of DDL. Segments without any message are not read."""
    for segment in inspect(path):
        if MESSAGES not in segment.relations:
            continue
        with Reader(path) as reader:
            at, end = max(segment.base, reader.first_offset()), min(segment.end, reader.head().offset)
            while at < end:
                for batch in reader.read(at, max_changes=_READ_CHANGES, max_bytes=_READ_BYTES):
                    at = batch.end
                    messages = replace(batch, groups=tuple(g for g in batch.groups if g.relation == MESSAGES))
                    for change in messages.changes():
                        command = _command(change)
                        if command is not None:
                            yield change, command


def _command(change: Change) -> DdlCommand | None:
    row = change.new or {}
    content = row.get("content")
    return DdlCommand.parse(content) if row["prefix"] == DDL_PREFIX and isinstance(content, str) else None
