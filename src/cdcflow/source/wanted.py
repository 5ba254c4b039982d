"""What a backfill would read, found out before it begins, with everything that would make it fail by now."""

from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg import sql

import cdcflow.sql
from cdcflow.errors import ConfigurationError, SourceError
from cdcflow.model import Relation
from cdcflow.source.connection import answering, connect
from cdcflow.source.published import PublishedTable, published_tables
from cdcflow.source.reading import read_relation
from cdcflow.source.requests import Request


@dataclass(frozen=True)
class Wanted:
    """A table that would be read: its rows by the planner's statistics (-1: not known), and the bytes of its
    files."""

    table: str
    relation: Relation
    rows: int
    nbytes: int

    @property
    def keyed(self) -> bool:
        return bool(self.relation.key) and not self.relation.full


def look(dsn: str, publication: str, request: Request) -> list[Wanted]:
    """The request's tables. Raises ConfigurationError for what the request itself has wrong, SourceError for
    what the database is not ready for."""
    with connect(dsn, purpose="backfill check") as connection:
        try:
            with answering(connection.fileno()):
                return [_look(connection, publication, request, table) for table in request.tables]
        except psycopg.Error as error:
            raise SourceError(
                f"the database does not say how it is: {' '.join(str(error).split())}"
            ) from error


def _look(connection: psycopg.Connection[Any], publication: str, request: Request, table: str) -> Wanted:
    found = connection.execute(
        "SELECT c.oid::bigint, n.nspname, c.relname FROM pg_class c JOIN pg_namespace n"
        " ON n.oid = c.relnamespace WHERE n.nspname || '.' || c.relname = %s AND c.relkind IN ('r', 'p')",
        (table,),
    ).fetchone()
    if found is None:
        raise ConfigurationError(
            f"there is no table {table}",
            hint="name it as schema.table, as the catalog writes it",
        )
    oid, schema, name = found
    published = published_tables(connection, publication, 0, only=[oid])
    if not published:
        raise SourceError(
            f"the publication {publication} does not hold {table}: its changes are not captured",
            hint="add it to source.tables and run `cdcflow setup`",
        )
    _require_readable(connection, published[0], table, request)
    _require_sound(connection, published[0], sql.Identifier(schema, name), table, request)
    parts = connection.execute(cdcflow.sql.load("backfill_parts"), {"oid": oid}).fetchall()
    foreign = [f"{part[1]}.{part[2]}" for part in parts if part[3] not in ("r", "m")]
    if foreign:
        raise SourceError(
            f"{foreign[0]}, a part of {table}, is a foreign table, which a backfill cannot read",
            hint="detach it, or exclude the table",
        )
    known = [part[7] for part in parts if part[7] >= 0]
    rows = sum(known) if known or not parts else -1
    return Wanted(table, published[0].relation, rows, sum(part[6] for part in parts))


def _require_readable(
    connection: psycopg.Connection[Any], published: PublishedTable, table: str, request: Request
) -> None:
    relation = published.relation
    try:
        read = read_relation(relation, request.columns)
    except SourceError as error:
        raise ConfigurationError(str(error), hint=f"it has {', '.join(relation.names)}") from error
    rows = connection.execute(
        "SELECT a.attname FROM pg_attribute a WHERE a.attrelid = %s AND a.attname = ANY (%s)"
        " AND NOT has_column_privilege(a.attrelid, a.attnum, 'SELECT') ORDER BY a.attnum",
        (relation.oid, list(read.names)),
    ).fetchall()
    [[usable, role]] = connection.execute(
        "SELECT has_schema_privilege(relnamespace, 'USAGE'), current_user FROM pg_class WHERE oid = %s",
        (relation.oid,),
    ).fetchall()
    if not usable or rows:
        what = f"the columns {', '.join(row[0] for row in rows)} of {table}" if rows else table
        raise SourceError(
            f"the role {role} may not read {what}",
            hint="let the owner run what `cdcflow setup --print-sql` prints",
        )
    [[filtered]] = connection.execute("SELECT row_security_active(%s::oid)", (relation.oid,)).fetchall()
    if filtered:
        raise SourceError(
            f"row-level security would hide rows of {table} from the role {role}",
            hint=f"ALTER ROLE {role} BYPASSRLS; as a superuser",
        )


def _require_sound(
    connection: psycopg.Connection[Any],
    published: PublishedTable,
    name: sql.Identifier,
    table: str,
    request: Request,
) -> None:
    """The condition is one that Postgres takes, as part of the statement that it will be part of."""
    if not request.where:
        return
    if ";" in request.where:
        raise ConfigurationError("the condition holds a semicolon", hint="give a single condition on the row")
    query = sql.SQL("EXPLAIN SELECT FROM {} WHERE (\n{}\n)").format(name, sql.SQL(request.where))
    try:
        connection.execute(query)
    except psycopg.Error as error:
        said = error.diag.message_primary or "it is refused"
        raise ConfigurationError(
            f"the condition does not fit {table}: {said}",
            hint=f"its columns are {', '.join(published.relation.names)}",
        ) from error
