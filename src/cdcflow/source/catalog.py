"""What the server says now: identity, tables, publication, slot. Reads only, and judges nothing.

Catalog look-ups show the present, not the state of the WAL position that the stream has reached.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import psycopg
from psycopg.rows import dict_row

import cdcflow.sql
from cdcflow.model import Column, ReplicaIdentity, parse_lsn
from cdcflow.model.patterns import TablePatterns
from cdcflow.source.connection import quote_identifier

#: As `sql/ddl_triggers.sql` names them.
DDL_TRIGGERS = ("cdcflow_ddl", "cdcflow_drop")

#: Any connection in autocommit mode.
Connection = psycopg.Connection[Any]


@dataclass(frozen=True, slots=True)
class Identity:
    """Which cluster, which timeline of it, which database. `version` as in server_version_num: 180002."""

    system_identifier: str
    timeline: int
    database: str
    version: int
    in_recovery: bool

    @property
    def major(self) -> int:
        return self.version // 10_000


@dataclass(frozen=True, slots=True)
class Server:
    """Settings and use of the server, and what the connected role may do."""

    wal_level: str
    wal_sender_timeout_ms: int
    max_slots: int
    used_slots: int
    max_senders: int
    used_senders: int
    role: str
    may_replicate: bool
    bypasses_rls: bool
    may_create_publication: bool


@dataclass(frozen=True, slots=True)
class Table:
    """A table that could be captured. Rows and bytes are the planner's estimates; 0 where it has none.

    `identified`: its replica identity names a usable key, or is FULL. `filtered_by_policies`: row-level
    security applies to the connected role, unless that bypasses it.
    """

    oid: int
    schema: str
    name: str
    partitioned: bool
    #: OIDs of the partitioned tables above it.
    ancestors: tuple[int, ...]
    replica_identity: ReplicaIdentity
    identified: bool
    #: Quoted names of its partitions whose own replica identity is not usable.
    unidentified_partitions: tuple[str, ...]
    primary_key: tuple[str, ...]
    estimated_rows: int
    estimated_bytes: int
    filtered_by_policies: bool
    schema_usable: bool
    unreadable_columns: tuple[str, ...]
    owned: bool
    #: Quoted names of its partitions that have another replica identity than it has, other than FULL.
    differing_partitions: tuple[str, ...] = ()

    @property
    def qualified(self) -> str:
        """`schema.table`, for people and for patterns. Not quoted."""
        return f"{self.schema}.{self.name}"

    @property
    def quoted(self) -> str:
        """`"schema"."table"`, for SQL."""
        return f"{quote_identifier(self.schema)}.{quote_identifier(self.name)}"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column as a Relation message would describe it, and whether the server computes it (`s`: stored,
    `v`: virtual) and may store its values out of line."""

    column: Column
    generated: Literal["", "s", "v"] = ""
    toastable: bool = False


@dataclass(frozen=True, slots=True)
class Shape:
    """All columns of a table, and the bytes of its values out of line by the planner's statistics."""

    attributes: tuple[Attribute, ...]
    toast_bytes: int = 0


@dataclass(frozen=True, slots=True)
class Transaction:
    """The oldest open transaction that has written: a process, or a prepared one. `seconds` is None where
    the connected role may not know its age."""

    pid: int | None
    prepared: str | None
    who: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Vitals:
    """How server and slot are now. Bytes and seconds; None where there is no limit, no slot or no such
    setting. `clock_skew`: the server's clock minus ours, and by how much that may be off."""

    slot_wal_limit: int | None
    slot_idle_limit: int | None
    freeze_age: int
    retained_bytes: int | None
    catalog_age: int | None
    oldest: Transaction | None
    clock_skew: float
    clock_error: float


@dataclass(frozen=True, slots=True)
class Selection:
    """The tables that patterns mean, and the patterns that fit no table at all, as they were written.

    `covered` are the partitions of tables that are meant, as `(schema, name)`: they stand for them where a
    publication does not publish via the root.
    """

    tables: tuple[Table, ...]
    unmatched: tuple[str, ...]
    covered: frozenset[tuple[str, str]] = frozenset()


