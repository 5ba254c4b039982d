"""The published tables as pgoutput will describe them, read from the catalog for the backfill."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

import cdcflow.sql
from cdcflow.model import Column, Relation
from cdcflow.source.layouts import look_up


@dataclass(frozen=True, slots=True)
class PublishedTable:
    """A table, its published columns, and the condition that its published rows meet (None: all)."""

    relation: Relation
    partitioned: bool
    row_filter: str | None
    #: From the planner's statistics; -1 where there are none yet.
    estimated_rows: int


def published_tables(
    connection: psycopg.Connection[Any], publication: str, lsn: int, *, only: Sequence[int] | None = None
) -> list[PublishedTable]:
    """The tables of the publication as the connection's snapshot, of the position `lsn`, sees them, in
    order of name: all, or those with the OIDs of `only`.

    The relations have the fingerprints that the stream's own Relation messages will have, as long as no
    DDL comes in between.
    """
    tables = []
    given = {"publication": publication, "only": None if only is None else list(only)}
    rows = connection.execute(cdcflow.sql.load("published_tables"), given).fetchall()
    layouts = look_up(connection, [row[0] for row in rows], lsn)
    for row in rows:
        oid, schema, name, identity, partitioned, estimate, row_filter, columns = row
        relation = Relation(
            oid, schema, name, identity, tuple(Column(*column) for column in columns), layouts.get(oid)
        )
        tables.append(PublishedTable(relation, partitioned, row_filter, estimate))
    return tables
