"""Dead letters in the warehouse: single changes from before its checkpoint.

A row with a key may get the same change twice, and is the same row. Where nothing but the whole row
identifies one, what has come is kept by its offset, in the transaction of the rows: `cdcflow.redelivered`.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.model import Batch, Group, Relation
from cdcflow_sinks.duckdb import statements


class Redelivered:
    """The letters without a key that a flow has had delivered, by their offsets in the journal."""

    def __init__(self, connection: Any, database: str, flow: str) -> None:
        self._connection = connection
        self._flow = flow
        self._table = statements.qualified(database, statements.CHECKPOINT_SCHEMA, "redelivered")

    def create(self) -> None:
        self._connection.execute(statements.REDELIVERED_TABLE.format(table=self._table))

    def forget(self, offset: int) -> None:
        """Those from there on come again."""
        self._connection.execute(
            statements.DELETE_REDELIVERED.format(table=self._table), [self._flow, offset]
        )

    def new(self, batch: Batch, offsets: Sequence[int]) -> Batch:
        """The batch without what was delivered before, which is kept in mind from here on."""
        counted = [group for group in batch.groups if group.relation.full or not group.relation.key]
        wanted = {offsets[index] for group in counted for index in group.meta("index").to_pylist()}
        if not wanted:
            return batch
        query = statements.READ_REDELIVERED.format(table=self._table)
        known = {offset for (offset,) in self._connection.execute(query, [self._flow]).fetchall()}
        insert = statements.INSERT_REDELIVERED.format(table=self._table)
        for offset in sorted(wanted - known):
            self._connection.execute(insert, [self._flow, offset])
        gone = pa.array([i for i, offset in enumerate(offsets) if offset in known], pa.uint32())
        return batch.with_groups(
            [
                group.take(pc.invert(pc.is_in(group.meta("index"), value_set=gone)))
                if group in counted
                else group
                for group in batch.groups
            ]
        )


def fitted(group: Group, present: Relation) -> Group | None:
    """The changes as ones of the shape that the table has, or None where it is another one."""
    own = group.relation
    alike = (own.columns, own.replica_identity) == (present.columns, present.replica_identity)
    return replace(group, relation=present) if alike else None


def older(relation: Relation, present: Relation) -> bool:
    """Whether the table may have gone on since it had this shape."""
    if relation.layout is None or present.layout is None:
        return True
    return relation.layout.lsn < present.layout.lsn
