"""What the threads of a session share: the tables' tasks, and what waits for its place in the journal."""

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pyarrow as pa

from cdcflow.journal import Ledger, Packed
from cdcflow.model import Group
from cdcflow.source.online.task import Task
from cdcflow.source.plan import Claim
from cdcflow.source.visible import Snapshot

#: Seconds between two looks at the requests and the plans.
TICK = 0.1
#: Seconds from one failure of a reader, or of the connection, to the next attempt.
RETRY = 1.0
#: Seconds behind a live change in which more are expected.
LIVE_SECONDS = 1.0
#: Chunks per reader that may wait for their place.
WAITING = 2


#: States in which readers are needed, or will be in a moment: they take a third of a second to start.
_SOON_READ = frozenset(
    ("waiting", "beginning", "begun", "watching", "seeding", "seeded", "lookup", "reading", "rereading")
)

_PROCESSORS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True)
class Read:
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
class Seed:
    """Changes that the journal held before those of the stream were kept."""

    task: Task
    groups: Sequence[Group]


@dataclass(frozen=True)
class Turn:
    """A table begins, was read once, or ends."""

    task: Task
    what: str


@dataclass(frozen=True)
class Whole:
    """Rows of a table without a key, which come while the stream stands."""

    task: Task
    packed: Packed
    nbytes: int


Arrival = Read | Seed | Turn | Whole


class Board:
    """`lock` guards what is written from more than one thread, and is notified of every change."""

    def __init__(self, *, readers: int, ledger: Ledger, wake: Callable[[], None]) -> None:
        #: How many readers there may be.
        self.readers = readers
        #: What the journal says of backfills at the session's begin.
        self.ledger = ledger
        #: Makes capture's thread look for what could be placed.
        self.wake = wake
        self.lock = threading.Condition()
        self.stopping = False
        #: By request and table.
        self.tasks: dict[tuple[str, str], Task] = {}
        #: What waits for its place, in this order; taken by capture's thread only.
        self.arrivals: deque[Arrival] = deque()
        #: Since when the first of them is the first.
        self.head_since = 0.0
        #: Per reader that is at work, the snapshot behind which its next ones will be; None: not known yet.
        self.bounds: dict[int, Snapshot | None] = {}
        #: The latest snapshot of all.
        self.latest: Snapshot | None = None
        #: When the stream has last brought a change.
        self.live_at = -LIVE_SECONDS
        #: Until when no chunk is read, if more of them come.
        self.rest_until = 0.0
        #: LSN at which the stream is to stand; 0: it goes on.
        self.halt_at = 0
        #: It stands there.
        self.frozen = False
        #: Somebody paused, or let go on, what is under way: the session's plans must be made anew.
        self.outdated = False
        #: A defect of ours that has ended one of the threads.
        self.defect: Exception | None = None

    @property
    def soon_read(self) -> bool:
        """Whether readers have work, or will have it soon."""
        with self.lock:
            return any(task.state in _SOON_READ for task in self.tasks.values())

    def wait_to_read(self, reader: int) -> float:
        """Seconds until another chunk may be this reader's to read.

        While live changes come, a processor is left to them, and half of the time of the others: each on its
        way passes through half a dozen processes, and waits in every one that does not get its turn.
        """
        now = time.monotonic()
        if now - self.live_at >= LIVE_SECONDS:
            return 0.0
        others = len(self.bounds.keys() - {reader})
        return TICK if others >= max(_PROCESSORS - 1, 1) else max(self.rest_until - now, 0.0)

    def rest(self, seconds: float) -> None:
        """A chunk has taken so long."""
        self.rest_until = time.monotonic() + seconds

    @property
    def standing(self) -> bool:
        """The stream stands where it was to stand."""
        return self.frozen and self.halt_at > 0

    def freeze(self) -> None:
        if not self.frozen:
            with self.lock:
                self.frozen = True
                self.lock.notify_all()

    def set(self, task: Task, state: str) -> None:
        with self.lock:
            task.state = state
            self.lock.notify_all()

    def fail(self, task: Task, error: str, hint: str = "") -> None:
        with self.lock:
            task.state, task.error, task.hint, task.final = "failed", error, hint, "failed"
            task.changed.collecting = False
            self.lock.notify_all()

    def pop(self) -> None:
        """The first of the arrivals has its place, or needs none."""
        with self.lock:
            self.arrivals.popleft()
            self.head_since = time.monotonic()
            self.lock.notify_all()

    def arrive(self, arrival: Arrival) -> None:
        with self.lock:
            if not self.arrivals:
                self.head_since = time.monotonic()
            self.arrivals.append(arrival)
        self.wake()

    def pause(self, seconds: float) -> None:
        """Waits; not where the session ends."""
        with self.lock:
            if not self.stopping:
                self.lock.wait(seconds)

    def wait_for_room(self) -> None:
        """Waits until another chunk may wait for its place."""
        with self.lock:
            while len(self.arrivals) >= WAITING * self.readers and not self.stopping:
                self.lock.wait(TICK)
