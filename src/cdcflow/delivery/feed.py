"""Reads the journal ahead of the writer: while one batch is being written, the next one grows by
whatever has arrived, up to the sink's limits. So batches are as large as the backlog, nothing ever
waits for a batch to fill, and a flow holds at most two batches and one frame in memory.
"""

import asyncio
import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import chain, islice

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.journal import Reader
from cdcflow.model import ORIGIN, Batch, Position, join, run_length
from cdcflow.sink import Batching
from cdcflow.transform import Pass

#: How long a run of changes that are all dropped may wait before it moves the checkpoint. Once a second
#: costs nothing; for each of them it would be an fsync per transaction of tables that the flow ignores.
EMPTY_EVERY = 1.0

#: Upper bound of one sleep at the journal's end. New changes wake the reader at once; this only
#: bounds how long a lost wake-up can go unnoticed.
WAIT_SECONDS = 1.0

#: While a sink is stuck, the small frames of single transactions gather here. Held one by one, Arrow's
#: padding alone makes each some kilobytes, so a run of so many of them becomes one.
SMALL_CHANGES = 1_024
SMALL_RUN = 64


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of the journal that fits the sink's limits, steps applied. `oldest` is the commit time
    of its first change, dropped or not, in microseconds since 1970; None where it holds none."""

    batch: Batch
    size: int
    oldest: int | None

    @property
    def small(self) -> bool:
        return len(self.batch) < SMALL_CHANGES


def joined(parts: Sequence[Piece]) -> list[Piece]:
    """Consecutive pieces as few as may be: two generations of a table stay apart."""
    oldest = next((part.oldest for part in parts if part.oldest is not None), None)
    return [Piece(batch, batch.nbytes, oldest) for batch in join([part.batch for part in parts])]


def position_at(batch: Batch, index: int) -> Position | None:
    """The position of the change at an index; None where the batch does not hold this change."""
    for group in batch.groups:
        row = pc.index(group.meta("index"), pa.scalar(index, pa.uint32())).as_py()
        if row >= 0:
            return Position(group.meta("commit_lsn")[row].as_py(), group.meta("ordinal")[row].as_py())
    return None


def pieces(frame: Batch, step: Pass, limits: Batching) -> Iterator[Piece]:
    """A frame as the flow sees it, in parts that stay within the limits (but of one change at least)."""
    times = [group.meta("commit_time")[0].as_py() for group in frame.groups if len(group)]
    oldest = min(times, default=None)
    kept = step(frame)
    size = kept.nbytes
    if len(kept) <= limits.max_changes and size <= limits.max_bytes:
        yield Piece(kept, size, oldest)
        return
    by_bytes = frame.count * limits.max_bytes // max(size, 1)
    length = max(min(limits.max_changes, by_bytes), 1)
    for start in range(0, frame.count, length):
        part = kept.slice(start, start + length)
        if part.end != frame.end:
            last = position_at(frame, part.end - frame.base - 1)
            part = replace(part, last=last or ORIGIN)
        yield Piece(part, part.nbytes, oldest)


class Feed:
    """The changes of one flow from an offset on, in batches. Use as an async context manager.

    `reader` is the feed's own from then on, and closed with it. Changes gather for `window` seconds from the
    first one on, unless the
    limits are reached before. `together`: a call of `step` has a price of its own, so that frames which are
    read at once are joined before it.
    """

    def __init__(
        self,
        reader: Reader,
        offset: int,
        step: Pass,
        limits: Batching,
        window: float = 0.0,
        *,
        together: bool = False,
    ) -> None:
        self._reader = reader
        self._next = offset
        self._step = step
        self._limits = limits
        self._window = window
        self._together = together
        #: When the first of the changes in `_ready` came.
        self._since: float | None = None
        self._ready: list[Piece] = []
        self._joining: list[Piece] = []
        #: Pieces that came since some were last made one.
        self._apart = 0
        #: What is in `_ready`, counted as it comes and goes: it is asked for with every frame.
        self._changes = 0
        self._size = 0
        self._taken = 0.0
        self._failure: Exception | None = None
        self._stopped = self._nudged = False
        self._arrived = asyncio.Event()
        self._room = asyncio.Event()
        # Of its own, so that sinks that block the shared threads never hold up reading.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="feed")
        self._filling: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "Feed":
        self._filling = asyncio.create_task(self._fill())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._filling is not None
        self._filling.cancel()
        await asyncio.gather(self._filling, return_exceptions=True)
        # A read in the thread cannot be cancelled, and must not lose its files under way.
        await asyncio.to_thread(self._thread.shutdown)
        self._reader.close()

    @property
    def reached(self) -> int:
        """The offset before which nothing waits here for the sink: everything up to it was taken or
        dropped."""
        first = self._first()
        return self._next if first is None else first.batch.base

    @property
    def oldest(self) -> int | None:
        """Commit time of the oldest change that waits here for the sink; None when none does."""
        first = self._first()
        return None if first is None else first.oldest

    def _first(self) -> Piece | None:
        """The first piece with anything for the sink. Stretches without are merged, so it is near."""
        return next((piece for piece in chain(self._joining, self._ready) if len(piece.batch)), None)

    @property
    def waiting(self) -> int:
        """Changes that wait here for the sink."""
        return self._changes

    @property
    def pieces(self) -> int:
        """In how many pieces they are held."""
        return len(self._ready)

    def stop(self) -> None:
        """`take` gives None from now on, also to who waits in it."""
        self._stopped = True
        self._arrived.set()

    def nudge(self) -> None:
        """`take` gives None once, if it has nothing to give: there is something else to do."""
        self._nudged = True
        self._arrived.set()

    async def take(self) -> Batch | None:
        """The next batch, as soon as there is any; None once stopped, or when nudged. It may hold no
        changes: then it only moves the checkpoint.

        Raises JournalError where the journal cannot be read on.
        """
        while not self._stopped:
            wait = self._empty_wait()
            if wait is not None and wait <= 0:
                return await self._join()
            if self._nudged:
                self._nudged = False
                return None
            if wait is None and self._failure is not None:
                raise self._failure
            self._arrived.clear()
            # Not `wait_for`, which loses a cancellation that comes together with the event (cpython#86296).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait):
                    await self._arrived.wait()
        return None

    def _empty_wait(self) -> float | None:
        """Seconds until what is here may be taken; None when nothing is here."""
        if not self._ready:
            return None
        if self._changes:
            full = self._changes >= self._limits.max_changes or self._size >= self._limits.max_bytes
            if full or not self._window or self._since is None:
                return 0.0
            return self._since + self._window - time.monotonic()
        return self._taken + EMPTY_EVERY - time.monotonic()

    async def _join(self) -> Batch:
        changes = size = number = 0
        for piece in self._ready:
            changes += len(piece.batch)
            size += piece.size
            if number and (changes > self._limits.max_changes or size > self._limits.max_bytes):
                break
            number += 1
        number = run_length(piece.batch for piece in islice(self._ready, number))
        taken = self._ready[:number]
        del self._ready[:number]
        self._count_in(taken, -1)
        self._taken = time.monotonic()
        self._since = self._taken if self._changes else None
        self._room.set()
        if number == 1:
            return taken[0].batch
        self._joining = taken
        [whole] = await asyncio.to_thread(joined, taken)
        self._joining = []
        return whole.batch

    async def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                room = self._limits.max_changes - self._changes, self._limits.max_bytes - self._size
                if min(room) <= 0:
                    self._room.clear()
                    await self._room.wait()
                    continue
                found = await loop.run_in_executor(self._thread, self._read, self._next, *room)
                if found:
                    self._add(found)
                else:
                    await self._reader.wait_async(self._next, WAIT_SECONDS)
        except Exception as error:  # noqa: BLE001 - raised by `take`, to the one who can act on it
            self._failure = error
            self._arrived.set()

    def _read(self, offset: int, changes: int, size: int) -> Sequence[Piece]:
        frames = self._reader.read(offset, max_changes=changes, max_bytes=size)
        if self._together:
            frames = join(frames)
        return [piece for frame in frames for piece in pieces(frame, self._step, self._limits)]

    def _add(self, found: Sequence[Piece]) -> None:
        for piece in found:
            if self._since is None and len(piece.batch):
                self._since = time.monotonic()
            self._ready.append(piece)
            self._apart += 1
            self._count_in([piece], 1)
            run = self._mergeable()
            if run > 1:
                self._apart = 0 if run == SMALL_RUN else self._apart - 1
                parts = self._ready[-run:]
                merged = joined(parts)
                self._ready[-run:] = merged
                self._count_in(parts, -1)
                self._count_in(merged, 1)
        self._next = found[-1].batch.end
        self._arrived.set()

    def _mergeable(self) -> int:
        """How many of the last pieces are to become one: two stretches without changes, or a long run
        of small ones."""
        if len(self._ready) >= 2 and not len(self._ready[-1].batch) and not len(self._ready[-2].batch):
            return 2
        tail = self._ready[-SMALL_RUN:]
        # What was looked at may not become one, where a table changes its shape again and again.
        if min(len(tail), self._apart) < SMALL_RUN or not all(piece.small for piece in tail):
            return 0
        fits = (
            sum(len(piece.batch) for piece in tail) <= self._limits.max_changes
            and sum(piece.size for piece in tail) <= self._limits.max_bytes
        )
        return SMALL_RUN if fits else 0

    def _count_in(self, parts: Sequence[Piece], sign: int) -> None:
        self._changes += sign * sum(len(piece.batch) for piece in parts)
        self._size += sign * sum(piece.size for piece in parts)
