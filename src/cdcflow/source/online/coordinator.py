"""What is asked for, and what of it comes next. A thread of its own."""

import logging
import time
from typing import Any

import psycopg

from cdcflow.errors import CdcflowError, SourceError, SourceUnavailable
from cdcflow.journal import Packed
from cdcflow.model import Relation
from cdcflow.source.online.board import RETRY, TICK, Board, Seed, Turn, Whole
from cdcflow.source.online.placing import Placing
from cdcflow.source.online.readers import Readers
from cdcflow.source.online.tables import Tables
from cdcflow.source.online.task import Task, request_and_table
from cdcflow.source.reading import Rewritten
from cdcflow.source.requests import INITIAL, Ended, Kept, Request, Requests
from cdcflow.source.visible import key_text
from cdcflow.source.whole import NotInTime, copy_whole

log = logging.getLogger(__name__)

#: Tables that are read at the same time: one waits for the stream while others are read.
AT_ONCE = 4
#: The journal is kept from the last word of a backfill on, so a waiting one says that it is still there.
NOTE_EVERY = 30.0


class Coordinator:
    """Looks after the requests, plans, and has readers started; `adopt` first, then `run` in its thread."""

    def __init__(
        self,
        board: Board,
        placing: Placing,
        tables: Tables,
        readers: Readers,
        requests: Requests,
        *,
        dsn: str,
        publication: str,
        slot: str,
    ) -> None:
        self._board = board
        self._placing = placing
        self._tables = tables
        self._pool = readers
        self._requests = requests
        self._dsn = dsn
        self._publication = publication
        self._slot = slot
        #: Why requests could not be looked at last.
        self._trouble: str | None = None

    def adopt(self) -> None:
        """The works that the journal has open, before the stream brings anything."""
        for kept in self._requests.all():
            for table in kept.request.tables:
                self._take_on(kept, table)
        known = {task.work for task in self._board.tasks.values()}
        for name in self._board.ledger.open:
            if name not in known:
                request, table = request_and_table(name)
                # Somebody has removed the file that asked for it.
                task = Task(
                    Request(request, (table,)), table, state="cancelling", oid=int(name.split("/")[1])
                )
                self._board.tasks[(request, table)] = task
                self._board.arrivals.append(Turn(task, "cancel"))

    def run(self) -> None:
        """Until the session ends."""
        try:
            self._follow_requests()
        except Exception as error:  # noqa: BLE001 - handed over to capture's thread, which raises it
            self._board.defect = error
            self._board.wake()

    def _follow_requests(self) -> None:
        while not self._board.stopping:
            try:
                self._look()
                self._trouble = None
            except (CdcflowError, psycopg.Error, OSError) as error:
                said = " ".join(str(error).split())
                if said != self._trouble:
                    log.warning("backfill: %s", said)
                self._trouble = said
                self._tables.close()
                self._board.pause(RETRY)
            self._board.pause(TICK)

    def _look(self) -> None:
        for kept in self._requests.all():
            if kept.state in ("done", "cancelled"):
                continue
            for table in kept.request.tables:
                self._follow(kept, table)
        if self._board.soon_read:
            self._pool.start()  # they import while the tables are looked up
        running = 0
        for task in list(self._board.tasks.values()):
            if self._board.stopping:
                return
            if task.state in ("ended", "failed", "paused"):
                self._conclude(task)
                continue
            self._carry_on(task, room=running < AT_ONCE)
            running += task.state not in ("waiting", "beginning", "begun", "failed")
            self._note(task)
        self._copy_wholes()
        self._tables.nudge()

    def _carry_on(self, task: Task, *, room: bool) -> None:
        if task.state == "waiting":
            self._begin(task)
        elif task.state == "begun":
            if room and not self._whole_first():
                self._board.set(task, "watching")
                self._board.arrive(Turn(task, "watch"))
        elif task.state != "beginning":
            self._advance(task)

    def _whole_first(self) -> bool:
        """In the first load, tables without a key come first, while nothing has been delivered that could
        wait; not where they must be tried again."""
        return any(
            task.request.name == INITIAL
            and (task.state == "waiting" or (task.whole and task.state != "paused"))
            and task.state not in ("ended", "failed")
            and not task.error
            for task in self._board.tasks.values()
        )

    def _follow(self, kept: Kept, table: str) -> None:
        """What a request wishes now."""
        request = kept.request
        task = self._board.tasks.get((request.name, table))
        if task is None:
            self._take_on(kept, table)
            return
        self._conclude(task)  # it failed before it was resumed
        before, task.request = task.request, request
        if request.wish == "cancel" and task.state not in ("ended", "cancelling"):
            begins = task.state == "beginning"
            if begins or (task.oid and task.work in self._ledger_open()):
                self._board.set(task, "cancelling")
                self._board.arrive(Turn(task, "cancel"))
            else:
                task.final, task.durable = "cancelled", True
                self._board.set(task, "ended")
        elif before.wish != request.wish or before.resumed != request.resumed:
            self._board.outdated = True
            self._board.wake()

    def _ledger_open(self) -> set[str]:
        begun = {t.work for t in self._board.tasks.values() if t.began_at >= 0}
        return begun | set(self._board.ledger.open)

    def _take_on(self, kept: Kept, table: str) -> None:
        request, outcome = kept.request, kept.outcomes.get(table)
        if outcome is not None and outcome.state == "failed" and outcome.resumed < request.resumed:
            self._requests.again(request.name, table)
            outcome = None
        if outcome is not None and outcome.state != "failed":
            return
        task = Task(request, table)
        for name, phase in self._board.ledger.ended.items():
            if request_and_table(name) == (request.name, table):
                # The journal has it, and the crash came before it was written down.
                task.state, task.final, task.durable = "ended", "done" if phase == "over" else phase, True
        for name, work in self._board.ledger.open.items():
            if request_and_table(name) == (request.name, table):
                task.oid = int(name.split("/")[1])
                task.rows, task.nbytes, task.chunks = work.rows, work.nbytes, work.chunks
                task.changed.again = {key_text(key): None for key in work.again}
                task.changed.complete = work.read
                task.began_at = work.offset
                task.fresh = request.name == INITIAL and self._placing.offset == len(self._board.ledger.open)
                self._placing.watch(task)
        if outcome is not None:
            task.state, task.error, task.hint = "failed", outcome.error, outcome.hint
            task.changed.collecting = False
        elif request.wish == "pause":
            task.state = "paused"
            task.changed.collecting = False
        with self._board.lock:
            self._board.tasks[(request.name, table)] = task

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
        failed = state == "failed"  # else what it says is of something that has passed
        return Ended(
            state,
            task.error if failed else "",
            task.hint if failed else "",
            task.rows,
            task.nbytes,
            task.chunks,
            resumed=task.request.resumed,
        )

    def _copy_wholes(self) -> None:
        """One after the other, and while nothing else is under way, since the stream stands meanwhile."""
        quiet = ("whole", "begun", "paused", "failed", "ended")
        for task in list(self._board.tasks.values()):
            if self._board.stopping or self._board.arrivals:
                return
            if task.state == "whole" and all(other.state in quiet for other in self._board.tasks.values()):
                self._copy_whole(task)

    def _copy_whole(self, task: Task) -> None:
        task.since, task.rows_before, task.rows, task.nbytes, task.chunks = time.monotonic(), 0, 0, 0, 0
        self._board.set(task, "copying")

        def halt(lsn: int) -> None:
            with self._board.lock:
                self._board.halt_at, self._board.frozen = lsn, False
            self._board.wake()
            with self._board.lock:
                while not self._board.frozen and not self._board.stopping:
                    self._board.lock.wait(TICK)

        def begin(relation: Relation) -> None:
            task.relation = relation
            if task.began_at < 0:
                self._board.arrive(Turn(task, "begin"))
            self._board.arrive(Turn(task, "empty"))

        def put(packed: Packed, size: int) -> None:
            self._board.wait_for_room()
            self._board.arrive(Whole(task, packed, size))

        def stopping() -> bool:
            # Nobody else looks at what is wished meanwhile.
            return self._board.stopping or self._requests.get(task.request.name).request.wish != "run"

        after, refused = "whole", None
        assert task.relation is not None
        try:
            done = copy_whole(
                self._dsn,
                self._publication,
                self._slot,
                task.relation,
                task.patience,
                halt,
                begin,
                put,
                stopping,
            )
            if done:
                task.error = ""
                self._board.set(task, "ending")
                self._board.arrive(Turn(task, "end"))
        except Rewritten:
            after = "waiting"  # and looked up anew
        except SourceUnavailable as error:
            if isinstance(error, NotInTime):
                task.patience *= 2
            task.error = str(error)
            raise
        except SourceError as error:
            refused = error
        finally:
            with self._board.lock:
                # The stream goes on behind the last row only, also where no more of them come.
                while self._board.arrivals and not self._board.stopping:
                    self._board.lock.wait(TICK)
                if task.state == "copying":
                    task.state = after
                self._board.halt_at, self._board.frozen = 0, False
            self._board.wake()
        if refused is not None:
            self._board.fail(task, f"{task.table}: {refused}", refused.hint)

    def _advance(self, task: Task) -> None:
        if task.state == "seeding":
            self._seed(task)
        elif task.state == "lookup":
            self._replan(task)
        elif task.state == "reading":
            with self._board.lock:
                finished = task.plan is not None and task.plan.finished
                if finished:
                    task.state = "read"
            if finished:
                self._board.arrive(Turn(task, "read"))
        elif task.state == "rereading":
            with self._board.lock:
                finished = not task.changed.again and not task.claimed
                if finished:
                    task.state = "ending"
            if finished:
                self._board.arrive(Turn(task, "end"))

    def _note(self, task: Task) -> None:
        """Says in the journal that the backfill is still there, where nothing else has for long."""
        begun = task.began_at >= 0 and task.state not in ("ended", "ending", "cancelling", "beginning")
        if begun and time.monotonic() - task.noted > NOTE_EVERY:
            task.noted = time.monotonic()
            self._board.arrive(Turn(task, "note"))

    def _begin(self, task: Task) -> None:
        """Looks a table up, and has its begin journaled, or goes on with one that has begun."""
        before = task.relation
        if self._tables.lookup(task) is None:
            return
        task.noted, task.error = time.monotonic(), ""
        if task.whole:
            task.state = "whole"
        elif task.began_at < 0:
            task.state = "beginning"
            self._board.arrive(Turn(task, "begin"))
        elif task.rekeyed(before):
            task.state = "beginning"
            self._board.arrive(Turn(task, "anew"))
        else:
            task.state = "begun"

    def _seed(self, task: Task) -> None:
        """Measures the table, and looks at what the journal holds from before the stream's changes were kept:
        what a snapshot may not have seen yet, and rows that came incomplete before this session."""
        if not self._tables.durable(task.watched_at):
            return  # the next look
        task.since, task.rows_before = time.monotonic(), task.rows
        self._tables.plan(task)
        if task.state == "failed":
            return
        groups = [
            group for start, end in task.look_at for group in self._tables.journaled(task.oid, start, end)
        ]
        task.state = "seeded"
        self._board.arrive(Seed(task, groups))

    def _replan(self, task: Task) -> None:
        """The table has other files: all of these must be read."""
        before = task.relation
        if self._tables.lookup(task) is None:
            return
        if task.whole:
            # It had a key when it was begun. What has been read of it goes with the TRUNCATE of the whole.
            self._board.set(task, "whole")
            return
        if task.rekeyed(before):
            self._board.set(task, "beginning")
            self._board.arrive(Turn(task, "anew"))
            return
        self._tables.plan(task)
        if task.state != "failed":
            self._board.set(task, "rereading" if task.changed.complete else "reading")
