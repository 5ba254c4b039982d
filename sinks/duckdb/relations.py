"""Which generation each table of the warehouse has, kept in the warehouse: `cdcflow.relations`.

It is written in the transaction that changes the table, so that it is true after any crash.
"""

import json
from dataclasses import dataclass
from typing import Any

from cdcflow.model import Layout, Relation
from cdcflow_sinks.duckdb import statements
from cdcflow_sinks.duckdb.generations import Generation
from cdcflow_sinks.duckdb.statements import Place


@dataclass(frozen=True)
class Kept:
    place: Place
    generation: Generation


class Relations:
    """Reads and writes the table of generations, by the OID of the source's table."""

    def __init__(self, connection: Any, database: str) -> None:
        self._connection = connection
        self._database = database
        self._table = statements.qualified(database, statements.CHECKPOINT_SCHEMA, "relations")

    def create(self) -> None:
        """Makes the table if it is missing."""
        self._connection.execute(statements.RELATIONS_TABLE.format(table=self._table))
        place = [self._database, statements.CHECKPOINT_SCHEMA, "relations"]
        if "flow" not in dict(self._connection.execute(statements.COLUMNS, place).fetchall()):
            self._run(statements.OWN_RELATIONS)

    def claim(self, oid: int, flow: str) -> None:
        """A table belongs to the flow that brings its rows; what somebody has, stays theirs."""
        if self._run(statements.OWNER, oid) == [(None,)]:
            self._run(statements.CLAIM_RELATION, flow, oid)

    def owned(self) -> list[tuple[int, Place, str | None]]:
        """OID, place and flow of every table that is known."""
        rows = self._run(statements.OWNED_RELATIONS)
        return [(int(oid), Place(self._database, schema, name), flow) for oid, schema, name, flow in rows]

    def forget(self, oid: int) -> None:
        self._run(statements.DELETE_RELATION, oid)

    def of(self, oid: int) -> Kept | None:
        rows = self._run(statements.READ_RELATION, oid)
        if not rows:
            return None
        [(schema, name, text)] = rows
        state = json.loads(text)
        before, base = (
            None if state[name] is None else Layout.from_state(state[name]) for name in ("before", "base")
        )
        generation = Generation(Relation.from_state(state["relation"]), tuple(state["numbers"]), before, base)
        return Kept(Place(self._database, schema, name), generation)

    def at(self, place: Place, besides: int) -> int | None:
        """The OID of another table that is known to be at a place."""
        rows = self._run(statements.RELATION_AT, place.schema, place.name, besides)
        return int(rows[0][0]) if rows else None

    def move(self, oid: int, place: Place) -> None:
        self._run(statements.MOVE_RELATION, place.schema, place.name, oid)

    def store(self, place: Place, generation: Generation) -> None:
        relation, before, base = generation.relation, generation.before, generation.base
        state = {
            "relation": relation.to_state(),
            "numbers": generation.numbers,
            "before": None if before is None else before.to_state(),
            "base": None if base is None else base.to_state(),
        }
        owner = self._run(statements.OWNER, relation.oid)
        self._run(statements.DELETE_RELATION, relation.oid)
        self._run(statements.INSERT_RELATION, relation.oid, place.schema, place.name, json.dumps(state))
        if owner:
            self._run(statements.CLAIM_RELATION, owner[0][0], relation.oid)

    def _run(self, statement: str, *parameters: Any) -> list[Any]:
        found: list[Any] = self._connection.execute(
            statement.format(table=self._table), parameters
        ).fetchall()
        return found
