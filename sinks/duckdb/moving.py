"""What a warehouse does when its flow is to go on elsewhere in the journal.

It holds rows, not changes. Changes that come again over later rows do not lead back to the same rows: a table
without a key would get each twice, and a value that an update did not send is by then another row's. So the
warehouse goes back to the beginning only, and there it lets go of the flow's tables: what comes then makes
them anew, through every generation, as in a new file. Going forward leaves out what lies between.
"""

from typing import Any

from cdcflow.errors import Permanent
from cdcflow.model import Position
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.backfills import Backfills
from cdcflow_sinks.duckdb.database import Checkpoints
from cdcflow_sinks.duckdb.relations import Relations


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
    """Moves the flow's checkpoint, inside the caller's transaction. Raises Permanent for a place that is
    neither the beginning nor ahead."""
    present = stored.read()
    if present is not None and offset < present:
        if not whole:
            raise Permanent(
                f"the warehouse holds the rows as they were at offset {present}, and changes from {offset} "
                "on cannot be applied to those a second time",
                hint="rewind to `start`, which makes the flow's tables anew; where the journal no longer "
                "holds the beginning, read everything anew with a backfill",
            )
        _let_go(connection, database, flow, stored)
    if present != offset:
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
    messages = (statements.CHECKPOINT_SCHEMA, "messages")
    if messages in present:
        connection.execute(
            statements.DELETE_MESSAGES.format(table=statements.qualified(database, *messages)), [flow]
        )
