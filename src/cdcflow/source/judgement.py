"""What the catalog's facts mean for capture: findings with remedies. Pure, so that each rule is a function
of values and the same facts always get the same words."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from cdcflow.model.finding import Finding
from cdcflow.model.patterns import TablePattern
from cdcflow.source.catalog import Identity, Publication, Selection, Server, Slot, Standbys, Table, Vitals
from cdcflow.source.connection import quote_identifier, quote_literal
from cdcflow.source.contents import GENERATED, Shapes, judge_contents, stored
from cdcflow.source.standbys import Slots, judge_standbys
from cdcflow.source.statements import (
    add_tables,
    create_publication,
    create_slot,
    ddl_triggers,
    enable_ddl_triggers,
    full_identity,
    publish_everything,
    publish_via_root,
    set_for_server,
)
from cdcflow.source.vitals import judge_vitals

#: The first major version whose pg_publication_tables has the published columns and row filters, which
#: the backfill must read the same way as the stream.
OLDEST = 15
#: The plugin that speaks the protocol we decode.
PLUGIN = "pgoutput"
#: Milliseconds. A third of it is how often the server must hear from us; below this, a pause of the
#: machine is enough to lose the connection.
SHORT_TIMEOUT_MS = 5_000
#: The checkpoints go with the journal: they count its changes. What a sink holds goes too, for rows that were
#: deleted meanwhile would stay in it.
START_ANEW = (
    "start anew: `cdcflow teardown --yes`, move away the journal, the folder of engine.state and what DuckDB"
    " and jsonl sinks have written, `cdcflow setup`, `cdcflow run`; the backfill reads everything again"
)
#: What our own connections call themselves.
OURS = "cdcflow "
#: Names in a message before it says how many more there are.
SHOWN = 5
#: Slots and WAL senders that are free after a remedy has raised their number: ours, the backfill's, and
#: some for whoever comes next.
SPARE = 5


#: The first major version whose walsender can leave out what was replicated to it.
ORIGIN = 16


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the configuration wants of the source besides tables: `source.origin: none`, `source.ddl`,
    `source.failover`, `source.backfill: initial`."""

    local_only: bool = False
    ddl: bool = False
    failover: bool = False
    first_load: bool = False


@dataclass(frozen=True)
class Situation:
    """The facts, as `cdcflow.source.catalog` reads them.

    `slot_user` is the application_name of who streams from the slot, None where nobody does or we may
    not know. `shapes` are the selected tables' columns by their OIDs. `vitals` is None where nobody looked.
    """

    patterns: tuple[str, ...]
    publication_name: str
    slot_name: str
    identity: Identity
    server: Server
    selection: Selection
    publication: Publication | None
    slot: Slot | None
    slot_user: str | None
    shapes: Shapes = field(default_factory=dict)
    vitals: Vitals | None = None
    standbys: Standbys | None = None
    wishes: Wishes = Wishes()
    #: Whether the event triggers for DDL fire; None where there are none, or none are wanted.
    ddl_triggers: bool | None = None

    @cached_property
    def left_out(self) -> tuple[Table, ...]:
        """Tables that only a wildcard means and that the publication lacks: the application made them after
        `setup`. Capture goes on without them. None are where the publication holds nothing that is meant."""
        publication, tables = self.publication, self.selection.tables
        if publication is None or not any(publication.holds(table) for table in tables):
            return ()
        named = {p.literal for p in map(TablePattern.parse, self.patterns) if not p.excludes}
        return tuple(t for t in tables if not publication.holds(t) and (t.schema, t.name) not in named)

    @cached_property
    def captured(self) -> tuple[Table, ...]:
        """The tables that are meant, but for those left out."""
        return tuple(table for table in self.selection.tables if table not in self.left_out)

    @property
    def publishes_generated(self) -> bool:
        """Whether a publication made now has to say that it publishes generated columns."""
        return self.identity.major >= GENERATED and stored(self.selection.tables, self.shapes)


