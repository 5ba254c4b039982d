"""What was last seen of the source, compared with what is seen now, over restarts too.

The stream itself does not tell: PostgreSQL 18 skips the changes of a publication that is gone, every
version those of a table that is not in it, and a server restored from a copy streams on as if nothing had
happened. So the publication, its tables and the slot's `restart_lsn` are remembered beside the journal.
"""

import json
import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg

import cdcflow.sql
from cdcflow.errors import SourceError
from cdcflow.journal.layout import sync_directory
from cdcflow.model import format_lsn
from cdcflow.model.finding import Finding
from cdcflow.source import catalog, partitions
from cdcflow.source.judgement import START_ANEW, names

#: In the journal's directory: it says something about this journal and no other.
FILE = "watch.json"
#: How long a look waits for a table that somebody has locked.
LOCK_TIMEOUT = "1s"


@dataclass(frozen=True)
class Published:
    """A publication at one moment. `tables`: their OIDs, with name and the OID of the entry that lists
    them (0: the publication is of all tables, or of the table's schema)."""

    oid: int
    all_tables: bool
    operations: str
    via_root: bool
    tables: dict[int, tuple[str, int]]


def published(connection: catalog.Connection, publication: str) -> Published | None:
    """None where there is no such publication."""
    row = connection.execute(cdcflow.sql.load("watched_publication"), (publication,)).fetchone()
    if row is None:
        return None
    tables = connection.execute(cdcflow.sql.load("watched_tables"), (publication,))
    oid, all_tables, operations, via_root = row
    return Published(oid, all_tables, operations, via_root, {o: (name, entry) for o, name, entry in tables})


def added(before: Published, now: Published) -> list[str]:
    """Tables that have come into the publication. Those that are published by their schema, or because all
    are, come when they are made, and nothing of them is missed. Pure."""
    return [table for oid, (table, entry) in now.tables.items() if oid not in before.tables and entry]


def compare(name: str, before: Published, now: Published) -> list[Finding]:
    """What a change of the publication means for what is captured. Pure."""
    found = []
    # What was made anew under its name is there again, where the publication is of all tables or the schema.
    there = {table for table, _ in now.tables.values()}
    gone = [
        table for oid, (table, _) in before.tables.items() if oid not in now.tables and table not in there
    ]
    if gone:
        found.append(
            _finding(
                f"the publication {name} does not hold {names(gone)} any more: no change of it is captured"
                " since then, and what was made anew under the same name is not in it",
                "where that was not meant, `cdcflow setup` puts it back; for what was missed, " + START_ANEW,
            )
        )
    came = added(before, now)
    if came:
        found.append(
            _finding(
                f"{names(came)} came into the publication {name}: changes are captured from then on, rows"
                " that were there before are not",
                "where such rows matter, `cdcflow backfill start` reads them",
            )
        )
    changed = [
        table
        for oid, (table, entry) in now.tables.items()
        if oid in before.tables and before.tables[oid][1] != entry
    ]
    if changed:
        found.append(
            _finding(
                f"the entry of {names(changed)} in the publication {name} was changed: its column list or row"
                " filter is another one, or it was taken out for a while and its changes were missed",
                "where rows or columns are missing now, " + START_ANEW,
            )
        )
    options = (before.operations, before.via_root)
    if options != (now.operations, now.via_root):
        via = "as their root" if now.via_root else "under their own names"
        found.append(
            _finding(
                f"the publication {name} was altered: it publishes {now.operations or 'nothing'} now, and"
                f" partitions {via}",
                "alter it back, unless that is what you want; what was not published meanwhile is missed",
            )
        )
    return found


def _finding(message: str, remedy: str) -> Finding:
    return Finding("warning", "publication", message, remedy)


