"""Where chunks stand in the journal. For capture's thread, which alone knows how far the stream is.

A chunk stands behind every transaction that its snapshot sees, without the rows that the stream knows
better (`visible`).
"""

import time
from collections import deque
from dataclasses import replace

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.journal import Chunk, Step
from cdcflow.model import BACKFILLS, MESSAGES, Batch, Mark, Position, Relation, mark_batch
from cdcflow.model.backfill import MarkPhase
from cdcflow.source.appender import Marked
from cdcflow.source.online.board import Board, Read, Seed, Turn, Whole
from cdcflow.source.online.task import Task
from cdcflow.source.visible import Snapshot, key_of
from cdcflow.source.whole import emptied

#: Changes before the journal's end in which those may be that a new snapshot has not seen, where nothing else
#: is known: those of the transactions that were just committed, one per session of the server at most.
SEED = 50_000

#: What a failed backfill still has to do with its turns.
_OF_FAILED = ("begin", "note", "cancel")

#: Under light load batches are small: so many are remembered before they are joined.
_BATCHES = 1_000


class Unseen:
    """Where in the journal the stream's changes begin that the latest snapshot, and so the next ones, may not
    have seen. The rows of other tables, which chunks have put there before, so need not be looked through."""

    def __init__(self) -> None:
        self._batches: deque[tuple[int, pa.Array]] = deque()

    @property
    def start(self) -> int | None:
        """None: all was seen."""
        return self._batches[0][0] if self._batches else None

    def see(self, offset: int, batch: Batch) -> None:
        """Takes in a batch of the stream that the journal has from `offset` on."""
        xids = [group.meta("xid").unique() for group in batch.groups if group.relation != MESSAGES]
        if not xids:
            return
        self._batches.append((offset, pa.concat_arrays(xids)))
        if len(self._batches) > _BATCHES:
            joined = pa.concat_arrays([xids for _, xids in self._batches]).unique()
            self._batches = deque([(self._batches[0][0], joined)])

    def forget(self, snapshot: Snapshot) -> None:
        """Forgets the first batches, as far as the snapshot has seen them."""
        while self._batches and not pc.any(snapshot.unseen(self._batches[0][1])).as_py():
            self._batches.popleft()


