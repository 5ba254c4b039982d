"""What a warehouse does when its flow is to go on elsewhere in the journal.

It holds rows, not changes. Going back to the beginning, it lets go of the flow's tables: what comes then
makes them anew, through every generation, as in a new file. Going back to any other place, changes come again
over what later ones have made of the rows. `unrepeatable` says when that leads elsewhere; where it does not:

* A row that no change of that stretch is about is as it is to be. Of any other, the last change decides: it
  is there, with the values that were sent, or gone.
* A value that an update did not send stays what the table has. It may be from a later life of the key; then
  that life begins further on, with a row that comes whole.
* An update that leaves a value unchanged may find no row: it is deleted, or has another key, further on. That
  is nothing to refuse before the place is passed that the warehouse had reached (`Replays`).

Until then the tables are a mixture of older and newer rows, which the source never was. Going forward leaves
out what lies between.
"""

from collections.abc import Iterable
from typing import Any

import pyarrow.compute as pc

from cdcflow.errors import Permanent
from cdcflow.model import BACKFILLS, MESSAGES, Batch, Group, Op, Position, Relation
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.backfills import Backfills
from cdcflow_sinks.duckdb.collapse import key_columns, old_keys
from cdcflow_sinks.duckdb.database import Checkpoints
from cdcflow_sinks.duckdb.relations import Relations

_MESSAGES = (statements.CHECKPOINT_SCHEMA, "messages")


def unrepeatable(batches: Iterable[Batch]) -> str:
    """Why these changes would not lead to the same rows a second time; empty where they would."""
    shapes: dict[str, Relation] = {}
    for batch in batches:
        for group in batch.groups:
            relation = group.relation
            if relation in (MESSAGES, BACKFILLS) or not len(group):
                continue
            name = relation.qualified
            if relation.full or not relation.key:
                return (
                    f"nothing but the whole row identifies a row of {name}, so its changes would count twice"
                )
            if shapes.setdefault(name, relation) != relation:
                return f"{name} was altered in between, and its older changes do not fit the table as it is"
            if _moved_incomplete(group):
                return (
                    f"a change of a key of {name} left values out, and which row of the warehouse has them "
                    "now is not known"
                )
    if len({relation.oid for relation in shapes.values()}) < len(shapes):
        return f"a table was renamed in between: {', '.join(sorted(shapes))}"
    return ""


def _moved_incomplete(group: Group) -> bool:
    """Whether an update of it changes a row's key and leaves other values out."""
    if not group.unchanged or not group.old:
        return False
    group = group.take(pc.invert(group.is_op(Op.TRUNCATE)))
    before = old_keys(group, key_columns(group))
    if before is None:
        return False
    masks = [
        group.unchanged_mask(i) for i in range(len(group.relation.columns)) if i not in group.relation.key
    ]
    moved = before[0].is_valid()
    return any(pc.any(pc.and_(moved, mask)).as_py() for mask in masks if mask is not None)


class Replays:
    """Up to which offset a flow's changes come a second time, kept in the warehouse."""

    def __init__(self, connection: Any, database: str, flow: str) -> None:
        self._connection = connection
        self._flow = flow
        self._table = statements.qualified(database, statements.CHECKPOINT_SCHEMA, "replay")

    def create(self) -> None:
        self._connection.execute(statements.REPLAYS_TABLE.format(table=self._table))

    def until(self) -> int:
        """0 where the flow has never gone back."""
        query = statements.READ_REPLAY.format(table=self._table)
        found = self._connection.execute(query, [self._flow]).fetchone()
        return 0 if found is None else int(found[0])

    def begin(self, until: int) -> None:
        self.forget()
        self._connection.execute(statements.INSERT_REPLAY.format(table=self._table), [self._flow, until])

    def forget(self) -> None:
        self._connection.execute(statements.DELETE_REPLAY.format(table=self._table), [self._flow])


def move(
    connection: Any,
    database: str,
    flow: str,
    stored: Checkpoints,
    offset: int,
    position: Position,
    *,
    whole: bool,
) -> None:
    """Moves the flow's checkpoint, inside the caller's transaction; that changes may come again is for the
    caller to know (`unrepeatable`). Raises Permanent in the middle of such a stretch."""
    present, replays = stored.read(), Replays(connection, database, flow)
    if present is None or offset == present:
        stored.store(offset, str(position))
        return
    if whole and offset < present:
        _let_go(connection, database, flow, stored)
        replays.forget()
    elif present < (until := replays.until()):
        raise Permanent(
            f"changes come again up to offset {until}, and the warehouse has reached {present}: what lies "
            "between must come for its rows to be right",
            hint="wait until the flow has passed that offset, or rewind to `start`",
        )
    elif offset < present:
        replays.begin(present)
        if _MESSAGES in connection.execute(statements.TABLES, [database]).fetchall():
            table = statements.qualified(database, *_MESSAGES)
            connection.execute(statements.DELETE_MESSAGES_FROM.format(table=table), [flow, offset])
    Backfills(connection, database, flow).forget_all()
    stored.store(offset, str(position))


def _let_go(connection: Any, database: str, flow: str, stored: Checkpoints) -> None:
    known = Relations(connection, database)
    alone = stored.flows() == [flow]
    present = set(connection.execute(statements.TABLES, [database]).fetchall())
    for oid, place, owner in known.owned():
        if owner is None and not alone:
            raise Permanent(
                f"the table {place.schema}.{place.name} was made by an earlier cdcflow, and whether it is "
                f"flow {flow}'s is not known",
                hint="let the flow deliver a change of each of its tables first",
            )
        if owner in (None, flow):
            if (place.schema, place.name) in present:
                connection.execute(statements.drop_table(place.quoted))
            known.forget(oid)
    if _MESSAGES in present:
        connection.execute(
            statements.DELETE_MESSAGES.format(table=statements.qualified(database, *_MESSAGES)), [flow]
        )
