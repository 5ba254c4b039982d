"""The writing side of capture: a thread that appends batches to the journal and fsyncs in groups.

While it encodes, writes and syncs (all outside the GIL), the reading side goes on decoding. What
arrives during one fsync goes to disk with the next one. `durable` moves only behind an fsync.
"""

import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from cdcflow.errors import JournalFull
from cdcflow.journal import Chunk, Step, Tail, Writer
from cdcflow.model import Batch

#: Batches that may wait: one being written and one ready, so that neither side idles; more is memory.
QUEUE = 2
#: Seconds between two attempts to write to a full disk.
FULL_DISK_PAUSE = 1.0
#: Seconds between two looks at what the retention allows to remove.
RETENTION_INTERVAL = 10.0


@dataclass(frozen=True, slots=True)
class Retention:
    """What the journal keeps: `None` is no limit. Nothing that an active flow has not read is removed."""

    max_bytes: int | None = None
    max_age: float | None = None


@dataclass(frozen=True, slots=True)
class _Progress:
    committed: int


@dataclass(frozen=True, slots=True)
class Marked:
    """A step of a backfill, with the batch that marks it, if one does."""

    step: Step
    batch: Batch | None = None
    committed: int = 0


Item = Batch | _Progress | Chunk | Marked


class Appender:
    """Owns the journal's writer. `put`, `progress` and the properties are for the reading thread.

    `wake` is called after every fsync and when the state changes. After an error `check` raises it, and
    nothing more is written.
    """

    def __init__(self, writer: Writer, retention: Retention, wake: Callable[[], None]) -> None:
        self._writer = writer
        self._retention = retention
        self._wake = wake
        self._items: deque[Item] = deque()
        self._changed = threading.Condition()
        self._busy = False
        self._closing = False
        self._error: BaseException | None = None
        #: The journal's durable end.
        self.tail: Tail = writer.tail
        #: The journal cannot grow: nothing is confirmed until it can again.
        self.disk_full = False
        #: The least offset that an active flow still has to read; None before the engine has said so.
        self.keep_from: int | None = None
        self._next_retention = time.monotonic() + RETENTION_INTERVAL
        self._thread = threading.Thread(target=self._run, name="journal", daemon=True)
        self._thread.start()

    @property
    def room(self) -> bool:
        """Whether another batch may be put."""
        return len(self._items) < QUEUE

    @property
    def idle(self) -> bool:
        """Nothing waits and nothing is being written: all that was put is durable."""
        return not self._items and not self._busy

    def put(self, item: Batch | Chunk | Marked) -> None:
        self._submit(item)

    def progress(self, committed: int) -> None:
        """Notes that the source was followed up to this LSN; durable like a batch."""
        self._submit(_Progress(committed))

    def _submit(self, item: Item) -> None:
        self.check()
        with self._changed:
            self._items.append(item)
            self._changed.notify_all()

    def check(self) -> None:
        """Raises the error that stopped the thread, if one did."""
        if self._error is not None:
            raise self._error

    def drain(self, timeout: float) -> bool:
        """Waits until everything that was put is durable. False when that took longer than `timeout` s."""
        with self._changed:
            done = self._changed.wait_for(lambda: self.idle or self._error is not None, timeout)
        self.check()
        return done

    def close(self) -> None:
        """Writes what waits (not to a full disk), then closes the journal."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()
        self._writer.close()

    def _run(self) -> None:
        try:
            while items := self._next():
                for item in items:
                    self._append(item)
                self._writer.sync()
                with self._changed:
                    self.tail = self._writer.tail
                    self._busy = False
                    self._changed.notify_all()
                self._wake()
        except BaseException as error:  # noqa: BLE001 - handed over to the reading thread, which raises it
            with self._changed:
                self._error = error
                self._changed.notify_all()
            self._wake()

    def _next(self) -> list[Item]:
        """All that waits, or nothing once closing. Looks after the retention while there is time."""
        with self._changed:
            while not self._items and not self._closing:
                self._changed.wait(RETENTION_INTERVAL)
                if time.monotonic() >= self._next_retention and not self._items:
                    self._retain()
            items = list(self._items)
            self._busy = bool(items)
            self._items.clear()
        if items and time.monotonic() >= self._next_retention:
            self._retain()
        return items

    def _retain(self) -> None:
        self._next_retention = time.monotonic() + RETENTION_INTERVAL
        if self.keep_from is not None:
            limits = self._retention
            self._writer.retain(max_bytes=limits.max_bytes, max_age=limits.max_age, keep_from=self.keep_from)

    def _append(self, item: Item) -> None:
        while True:
            try:
                if isinstance(item, Batch):
                    self._writer.append(item)
                elif isinstance(item, Chunk):
                    self._writer.append_chunk(item)
                elif isinstance(item, Marked):
                    if item.batch is not None:
                        self._writer.append(item.batch, item.step)
                    else:
                        self._writer.note(item.step, item.committed)
                else:
                    self._writer.progress(item.committed, time.time_ns() // 1000)
            except JournalFull:
                # Capture waits and says so; what was appended before is synced, so that flows get it.
                if not self.disk_full:
                    self.disk_full = True
                    self._writer.sync()
                    self._wake()
                # What no flow needs any more may be all that fills the disk.
                self._retain()
                with self._changed:
                    if self._changed.wait_for(lambda: self._closing, FULL_DISK_PAUSE):
                        raise
            else:
                if self.disk_full:
                    self.disk_full = False
                    self._wake()
                return


class Waker:
    """A pipe that ends another thread's poll. To wake who is gone already does nothing."""

    def __init__(self) -> None:
        self._reader, self._writer = os.pipe()
        os.set_blocking(self._reader, False)
        os.set_blocking(self._writer, False)
        # A number that was closed may be another file's by now.
        self._lock = threading.Lock()
        self._closed = False

    def fileno(self) -> int:
        return self._reader

    def wake(self) -> None:
        """From any thread, also after `close`: the number may be another file's by then."""
        with self._lock:
            if self._closed:
                return
            try:
                os.write(self._writer, b"!")
            except BlockingIOError:
                pass  # the pipe is full of wake-ups already

    def clear(self) -> None:
        try:
            while len(os.read(self._reader, 4096)) == 4096:
                pass
        except BlockingIOError:
            pass

    def close(self) -> None:
        with self._lock:
            self._closed = True
            os.close(self._reader)
            os.close(self._writer)
