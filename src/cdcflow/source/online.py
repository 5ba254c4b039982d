"""Online backfills: the rows of tables come into the journal while the stream goes on.

Processes of their own read chunks (`reading`); a thread here looks after the requests, plans and hands
out work; and capture's own thread, which alone knows how far the stream is, gives each chunk its place:
behind every transaction that the chunk's snapshot sees, without the rows that the stream knows better
(`visible`). What is in the journal is all that counts: an object of this class lives for one session of
the stream, and begins with what the journal's ledger says.
"""

import contextlib
import logging
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, Any

import psycopg
import pyarrow as pa
import pyarrow.compute as pc

import cdcflow.sql
from cdcflow.errors import CdcflowError, SourceError, SourceUnavailable
from cdcflow.journal import Chunk, Ledger, Packed, Reader, Step
from cdcflow.model import BACKFILLS, MESSAGES, Batch, Group, Mark, Op, Position, Relation, mark_batch
from cdcflow.model.backfill import MarkPhase
from cdcflow.source.appender import Marked
from cdcflow.source.connection import answering, connect
from cdcflow.source.plan import Claim, Plan
from cdcflow.source.published import PublishedTable, published_tables
from cdcflow.source.reading import MARK, receive, send
from cdcflow.source.requests import Ended, Kept, Request, Requests
from cdcflow.source.visible import Changed, Snapshot, key_of, key_text
from cdcflow.source.whole import copy_whole, emptied

log = logging.getLogger(__name__)

#: Seconds between two looks at the requests and the plans.
TICK = 0.1
#: Tables that are read at the same time: one waits for the stream while others are read.
AT_ONCE = 4
#: Chunks per reader that may wait for their place.
WAITING = 2
#: Changes before the journal's end in which those may be that a new snapshot has not seen: those of the
#: transactions that were just committed, one per session of the server at most.
SEED = 50_000
#: Keys that are read again at once.
KEYS_AT_ONCE = 500
#: Seconds from one failure of a reader, or of the connection, to the next attempt.
RETRY = 1.0
#: The journal is kept from the last word of a backfill on, so a waiting one says that it is still there.
NOTE_EVERY = 30.0
#: Seconds that the end of a session waits for what a thread of it is at.
STOP = 10.0
#: A chunk of a backfill with a limit holds at most what may come in this many seconds.
RATE_SECONDS = 0.25

_PARTS = "backfill_parts"


def work_name(request: str, oid: int, table: str) -> str:
    """What the ledger calls a table of a request."""
    return f"{request}/{oid}/{table}"


@dataclass
class Task:
    """One table of one request."""

    request: Request
    table: str
    state: str = "waiting"
    oid: int = 0
    relation: Relation | None = None
    partitioned: bool = False
    plan: Plan | None = None
    #: Per part, what a reader must know of its table.
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: Changed = field(default_factory=lambda: Changed(collecting=False))
    #: Keys that are being read again.
    claimed: set[str] = field(default_factory=set)
    rows: int = 0
    nbytes: int = 0
    chunks: int = 0
    estimated_rows: int = -1
    table_bytes: int = 0
    pages: int = 0
    error: str = ""
    hint: str = ""
    #: When this session began to read it, and how many rows it had then.
    since: float = 0.0
    rows_before: int = 0
    #: Offset behind the last that the journal says of it; -1: it has not begun.
    began_at: int = -1
    #: Offset from which on the changes of the stream are kept beside its chunks.
    watched_at: int = 0
    noted: float = 0.0
    durable: bool = False
    final: str = ""
    #: It has no key, and is read as a whole while the stream stands.
    whole: bool = False

    @property
    def work(self) -> str:
        return work_name(self.request.name, self.oid, self.table)

    def figures(self) -> dict[str, Any]:
        seconds = time.monotonic() - self.since if self.since else 0.0
        rate = (self.rows - self.rows_before) / seconds if seconds > 0 else 0.0
        share = self.plan.share if self.plan is not None else 0.0
        # Known only by the pages: how many rows are in those that are left.
        left = self.rows / share - self.rows if share > 0 else None
        return {
            "backfill": self.request.name,
            "table": self.table,
            "state": self.state,
            "rows": self.rows,
            "bytes": self.nbytes,
            "chunks": self.chunks,
            "estimated_rows": self.estimated_rows if self.estimated_rows >= 0 else None,
            "table_bytes": self.table_bytes or None,
            "share": round(share, 4),
            "rate": round(rate, 1),
            "remaining_seconds": round(left / rate, 1) if rate and left is not None else None,
            "again": len(self.changed.again),
            "error": self.error or None,
            "hint": self.hint or None,
        }