def judge(situation: Situation) -> list[Finding]:
    """All findings, in the order in which a person would mend them."""
    return [
        *_server(situation),
        *_capacity(situation),
        *_role(situation),
        *_selection(situation),
        *_privileges(situation),
        *_publication(situation),
        *_replica_identity(situation),
        *_first_load(situation),
        *_contents(situation),
        *_partitions(situation),
        *_slot(situation),
        *_standbys(situation),
        *_ddl(situation),
        *_vitals(situation),
    ]


def names(items: Iterable[str]) -> str:
    """The first few of a list, and how many more there are."""
    known = list(items)
    more = len(known) - SHOWN
    return ", ".join(known[:SHOWN]) + (f" and {more} more" if more > 0 else "")


def _server(situation: Situation) -> Iterator[Finding]:
    identity, server = situation.identity, situation.server
    major, minor = divmod(identity.version, 10_000)
    yield Finding(
        "ok", "server", f"PostgreSQL {major}.{minor}, database {identity.database}, as {server.role}"
    )
    if situation.wishes.local_only and identity.major < ORIGIN:
        yield Finding(
            "error",
            "origin",
            f"source.origin is none, and PostgreSQL {major} cannot leave out what was replicated to it",
            f"upgrade the server to {ORIGIN} or later, or set source.origin: any",
        )
    if server.wal_level != "logical":
        yield Finding(
            "error",
            "wal_level",
            f"wal_level is {server.wal_level}, and must be logical",
            "run this as a superuser and restart the server (Amazon RDS: rds.logical_replication = 1,"
            " Google Cloud SQL: cloudsql.logical_decoding = on)",
            set_for_server("wal_level", "logical", restart=True),
            "restart",
        )
    if 0 < server.wal_sender_timeout_ms < SHORT_TIMEOUT_MS:
        yield Finding(
            "warning",
            "wal_sender_timeout",
            f"wal_sender_timeout is {server.wal_sender_timeout_ms} ms: short pauses will end the stream",
            "set it to a minute, the default",
            f"ALTER ROLE {quote_identifier(server.role)} SET wal_sender_timeout = '60s';",
            "role",
        )


def _capacity(situation: Situation) -> Iterator[Finding]:
    server, slot = situation.server, situation.slot
    free = server.max_slots - server.used_slots
    used = f"{server.used_slots} of max_replication_slots = {server.max_slots} are in use"
    remedy = "drop a slot that nobody needs, or raise max_replication_slots and restart the server"
    more = set_for_server("max_replication_slots", str(server.used_slots + SPARE), restart=True)
    if slot is None and free < 1:
        yield Finding("error", "slots", f"no replication slot is free: {used}", remedy, more, "restart")
    elif free < (1 if slot else 2):
        yield Finding(
            "warning",
            "slots",
            f"the backfill of a table without a key needs one more slot while it runs, and {used}",
            remedy,
            more,
            "restart",
        )
    active = slot is not None and slot.active_pid is not None
    if not active and server.max_senders - server.used_senders < 1:
        yield Finding(
            "error",
            "wal senders",
            f"no WAL sender is free: all of max_wal_senders = {server.max_senders} are in use",
            "end a replication connection that nobody needs, or raise max_wal_senders and restart the server",
            set_for_server("max_wal_senders", str(server.used_senders + SPARE), restart=True),
            "restart",
        )


def _role(situation: Situation) -> Iterator[Finding]:
    server = situation.server
    if not server.may_replicate:
        yield Finding(
            "error",
            "role",
            f"the role {server.role} lacks the REPLICATION privilege",
            "run this as a superuser (Amazon RDS: GRANT rds_replication TO the role)",
            f"ALTER ROLE {quote_identifier(server.role)} REPLICATION;",
            "role",
        )


def _selection(situation: Situation) -> Iterator[Finding]:
    selection = situation.selection
    for pattern in selection.unmatched:
        excludes = pattern.startswith("!")
        yield Finding(
            "warning" if excludes else "error",
            "tables",
            f"the pattern {pattern!r} {'excludes nothing' if excludes else 'fits no table'}"
            f" of the database {situation.identity.database}",
            "correct source.tables: names are compared as the catalog holds them, and a name without a dot"
            " means the schema public",
        )
    if selection.tables:
        rows = sum(table.estimated_rows for table in selection.tables)
        size = sum(table.estimated_bytes for table in selection.tables) / 1e6
        yield Finding(
            "ok", "tables", f"{len(selection.tables)} table(s), about {rows:,} rows and {size:,.0f} MB"
        )
    elif all(pattern.startswith("!") for pattern in selection.unmatched):
        yield Finding(
            "error",
            "tables",
            f"no table is left of {', '.join(situation.patterns) or 'an empty source.tables'}",
            "add a pattern such as public.* to source.tables",
        )


