"""Logical messages in the warehouse. A message is no row with a state, so each one is kept, once: in the
table `cdcflow.messages`, with the flow that brought it and its place in the journal."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow import types
from cdcflow.model import Batch, Group, Position
from cdcflow_sinks.duckdb import statements


def append(connection: Any, database: str, flow: str, batch: Batch, group: Group) -> bool:
    """Stores the messages of `group`, which is one of `batch`, inside the caller's transaction. Returns
    whether the table had to be made."""
    schema = statements.CHECKPOINT_SCHEMA
    table = statements.qualified(database, schema, "messages")
    made = (schema, "messages") not in connection.execute(statements.TABLES, [database]).fetchall()
    if made:
        connection.execute(statements.MESSAGES_TABLE.format(table=table))
    columns = [types.of(column).to_arrow(group.new(i)) for i, column in enumerate(group.relation.columns)]
    offset = pc.add(group.meta("index").cast(pa.int64()), batch.base)
    places = zip(group.meta("commit_lsn").to_pylist(), group.meta("ordinal").to_pylist(), strict=True)
    position = pa.array([str(Position(*place)) for place in places], pa.string())
    arrays = [offset, position, *columns, group.meta("xid"), group.meta("commit_time")]
    connection.register("stage", pa.table(arrays, names=[f"c{i}" for i in range(len(arrays))]))
    try:
        connection.execute(statements.INSERT_MESSAGES.format(table=table, flow=statements.literal(flow)))
    finally:
        connection.unregister("stage")
    return made
