"""Whether the source can be captured: looks at everything first, then judges it. Writes nothing.

`run` and `check` both start here. Errors stop `run`; every finding that is not `ok` says what to do, with
SQL to copy where SQL is the remedy.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg

from cdcflow.errors import SourceError
from cdcflow.model.expected import ExpectedTable
from cdcflow.model.finding import Finding
from cdcflow.model.patterns import TablePatterns
from cdcflow.source import catalog
from cdcflow.source.connection import connect, where
from cdcflow.source.contents import expected
from cdcflow.source.judgement import OLDEST, Situation, Wishes, judge

__all__ = ["Examined", "examine", "look", "preflight"]

#: Nothing but tables.
NONE = Wishes()


@dataclass(frozen=True, slots=True)
class Examined:
    """What was found, the tables as the stream will announce them, and what to call the database and the
    role that was used; empty where the server could not be asked."""

    findings: tuple[Finding, ...]
    tables: tuple[ExpectedTable, ...] = ()
    database: str = ""
    role: str = ""


def preflight(
    dsn: str, tables: Sequence[str], publication: str, slot: str, wishes: Wishes = NONE
) -> list[Finding]:
    """The findings of `examine`."""
    return list(examine(dsn, tables, publication, slot, wishes).findings)


def examine(dsn: str, tables: Sequence[str], publication: str, slot: str, wishes: Wishes = NONE) -> Examined:
    """Everything that stands in the way of capturing `tables`, and what is in order.

    A server that cannot be reached is a finding too. Raises ConfigurationError for a DSN or a table
    pattern that is none.
    """
    patterns = TablePatterns(tables)
    try:
        with connect(dsn, purpose="preflight") as connection:
            version = connection.info.server_version // 10_000
            if version < OLDEST:
                return Examined((too_old(version),))
            situation = look(connection, patterns, publication, slot, wishes)
    except SourceError as error:
        return Examined((Finding("error", "connection", str(error), error.hint),))
    except psycopg.Error as error:
        said = " ".join(str(error).split())
        unread = f"the catalog of {where(dsn)} cannot be read: {said}"
        return Examined((Finding("error", "connection", unread),))
    identity = situation.identity
    coming = expected(situation.selection.tables, situation.shapes, situation.publication, identity.major)
    return Examined(tuple(judge(situation)), coming, identity.database, situation.server.role)


def too_old(version: int) -> Finding:
    return Finding(
        "error",
        "server",
        f"PostgreSQL {version} is too old: {OLDEST} is the oldest that cdcflow captures",
        "upgrade the server; publications show their columns and row filters from 15 on only",
    )


def look(
    connection: catalog.Connection,
    patterns: TablePatterns,
    publication: str,
    slot: str,
    wishes: Wishes = NONE,
) -> Situation:
    """Reads from the catalog all that there is to judge."""
    vitals = catalog.vitals(connection, slot)
    found = catalog.slot(connection, slot)
    selection = catalog.select(catalog.tables(connection), patterns)
    active = found.active_pid if found else None
    return Situation(
        patterns=patterns.texts,
        publication_name=publication,
        slot_name=slot,
        identity=catalog.identity(connection),
        server=catalog.server(connection),
        selection=selection,
        publication=catalog.publication(connection, publication),
        slot=found,
        slot_user=catalog.application(connection, active) if active is not None else None,
        shapes=catalog.shapes(connection, selection.tables),
        vitals=vitals,
        standbys=catalog.standbys(connection),
        wishes=wishes,
        ddl_triggers=catalog.ddl_triggers(connection) if wishes.ddl else None,
    )