@dataclass(frozen=True, slots=True)
class Member:
    """A table of a publication, with its published columns and the condition on its rows (None: all)."""

    schema: str
    name: str
    columns: tuple[str, ...]
    row_filter: str | None
    #: The columns that the condition is about.
    filter_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class Publication:
    """A publication as the server will apply it."""

    name: str
    all_tables: bool
    insert: bool
    update: bool
    delete: bool
    truncate: bool
    via_root: bool
    members: tuple[Member, ...]
    #: OIDs of the tables that it names itself or by their schema, under whatever name they are published.
    listed: frozenset[int]

    @cached_property
    def by_name(self) -> dict[tuple[str, str], Member]:
        """Members by `(schema, name)`."""
        return {(member.schema, member.name): member for member in self.members}

    def holds(self, table: Table) -> bool:
        """Whether it publishes the table, or will once it publishes via the root."""
        if (table.schema, table.name) in self.by_name or self.all_tables:
            return True
        return table.partitioned and not self.via_root and table.oid in self.listed

    @property
    def left_out(self) -> list[str]:
        """The operations that it does not publish, in SQL's words."""
        operations = ("insert", "update", "delete", "truncate")
        return [name for name in operations if not getattr(self, name)]


@dataclass(frozen=True, slots=True)
class Slot:
    """A row of pg_replication_slots. LSNs are numbers; None where the server has no value, or is too old
    for the column (`invalidation_reason`: 17)."""

    name: str
    plugin: str | None
    slot_type: str
    database: str | None
    temporary: bool
    active_pid: int | None
    restart_lsn: int | None
    confirmed_flush_lsn: int | None
    wal_status: str | None
    safe_wal_size: int | None
    two_phase: bool
    conflicting: bool
    invalidation_reason: str | None
    #: From 17 on: whether standbys get a copy, and whether this one is such a copy.
    failover: bool = False
    synced: bool = False

    @property
    def lost(self) -> bool:
        """Whether it can never be streamed again."""
        return self.wal_status == "lost" or self.conflicting or self.invalidation_reason is not None

    @property
    def why_lost(self) -> str:
        """The server's `invalidation_reason`, or what older ones let conclude."""
        # 16 calls a slot conflicting for both reasons, and takes restart_lsn away with the WAL.
        conflict = self.conflicting and self.restart_lsn is not None
        return self.invalidation_reason or ("conflict with recovery" if conflict else "wal_removed")


@dataclass(frozen=True, slots=True)
class Standbys:
    """What stands between a server and its standbys, and between a standby and its primary.

    `physical_slots` are those of this server's own standbys, or of whoever else has streamed WAL from it.
    `synchronized` is the setting synchronized_standby_slots, None before 17; `primary_slot` that of a
    standby's primary_slot_name.
    """

    physical_slots: tuple[str, ...]
    synchronized: str | None
    hot_standby_feedback: bool
    primary_slot: str


def standbys(connection: Connection) -> Standbys:
    slots, synchronized, feedback, primary_slot = _one(connection, cdcflow.sql.load("catalog_standbys"))
    return Standbys(tuple(slots), synchronized, feedback, primary_slot)


def identity(connection: Connection) -> Identity:
    return Identity(*_one(connection, cdcflow.sql.load("catalog_identity")))


def server(connection: Connection) -> Server:
    return Server(*_one(connection, cdcflow.sql.load("catalog_server")))


def current_lsn(connection: Connection) -> int:
    """Where the server's WAL is written to; on a standby, how far it has replayed."""
    return _wal_end(connection, "pg_current_wal_lsn()")


def flushed_lsn(connection: Connection) -> int:
    """Where the server's durable WAL ends; on a standby, how far it has replayed."""
    return _wal_end(connection, "pg_current_wal_flush_lsn()")


def _wal_end(connection: Connection, function: str) -> int:
    query = f"SELECT CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE {function} END"
    return parse_lsn(_one(connection, query)[0])


def wal_sender_timeout(connection: Connection) -> float | None:
    """Seconds after which the server ends a stream that it has not heard from; None: never."""
    (milliseconds,) = _one(
        connection, "SELECT setting::int FROM pg_settings WHERE name = 'wal_sender_timeout'"
    )
    return milliseconds / 1000 if milliseconds else None


def tables(connection: Connection) -> list[Table]:
    """Every table that a publication can hold, in order of schema and name."""
    with connection.cursor(row_factory=dict_row) as cursor:
        rows = cursor.execute(cdcflow.sql.load("catalog_tables")).fetchall()
    return [_table(row) for row in rows]


def _table(row: dict[str, Any]) -> Table:
    values: dict[str, Any] = {n: tuple(v) if isinstance(v, list) else v for n, v in row.items()}
    return Table(**values)


def shapes(connection: Connection, known: Iterable[Table]) -> dict[int, Shape]:
    """The columns of tables by the tables' OIDs."""
    rows = connection.execute(cdcflow.sql.load("catalog_columns"), ([table.oid for table in known],))
    return {
        oid: Shape(
            tuple(
                Attribute(Column(*column), generated, toastable) for *column, generated, toastable in columns
            ),
            toast_bytes,
        )
        for oid, columns, toast_bytes in rows
    }