class Placing:
    """Gives what waits on the board its place, one after the other."""

    def __init__(self, board: Board, tail: int) -> None:
        self._board = board
        #: Offset at which the journal ends with what was seen and placed.
        self.offset = tail
        #: Per table: what is watched in the stream.
        self._watched: dict[int, list[Task]] = {}
        #: Per table: the generation that the stream has shown last, and in which transaction.
        self._shapes: dict[int, tuple[Relation, int]] = {}
        #: Per table: the generation that a chunk has shown last, and its snapshot.
        self._read: dict[int, tuple[Relation, Snapshot]] = {}
        self._unseen = Unseen()
        #: Offset from which on it knows them.
        self._since = tail
        #: Ended, but not durable yet.
        self._placed: list[Task] = []

    def watch(self, task: Task) -> None:
        """From now on what the stream brings of its table counts."""
        if not self._watched:
            self._unseen, self._since = Unseen(), self.offset
        self._watched.setdefault(task.oid, []).append(task)

    def wants(self, reached: int) -> bool:
        """Whether something could take its place at the next boundary between transactions."""
        try:
            first = self._board.arrivals[0]
        except IndexError:
            return False
        return not isinstance(first, Read) or first.lsn <= reached or _unwanted(first.task)

    def see(self, batch: Batch) -> None:
        """What the stream brings, in order."""
        begin, self.offset = self.offset, self.offset + batch.count
        if not self._watched:
            return
        if any(group.relation not in (MESSAGES, BACKFILLS) for group in batch.groups):
            self._board.live_at = time.monotonic()
        self._unseen.see(begin, batch)
        for group in batch.groups:
            tasks = self._watched.get(group.relation.oid)
            if not tasks or group.relation in (MESSAGES, BACKFILLS):
                continue
            for task in tasks:
                task.fresh = False
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
                arrival = self._board.arrivals[0]
            except IndexError:
                return None
            if isinstance(arrival, Seed):
                self._board.pop()
                if arrival.task.state in ("ended", "failed"):
                    continue
                for group in arrival.groups:
                    arrival.task.changed.see(group, early=arrival.task.request.replace)
                self._board.set(arrival.task, "reading" if not arrival.task.changed.complete else "rereading")
                continue
            if isinstance(arrival, Read) and _unwanted(arrival.task):
                self._board.pop()
                continue
            if self._board.standing and self._board.halt_at > 1:
                reached = self._board.halt_at
            at = _behind(reached, last)
            if at is None or (isinstance(arrival, Read) and arrival.lsn > reached):
                return None
            self._board.pop()
            item = self._placed_read(arrival, at, reached) if isinstance(arrival, Read) else None
            if isinstance(arrival, Turn):
                item = self._turn(arrival, at, reached)
            elif isinstance(arrival, Whole):
                item = self._placed_whole(arrival, at, reached)
            if item is not None:
                count = item.count if isinstance(item, Chunk) else (item.batch.count if item.batch else 0)
                self.offset += count
                return item

    def _placed_read(self, read: Read, at: Position, reached: int) -> Chunk | Marked | None:
        task, changed = read.task, read.task.changed
        with self._board.lock:
            if read.reader in self._board.bounds:
                self._board.bounds[read.reader] = read.snapshot
            if self._board.latest is None or read.snapshot.xmax > self._board.latest.xmax:
                self._board.latest = read.snapshot
                self._unseen.forget(read.snapshot)
            bounds = list(self._board.bounds.values())
            # Also those whose readers have found nothing more to read: theirs may be older ones.
            bounds += [other.snapshot for other in self._board.arrivals if isinstance(other, Read)]
        if read.packed is not None and self._is_old(task, read):
            with self._board.lock:
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
            changed.owe(keys.filter(stale))
            keys = keys.filter(pc.invert(stale))
        settled = changed.settle(keys)
        if read.wanted:
            # Who is not there any more needs no second look, unless the stream knows better.
            wanted = pa.array(list(read.wanted), pa.string())
            newer = changed.stale(wanted, read.snapshot)
            settled += changed.settle(wanted if newer is None else wanted.filter(pc.invert(newer)))
            with self._board.lock:
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
        with self._board.lock:
            task.rows += rows
            task.nbytes += read.nbytes
            task.chunks += read.claim is not None
        task.noted = time.monotonic()
        if read.packed is None or not rows:
            return Marked(step, committed=reached)
        self._read[task.oid] = (read.packed.relation, read.snapshot)
        return Chunk(read.packed, dropped, at, reached, step, task.request.flows)

    def _placed_whole(self, whole: Whole, at: Position, reached: int) -> Chunk:
        task, packed = whole.task, whole.packed
        with self._board.lock:
            task.rows += packed.rows
            task.nbytes += whole.nbytes
            task.chunks += 1
        task.fresh = False
        step = Step(task.work, rows=packed.rows, nbytes=whole.nbytes)
        return Chunk(packed, (), at, reached, step, task.request.flows)

    def _is_old(self, task: Task, read: Read) -> bool:
        """Whether the stream, or a later chunk, has shown a shape of the table that the chunk's snapshot had
        not seen."""
        assert read.packed is not None
        relation = read.packed.relation
        shown, chunk = self._shapes.get(task.oid), self._read.get(task.oid)
        if chunk is not None and chunk[0].columns != relation.columns and chunk[1].behind(read.snapshot):
            return True
        if shown is not None and shown[0].columns != relation.columns:
            return bool(read.snapshot.unseen(pa.array([shown[1]], pa.uint32()))[0].as_py())
        return False

    def _turn(self, turn: Turn, at: Position, reached: int) -> Marked | None:
        task = turn.task
        if task.state == "ended" or (task.state == "failed" and turn.what not in _OF_FAILED):
            return None  # cancelled, or failed, meanwhile
        if turn.what == "begin":
            self.watch(task)
            marked = self._marked(task, "begin", at, reached, Step(task.work, "begun"))
            task.began_at = self.offset + 1
            if task.state == "beginning":
                self._board.set(task, "begun")
            return marked
        if turn.what == "watch":
            task.changed.collecting = True
            task.watched_at = self.offset
            task.look_at = [(max(min(task.began_at, self._since - SEED), 0), self._since)]
            if self._unseen.start is not None:
                task.look_at.append((self._unseen.start, self.offset))
            self._board.set(task, "seeding")
            return None
        if turn.what == "empty":
            assert task.relation is not None
            if task.fresh:
                return None
            batch = emptied(task.relation, at, time.time_ns() // 1000, task.request.flows)
            return Marked(self._anew(task), replace(batch, committed=reached))
        if turn.what == "anew":
            step = self._anew(task)
            if task.state == "beginning":
                self._board.set(task, "begun")
            return Marked(step, committed=reached)
        if turn.what == "read":
            if task.plan is None or not task.plan.finished or self._awaits(task):
                self._board.set(task, "reading")  # a chunk was given back meanwhile
                return None
            task.changed.complete = True
            fresh = tuple(key_of(key) for key in task.changed.take_fresh())
            self._board.set(task, "rereading")
            return Marked(Step(task.work, "read", again=fresh), committed=reached)
        if turn.what == "note":
            fresh = tuple(key_of(key) for key in task.changed.take_fresh())
            return Marked(Step(task.work, again=fresh), committed=reached)
        cancelled = turn.what == "cancel"
        if not cancelled and (task.changed.again or task.state != "ending"):
            self._board.set(task, "rereading")  # an update has come meanwhile that needs it
            return None
        tasks = self._watched.get(task.oid, [])
        if task in tasks:
            tasks.remove(task)
        if not tasks:
            self._watched.pop(task.oid, None)
        task.final = "cancelled" if cancelled else "done"
        self._board.set(task, "ended")
        self._placed.append(task)
        phase: MarkPhase = "cancel" if cancelled else "end"
        return self._marked(task, phase, at, reached, Step(task.work, "cancelled" if cancelled else "over"))

    def _awaits(self, task: Task) -> bool:
        """Whether a chunk of it waits for its place."""
        with self._board.lock:
            return any(isinstance(other, Read) and other.task is task for other in self._board.arrivals)

    def _anew(self, task: Task) -> Step:
        """What was read of it does not count any more."""
        task.changed.start_anew()
        with self._board.lock:
            task.rows = task.nbytes = task.chunks = 0
        self._board.ledger.open.pop(task.work, None)
        return Step(task.work, "begun")

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
            with self._board.lock:
                for task in self._placed:
                    task.durable = True
                self._board.lock.notify_all()
            self._placed = []


def _unwanted(task: Task) -> bool:
    """Whether a chunk of it needs no place any more."""
    return task.whole or task.state in ("failed", "ended", "ending")


def _behind(reached: int, last: Position) -> Position | None:
    """Where a chunk stands when everything before `reached` has come: at the byte before, where no record
    can start since they are 8-byte aligned; behind an earlier chunk that stands there."""
    lsn = reached - 1
    if last.commit_lsn < lsn:
        return Position(lsn, 1)
    if last.commit_lsn == lsn and reached % 8 == 0:
        return Position(lsn, last.ordinal + 1)
    return None
