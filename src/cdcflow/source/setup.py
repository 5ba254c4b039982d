"""Makes what capture needs at the source: the publication first, then the slot. And takes it away again.

A slot made before its publication cannot be streamed, up to PostgreSQL 17 for ever (its WAL is decoded
with the catalog of that time). Nothing that exists is changed beyond what is missing: tables are added to
the publication and never removed, and a slot is never made anew, since that would skip changes.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg import pq

from cdcflow.errors import ConfigurationError, SourceError
from cdcflow.model.patterns import TablePatterns
from cdcflow.source import catalog
from cdcflow.source.connection import (
    answering,
    connect,
    connect_replication,
    failure,
    quote_identifier,
    quote_literal,
    where,
)
from cdcflow.source.judgement import OLDEST, START_ANEW, Situation, Wishes, names, slot_mismatch, unidentified
from cdcflow.source.preflight import NONE, look, too_old
from cdcflow.source.standbys import Slots, judge_standbys
from cdcflow.source.statements import (
    add_tables,
    create_publication,
    create_slot,
    ddl_triggers,
    drop_ddl_triggers,
    enable_ddl_triggers,
    full_identity,
    make_failover_slot,
    publish_via_root,
)

T = TypeVar("T")

#: A new slot of a standby waits for what the primary logs every 15 s, where anything is written there.
STANDBY_TIMEOUT_MS = 60_000


@dataclass(frozen=True, slots=True)
class Statement:
    """One step: the SQL, why it is needed, and what to say once it is done.

    `ours`: cdcflow runs it itself. The others change what is not cdcflow's, a role or a table of the
    application, and are left to a person.
    """

    sql: str
    why: str
    done: str
    ours: bool = True
    #: A command for a replication connection.
    replication: bool = False


def plan(
    dsn: str, tables: Sequence[str], publication: str, slot: str, wishes: Wishes = NONE
) -> list[Statement]:
    """What is still to be done, in order. Empty when nothing is.

    Raises SourceError where the server cannot be used at all, and ConfigurationError for patterns that
    are none or mean no table.
    """
    return _with(dsn, lambda connection: steps(_look(connection, tables, publication, slot, wishes)))


def steps(situation: Situation) -> list[Statement]:
    """The plan for a situation. Pure. Raises as `plan` does."""
    _require(situation)
    return [*_foreign(situation), *_own(situation)]


def script(dsn: str, tables: Sequence[str], publication: str, slot: str, wishes: Wishes = NONE) -> str:
    """The plan as a script that a DBA can run with psql as it stands. Raises as `plan` does."""
    situation = _with(dsn, lambda connection: _look(connection, tables, publication, slot, wishes))
    identity, server = situation.identity, situation.server
    lines = [
        f"-- What cdcflow needs in the database {identity.database}, for the role {server.role}.",
        "-- Run it in that database as a superuser, or as the tables' owner with the REPLICATION privilege.",
        "-- Not within one transaction: a slot cannot be made in a transaction that has written.",
        "-- A role of its own for cdcflow, if there is none yet:",
        "--   CREATE ROLE cdcflow LOGIN REPLICATION PASSWORD '…';",
    ]
    if server.wal_level != "logical":
        lines += [
            "",
            f"-- wal_level is {server.wal_level}: run this, restart the server, and then run the rest.",
            "ALTER SYSTEM SET wal_level = 'logical';",
        ]
    todo = [*_foreign(situation), *_own(situation)]
    for statement in todo:
        lines += ["", f"-- {statement.why}"]
        if statement.replication:
            lines += [
                "-- Not SQL: run it in a session of `psql 'dbname=… replication=database'`.",
                f"--   {statement.sql}",
            ]
        else:
            lines.append(statement.sql)
    if not todo:
        lines += ["", "-- Everything is there already."]
    return "\n".join(lines) + "\n"


def setup(dsn: str, tables: Sequence[str], publication: str, slot: str, wishes: Wishes = NONE) -> list[str]:
    """Does what the plan says and returns what was done; nothing when everything was there.

    Raises SourceError when a step is refused, and before the first one when publishing a table would
    make the application's own updates fail: that is for a person to decide. Raises ConfigurationError as
    `plan` does.
    """

    def run(connection: catalog.Connection) -> list[str]:
        situation = _look(connection, tables, publication, slot, wishes)
        _require(situation)
        _refuse_to_break_updates(situation)
        done: list[str] = []
        for statement in _own(situation):
            try:
                _run(dsn, connection, statement, situation)
            except psycopg.Error as error:
                raise _refused(statement, error, done) from error
            done.append(statement.done)
        return done

    return _with(dsn, run)


def teardown(
    dsn: str, tables: Sequence[str], publication: str, slot: str, wishes: Wishes = NONE
) -> list[str]:
    """Drops the slot, then the publication and, where they are wanted, the event triggers for DDL, and
    returns what was dropped.

    `tables` does not matter, and is taken so that all functions here are called alike. Raises
    SourceError when somebody streams from the slot, or it is another database's.
    """

    def run(connection: catalog.Connection) -> list[str]:
        done: list[str] = []
        found = catalog.slot(connection, slot)
        if found is not None:
            _require_unused(found, catalog.identity(connection).database)
            _change(
                connection, f"SELECT pg_drop_replication_slot({quote_literal(slot)})", f"drop the slot {slot}"
            )
            done.append(f"dropped the replication slot {slot}")
        if catalog.publication(connection, publication) is not None:
            _change(
                connection,
                f"DROP PUBLICATION {quote_identifier(publication)}",
                f"drop the publication {publication}",
            )
            done.append(f"dropped the publication {publication}")
        if wishes.ddl and catalog.ddl_triggers(connection) is not None:
            _change(connection, drop_ddl_triggers(), "drop the event triggers for DDL")
            done.append(f"dropped the event triggers {' and '.join(catalog.DDL_TRIGGERS)}")
        return done

    return _with(dsn, run)


def _with(dsn: str, action: Callable[[catalog.Connection], T]) -> T:
    with connect(dsn, purpose="setup") as connection:
        try:
            return action(connection)
        except psycopg.Error as error:
            said = " ".join(str(error).split())
            raise SourceError(f"{where(dsn)} refused: {said}") from error


def _look(
    connection: catalog.Connection, tables: Sequence[str], publication: str, slot: str, wishes: Wishes
) -> Situation:
    version = connection.info.server_version // 10_000
    if version < OLDEST:
        finding = too_old(version)
        raise SourceError(finding.message, hint=finding.remedy)
    situation = look(connection, TablePatterns(tables), publication, slot, wishes)
    if not situation.selection.tables:
        raise ConfigurationError(
            f"no table of the database {situation.identity.database} fits"
            f" {', '.join(tables) or 'an empty source.tables'}",
            hint="correct source.tables: names are compared as the catalog holds them",
        )
    return situation


def _require(situation: Situation) -> None:
    """What no statement of ours can mend."""
    unmatched = [pattern for pattern in situation.selection.unmatched if not pattern.startswith("!")]
    if unmatched:
        raise ConfigurationError(
            f"no table of the database {situation.identity.database} fits {', '.join(unmatched)}",
            hint="correct source.tables: names are compared as the catalog holds them",
        )
    if situation.server.wal_level != "logical":
        raise SourceError(
            f"wal_level is {situation.server.wal_level}, and must be logical",
            hint="ALTER SYSTEM SET wal_level = 'logical'; as a superuser, and restart the server",
        )
    _require_standbys(situation)
    slot = situation.slot
    if slot is None:
        return
    wrong = slot_mismatch(slot, situation.identity.database)
    if wrong:
        raise SourceError(wrong, hint="give source.slot another name, which nothing else uses")
    if slot.lost:
        raise SourceError(
            f"the replication slot {slot.name} is lost, and setup does not make one anew by itself",
            hint=START_ANEW,
        )


def _require_standbys(situation: Situation) -> None:
    """On a standby a slot can be made, and nothing else can be changed."""
    identity = situation.identity
    if situation.standbys is not None:
        ours = Slots(situation.slot_name, situation.slot, situation.wishes.failover)
        for finding in judge_standbys(identity, situation.standbys, ours):
            if finding.severity == "error":
                raise SourceError(finding.message, hint=finding.remedy)
    if not identity.in_recovery:
        return
    before = [statement.sql for statement in _published(situation)]
    if before:
        raise SourceError(
            "the server is a standby, where the publication cannot be made or altered",
            hint=f"run this on the primary, and `cdcflow setup` here once it has arrived: {' '.join(before)}",
        )


def _refuse_to_break_updates(situation: Situation) -> None:
    """Publishing a table whose rows nothing identifies makes UPDATE and DELETE on it fail at once."""
    known = situation.publication
    if known is not None and not (known.update or known.delete):
        return
    published = known.by_name if known else {}
    troubled = [
        table
        for table in situation.selection.tables
        if (table.schema, table.name) not in published and unidentified(table)
    ]
    if troubled:
        raise SourceError(
            f"nothing identifies the rows of {names(t.qualified for t in troubled)}: once published, the"
            " application's own UPDATE and DELETE would fail",
            hint="give them a primary key; or exclude them in source.tables; or run: "
            + " ".join(full_identity(name) for table in troubled for name in unidentified(table)),
        )


def _foreign(situation: Situation) -> list[Statement]:
    """What a superuser or the application's owner has to do."""
    server, found = situation.server, []
    role = quote_identifier(server.role)
    if not server.may_replicate:
        found.append(
            Statement(
                f"ALTER ROLE {role} REPLICATION;", "To make the slot and stream from it.", "", ours=False
            )
        )
    closed = {table.schema for table in situation.selection.tables if not table.schema_usable}
    found += [
        Statement(
            f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {role};",
            "For the backfill.",
            "",
            ours=False,
        )
        for schema in sorted(closed)
    ]
    unreadable = [table for table in situation.selection.tables if table.unreadable_columns]
    if unreadable:
        listed = ",\n    ".join(table.quoted for table in unreadable)
        found.append(
            Statement(f"GRANT SELECT ON\n    {listed}\n    TO {role};", "For the backfill.", "", ours=False)
        )
    found += [
        Statement(
            full_identity(name),
            "Nothing identifies this table's rows: without this, or a primary key, its UPDATE and DELETE fail"
            " once it is published.",
            "",
            ours=False,
        )
        for table in situation.selection.tables
        for name in unidentified(table)
    ]
    return found