def _privileges(situation: Situation) -> Iterator[Finding]:
    yield from _grants(situation, situation.captured, "error", "the backfill would fail")
    yield from _grants(situation, situation.left_out, "warning", "a backfill of it would fail")
    server, role = situation.server, quote_identifier(situation.server.role)
    filtered = [t for t in situation.selection.tables if t.filtered_by_policies]
    if filtered and not server.bypasses_rls:
        yield Finding(
            "warning",
            "row-level security",
            f"policies hide rows of {names(t.qualified for t in filtered)} from the role {server.role}:"
            " the backfill will stop there instead of missing rows",
            "let the role bypass row-level security; the stream is not affected by it",
            f"ALTER ROLE {role} BYPASSRLS;",
            "role",
        )


def _grants(
    situation: Situation, tables: Sequence[Table], severity: Literal["error", "warning"], outcome: str
) -> Iterator[Finding]:
    server, publication = situation.server, situation.publication
    role = quote_identifier(server.role)
    members = publication.by_name if publication else {}

    def unreadable(table: Table) -> bool:
        member = members.get((table.schema, table.name))
        if member is None:
            return bool(table.unreadable_columns)
        return not set(member.columns).isdisjoint(table.unreadable_columns)

    closed = {t.schema: t for t in tables if not t.schema_usable}
    refused = [table for table in tables if unreadable(table)]
    if closed or refused:
        grants = [f"GRANT USAGE ON SCHEMA {quote_identifier(schema)} TO {role};" for schema in closed]
        if refused:
            grants.append(f"GRANT SELECT ON {', '.join(table.quoted for table in refused)} TO {role};")
        of = names(t.qualified for t in refused) or f"anything in {names(closed)}"
        yield Finding(
            severity,
            "privileges",
            f"the role {server.role} may not read {of}, so {outcome}",
            "run this as the owner of the tables",
            "\n".join(grants),
            "role",
        )


def _publication(situation: Situation) -> Iterator[Finding]:
    publication, tables = situation.publication, situation.captured
    name = situation.publication_name
    if publication is None:
        yield Finding(
            "error",
            "publication",
            f"the publication {name} does not exist in the database {situation.identity.database}",
            "run `cdcflow setup`, or let the tables' owner run this",
            create_publication(name, tables, generated=situation.publishes_generated) if tables else "",
            "publication",
        )
        return
    roots = [table for table in tables if table.partitioned]
    if roots and not publication.via_root:
        yield Finding(
            "error",
            "publication",
            f"the publication {name} publishes the changes of {names(t.qualified for t in roots)} under the"
            " names of the partitions",
            "publish them under the partitioned table's own name",
            publish_via_root(name),
            "publication",
        )
    missing = [table for table in tables if not publication.holds(table)]
    if missing:
        yield Finding(
            "error",
            "publication",
            f"the publication {name} lacks {names(t.qualified for t in missing)}",
            "run `cdcflow setup`, or let the tables' owner run this; of a table that is added, only later"
            " changes are captured",
            add_tables(name, missing),
            "publication",
        )
    if situation.left_out:
        yield Finding(
            "warning",
            "publication",
            f"{names(t.qualified for t in situation.left_out)} came after `cdcflow setup`, and the"
            f" publication {name} lacks them: their changes are not captured",
            "run `cdcflow setup` again, or let the tables' owner run this; only later changes are captured"
            " then. Or exclude them in source.tables",
            add_tables(name, situation.left_out),
            "publication",
        )
    yield from _surplus(situation, publication)
    left_out = publication.left_out
    if left_out:
        yield Finding(
            "warning",
            "publication",
            f"the publication {name} leaves out {', '.join(left_out)}: the destinations will not see them",
            "publish everything, unless that is what you want",
            publish_everything(name),
            "publication",
        )
    if not missing:
        yield Finding("ok", "publication", f"{name} publishes {len(publication.members)} table(s)")


