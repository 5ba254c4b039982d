"""The backfills that are under way for a flow, in the warehouse's own file: what they mean for its tables.

While one is, an update may leave a value unchanged in a row that is not here yet; the row comes whole later.
One that replaces keeps the keys of all rows that come, read or changed, and at its end the others go; none
where another key has come into use meanwhile, or none at all: then a TRUNCATE has taken them away. Every step
is part of the transaction of the rows around it.
"""

import logging
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

from cdcflow.model import Mark
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.target import Target

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Backfill:
    """One under way: of the table with this OID. `seen` is the table of kept keys, quoted, if it replaces."""

    oid: int
    name: str
    seen: str | None


class Backfills:
    """What is under way for one flow."""

    def __init__(self, connection: Any, database: str, flow: str) -> None:
        self._connection = connection
        self._database = database
        self._flow = flow
        self._table = statements.qualified(database, statements.CHECKPOINT_SCHEMA, "backfill")

    def create(self) -> None:
        self._connection.execute(statements.BACKFILLS_TABLE.format(table=self._table))

    def open(self) -> dict[int, list[Backfill]]:
        """By the table's OID."""
        query = statements.OPEN_BACKFILLS.format(table=self._table)
        found: dict[int, list[Backfill]] = {}
        for oid, name, seen in self._connection.execute(query, [self._flow]).fetchall():
            found.setdefault(oid, []).append(Backfill(oid, name, seen))
        return found

    def begin(self, marks: Iterable[Mark]) -> None:
        """Takes in the marks of a batch before its rows."""
        for mark in marks:
            if mark.phase == "begin":
                self._forget(mark)  # the same mark, given again
                seen = self._seen(mark) if mark.replace else None
                values = [self._flow, mark.oid, mark.backfill, seen]
                self._connection.execute(statements.INSERT_BACKFILL.format(table=self._table), values)

    def kept(self, under_way: list[Backfill], target: Target) -> list[str]:
        """The tables that keep the keys of the target's rows, of those backfills of it that replace. Those
        whose kept keys are not this target's do not replace any more."""
        for i, one in enumerate(under_way):
            if one.seen is not None and not self._fits(one.seen, target):
                self._give_up(one, target)
                under_way[i] = replace(one, seen=None)
        return [one.seen for one in under_way if one.seen is not None]

    def _fits(self, seen: str, target: Target) -> bool:
        """Whether these keys are the target's; makes their table, once the shape of the key is known."""
        if target.relation.full or not target.key:
            return False
        columns = ", ".join(f"{statements.quote(name)} {kind}" for name, kind in target.key)
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {seen} ({columns})")
        found = self._connection.execute(statements.no_rows(seen)).description
        return [column[0] for column in found] == [name for name, _ in target.key]

    def _give_up(self, backfill: Backfill, target: Target) -> None:
        query = statements.KEEP_NO_KEYS.format(table=self._table)
        self._connection.execute(query, [self._flow, backfill.oid, backfill.name])
        self._connection.execute(f"DROP TABLE IF EXISTS {backfill.seen}")
        if target.key and not target.relation.full:
            log.warning(
                "the key of %s was altered: the backfill %s takes no rows of it away that are not at the"
                " source; start it again for that",
                target.relation.qualified,
                backfill.name,
            )

    def end(self, marks: Iterable[Mark], targets: Iterable[Target]) -> None:
        """Takes in the marks of a batch behind its rows."""
        known = {target.relation.oid: target for target in targets}
        under_way = {(oid, one.name): one for oid, some in self.open().items() for one in some}
        for mark in marks:
            # One whose beginning was skipped has not seen every row that is to stay.
            one = under_way.get((mark.oid, mark.backfill))
            if mark.phase == "begin" or one is None:
                continue
            target = known.get(mark.oid)
            if mark.phase == "end" and target is not None:
                for seen in self.kept([one], target):
                    self._connection.execute(statements.delete_others(target.table, seen, target.key))
            self._forget(mark)

    def forget_all(self) -> None:
        """Nothing is under way any more: the flow goes on elsewhere in the journal."""
        for some in self.open().values():
            for one in some:
                if one.seen is not None:
                    self._connection.execute(f"DROP TABLE IF EXISTS {one.seen}")
        self._connection.execute(statements.DELETE_BACKFILLS.format(table=self._table), [self._flow])

    def _seen(self, mark: Mark) -> str:
        name = f"seen {self._flow} {mark.backfill} {mark.oid}"
        return statements.qualified(self._database, statements.CHECKPOINT_SCHEMA, name)

    def _forget(self, mark: Mark) -> None:
        values = [self._flow, mark.oid, mark.backfill]
        self._connection.execute(statements.DELETE_BACKFILL.format(table=self._table), values)
        self._connection.execute(f"DROP TABLE IF EXISTS {self._seen(mark)}")