class Watch:
    """The memory of one journal's source. `findings` are what has changed since this process started.

    For several threads: what one has seen later is never compared with what another saw before.
    """

    def __init__(
        self,
        journal: Path,
        publication: str,
        slot: str,
        *,
        fresh: bool = False,
        joined: Callable[[Sequence[str]], None] = lambda _tables: None,
    ) -> None:
        """`fresh`: what was remembered before does not count. `joined` is called with the tables that have
        come into the publication, before that is remembered. Raises SourceError when it cannot be read."""
        self._joined = joined
        self._file = journal / FILE
        self._publication = publication
        self._slot = slot
        self._lock = threading.Lock()
        self._published: Published | None = None
        #: None: never looked at.
        self._roots: partitions.Roots | None = None
        self._timeline = 0
        self._restart_lsn = 0
        self._dirty = False
        self.findings: tuple[Finding, ...] = ()
        if not fresh:
            self._load()

    def look(self, connection: catalog.Connection) -> list[Finding]:
        """Compares the source with what was there before, and gives what has changed.

        Raises SourceError when the publication is gone or is not the one that the journal was made with,
        and when the slot has gone back.
        """
        fresh: list[Finding] = []
        with self._lock:
            server = catalog.identity(connection)
            slot = catalog.slot(connection, self._slot)
            if slot is not None and slot.restart_lsn is not None:
                self._see_slot(slot.restart_lsn, server.timeline)
            # The server opens the tables to say which they are. Somebody may rewrite one for hours: the next
            # look may have more luck.
            with suppress(psycopg.errors.LockNotAvailable), _waiting_briefly(connection):
                now = published(connection, self._publication)
                fresh += self._found(self._see_publication(now, server.database))
                fresh += self._found(self._see_partitions(connection))
            self._save()
        return fresh

    def _found(self, fresh: list[Finding]) -> list[Finding]:
        self.findings = (*self.findings, *(f for f in fresh if f not in self.findings))
        return fresh

    def _see_publication(self, now: Published | None, database: str) -> list[Finding]:
        name, before = self._publication, self._published
        if now is None:
            raise gone(name, database, started=before is not None)
        if before is not None and before.oid != now.oid:
            raise SourceError(
                f"the publication {name!r} was dropped and made anew: what was committed in between is not"
                " streamed",
                hint=START_ANEW,
            )
        fresh = [] if before is None else compare(name, before, now)
        if before is not None and (came := added(before, now)):
            self._joined(came)
        self._published, self._dirty = now, self._dirty or before != now
        return fresh

    def _see_partitions(self, connection: catalog.Connection) -> list[Finding]:
        before = self._roots
        now, origins = partitions.look(connection, self._publication)
        fresh = [] if before is None else list(partitions.compare(connection, before, now, origins))
        self._roots, self._dirty = now, self._dirty or before != now
        return fresh

    def _see_slot(self, restart_lsn: int, timeline: int) -> None:
        """The server fsyncs a slot before it lets go of WAL (LogicalConfirmReceivedLocation), so no crash
        takes a restart_lsn back: only a copy of the data directory does. After a failover, which the
        timeline tells, the slot is another server's copy and may be older."""
        if timeline > self._timeline:
            self._timeline, self._restart_lsn, self._dirty = timeline, restart_lsn, True
        if timeline < self._timeline:
            return  # an old primary, or a standby: the journal's identity has the say
        if restart_lsn < self._restart_lsn:
            raise SourceError(
                f"the database was restored from a copy: its slot is at {format_lsn(restart_lsn)} again, and"
                f" was at {format_lsn(self._restart_lsn)} before",
                hint="what the journal holds did not all happen in this database; " + START_ANEW,
            )
        if restart_lsn > self._restart_lsn:
            self._restart_lsn, self._dirty = restart_lsn, True

    def _save(self) -> None:
        """Writes down what is new. A disk that has no room for it is tried again next time: it has none
        for the journal either, which says so."""
        if not self._dirty:
            return
        state = {
            "timeline": self._timeline,
            "restart_lsn": self._restart_lsn,
            "publication": asdict(self._published) if self._published else None,
            "partitions": None if self._roots is None else partitions.to_state(self._roots),
        }
        fresh = self._file.with_name(f".{FILE}")
        try:
            with fresh.open("w", encoding="utf-8") as file:
                json.dump(state, file)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._file)
            sync_directory(self._file.parent)
        except OSError:
            return
        self._dirty = False

    def _load(self) -> None:
        try:
            state: dict[str, Any] = json.loads(self._file.read_text(encoding="utf-8"))
            known = state["publication"]
            if known is not None:
                tables = {int(oid): (str(name), int(entry)) for oid, (name, entry) in known["tables"].items()}
                self._published = Published(**{**known, "tables": tables})
            if state.get("partitions") is not None:
                self._roots = partitions.from_state(state["partitions"])
            self._timeline, self._restart_lsn = int(state["timeline"]), int(state["restart_lsn"])
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise SourceError(
                f"{self._file} cannot be read: {type(error).__name__}",
                hint="restore it from a copy; without it, changes of the publication while cdcflow was down"
                " stay unseen: remove it only when you know of none",
            ) from error


@contextmanager
def _waiting_briefly(connection: catalog.Connection) -> Iterator[None]:
    """For locks."""
    connection.execute(f"SET lock_timeout = '{LOCK_TIMEOUT}'")
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("RESET lock_timeout")


def gone(publication: str, database: str, *, started: bool) -> SourceError:
    """The error for a publication that does not exist. `started`: it once did."""
    message = f"the publication {publication!r} does not exist in the database {database!r}"
    if not started:
        return SourceError(message, hint="run `cdcflow setup`")
    return SourceError(
        f"{message} any more: changes since it was dropped are not streamed",
        # Up to 17 a stream cannot pass the place where there was none; from 18 on it skips the changes.
        hint="making it again does not bring them back; " + START_ANEW,
    )