@dataclass(frozen=True)
class _Read:
    """A chunk that waits for its place, or rows that were read by key (`wanted`)."""

    task: Task
    reader: int
    snapshot: Snapshot
    lsn: int
    packed: Packed | None
    keys: pa.Array
    claim: Claim | None
    nbytes: int
    wanted: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Seed:
    """Changes that the journal held before those of the stream were kept."""

    task: Task
    groups: Sequence[Group]


@dataclass(frozen=True)
class _Turn:
    """A table begins, was read once, or ends."""

    task: Task
    what: str


@dataclass(frozen=True)
class _Whole:
    """Rows of a table without a key, which come while the stream stands."""

    task: Task
    packed: Packed
    nbytes: int


#: What a reader does: a span of a table, or rows by their keys.
_Job = tuple[Task, Claim | None, tuple[str, ...]]

_Arrival = _Read | _Seed | _Turn | _Whole


class _Process:
    """A reader's process."""

    def __init__(self, dsn: str, publication: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "cdcflow.source.reading"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._jobs: IO[bytes] = self._process.stdin
        self._answers: IO[bytes] = self._process.stdout
        # Not an argument: everybody on the machine can read those.
        self.send({"dsn": dsn, "publication": publication})

    @property
    def pid(self) -> int:
        return self._process.pid

    def send(self, job: Mapping[str, Any]) -> None:
        send(self._jobs, job)

    def receive(self) -> tuple[dict[str, Any], bytes, bytes]:
        answer = receive(self._answers)
        sizes = answer.get("sizes")
        if sizes is None:
            return answer, b"", b""
        keys, message = (self._answers.read(size) for size in sizes)
        if [len(keys), len(message)] != sizes:
            raise EOFError
        return answer, keys, message

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._jobs, self._answers):
            with contextlib.suppress(OSError):
                pipe.close()