def _own(situation: Situation) -> list[Statement]:
    """Publication first, then slot."""
    return [*_published(situation), *_slot(situation), *_triggers(situation)]


def _published(situation: Situation) -> list[Statement]:
    found = []
    known, wanted = situation.publication, situation.selection.tables
    name = situation.publication_name
    if known is None:
        found.append(
            Statement(
                create_publication(name, wanted, generated=situation.publishes_generated),
                "Which tables are captured.",
                f"made the publication {name} of {len(wanted)} table(s)",
            )
        )
    else:
        if not known.via_root and any(table.partitioned for table in wanted):
            found.append(
                Statement(
                    publish_via_root(name),
                    "Changes of partitions under the partitioned table's own name.",
                    f"let the publication {name} publish partitions as their partitioned table",
                )
            )
        missing = [] if known.all_tables else [t for t in wanted if not _holds(known, t)]
        if missing:
            found.append(
                Statement(
                    add_tables(name, missing),
                    "Tables that the publication lacks; only their later changes are captured.",
                    f"added {names(t.qualified for t in missing)} to the publication {name}: from now on"
                    " their changes are captured, not the rows that they hold already",
                )
            )
    return found


def _slot(situation: Situation) -> list[Statement]:
    name, failover = situation.slot_name, situation.wishes.failover
    if situation.slot is None:
        return [
            Statement(
                create_slot(name, failover=failover),
                "The place in the WAL up to which cdcflow has everything. The server keeps all WAL behind it,"
                " so drop it when cdcflow is not used any more.",
                f"made the replication slot {name}{', of which standbys get a copy' if failover else ''}",
            )
        ]
    if failover and not situation.slot.failover:
        return [
            Statement(
                make_failover_slot(name),
                "So that standbys get a copy of the slot (source.failover). It keeps its place.",
                f"made the replication slot {name} a failover slot",
                replication=True,
            )
        ]
    return []


