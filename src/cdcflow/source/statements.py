"""The SQL that changes something at the source, as text that a person can run. Pure."""

from collections.abc import Iterable

from cdcflow.source.catalog import Table
from cdcflow.source.connection import quote_identifier, quote_literal


def create_publication(name: str, tables: Iterable[Table]) -> str:
    """The tables one by one, never FOR ALL TABLES: that would publish what nobody looked at, and would
    make updates of keyless tables fail as soon as somebody creates one.

    Via the root, since the partitions of the future then belong to it without anybody's doing, and their
    changes carry one name.
    """
    listed = ",\n    ".join(table.quoted for table in tables)
    return (
        f"CREATE PUBLICATION {quote_identifier(name)} FOR TABLE\n    {listed}\n"
        "    WITH (publish = 'insert, update, delete, truncate', publish_via_partition_root = true);"
    )


def add_tables(name: str, tables: Iterable[Table]) -> str:
    listed = ",\n    ".join(table.quoted for table in tables)
    return f"ALTER PUBLICATION {quote_identifier(name)} ADD TABLE\n    {listed};"


def publish_via_root(name: str) -> str:
    return f"ALTER PUBLICATION {quote_identifier(name)} SET (publish_via_partition_root = true);"


def create_slot(name: str) -> str:
    return f"SELECT pg_create_logical_replication_slot({quote_literal(name)}, 'pgoutput');"


def full_identity(quoted_table: str) -> str:
    return f"ALTER TABLE {quoted_table} REPLICA IDENTITY FULL;"