def _surplus(situation: Situation, publication: Publication) -> Iterator[Finding]:
    """Tables that are published and not meant: they are captured, and stored, all the same."""
    meant = {(table.schema, table.name) for table in situation.selection.tables}
    # Without publish_via_partition_root partitions stand for their root, which is said elsewhere.
    surplus = [key for key in publication.by_name if key not in meant | situation.selection.covered]
    if not surplus:
        return
    dropped = ", ".join(f"{quote_identifier(s)}.{quote_identifier(t)}" for s, t in surplus)
    yield Finding(
        "warning",
        "publication",
        f"the publication {publication.name} also holds {names(f'{s}.{t}' for s, t in surplus)}, which"
        " source.tables does not name: their changes are captured too",
        "add them to source.tables or take them out of the publication",
        ""
        if publication.all_tables
        else f"ALTER PUBLICATION {quote_identifier(publication.name)} DROP TABLE {dropped};",
        "publication",
    )


def unidentified(table: Table) -> list[str]:
    """Quoted names of the tables whose UPDATE and DELETE fail once `table` is published: itself, or some
    of its partitions."""
    own = [] if table.identified else [table.quoted]
    return own + list(table.unidentified_partitions)


def _replica_identity(situation: Situation) -> Iterator[Finding]:
    publication = situation.publication
    if publication is not None and not (publication.update or publication.delete):
        return
    published = publication.by_name if publication else {}
    troubled = [table for table in situation.selection.tables if unidentified(table)]
    if not troubled:
        return
    already = any((table.schema, table.name) in published for table in troubled)
    yield Finding(
        "warning",
        "replica identity",
        f"nothing identifies the rows of {names(t.qualified for t in troubled)}: the application's own UPDATE"
        f" and DELETE {'fail' if already else 'will fail as soon as they are published'}",
        "give them a primary key, or let updates and deletes carry the whole old row, or exclude them in"
        " source.tables",
        "\n".join(
            full_identity(name)
            for table in troubled
            if not _computes(situation, table)
            for name in unidentified(table)
        ),
        "tables",
    )


def _first_load(situation: Situation) -> Iterator[Finding]:
    """What the first load costs, before the slot is made that it begins with."""
    tables = [t for t in situation.selection.tables if t.replica_identity == "f" or unidentified(t)]
    if not situation.wishes.first_load or situation.slot is not None or not tables:
        return
    size = sum(table.estimated_bytes for table in tables) / 1e6
    yield Finding(
        "warning",
        "first load",
        f"nothing tells the rows of {names(table.qualified for table in tables)} apart: at the first start"
        f" they are read in one transaction each (about {size:,.0f} MB in all) while all changes wait",
        "give them a primary key that is their replica identity, exclude them in source.tables, or bear it",
    )


def _computes(situation: Situation, table: Table) -> bool:
    """Whether a virtual column keeps FULL from helping: from 18 on the server refuses it in an identity."""
    shape = situation.shapes.get(table.oid)
    virtual = shape is not None and any(a.generated == "v" for a in shape.attributes)
    return virtual and situation.identity.major >= GENERATED


def _contents(situation: Situation) -> Iterator[Finding]:
    if situation.publication is not None:
        yield from judge_contents(
            situation.selection.tables, situation.shapes, situation.publication, situation.identity.major
        )


def _vitals(situation: Situation) -> Iterator[Finding]:
    if situation.vitals is not None:
        yield from judge_vitals(situation.vitals, situation.slot)


def _standbys(situation: Situation) -> Iterator[Finding]:
    if situation.standbys is not None:
        ours = Slots(situation.slot_name, situation.slot, situation.wishes.failover)
        yield from judge_standbys(situation.identity, situation.standbys, ours)