def vitals(connection: Connection, slot: str) -> Vitals:
    """Looks at the clock by itself, in a query that the server has nothing to do for."""
    before = time.time()
    (clock,) = _one(connection, "SELECT extract(epoch FROM clock_timestamp())::float8")
    after = time.time()
    with connection.cursor(row_factory=dict_row) as cursor:
        row: Mapping[str, Any] | None = cursor.execute(cdcflow.sql.load("catalog_vitals"), (slot,)).fetchone()
    assert row is not None
    oldest = None
    if row["pid"] is not None or row["prepared"] is not None:
        oldest = Transaction(row["pid"], row["prepared"], row["who"], row["seconds"])
    return Vitals(
        slot_wal_limit=row["slot_wal_limit"],
        slot_idle_limit=row["slot_idle_limit_seconds"],
        freeze_age=row["freeze_age"],
        retained_bytes=None if row["retained_bytes"] is None else max(row["retained_bytes"], 0),
        catalog_age=row["catalog_age"],
        oldest=oldest,
        clock_skew=clock - (before + after) / 2,
        clock_error=(after - before) / 2,
    )


def select(candidates: Iterable[Table], patterns: TablePatterns) -> Selection:
    """What the patterns mean among the candidates. Pure.

    Partitions of a table that is meant are left out: its publication covers them, those of the future
    too (`publish_via_partition_root`).
    """
    known = list(candidates)
    matching = [table for table in known if patterns.matches(table.schema, table.name)]
    meant = {table.oid for table in matching}
    return Selection(
        tables=tuple(table for table in matching if meant.isdisjoint(table.ancestors)),
        unmatched=tuple(patterns.unmatched((table.schema, table.name) for table in known)),
        covered=frozenset(
            (table.schema, table.name) for table in known if not meant.isdisjoint(table.ancestors)
        ),
    )


def publication(connection: Connection, name: str) -> Publication | None:
    """None where there is no publication of this name in the connection's database."""
    row = connection.execute(cdcflow.sql.load("catalog_publication"), (name,)).fetchone()
    if row is None:
        return None
    members = tuple(
        Member(schema, table, tuple(columns), row_filter, tuple(filter_columns))
        for schema, table, columns, row_filter, filter_columns in connection.execute(
            cdcflow.sql.load("catalog_publication_tables"), (name,)
        )
    )
    all_tables, insert, update, delete, truncate, via_root, listed = row
    return Publication(
        name, all_tables, insert, update, delete, truncate, via_root, members, frozenset(listed)
    )


def slot(connection: Connection, name: str) -> Slot | None:
    """None where there is no slot of this name in the whole cluster."""
    # As JSON, since each version adds columns.
    row = connection.execute(
        "SELECT to_jsonb(s) FROM pg_replication_slots s WHERE slot_name = %s", (name,)
    ).fetchone()
    if row is None:
        return None
    says: dict[str, Any] = row[0]
    return Slot(
        name=says["slot_name"],
        plugin=says["plugin"],
        slot_type=says["slot_type"],
        database=says["database"],
        temporary=says["temporary"],
        active_pid=says["active_pid"],
        restart_lsn=_lsn(says["restart_lsn"]),
        confirmed_flush_lsn=_lsn(says["confirmed_flush_lsn"]),
        wal_status=says["wal_status"],
        safe_wal_size=says["safe_wal_size"],
        two_phase=says["two_phase"],
        conflicting=bool(says.get("conflicting")),
        invalidation_reason=says.get("invalidation_reason"),
        failover=bool(says.get("failover")),
        synced=bool(says.get("synced")),
    )


def ddl_triggers(connection: Connection) -> bool | None:
    """Whether the event triggers of `sql/ddl_triggers.sql` fire; None where they are not all there."""
    names = list(DDL_TRIGGERS)
    rows = connection.execute(
        "SELECT evtenabled IN ('O', 'A') FROM pg_event_trigger WHERE evtname = ANY (%s)", (names,)
    ).fetchall()
    return all(fires for (fires,) in rows) if len(rows) == len(names) else None


def application(connection: Connection, pid: int) -> str | None:
    """The application_name of a server process; None where it is gone or we may not know."""
    row = connection.execute(
        "SELECT application_name FROM pg_stat_activity WHERE pid = %s", (pid,)
    ).fetchone()
    return row[0] if row else None


def _one(connection: Connection, query: str) -> tuple[Any, ...]:
    row = connection.execute(query).fetchone()
    assert row is not None
    return tuple(row)


def _lsn(text: str | None) -> int | None:
    return None if text is None else parse_lsn(text)