class Online:
    """The backfills of one session of the stream.

    `see`, `place` and `settled` are for capture's thread; `wake` makes it call `place` soon.
    """

    def __init__(
        self,
        *,
        dsn: str,
        publication: str,
        slot: str,
        journal: Path,
        requests: Requests,
        readers: int,
        ledger: Ledger,
        tail: int,
        wake: Callable[[], None],
    ) -> None:
        self._dsn = dsn
        self._publication = publication
        self._slot = slot
        self._journal = journal
        self._requests = requests
        self._readers = readers
        self._ledger = ledger
        #: Offset at which the journal ends when the session begins.
        self._tail = tail
        self._wake = wake
        self._lock = threading.Condition()
        self._stopping = False
        self._tasks: dict[tuple[str, str], Task] = {}
        self._arrivals: deque[_Arrival] = deque()
        self._head_since = 0.0
        #: Per table: what is watched in the stream. Of capture's thread.
        self._watched: dict[int, list[Task]] = {}
        #: Per table: the generation that the stream has shown last, and in which transaction.
        self._shapes: dict[int, tuple[Relation, int]] = {}
        self._offset = tail
        self._bounds: dict[int, Snapshot | None] = {}
        self._latest: Snapshot | None = None
        self._next: dict[str, float] = {}
        self._placed: list[Task] = []
        #: LSN at which the stream is to stand; 0: it goes on.
        self.halt_at = 0
        self._frozen = False
        self._processes: dict[int, _Process] = {}
        self._connection: psycopg.Connection[Any] | None = None
        self._thread: threading.Thread | None = None
        self._threads: list[threading.Thread] = []
        #: Somebody paused, or let go on, what is under way: the session's plans must be made anew.
        self.outdated = False
        self._defect: Exception | None = None
        #: Why requests cannot be looked at.
        self.trouble: str | None = None
        self._adopt()

    # The session's begin and end.

    def _adopt(self) -> None:
        """The works that the journal has open, before the stream brings anything."""
        for kept in self._requests.all():
            for table in kept.request.tables:
                self._take_on(kept, table)
        known = {task.work for task in self._tasks.values()}
        for name in self._ledger.open:
            if name not in known:
                request, table = _of(name)
                # Somebody has removed the file that asked for it.
                task = Task(
                    Request(request, (table,)), table, state="cancelling", oid=int(name.split("/")[1])
                )
                self._tasks[(request, table)] = task
                self._arrivals.append(_Turn(task, "cancel"))

    def start(self) -> None:
        self._thread = threading.Thread(target=self._coordinate, name="backfill", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Ends everything soon. What has no place yet comes again in the next session."""
        with self._lock:
            self._stopping = True
            self._lock.notify_all()
            processes = list(self._processes.values())
        for process in processes:
            process.end()
        for thread in [*self._threads, *([self._thread] if self._thread else [])]:
            # The making of a slot waits for all transactions of the server, and cannot be interrupted.
            thread.join(STOP)
        if self._connection is not None:
            self._connection.close()

    # Capture's thread.

    @property
    def active(self) -> bool:
        return bool(self._watched or self._arrivals)

    def wants(self, reached: int) -> bool:
        """Whether something could take its place at the next boundary between transactions."""
        try:
            first = self._arrivals[0]
        except IndexError:
            return False
        return not isinstance(first, _Read) or first.lsn <= reached

    @property
    def frozen(self) -> bool:
        """The stream stands where it was to stand, and must not be read on."""
        return self._frozen and self.halt_at > 0

    def freeze(self) -> None:
        """Everything before `halt_at` has come, and nothing behind it."""
        if not self._frozen:
            with self._lock:
                self._frozen = True
                self._lock.notify_all()

    def see(self, batch: Batch) -> None:
        """What the stream brings, in order."""
        self._offset += batch.count
        if not self._watched:
            return
        for group in batch.groups:
            tasks = self._watched.get(group.relation.oid)
            if not tasks or group.relation in (MESSAGES, BACKFILLS):
                continue
            if group.relation.key and not group.relation.full:
                for task in tasks:
                    task.changed.see(group)
            xid = group.meta("xid")[len(group) - 1].as_py()
            self._shapes[group.relation.oid] = (group.relation, xid)

    def place(self, reached: int, last: Position) -> Chunk | Marked | None:
        """What is to be journaled next, where the stream is between two transactions, has brought everything
        before the LSN `reached`, and `last` is the journal's last position."""
        while True:
            try:
                arrival = self._arrivals[0]
            except IndexError:
                return None
            if isinstance(arrival, _Seed):
                self._pop()
                for group in arrival.groups:
                    arrival.task.changed.see(group)
                self._set(arrival.task, "reading" if not arrival.task.changed.complete else "rereading")
                continue
            if self.frozen and self.halt_at > 1:
                reached = self.halt_at
            at = _behind(reached, last)
            if at is None or (isinstance(arrival, _Read) and arrival.lsn > reached):
                return None
            self._pop()
            item = self._placed_read(arrival, at, reached) if isinstance(arrival, _Read) else None
            if isinstance(arrival, _Turn):
                item = self._turn(arrival, at, reached)
            elif isinstance(arrival, _Whole):
                item = self._placed_whole(arrival, at, reached)
            if item is not None:
                count = item.count if isinstance(item, Chunk) else (item.batch.count if item.batch else 0)
                self._offset += count
                return item

    def _pop(self) -> None:
        with self._lock:
            self._arrivals.popleft()
            self._head_since = time.monotonic()
            self._lock.notify_all()

    def _placed_read(self, read: _Read, at: Position, reached: int) -> Chunk | Marked | None:
        task, changed = read.task, read.task.changed
        with self._lock:
            if read.reader in self._bounds:
                self._bounds[read.reader] = read.snapshot
            if self._latest is None or read.snapshot.xmax > self._latest.xmax:
                self._latest = read.snapshot
            bounds = list(self._bounds.values())
        if task.state in ("failed", "ended", "ending"):
            return None
        if read.packed is not None and self._is_old(task, read):
            with self._lock:
                task.claimed.difference_update(read.wanted)
                if read.claim is not None and task.plan is not None:
                    task.plan.give_back(read.claim.part, read.claim.low, read.claim.high)
                    task.state = "reading"
            return None
        stale = changed.stale(read.keys, read.snapshot)
        dropped: tuple[int, ...] = ()
        keys = read.keys
        if stale is not None:
            dropped = tuple(pc.indices_nonzero(stale).to_pylist())
            keys = keys.filter(pc.invert(stale))
        settled = changed.settle(keys)
        if read.wanted:
            # Who is not there any more needs no second look, unless the stream knows better.
            wanted = pa.array(list(read.wanted), pa.string())
            newer = changed.stale(wanted, read.snapshot)
            settled += changed.settle(wanted if newer is None else wanted.filter(pc.invert(newer)))
            with self._lock:
                task.claimed.difference_update(read.wanted)
        known = [bound for bound in bounds if bound is not None]
        if known and len(known) == len(bounds):
            changed.forget_seen(known)
        rows = len(keys)
        step = Step(
            task.work,
            part=read.claim.part if read.claim else "",
            span=(read.claim.low, read.claim.high) if read.claim else None,
            again=tuple(key_of(key) for key in changed.take_fresh()),
            settled=tuple(key_of(key) for key in settled),
            rows=rows,
            nbytes=read.nbytes,
        )
        with self._lock:
            task.rows += rows
            task.nbytes += read.nbytes
            task.chunks += read.claim is not None
        task.noted = time.monotonic()
        if read.packed is None or not rows:
            return Marked(step, committed=reached)
        return Chunk(read.packed, dropped, at, reached, step, task.request.flows)

    def _placed_whole(self, whole: _Whole, at: Position, reached: int) -> Chunk:
        task, packed = whole.task, whole.packed
        with self._lock:
            task.rows += packed.rows
            task.nbytes += whole.nbytes
            task.chunks += 1
        step = Step(task.work, rows=packed.rows, nbytes=whole.nbytes)
        return Chunk(packed, (), at, reached, step, task.request.flows)

    def _is_old(self, task: Task, read: _Read) -> bool:
        """Whether the stream has shown a shape of the table that the chunk's snapshot had not seen."""
        shape = self._shapes.get(task.oid)
        assert read.packed is not None
        if shape is None or shape[0].columns == read.packed.relation.columns:
            return False
        return bool(read.snapshot.unseen(pa.array([shape[1]], pa.uint32()))[0].as_py())

    def _turn(self, turn: _Turn, at: Position, reached: int) -> Marked | None:
        task = turn.task
        if turn.what == "begin":
            self._watched.setdefault(task.oid, []).append(task)
            marked = self._marked(task, "begin", at, reached, Step(task.work, "begun"))
            task.began_at = self._offset + 1
            self._set(task, "copying" if task.whole else "begun")
            return marked
        if turn.what == "watch":
            task.changed.collecting = True
            task.watched_at = self._offset
            self._set(task, "seeding")
            return None
        if turn.what == "empty":
            assert task.relation is not None
            batch = emptied(task.relation, at, time.time_ns() // 1000, task.request.flows)
            return Marked(Step(task.work), replace(batch, committed=reached))
        if turn.what == "read":
            if task.plan is None or not task.plan.finished:
                self._set(task, "reading")  # a chunk was given back meanwhile
                return None
            task.changed.complete = True
            fresh = tuple(key_of(key) for key in task.changed.take_fresh())
            self._set(task, "rereading")
            return Marked(Step(task.work, "read", again=fresh), committed=reached)
        if turn.what == "note":
            fresh = tuple(key_of(key) for key in task.changed.take_fresh())
            return Marked(Step(task.work, again=fresh), committed=reached)
        cancelled = turn.what == "cancel"
        if not cancelled and (task.changed.again or task.state != "ending"):
            self._set(task, "rereading")  # an update has come meanwhile that needs it
            return None
        tasks = self._watched.get(task.oid, [])
        if task in tasks:
            tasks.remove(task)
        if not tasks:
            self._watched.pop(task.oid, None)
        task.final = "cancelled" if cancelled else "done"
        self._set(task, "ended")
        self._placed.append(task)
        phase: MarkPhase = "cancel" if cancelled else "end"
        return self._marked(task, phase, at, reached, Step(task.work, "cancelled" if cancelled else "over"))

    def _marked(self, task: Task, phase: MarkPhase, at: Position, reached: int, step: Step) -> Marked:
        schema, _, name = task.table.partition(".")
        if task.relation is not None:
            schema, name = task.relation.schema, task.relation.name
        mark = Mark(task.request.name, phase, task.oid, schema, name, task.request.replace)
        batch = mark_batch(mark, at, time.time_ns() // 1000, task.request.flows)
        return Marked(step, Batch(batch.groups, 1, at, committed=reached, audience=batch.audience))

    def settled(self) -> None:
        """All that was given out by `place` is durable."""
        if self._placed:
            with self._lock:
                for task in self._placed:
                    task.durable = True
                self._lock.notify_all()
            self._placed = []

    def _set(self, task: Task, state: str) -> None:
        with self._lock:
            task.state = state
            self._lock.notify_all()

    def figures(self) -> list[dict[str, Any]]:
        """For the status: every table that is not over."""
        with self._lock:
            return [
                {**task.figures(), "readers": [process.pid for process in self._processes.values()]}
                for task in self._tasks.values()
                if task.state != "ended"
            ]

    # The coordinating thread.

    def check(self) -> None:
        """Raises what has ended a thread of it: a defect of ours."""
        if self._defect is not None:
            raise self._defect

    def _coordinate(self) -> None:
        try:
            self._follow_requests()
        except Exception as error:  # noqa: BLE001 - handed over to capture's thread, which raises it
            self._defect = error
            self._wake()

    def _follow_requests(self) -> None:
        while not self._stopping:
            try:
                self._look()
                self.trouble = None
            except (CdcflowError, psycopg.Error, OSError) as error:
                said = " ".join(str(error).split())
                if said != self.trouble:
                    log.warning("backfill: %s", said)
                self.trouble = said
                if self._connection is not None:
                    self._connection.close()
                    self._connection = None
                self._pause(RETRY)
            self._pause(TICK)

    def _pause(self, seconds: float) -> None:
        with self._lock:
            if not self._stopping:
                self._lock.wait(seconds)

    def _look(self) -> None:
        for kept in self._requests.all():
            if kept.state in ("done", "cancelled"):
                continue
            for table in kept.request.tables:
                self._follow(kept, table)
        running = 0
        for task in list(self._tasks.values()):
            if self._stopping:
                return
            if task.state in ("ended", "failed", "paused"):
                self._conclude(task)
                continue
            if task.state in ("waiting", "beginning", "begun"):
                if task.state == "waiting":
                    self._begin(task)
                elif task.state == "begun" and running < AT_ONCE:
                    self._set(task, "watching")
                    self._arrive(_Turn(task, "watch"))
            else:
                self._advance(task)
            running += task.state not in ("waiting", "beginning", "begun", "failed")
            self._note(task)
        self._copy_wholes()
        self._nudge()
        wanted = (
            self._readers if any(t.state in ("reading", "rereading") for t in self._tasks.values()) else 0
        )
        while len(self._threads) < wanted:
            thread = threading.Thread(
                target=self._read, args=(len(self._threads),), name="backfill reader", daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def _follow(self, kept: Kept, table: str) -> None:
        """What a request wishes now."""
        request = kept.request
        task = self._tasks.get((request.name, table))
        if task is None:
            self._take_on(kept, table)
            return
        before, task.request = task.request, request
        if request.wish == "cancel" and task.state not in ("ended", "cancelling"):
            if task.oid and task.work in self._ledger_open():
                self._set(task, "cancelling")
                self._arrive(_Turn(task, "cancel"))
            else:
                task.final, task.durable = "cancelled", True
                self._set(task, "ended")
        elif before.wish != request.wish or before.resumed != request.resumed:
            self.outdated = True
            self._wake()

    def _ledger_open(self) -> set[str]:
        begun = {t.work for t in self._tasks.values() if t.began_at >= 0}
        return begun | set(self._ledger.open)

    def _take_on(self, kept: Kept, table: str) -> None:
        request, outcome = kept.request, kept.outcomes.get(table)
        if outcome is not None and outcome.state == "failed" and outcome.resumed < request.resumed:
            self._requests.again(request.name, table)
            outcome = None
        if outcome is not None and outcome.state != "failed":
            return
        task = Task(request, table)
        for name, phase in self._ledger.ended.items():
            if _of(name) == (request.name, table):
                # The journal has it, and the crash came before it was written down.
                task.state, task.final, task.durable = "ended", "done" if phase == "over" else phase, True
        for name, work in self._ledger.open.items():
            if _of(name) == (request.name, table):
                task.oid = int(name.split("/")[1])
                task.rows, task.nbytes, task.chunks = work.rows, work.nbytes, work.chunks
                task.changed.again = {key_text(key): None for key in work.again}
                task.changed.complete = work.read
                task.began_at = work.offset
                self._watched.setdefault(task.oid, []).append(task)
        if outcome is not None:
            task.state, task.error, task.hint = "failed", outcome.error, outcome.hint
            task.changed.collecting = False
        elif request.wish == "pause":
            task.state = "paused"
            task.changed.collecting = False
        with self._lock:
            self._tasks[(request.name, table)] = task

    def _connected(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            self._connection = connect(self._dsn, purpose="backfill plan")
        return self._connection

    def _execute(self, query: str, given: Sequence[Any] | Mapping[str, Any] = ()) -> list[Any]:
        connection = self._connected()
        with answering(connection.fileno()):
            return connection.execute(query, given).fetchall()

    def _conclude(self, task: Task) -> None:
        """Writes down how a table's backfill ended, once that is durable in the journal."""
        if task.state == "ended" and task.durable and task.final:
            state: Any = task.final
            self._requests.end(task.request.name, task.table, self._ended(task, state))
            log.info("backfill %s of %s: %s, %d rows", task.request.name, task.table, state, task.rows)
            task.final = ""
        if task.state == "failed" and task.final == "failed":
            self._requests.end(task.request.name, task.table, self._ended(task, "failed"))
            log.warning("backfill %s of %s failed: %s", task.request.name, task.table, task.error)
            task.final = ""
        if task.state in ("paused", "failed"):
            self._note(task)

    @staticmethod
    def _ended(task: Task, state: Any) -> Ended:
        return Ended(
            state,
            task.error,
            task.hint,
            task.rows,
            task.nbytes,
            task.chunks,
            resumed=task.request.resumed,
        )

    def _fail(self, task: Task, error: str, hint: str = "") -> None:
        with self._lock:
            task.state, task.error, task.hint, task.final = "failed", error, hint, "failed"
            task.changed.collecting = False
            self._lock.notify_all()

    def _copy_wholes(self) -> None:
        """One after the other, and while nothing else is under way, since the stream stands meanwhile."""
        quiet = ("whole", "paused", "failed", "ended")
        for task in list(self._tasks.values()):
            if self._stopping or self._arrivals:
                return
            if task.state == "whole" and all(other.state in quiet for other in self._tasks.values()):
                self._copy_whole(task)

    def _copy_whole(self, task: Task) -> None:
        task.since, task.rows_before, task.rows, task.nbytes, task.chunks = time.monotonic(), 0, 0, 0, 0
        self._set(task, "copying")

        def halt(lsn: int) -> None:
            with self._lock:
                self.halt_at, self._frozen = lsn, False
            self._wake()
            with self._lock:
                while not self._frozen and not self._stopping:
                    self._lock.wait(TICK)

        def begin(relation: Relation) -> None:
            task.relation = relation
            if task.began_at < 0:
                self._arrive(_Turn(task, "begin"))
            self._arrive(_Turn(task, "empty"))

        def put(packed: Packed, size: int) -> None:
            self._wait_for_room()
            self._arrive(_Whole(task, packed, size))

        def stopping() -> bool:
            return self._stopping or task.request.wish != "run"

        try:
            where = task.request.where
            done = copy_whole(
                self._dsn, self._publication, self._slot, task.oid, where, halt, begin, put, stopping
            )
            if done:
                self._set(task, "ending")
                self._arrive(_Turn(task, "end"))
            with self._lock:
                # The stream goes on behind the last row only.
                while self._arrivals and not self._stopping:
                    self._lock.wait(TICK)
            if not done:
                self._set(task, "whole")
        except SourceUnavailable:
            self._set(task, "whole")
            raise
        except SourceError as error:
            self._fail(task, f"{task.table}: {error}", error.hint)
        finally:
            with self._lock:
                self.halt_at, self._frozen = 0, False
            self._wake()

    def _wait_for_room(self) -> None:
        with self._lock:
            while len(self._arrivals) >= WAITING * self._readers and not self._stopping:
                self._lock.wait(TICK)

    def _advance(self, task: Task) -> None:
        if task.state == "seeding":
            self._seed(task)
        elif task.state == "lookup":
            self._replan(task)
        elif task.state == "reading":
            with self._lock:
                finished = task.plan is not None and task.plan.finished
                if finished:
                    task.state = "read"
            if finished:
                self._arrive(_Turn(task, "read"))
        elif task.state == "rereading" and not task.changed.again and not task.claimed:
            self._set(task, "ending")
            self._arrive(_Turn(task, "end"))

    def _note(self, task: Task) -> None:
        """Says in the journal that the backfill is still there, where nothing else has for long."""
        begun = task.began_at >= 0 and task.state not in ("ended", "ending", "cancelling", "beginning")
        if begun and time.monotonic() - task.noted > NOTE_EVERY:
            task.noted = time.monotonic()
            self._arrive(_Turn(task, "note"))

    def _begin(self, task: Task) -> None:
        """Looks a table up, and has its begin journaled, or goes on with one that has begun."""
        found = self._lookup(task)
        if found is None:
            return
        task.noted = time.monotonic()
        if task.whole:
            task.state = "whole"
        elif task.began_at >= 0:
            task.state = "begun"
        else:
            task.state = "beginning"
            self._arrive(_Turn(task, "begin"))

    def _lookup(self, task: Task) -> PublishedTable | None:
        """The table as it is published now; None where the task has failed for want of it."""
        if task.oid:
            oid = task.oid
        else:
            rows = self._execute(
                "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
                " WHERE n.nspname || '.' || c.relname = %s",
                (task.table,),
            )
            if not rows:
                self._fail(task, f"there is no table {task.table}")
                return None
            [[oid]] = rows
        connection = self._connected()
        with answering(connection.fileno()):
            found = published_tables(connection, self._publication, 0, only=[oid])
        if not found:
            gone = not self._execute("SELECT FROM pg_class WHERE oid = %s", (oid,))
            self._fail(
                task,
                f"the table {task.table} was dropped"
                if gone
                else f"the table {task.table} is not in the publication {self._publication} any more",
                "`cdcflow backfill cancel` ends it"
                if gone
                else "run `cdcflow setup`, then `cdcflow backfill resume`",
            )
            return None
        table = found[0]
        task.whole = table.relation.full or not table.relation.key
        if task.whole and not task.request.halt:
            self._fail(
                task,
                f"the table {task.table} has no key by which its rows can be told apart",
                "give it a primary key, or REPLICA IDENTITY USING INDEX; or start its backfill with --halt",
            )
            return None
        task.oid, task.relation, task.partitioned = oid, table.relation, table.partitioned
        return table

    def _plan(self, task: Task) -> None:
        """Finds the files that hold the table's rows, and what of them is not read yet. Anything that comes
        into being behind their present end is in the stream."""
        rows = self._execute(cdcflow.sql.load(_PARTS), {"oid": task.oid})
        task.parts, pages = {}, {}
        for oid, schema, name, kind, file, size, _, _ in rows:
            if kind not in ("r", "m"):
                self._fail(
                    task,
                    f"{schema}.{name}, a part of {task.table}, is a foreign table",
                    "detach it, or exclude the table",
                )
                return
            part = f"{oid}:{file}"
            pages[part] = size
            task.parts[part] = self._table(task, oid, schema, name, file)
        if not rows and not task.partitioned:
            self._fail(task, f"the table {task.table} was dropped")
            return
        task.pages = sum(pages.values())
        task.table_bytes = sum(row[6] for row in rows)
        known = [row[7] for row in rows if row[7] >= 0]
        task.estimated_rows = sum(known) if known or not rows else -1
        work = self._ledger.open.get(task.work)
        task.plan = Plan(pages, work.parts if work else {}, self._readers)

    @staticmethod
    def _table(task: Task, oid: int, schema: str, name: str, file: int | None) -> dict[str, Any]:
        return {
            "root": task.oid,
            "leaf": oid,
            "schema": schema,
            "name": name,
            "file": file,
            "where": task.request.where,
            "columns": list(task.request.columns),
        }

    def _seed(self, task: Task) -> None:
        """Measures the table, and looks at what the journal holds from before the stream's changes were kept:
        what a snapshot may not have seen yet, and rows that came incomplete before this session."""
        with Reader(self._journal) as reader:
            if reader.head().offset < task.watched_at:
                return  # not durable yet: the next look
        task.since, task.rows_before = time.monotonic(), task.rows
        self._plan(task)
        if task.state == "failed":
            return
        start = max(min(task.began_at, task.watched_at - SEED), 0)
        task.state = "seeded"
        self._arrive(_Seed(task, self._journaled(task.oid, start, task.watched_at)))

    def _journaled(self, oid: int, start: int, end: int) -> list[Group]:
        """The stream's changes of a table between two offsets."""
        found = []
        with Reader(self._journal) as reader:
            offset = max(start, reader.first_offset())
            while offset < end:
                batches = reader.read(offset, max_changes=100_000, max_bytes=16 << 20)
                if not batches:
                    break
                for batch in batches:
                    found += [
                        group
                        for group in batch.groups
                        if group.relation.oid == oid
                        and group.relation.key
                        and not group.relation.full
                        and group.meta("op")[0].as_py() != Op.READ
                    ]
                offset = batches[-1].end
        return found

    def _replan(self, task: Task) -> None:
        """The table has other files: all of these must be read."""
        if self._lookup(task) is None:
            return
        self._plan(task)
        if task.state != "failed":
            self._set(task, "rereading" if task.changed.complete else "reading")

    def _nudge(self) -> None:
        """Where a chunk waits for the stream, and nothing else happens at the server, makes it say how far
        it is."""
        with self._lock:
            waiting = bool(self._arrivals) and time.monotonic() - self._head_since > 2 * TICK
        if waiting:
            if not self._execute("SELECT pg_is_in_recovery()")[0][0]:
                self._execute(MARK.decode())
            self._head_since = time.monotonic()
            self._wake()

    def _arrive(self, arrival: _Arrival) -> None:
        with self._lock:
            if not self._arrivals:
                self._head_since = time.monotonic()
            self._arrivals.append(arrival)
        self._wake()

    # The readers' threads.

    def _read(self, reader: int) -> None:
        try:
            self._read_on(reader)
        except Exception as error:  # noqa: BLE001 - as above
            self._defect = error
            self._wake()

    def _read_on(self, reader: int) -> None:
        process: _Process | None = None
        try:
            while True:
                claimed = self._claim(reader)
                if claimed is None:
                    return
                sent: _Job | None = None
                broken: OSError | None = None
                try:
                    if process is None:
                        process = self._start_process(reader)
                    process.send(self._job(*claimed))
                    sent = claimed
                    while sent is not None:
                        answer, keys, message = process.receive()
                        done, sent = self._taken(sent, answer, reader)
                        if sent is not None:
                            try:
                                process.send(self._job(*sent))
                            except OSError as error:
                                broken = error
                        # Also when the process has died since: this was read.
                        self._deliver(reader, done, answer, keys, message)
                        if broken is not None:
                            raise broken
                except (OSError, EOFError):
                    # The process is gone, killed perhaps. What it had is read by the next one.
                    self._give_back(sent if sent is not None else claimed)
                    if process is not None:
                        process.end()
                        process = None
                    self._pause(RETRY)
        finally:
            with self._lock:
                self._bounds.pop(reader, None)
                self._processes.pop(reader, None)
            if process is not None:
                process.end()

    def _start_process(self, reader: int) -> _Process:
        process = _Process(self._dsn, self._publication)
        with self._lock:
            self._processes[reader] = process
            stopping = self._stopping
        if stopping:
            raise EOFError
        return process

    def _job(self, task: Task, claim: Claim | None, keys: tuple[str, ...]) -> dict[str, Any]:
        rate = task.request.rate
        limit = None if rate is None else max(int(rate * RATE_SECONDS), 1)
        if claim is None:
            schema, _, name = task.table.partition(".")
            if task.relation is not None:
                schema, name = task.relation.schema, task.relation.name
            file = None if task.partitioned else next(iter(task.parts.values()))["file"]
            table = self._table(task, task.oid, schema, name, file)
            return {"table": table, "keys": [list(key_of(key)) for key in keys], "rows": limit}
        return {"table": task.parts[claim.part], "low": claim.low, "high": claim.high, "rows": limit}

    def _claim(self, reader: int) -> _Job | None:
        """The next piece of work, once there is some; None at the end."""
        with self._lock:
            while not self._stopping:
                found = self._claim_now(reader)
                if found is not None:
                    return found
                self._bounds.pop(reader, None)
                self._lock.wait(TICK)
        return None

    def _claim_now(self, reader: int) -> _Job | None:
        now = time.monotonic()
        for task in self._tasks.values():
            if self._next.get(task.request.name, 0.0) > now:
                continue
            claim, keys = None, ()  # type: tuple[Claim | None, tuple[str, ...]]
            if task.state == "reading" and task.plan is not None:
                claim = task.plan.claim()
            elif task.state == "rereading":
                free = [key for key in list(task.changed.again) if key not in task.claimed]
                keys = tuple(free[:KEYS_AT_ONCE])
                task.claimed.update(keys)
            if claim is not None or keys:
                self._bounds.setdefault(reader, self._latest)
                return task, claim, keys
        return None

    def _taken(self, done: _Job, answer: Mapping[str, Any], reader: int) -> tuple[_Job, _Job | None]:
        """What the reader has done of its work, and more of it, so that it reads while this waits."""
        task, claim, keys = done
        if answer["status"] != "chunk":
            return done, None
        rate = task.request.rate
        with self._lock:
            if claim is not None and task.plan is not None:
                claim = task.plan.reached(claim, answer["high"])
            if rate is not None:
                begin = max(self._next.get(task.request.name, 0.0), time.monotonic())
                self._next[task.request.name] = begin + answer["rows"] / rate
            return (task, claim, keys), None if self._stopping else self._claim_now(reader)

    def _give_back(self, claimed: _Job) -> None:
        task, claim, keys = claimed
        with self._lock:
            task.claimed.difference_update(keys)
            if claim is not None and task.plan is not None:
                task.plan.release(claim)
            self._lock.notify_all()

    def _deliver(
        self,
        reader: int,
        done: _Job,
        answer: Mapping[str, Any],
        keys: bytes,
        message: bytes,
    ) -> None:
        task, claim, wanted = done
        status = answer["status"]
        if status != "chunk":
            self._give_back(done)
            self._refused(task, status, answer)
            return
        packed, texts = None, pa.array([], pa.string())
        if message:
            relation = Relation.from_state(answer["relation"])
            plain, weight, moment = answer["plain"], answer["weight"], answer["time"]
            packed = Packed(
                relation, answer["unchanged"], answer["rows"], pa.py_buffer(message), plain, weight, moment
            )
            texts = pa.ipc.read_record_batch(pa.py_buffer(keys), _KEYS).column(0)
        snapshot = Snapshot.parse(answer["snapshot"], exact=not answer["standby"])
        read = _Read(
            task,
            reader,
            snapshot,
            answer["lsn"],
            packed,
            texts,
            claim,
            answer["bytes"],
            wanted,
        )
        self._wait_for_room()
        self._arrive(read)
        if claim is not None and task.plan is not None:
            with self._lock:
                task.plan.delivered(claim)
                self._lock.notify_all()

    def _refused(self, task: Task, status: str, answer: Mapping[str, Any]) -> None:
        if status == "rewritten":
            self._set(task, "lookup")
        elif status == "gone":
            self._fail(task, answer["error"], answer.get("hint", ""))
        else:
            task.error = answer["error"]
            self._pause(RETRY)


_KEYS = pa.schema([pa.field("key", pa.string())])


def _behind(reached: int, last: Position) -> Position | None:
    """Where a chunk stands when everything before `reached` has come: at the byte before, where no record
    can start since they are 8-byte aligned; behind an earlier chunk that stands there."""
    lsn = reached - 1
    if last.commit_lsn < lsn:
        return Position(lsn, 1)
    if last.commit_lsn == lsn and reached % 8 == 0:
        return Position(lsn, last.ordinal + 1)
    return None


def _of(work: str) -> tuple[str, str]:
    """The request and the table that a work of the ledger is of."""
    request, _, table = work.split("/", 2)
    return request, table