def _partitions(situation: Situation) -> Iterator[Finding]:
    """A delete under the name of a root with FULL has NULLs for all but the key, if the partition has
    another identity: no destination would find the row."""
    differing = [table for table in situation.captured if table.differing_partitions]
    if differing:
        partitions = [name for table in differing for name in table.differing_partitions]
        yield Finding(
            "error",
            "partitions",
            f"{names(partitions)} have another replica identity than {names(t.qualified for t in differing)}:"
            " their updates and deletes do not say which row they mean, and rows that are gone would stay in"
            " the destinations",
            "let them carry the whole old row, and partitions that are made later too, since it is not"
            " inherited. If rows were updated or deleted there while cdcflow ran, start anew with a backfill",
            "\n".join(full_identity(name) for name in partitions),
            "tables",
        )


def _slot(situation: Situation) -> Iterator[Finding]:
    slot, name = situation.slot, situation.slot_name
    if slot is None:
        yield Finding(
            "error",
            "slot",
            f"the replication slot {name} does not exist",
            "run `cdcflow setup`, or let a role with REPLICATION run this in the source's database, after the"
            " publication is made",
            create_slot(name, failover=situation.wishes.failover),
            "slot",
        )
        return
    wrong = slot_mismatch(slot, situation.identity.database)
    if wrong:
        yield Finding("error", "slot", wrong, "give source.slot another name, which nothing else uses")
        return
    if slot.lost:
        yield Finding(
            "error",
            "slot",
            f"the replication slot {name} is lost ({slot.why_lost}): what it had not yet handed over is gone",
            f"{START_ANEW}. See why cdcflow was down, or raise max_slot_wal_keep_size",
            f"SELECT pg_drop_replication_slot({quote_literal(name)});",
        )
        return
    yield from _use(situation, slot)
    if slot.wal_status == "unreserved":
        yield Finding(
            "warning",
            "slot",
            f"the replication slot {name} is about to be lost: the server removes its WAL at the next"
            " checkpoint",
            "start cdcflow now, and raise max_slot_wal_keep_size",
        )


def _ddl(situation: Situation) -> Iterator[Finding]:
    if not situation.wishes.ddl or situation.ddl_triggers:
        return
    missing = situation.ddl_triggers is None
    yield Finding(
        "warning",
        "ddl",
        "source.ddl is true, and the event triggers that put DDL into the stream are"
        f" {'not there' if missing else 'disabled'}: the history lacks what is run meanwhile",
        "run `cdcflow setup` as a superuser, or let one run this (Amazon RDS: rds_superuser, Google Cloud"
        " SQL: cloudsqlsuperuser, Azure: azure_pg_admin); or set source.ddl: false",
        ddl_triggers() if missing else enable_ddl_triggers(),
        "publication",
    )


def _use(situation: Situation, slot: Slot) -> Iterator[Finding]:
    """Who streams from the slot. Only one can."""
    user = situation.slot_user
    if slot.active_pid is None:
        yield Finding("ok", "slot", f"{slot.name} is there and nobody streams from it")
    elif user and user.startswith(OURS):
        yield Finding(
            "ok", "slot", f"{slot.name} is being streamed by {user} (server process {slot.active_pid})"
        )
    else:
        # Whose it is, only a member of pg_read_all_stats sees. It may be a predecessor that is just going.
        yield Finding(
            "error" if user else "warning",
            "slot",
            f"{user or 'somebody'} streams from the replication slot {slot.name} (server process"
            f" {slot.active_pid}), and only one can",
            "stop the other reader, or give source.slot another name",
        )


def slot_mismatch(slot: Slot, database: str) -> str:
    """Why the slot is not one that we can use, or nothing."""
    if slot.slot_type != "logical":
        return f"the replication slot {slot.name} is a {slot.slot_type} one, and must be logical"
    if slot.plugin != PLUGIN:
        return f"the replication slot {slot.name} is of the plugin {slot.plugin}, and must be of {PLUGIN}"
    if slot.database != database:
        return f"the replication slot {slot.name} belongs to the database {slot.database}, not {database}"
    if slot.temporary:
        return f"the replication slot {slot.name} is temporary and ends with the session that made it"
    if slot.two_phase:
        return (
            f"the replication slot {slot.name} is made for two-phase commit, which protocol 1 does not carry"
        )
    return ""
