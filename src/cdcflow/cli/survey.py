"""Looks at a database, changing nothing: what could be captured, and what stands in the way."""

from collections.abc import Collection
from dataclasses import dataclass

from cdcflow.source import catalog
from cdcflow.source.connection import connect
from cdcflow.source.judgement import unidentified


@dataclass(frozen=True)
class SurveyedTable:
    """Rows and bytes are the planner's estimates, 0 where it has none. `identified` says whether updates
    and deletes of its rows, in any of its partitions, can be replicated at all."""

    schema: str
    name: str
    rows: int
    bytes: int
    identified: bool


@dataclass(frozen=True)
class Survey:
    """`version` is the major one. Partitions are not among the tables: the partitioned table is."""

    version: int
    wal_level: str
    database: str
    tables: tuple[SurveyedTable, ...]

    @property
    def schemas(self) -> list[str]:
        return sorted({table.schema for table in self.tables})

    def within(self, schemas: Collection[str]) -> tuple[SurveyedTable, ...]:
        return tuple(table for table in self.tables if table.schema in schemas)


def survey(dsn: str) -> Survey:
    """Raises SourceError or ConfigurationError where the database cannot be reached."""
    with connect(dsn, purpose="init") as connection:
        identity = catalog.identity(connection)
        server = catalog.server(connection)
        tables = catalog.tables(connection)
    found = tuple(
        SurveyedTable(
            table.schema,
            table.name,
            table.estimated_rows,
            table.estimated_bytes,
            not unidentified(table),
        )
        for table in tables
        if not table.ancestors
    )
    return Survey(identity.major, server.wal_level, identity.database, found)
