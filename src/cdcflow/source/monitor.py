"""Watches the source from outside the stream: the WAL that the server holds for us, whether the publication
is what it was, and a sign of life for idle databases.

A thread with a connection of its own, so that a slow catalog query never delays the stream. What it
does not know is None, never 0.
"""

import logging
import threading
import time
from dataclasses import dataclass

import psycopg

from cdcflow.errors import CdcflowError, SourceError
from cdcflow.model.finding import Finding
from cdcflow.source import catalog, retained
from cdcflow.source.connection import answering, connect
from cdcflow.source.heartbeat import Heartbeat, beat
from cdcflow.source.retained import Limits
from cdcflow.source.watch import Watch

log = logging.getLogger(__name__)

#: Seconds between two looks: often enough for a person, nothing for the server.
INTERVAL = 2.0
#: Seconds between two comparisons with what is remembered: a large publication takes a while to read.
WATCH_INTERVAL = 10.0
#: Seconds after which a look is old news: the server does not answer.
STALE = 10.0
#: Seconds that `stop` waits for a query under way.
STOP = 1.0


@dataclass(frozen=True, slots=True)
class SlotHealth:
    """What the server says: WAL end, bytes of WAL held back by the slot, `wal_status`, the bytes that may
    still be written before the slot is in danger (None: no limit, or lost), for how many transactions the
    slot has kept VACUUM from the catalogs, and the oldest open transaction, behind which restart_lsn and
    catalog_xmin stay (None: none that has written)."""

    current_lsn: int
    retained_bytes: int | None
    wal_status: str | None
    safe_wal_size: int | None
    catalog_age: int | None
    oldest: catalog.Transaction | None


class Monitor:
    """Looks while the database can be reached. `watch` is set as soon as there is a journal to remember for.

    `trouble` is what must stop capture; `overrun` says that the slot holds more WAL than it may.
    """

    def __init__(self, dsn: str, slot: str, limits: Limits, heartbeat: Heartbeat | None) -> None:
        self._dsn = dsn
        self._slot = slot
        self._limits = limits
        self._heartbeat = heartbeat
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._health: SlotHealth | None = None
        self._seen_at = 0.0
        self._next_watch = 0.0
        self._next_beat = 0.0
        #: By subject: what is wrong at the moment.
        self._current: dict[str, Finding] = {}
        self.watch: Watch | None = None
        self.trouble: SourceError | None = None
        self.overrun = False

    @property
    def latest(self) -> SlotHealth | None:
        """None while nobody knows."""
        return self._health if time.monotonic() - self._seen_at < STALE else None

    @property
    def findings(self) -> list[Finding]:
        """What is wrong now, and what has changed since the start."""
        return [*self._current.values(), *(self.watch.findings if self.watch else ())]

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends it soon; a query that the server does not answer is left to its deadline."""
        self._stop.set()
        self._thread.join(STOP)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                with connect(self._dsn, purpose="monitor") as connection:
                    while not self._stop.is_set():
                        with answering(connection.fileno()):
                            self._look(connection)
                        self._stop.wait(INTERVAL)
            except (CdcflowError, psycopg.Error):
                # The stream meets the same trouble and is the one that reports it.
                self._health = None
                self._stop.wait(INTERVAL)

    def _look(self, connection: catalog.Connection) -> None:
        current = catalog.current_lsn(connection)
        slot = catalog.slot(connection, self._slot)
        held = None
        if slot is not None and slot.restart_lsn is not None:
            held = max(current - slot.restart_lsn, 0)
        safe = slot.safe_wal_size if slot else None
        status = slot.wal_status if slot else None
        vitals = catalog.vitals(connection, self._slot)
        self._health = SlotHealth(current, held, status, safe, vitals.catalog_age, vitals.oldest)
        self._seen_at = time.monotonic()
        self._set("retained WAL", retained.finding(self._limits, slot=self._slot, retained=held, safe=safe))
        self.overrun = retained.overrun(self._limits, held)
        self._compare(connection)
        self._beat(connection)

    def compare(self, connection: catalog.Connection) -> None:
        """Compares the source with what is remembered of it. Raises SourceError as `Watch.look` does. For
        capture too, which does so before it streams."""
        if self.watch is not None:
            for finding in self.watch.look(connection):
                log.warning("%s: %s", finding.subject, finding.message)

    def _compare(self, connection: catalog.Connection) -> None:
        now = time.monotonic()
        if now < self._next_watch:
            return
        self._next_watch = now + WATCH_INTERVAL
        try:
            self.compare(connection)
        except SourceError as error:
            self.trouble = error

    def _beat(self, connection: catalog.Connection) -> None:
        now = time.monotonic()
        if self._heartbeat is None or now < self._next_beat:
            return
        self._next_beat = now + self._heartbeat.every
        found = None
        try:
            beat(connection, self._heartbeat)
        except psycopg.OperationalError:
            raise
        except psycopg.Error as error:
            found = Finding(
                "warning",
                "heartbeat",
                f"no heartbeat can be written: {error.diag.message_primary}",
                "make the table of source.heartbeat and let the role write it, or leave `table` out"
                if self._heartbeat.table
                else "let the role execute pg_logical_emit_message, or set source.heartbeat.kind: none",
                self._heartbeat.create if self._heartbeat.table else "",
            )
        self._set("heartbeat", found)

    def _set(self, subject: str, finding: Finding | None) -> None:
        """Says once that something is wrong, however its figures change."""
        if finding is None:
            self._current = {name: known for name, known in self._current.items() if name != subject}
            return
        if subject not in self._current:
            log.warning("%s: %s", subject, finding.message)
        self._current = {**self._current, subject: finding}
