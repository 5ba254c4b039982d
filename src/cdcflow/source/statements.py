"""The SQL that changes something at the source, as text that a person can run. Pure."""

from collections.abc import Iterable

import cdcflow.sql
from cdcflow.source.catalog import DDL_TRIGGERS, Table
from cdcflow.source.connection import quote_identifier, quote_literal


def create_publication(name: str, tables: Iterable[Table], *, generated: bool = False) -> str:
    """The tables one by one, never FOR ALL TABLES: that would publish what nobody looked at, and would
    make updates of keyless tables fail as soon as somebody creates one.

    Via the root, since the partitions of the future then belong to it without anybody's doing, and their
    changes carry one name. With `generated`, stored generated columns too: from 18 on.
    """
    listed = ",\n    ".join(table.quoted for table in tables)
    more = ", publish_generated_columns = stored" if generated else ""
    return (
        f"CREATE PUBLICATION {quote_identifier(name)} FOR TABLE\n    {listed}\n"
        f"    WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true{more});"
    )


def add_tables(name: str, tables: Iterable[Table]) -> str:
    listed = ",\n    ".join(table.quoted for table in tables)
    return f"ALTER PUBLICATION {quote_identifier(name)} ADD TABLE\n    {listed};"


def republish(name: str, table: Table, columns: Iterable[str], row_filter: str | None) -> str:
    """Another column list for a table. In one transaction: changes in between would not be published."""
    listed = ", ".join(quote_identifier(column) for column in columns)
    where = f" WHERE ({row_filter})" if row_filter is not None else ""
    publication = quote_identifier(name)
    return (
        f"BEGIN;\nALTER PUBLICATION {publication} DROP TABLE {table.quoted};\n"
        f"ALTER PUBLICATION {publication} ADD TABLE {table.quoted} ({listed}){where};\nCOMMIT;"
    )


def publish_via_root(name: str) -> str:
    return f"ALTER PUBLICATION {quote_identifier(name)} SET (publish_via_partition_root = true);"


def publish_generated(name: str) -> str:
    return f"ALTER PUBLICATION {quote_identifier(name)} SET (publish_generated_columns = stored);"


def publish_everything(name: str) -> str:
    return f"ALTER PUBLICATION {quote_identifier(name)} SET (publish = 'insert, update, delete, truncate');"


def set_for_server(name: str, value: str, *, restart: bool) -> str:
    """A setting for the whole server, in force at once unless it takes a restart."""
    change = f"ALTER SYSTEM SET {name} = {quote_literal(value)};"
    return change if restart else f"{change}\nSELECT pg_reload_conf();"


def create_slot(name: str, *, failover: bool = False) -> str:
    option = ", failover => true" if failover else ""
    return f"SELECT pg_create_logical_replication_slot({quote_literal(name)}, 'pgoutput'{option});"


def make_failover_slot(name: str) -> str:
    """For a replication connection: no SQL does this."""
    return f"ALTER_REPLICATION_SLOT {quote_identifier(name)} ( FAILOVER true );"


def ddl_triggers() -> str:
    return cdcflow.sql.load("ddl_triggers").strip()


def enable_ddl_triggers() -> str:
    return "\n".join(f"ALTER EVENT TRIGGER {name} ENABLE;" for name in DDL_TRIGGERS)


def drop_ddl_triggers() -> str:
    return cdcflow.sql.load("ddl_triggers_drop").strip()


def full_identity(quoted_table: str) -> str:
    return f"ALTER TABLE {quoted_table} REPLICA IDENTITY FULL;"