def _triggers(situation: Situation) -> list[Statement]:
    if not situation.wishes.ddl or situation.ddl_triggers:
        return []
    there = situation.ddl_triggers is not None
    return [
        Statement(
            enable_ddl_triggers() if there else ddl_triggers(),
            "The text of DDL, in its place in the stream (source.ddl). Only a superuser can do this.",
            f"{'enabled' if there else 'made'} the event triggers {' and '.join(catalog.DDL_TRIGGERS)}",
        )
    ]


def _run(dsn: str, connection: catalog.Connection, statement: Statement, situation: Situation) -> None:
    """Raises psycopg.Error, or SourceError, where the server refuses."""
    if statement.replication:
        _command(dsn, statement.sql)
        return
    if situation.identity.in_recovery:
        connection.execute(f"SET statement_timeout = {STANDBY_TIMEOUT_MS}")
    try:
        connection.execute(statement.sql)
    except psycopg.errors.QueryCanceled as error:
        raise SourceError(
            "the standby has waited for a word of its primary's about running transactions, in vain",
            hint="run SELECT pg_log_standby_snapshot() on the primary while `cdcflow setup` runs here",
        ) from error


def _command(dsn: str, command: str) -> None:
    replication = connect_replication(dsn, purpose="setup")
    try:
        with answering(replication.socket):
            result = replication.exec_(command.encode())
        if result.status != pq.ExecStatus.COMMAND_OK:
            raise failure(result, f"the server refused {command!r}")
    finally:
        replication.finish()


