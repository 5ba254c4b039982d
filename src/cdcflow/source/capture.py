"""Capture: the replication stream, decoded, into the journal, each change exactly once and in order.

Two threads: this one reads the socket, decodes and answers the server; the appender writes and fsyncs.
The slot is confirmed up to what is fsynced and no further, and status updates go out on time whatever
the disk or the flows do.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import psycopg

from cdcflow.decode import Decoder
from cdcflow.errors import SourceError, SourceUnavailable
from cdcflow.journal import Asked, Chunk, Identity, Ledger, Origin, Step, Writer
from cdcflow.journal.layout import read_manifest
from cdcflow.model import Batch, Mark, Position, PrefixPatterns, format_lsn, mark_batch
from cdcflow.source import catalog, retained
from cdcflow.source.acknowledge import PROGRESS_INTERVAL, Acknowledger, DeliveredBehind, Say
from cdcflow.source.appender import Appender, Retention, Waker
from cdcflow.source.connection import answering, connect
from cdcflow.source.heartbeat import Heartbeat
from cdcflow.source.judgement import START_ANEW
from cdcflow.source.layouts import Layouts
from cdcflow.source.monitor import Monitor
from cdcflow.source.online import Online, work_name
from cdcflow.source.published import published_tables
from cdcflow.source.requests import INITIAL, Request, Requests
from cdcflow.source.stream import Stream, timeline_history
from cdcflow.source.timeline import require_continuation
from cdcflow.source.watch import Watch

log = logging.getLogger(__name__)

#: A batch goes to the journal when it holds this much, or as soon as the socket is drained and the
#: journal idle. Large enough to spread the cost of a frame, small enough for a flat memory.
BATCH_ROWS = 16_384
BATCH_BYTES = 4 << 20
#: Reconnecting: first and longest pause in seconds. Random within, so that many engines do not march.
FIRST_PAUSE = 0.2
LONGEST_PAUSE = 10.0
#: Seconds to wait for a predecessor that is just going away to let go of the journal or the slot.
HANDOVER = 10.0
REPORT_INTERVAL = 0.5

#: Where a CopyData message of the WAL says what it is, behind 'w' and three numbers of 8 bytes (manual,
#: "Streaming Replication Protocol", XLogData), and what a Commit says there.
_KIND = 25
_BEGIN, _COMMIT, _MESSAGE = b"BCM"


@dataclass(frozen=True)
class CaptureSettings:
    """What capture must know; the engine fills it from the configuration."""

    dsn: str = field(repr=False)
    slot: str
    publication: str
    journal: Path
    #: At the first start, read the rows that are there; needs `backfills`.
    backfill: bool = True
    #: Confirm the slot only behind every flow's checkpoint, instead of behind the journal's fsync.
    confirm_delivered: bool = False
    #: Patterns of the prefixes of logical messages to capture. Without any, the server sends none.
    messages: tuple[str, ...] = ()
    #: `none`: no changes that came here by replication from elsewhere (16 and later).
    origin: Origin = "any"
    segment_bytes: int = 128 << 20
    retention: Retention = field(default_factory=Retention)
    retained_wal: retained.Limits = field(default_factory=retained.Limits)
    heartbeat: Heartbeat | None = field(default_factory=Heartbeat)
    #: The folder with what is asked of backfills; None: nobody asks.
    backfills: Path | None = None
    #: Processes that read chunks of tables.
    backfill_readers: int = 2
    #: Ask for the rows of tables that come into the publication later.
    backfill_new_tables: bool = False


def _begins_behind(frame: memoryview, lsn: int) -> bool:
    """Whether a message begins a transaction that commits at this LSN or behind it, or is a logical message
    outside of any that lies there (manual, "Logical Replication Message Formats")."""
    if len(frame) < _KIND + 9:
        return False
    if frame[_KIND] == _BEGIN:
        return int.from_bytes(frame[_KIND + 1 : _KIND + 9], "big") >= lsn
    if frame[_KIND] == _MESSAGE and not frame[_KIND + 1] & 1:
        return int.from_bytes(frame[_KIND + 2 : _KIND + 10], "big") >= lsn
    return False


class Capture:
    """One run of capture. `run` returns after `stop`, or raises what no retry can mend.

    `report` gets a plain dictionary of figures from the capturing thread, twice a second and when the
    state changes.
    """

    def __init__(self, settings: CaptureSettings, report: Callable[[Mapping[str, Any]], None]) -> None:
        self._settings = settings
        self._report = report
        self._stop = threading.Event()
        self._waker = Waker()
        self._writer: Writer | None = None
        self._appender: Appender | None = None
        self._prefixes = PrefixPatterns(settings.messages)
        self._wanted = Asked(bool(self._prefixes), settings.origin)
        self._monitor = Monitor(settings.dsn, settings.slot, settings.retained_wal, settings.heartbeat)
        self._layouts = Layouts(settings.dsn)
        self._state = "connecting"
        self._error: str | None = None
        self._changes = 0
        self._bytes = 0
        self._received = 0
        self._confirmed = 0
        self._last_commit_time: int | None = None
        self._online: Online | None = None
        #: Messages that were read behind the place of a chunk.
        self._rest: list[memoryview] = []
        #: Position of the last change that was given to the journal.
        self._last = Position(0, 0)
        self._delivered = 0
        self._behind = DeliveredBehind()
        self._next_report = 0.0

    def stop(self) -> None:
        """Ends `run` soon, after what was decoded is durable and confirmed. From any thread."""
        self._stop.set()
        self._waker.wake()

    def delivered(self, offset: int) -> None:
        """The least checkpoint of all active flows: what lies below may be removed. From any thread."""
        self._delivered = offset
        appender = self._appender  # which the other thread may take away
        if appender is not None:
            appender.keep_from = offset

    def run(self) -> None:
        pause = FIRST_PAUSE
        self._monitor.start()
        try:
            while not self._stop.is_set():
                try:
                    self._guard()
                    self._session()
                    pause = FIRST_PAUSE
                except SourceUnavailable as error:
                    if self._state in ("streaming", "backfilling"):
                        pause = FIRST_PAUSE
                    self._tell("connecting", str(error))
                    self._stop.wait(pause * random.uniform(0.5, 1.0))  # noqa: S311 - no secret
                    pause = min(pause * 2, LONGEST_PAUSE)
        finally:
            self._monitor.stop()
            self._close_journal()
            self._tell("stopped", self._error)
            self._waker.close()

    # One connection, from finding out where we are to its end.

    def _session(self) -> None:
        self._tell("connecting", self._error)
        try:
            with connect(self._settings.dsn, purpose="capture start") as connection:
                writer, slot, timeout = self._resume(connection)
        except psycopg.Error as error:
            # Operational ones pass: connection, resources, the operator's intervention.
            kind = SourceUnavailable if isinstance(error, psycopg.OperationalError) else SourceError
            raise kind(f"the database does not say how it is: {' '.join(str(error).split())}") from error
        if not writer.tail.committed and self._appender is None:
            self._begin(writer, slot)
        if self._stop.is_set():
            return
        until = 0
        if writer.asked != self._wanted:
            if self._appender is not None:
                # A session has ended that was to complete a transaction: see below.
                self._close_journal()
                writer = self._open_journal(writer.identity)
            if writer.tail.whole:
                writer.ask(self._wanted)
            else:
                # What is wanted has changed, and the journal ends inside of a transaction. That one is
                # gone on with as it was begun, and what comes behind it is for the next session.
                until = writer.tail.last.commit_lsn
        asked = writer.asked
        appender = self._start_appender(writer)
        stream = self._start_stream(appender, asked)
        self._layouts = Layouts(self._settings.dsn)
        self._rest, self._last = [], appender.tail.last
        try:
            self._start_online(writer, appender)
            self._stream(stream, Decoder(appender.tail.last, self._prefixes), appender, timeout, until)
        finally:
            stream.close()
            self._layouts.close()
            self._stop_online()

    def _start_online(self, writer: Writer, appender: Appender) -> None:
        """Begins, or goes on with, the backfills that are asked for. Nothing may be in flight to the
        journal."""
        if self._settings.backfills is None:
            return
        self._online = Online(
            dsn=self._settings.dsn,
            publication=self._settings.publication,
            slot=self._settings.slot,
            journal=self._settings.journal,
            requests=Requests(self._settings.backfills),
            readers=self._settings.backfill_readers,
            ledger=Ledger.from_state(writer.ledger.to_state()),
            tail=appender.tail.offset,
            wake=self._waker.wake,
        )
        self._online.start()

    def _stop_online(self) -> None:
        online, self._online = self._online, None
        if online is not None:
            online.stop()

    def _resume(self, connection: catalog.Connection) -> tuple[Writer, catalog.Slot, float | None]:
        """Opens the journal, and makes sure that this server carries it on. The slot, and the server's
        `wal_sender_timeout`, are as they are found."""
        with answering(connection.fileno()):
            server = catalog.identity(connection)
            slot = catalog.slot(connection, self._settings.slot)
            flushed = catalog.flushed_lsn(connection)
            timeout = catalog.wal_sender_timeout(connection)
        identity = Identity(
            system_identifier=server.system_identifier,
            timeline=server.timeline,
            database=server.database,
            slot=self._settings.slot,
            publication=self._settings.publication,
        )
        writer = self._open_journal(identity)
        reached = writer.tail.committed if self._appender is None else self._durable_end()
        slot = self._check_slot(slot, flushed, reached)
        if self._monitor.watch is None or not reached:
            # What a backfill will read anew is compared with nothing.
            self._monitor.watch = Watch(
                self._settings.journal,
                self._settings.publication,
                slot.name,
                fresh=not reached,
                joined=self._joined,
            )
        with answering(connection.fileno()):
            self._monitor.compare(connection)
        return writer, slot, timeout

    def _joined(self, tables: Sequence[str]) -> None:
        """Asks for the rows of tables that have come into the publication, where that is wished."""
        if self._settings.backfills is None or not self._settings.backfill_new_tables:
            return
        requests = Requests(self._settings.backfills)
        asked = {table for kept in requests.all() for table in kept.open}
        for table in tables:
            if table not in asked:
                requests.add(Request("", (table,)))
                log.info("%s came into the publication: its rows are read", table)

    def _guard(self) -> None:
        """Ends capture for what the monitor has found."""
        if self._monitor.trouble is not None:
            raise self._monitor.trouble
        if self._monitor.overrun:
            raise retained.give_up(self._settings.dsn, self._settings.slot, self._settings.retained_wal)

    def _durable_end(self) -> int:
        """Waits until what came before the connection broke is durable."""
        assert self._appender is not None
        if not self._appender.drain(HANDOVER):
            raise SourceUnavailable("the journal still writes what came before the connection broke")
        return self._appender.tail.committed

    def _open_journal(self, identity: Identity) -> Writer:
        if self._writer is not None and self._writer.identity != identity:
            if replace(self._writer.identity, timeline=identity.timeline) != identity:
                raise SourceError(
                    "the database behind the DSN is another one than before the connection broke",
                    hint="point the DSN back at the database that the journal was made from",
                )
            self._durable_end()
            self._close_journal()
        if self._writer is None:
            known = read_manifest(self._settings.journal)
            if known is not None and known.identity.timeline != identity.timeline:
                self._follow_timeline(known.identity, identity)
            self._writer = self._open_writer(identity)
        return self._writer

    def _open_writer(self, identity: Identity) -> Writer:
        return Writer.open(
            self._settings.journal,
            identity,
            segment_bytes=self._settings.segment_bytes,
            lock_timeout=HANDOVER,
        )

    def _follow_timeline(self, known: Identity, found: Identity) -> None:
        """Lets the journal go on as the timeline of a server that was promoted, where nothing is lost."""
        timeline = found.timeline
        if replace(known, timeline=timeline) != found:
            return  # another source altogether, as the journal will say
        with self._open_writer(known) as writer:
            tail = writer.tail
        require_continuation(
            # The first timeline has no history.
            timeline_history(self._settings.dsn, timeline) if timeline > known.timeline else "",
            old=known.timeline,
            new=timeline,
            # The journal may hold the beginning of a transaction whose end never came.
            reached=max(tail.committed, tail.last.commit_lsn),
        )
        Writer.adopt_timeline(self._settings.journal, timeline, lock_timeout=HANDOVER)
        log.warning("the server went on as timeline %d, and has everything that the journal holds", timeline)

    def _start_appender(self, writer: Writer) -> Appender:
        """From here on the writer is the appender's."""
        if self._appender is None:
            self._appender = Appender(writer, self._settings.retention, self._waker.wake)
            self._appender.keep_from = self._delivered
        return self._appender

    def _close_journal(self) -> None:
        if self._appender is not None:
            self._appender.close()
        elif self._writer is not None:
            self._writer.close()
        self._appender = self._writer = None

    def _check_slot(self, slot: catalog.Slot | None, flushed: int, reached: int) -> catalog.Slot:
        """A slot that cannot bring everything since the journal's end stops capture: nothing is skipped.

        `flushed` is where the server's WAL ends, `reached` where the journal does (0: it is empty).
        """
        name = self._settings.slot
        if slot is None:
            raise SourceError(
                f"the replication slot {name!r} does not exist",
                hint="what was committed since the journal's end is lost to it; " + START_ANEW
                if reached
                else "run `cdcflow setup`",
            )
        if slot.lost:
            raise SourceError(
                f"the replication slot {name!r} is lost ({slot.why_lost}): what was not yet read is gone",
                hint=START_ANEW,
            )
        if reached and slot.confirmed_flush_lsn is not None and slot.confirmed_flush_lsn > reached:
            raise SourceError(
                f"the replication slot {name!r} is ahead of the journal: confirmed"
                f" {format_lsn(slot.confirmed_flush_lsn)}, the journal ends at {format_lsn(reached)}",
                hint="somebody has advanced or made the slot anew, or the journal is an old copy; restore the"
                " newer journal, or " + START_ANEW,
            )
        if reached > flushed:
            raise SourceError(
                f"the database is behind the journal: its WAL ends at {format_lsn(flushed)}, the journal at"
                f" {format_lsn(reached)}",
                hint="the database was restored from a backup, or a standby was promoted that had not"
                " received everything; " + START_ANEW,
            )
        return slot

    def _begin(self, writer: Writer, slot: catalog.Slot) -> None:
        """The journal's first entry: what rows are to come, and the place where the stream begins."""
        if not slot.confirmed_flush_lsn:
            raise SourceUnavailable(f"the replication slot {slot.name!r} has no position yet")
        if self._settings.backfill:
            self._ask_for_all(writer, slot.confirmed_flush_lsn)
        writer.progress(slot.confirmed_flush_lsn, time.time_ns() // 1000)
        writer.sync()

    def _ask_for_all(self, writer: Writer, start: int) -> None:
        """Asks for the rows of every published table, and lets the journal begin with that: what the stream
        brings from the LSN `start` on may be changes of rows that nobody has yet."""
        assert self._settings.backfills is not None
        with connect(self._settings.dsn, purpose="capture start") as connection:
            found = published_tables(connection, self._settings.publication, start - 1)
        relations = [table.relation for table in found]
        if not relations:
            return
        # One of this name is of another journal, or was begun before a crash that left nothing of it here.
        requests = Requests(self._settings.backfills)
        requests.forget(INITIAL)
        # Nothing has been delivered yet that could wait, where a table without a key makes it stand.
        requests.add(Request(INITIAL, tuple(relation.qualified for relation in relations), halt=True))
        writer.rows_come()
        for ordinal, relation in enumerate(relations, 1):
            at = Position(start - 1, ordinal)
            mark = Mark(INITIAL, "begin", relation.oid, relation.schema, relation.name)
            step = Step(work_name(INITIAL, relation.oid, relation.qualified), "begun")
            if at > writer.written.last:
                writer.append(mark_batch(mark, at, time.time_ns() // 1000), step)

    def _start_stream(self, appender: Appender, asked: Asked) -> Stream:
        """Starts streaming; a slot that a dying predecessor still holds is waited for."""
        deadline = time.monotonic() + HANDOVER
        while True:
            try:
                return Stream.start(
                    self._settings.dsn,
                    slot=self._settings.slot,
                    publications=[self._settings.publication],
                    position=appender.tail.committed,
                    messages=asked.messages,
                    origin=asked.origin,
                )
            except SourceUnavailable:
                if time.monotonic() > deadline or self._stop.wait(0.1):
                    raise

    # The loop that must never wait for anything but the server.

    def _stream(
        self, stream: Stream, decoder: Decoder, appender: Appender, timeout: float | None, until: int
    ) -> None:
        """Ends with `stop`, and once the transaction that commits at `until` is complete (0: never)."""
        stream.also_wake_on(self._waker.fileno())
        talk = Acknowledger(time.monotonic(), timeout)
        noted = 0.0
        self._tell(self._following(), None)
        while True:
            self._waker.clear()
            stopping = self._stop.is_set() or 0 < until < decoder.committed
            if self._monitor.trouble is not None or self._monitor.overrun:
                return
            if not until and not stopping:
                self._merge(decoder, appender)
            standing = self._online is not None and self._online.frozen
            reading = appender.room and not decoder.sealed and not stopping and not standing
            frames = (self._rest or stream.read()) if reading else []
            now = time.monotonic()
            if frames:
                if self._rest:
                    self._rest = []
                else:
                    self._bytes += sum(map(len, frames))
                if until:
                    self._feed(decoder, frames, until)
                else:
                    self._feed_to_boundary(decoder, frames)
            if frames or not reading:
                talk.heard(now)  # while we do not read, silence says nothing about the server
            self._hand_over(decoder, appender, drained=not frames)
            appender.check()
            self._received = max(decoder.wal_end, decoder.committed)
            if self._nothing_in_flight(decoder, appender) and self._received > appender.tail.committed:
                # All that came is durable, so the WAL up to the server's last word holds nothing more
                # for us. The journal notes it first: the slot must never be ahead of the journal.
                if decoder.reply_requested:
                    talk.owe(self._received)  # a server that shuts down waits for this
                if decoder.reply_requested or now - noted >= PROGRESS_INTERVAL:
                    appender.progress(self._received)
                    noted = now
            durable = self._confirmable(appender)
            what = talk.decide(now, durable=durable, requested=decoder.reply_requested)
            if stopping and (appender.idle or appender.disk_full):
                # What a full disk did not take is not confirmed, and comes again.
                stream.status(received=self._received, durable=durable)
                return
            if what is not Say.NOTHING:
                stream.status(received=self._received, durable=durable, ask=what is Say.ASK)
                decoder.reply_requested = False
                talk.said(now, what, durable)
            if talk.lost(now):
                raise SourceUnavailable("the server has not said anything for too long")
            self._confirmed = durable
            self._tell("waiting for disk" if appender.disk_full else self._following(), None, force=False)
            if not frames:
                pause = min(talk.due(now), REPORT_INTERVAL, PROGRESS_INTERVAL)
                stream.wait(pause, reading=reading)

    @staticmethod
    def _feed(decoder: Decoder, frames: Sequence[memoryview], until: int) -> None:
        if not until:
            decoder.feed(frames)
            return
        for frame in frames:
            if decoder.committed > until:
                return  # the rest comes again
            decoder.feed([frame])

    def _feed_to_boundary(self, decoder: Decoder, frames: list[memoryview]) -> None:
        """Feeds all messages, but where a chunk of a backfill waits for its place only those up to the end
        of a transaction."""
        online = self._online
        if online is not None and online.halt_at:
            for number, frame in enumerate(frames):
                if _begins_behind(frame, online.halt_at):
                    decoder.feed(frames[:number])
                    self._rest = frames[number:]
                    if not decoder.in_transaction:
                        online.freeze()
                    return
        if online is not None and online.wants(max(decoder.wal_end, decoder.committed)):
            for number, frame in enumerate(frames, 1):
                if len(frame) > _KIND and frame[_KIND] == _COMMIT:
                    frames, self._rest = frames[:number], frames[number:]
                    break
        decoder.feed(frames)

    def _merge(self, decoder: Decoder, appender: Appender) -> None:
        """Gives the journal what a backfill has read, between two transactions of the stream."""
        online = self._online
        if online is None:
            return
        online.check()
        if appender.idle:
            online.settled()
            if online.outdated and self._writer is not None:
                self._stop_online()
                self._start_online(self._writer, appender)
                return
        reached = max(decoder.wal_end, decoder.committed)
        if online.halt_at and reached >= online.halt_at and not decoder.in_transaction:
            online.freeze()
        while not decoder.in_transaction and online.wants(reached):
            while decoder.rows or decoder.sealed:
                if not appender.room or not self._put(decoder.take(), appender):
                    return
            if not appender.room:
                return
            item = online.place(reached, self._last)
            if item is None:
                return
            if isinstance(item, Chunk):
                self._last = item.last
            elif item.batch is not None:
                self._last = item.batch.last
            appender.put(item)

    def _put(self, batch: Batch | None, appender: Appender) -> bool:
        """Gives the journal a batch of the stream; says whether there was one."""
        if batch is None:
            return False
        self._changes += batch.count
        self._last_commit_time = batch.last_commit_time or self._last_commit_time
        self._last = batch.last
        batch = self._layouts.added_to(batch)
        if self._online is not None:
            self._online.see(batch)
        appender.put(batch)
        return True

    def _hand_over(self, decoder: Decoder, appender: Appender, *, drained: bool) -> None:
        """Gives the journal what is worth a frame: what is full, or all there is when it has time.

        Batches so grow with the backlog by themselves: while the journal writes one, the next one fills.
        """
        while appender.room:
            full = decoder.sealed or decoder.rows >= BATCH_ROWS or decoder.nbytes >= BATCH_BYTES
            ready = decoder.rows and drained and appender.idle and not decoder.in_transaction
            if not (full or ready):
                return
            if not self._put(decoder.take(), appender):
                return

    def _following(self) -> str:
        """`backfilling` while the first load is under way beside the stream, else `streaming`."""
        loading = self._online is not None and self._state != "streaming" and self._online.loading
        return "backfilling" if loading else "streaming"

    @staticmethod
    def _nothing_in_flight(decoder: Decoder, appender: Appender) -> bool:
        return not (decoder.in_transaction or decoder.rows or decoder.sealed) and appender.idle

    def _confirmable(self, appender: Appender) -> int:
        """How far the slot may be confirmed: the fsync, or the slowest flow where it is asked for."""
        tail = appender.tail
        if not self._settings.confirm_delivered:
            return tail.committed
        self._behind.journaled(tail.offset, tail.committed)
        return self._behind.safe(self._delivered)

    def _tell(self, state: str, error: str | None, *, force: bool = True) -> None:
        now = time.monotonic()
        if not force and state == self._state and now < self._next_report:
            return
        self._state, self._error = state, error
        self._next_report = now + REPORT_INTERVAL
        server = self._monitor.latest if state != "connecting" else None
        appender = self._appender
        lag = None
        if server is not None and appender is not None:
            lag = max(server.current_lsn - appender.tail.committed, 0)
        self._report(
            {
                "state": state,
                "error": error,
                "slot": self._settings.slot,
                "publication": self._settings.publication,
                "received_lsn": format_lsn(self._received) if self._received else None,
                "confirmed_lsn": format_lsn(self._confirmed) if self._confirmed else None,
                "server_lsn": format_lsn(server.current_lsn) if server else None,
                "retained_bytes": server.retained_bytes if server else None,
                "wal_status": server.wal_status if server else None,
                "safe_wal_size": server.safe_wal_size if server else None,
                "catalog_age": server.catalog_age if server else None,
                "oldest_transaction": asdict(server.oldest) if server and server.oldest else None,
                "findings": [asdict(finding) for finding in self._monitor.findings],
                "lag_bytes": lag,
                "journal": None if appender is None else {"offset": appender.tail.offset},
                "changes": self._changes,
                "bytes": self._bytes,
                "last_commit_time": self._last_commit_time,
                "backfills": [] if self._online is None else self._online.figures(),
            }
        )
