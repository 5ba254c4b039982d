"""What a sink can say of tables before any change of them comes, and what every sink of events must say."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from cdcflow.model import Relation
from cdcflow.model.expected import ExpectedTable as ExpectedTable
from cdcflow.model.finding import Finding

#: Names in a message before it says how many more there are.
_SHOWN = 5


@runtime_checkable
class Judges(Protocol):
    """Says which tables it cannot take, or not without loss, for `cdcflow check` and the running engine.

    Pure and quick: called without `open`, again and again, with the tables of the sink's flow. A finding's
    SQL is for the source.
    """

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]: ...


@runtime_checkable
class Claims(Protocol):
    """Names, in words, what at its destination will hold the rows of a relation, where only one flow can have
    it: two flows that make the same claim would overwrite each other. Pure; called without `open`."""

    def claim(self, relation: Relation) -> str: ...


def judge_events(subject: str, tables: Sequence[ExpectedTable]) -> list[Finding]:
    """What holds for any sink that passes changes on as events and keeps no rows to fill them up from."""
    partial = [table for table in tables if table.toasted and not table.relation.full]
    if not partial:
        return []
    listed = [f"{table.relation.qualified} ({', '.join(table.toasted)})" for table in partial]
    more = f" and {len(listed) - _SHOWN} more" if len(listed) > _SHOWN else ""
    return [
        Finding(
            "warning",
            subject,
            f"large values of {', '.join(listed[:_SHOWN])}{more} are missing from events of updates that left"
            " them alone: the server does not send them (they are named under `unchanged`)",
            "let the receiver keep what it has of them; or let the server send whole old rows, for more WAL,"
            " and events whose key is the whole row",
            "\n".join(f"ALTER TABLE {_quoted(table)} REPLICA IDENTITY FULL;" for table in partial),
        )
    ]


def _quoted(table: ExpectedTable) -> str:
    names = (table.relation.schema, table.relation.name)
    return ".".join('"' + name.replace('"', '""') + '"' for name in names)