def _holds(publication: catalog.Publication, table: catalog.Table) -> bool:
    """Whether the publication will hold the table, once it publishes via the root."""
    return (table.schema, table.name) in publication.by_name or table.oid in publication.listed


def _require_unused(slot: catalog.Slot, database: str) -> None:
    if slot.database != database:
        raise SourceError(
            f"the replication slot {slot.name} belongs to {slot.database or 'a physical standby'}, not to"
            f" the database {database}",
            hint="correct source.slot or source.dsn",
        )
    if slot.active_pid is not None:
        raise SourceError(
            f"the server process {slot.active_pid} streams from the replication slot {slot.name}",
            hint="stop cdcflow, or whoever it is, first",
        )


def _change(connection: catalog.Connection, sql: str, what: str) -> None:
    try:
        connection.execute(sql)
    except psycopg.errors.ObjectInUse as error:
        raise SourceError(
            f"cannot {what}: {error.diag.message_primary}", hint="stop whoever streams from it first"
        ) from error
    except psycopg.errors.InsufficientPrivilege as error:
        raise SourceError(
            f"cannot {what}: {error.diag.message_primary}", hint=f"let the DBA run: {sql};"
        ) from error


def _refused(statement: Statement, error: psycopg.Error, done: Sequence[str]) -> SourceError:
    said = error.diag.message_primary or " ".join(str(error).split())
    before = f"; before that: {'; '.join(done)}" if done else ""
    hint = ""
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        hint = "let the DBA run what `cdcflow setup --print-sql` prints, then `cdcflow check`"
    elif isinstance(error, psycopg.errors.ConfigurationLimitExceeded):
        hint = "drop a slot that nobody needs, or raise max_replication_slots and restart the server"
    first = statement.sql.partition("\n")[0]
    return SourceError(f"the server refused {first!r}: {said}{before}", hint=hint)
