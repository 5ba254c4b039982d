"""Hands batches of one flow to its sink until every change of them has its end: it is durable at the
destination, or kept as a letter. Nothing that is known to be written is sent again in this process, and
a change is kept durably before anything moves past it.

What is refused becomes a dead letter. What comes later on the same lane is parked behind it (`park`), or goes
out and supersedes it (`supersede`); with `stop`, and where too much is refused, nothing becomes a letter and
the flow stops in front of it.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.delivery.breaker import Breaker
from cdcflow.delivery.feed import position_at
from cdcflow.delivery.lanes import Standing, Stands, stands
from cdcflow.delivery.letters import Arrival, LetterStore, Placed
from cdcflow.delivery.payload import changes_at, from_journal
from cdcflow.delivery.refusals import Limits, Watch
from cdcflow.errors import DeliveryError, Permanent, Rejected, TooLarge, Transient
from cdcflow.journal import Reader
from cdcflow.model import ORIGIN, Batch, Change
from cdcflow.sink.sizing import Size

OnReject = Literal["park", "supersede", "stop"]


class TooManyRefused(Permanent):
    """So much was refused that the trouble is not with single rows. Nothing became a letter."""


class Late(Transient):
    """A write was cancelled: it took longer than the sink's deadline."""


class Writer(Protocol):
    """The part of a sink that is needed here."""

    async def write(self, batch: Batch) -> None: ...


@dataclass(frozen=True, slots=True)
class Terms:
    """What a flow and its sink say of refused rows and of writing."""

    on_reject: OnReject = "stop"
    limits: Limits = field(default_factory=Limits)
    revision: str = ""
    #: Largest batch.
    most: int = 1_000
    deadline: float | None = None
    #: A sink that keeps its checkpoint stores a batch as a whole or not at all.
    whole: bool = False
    #: The last state of a row is all that counts to the sink.
    states: bool = False
    #: The flow has transforms: behind them, a row may be another one than at the source.
    transforms: bool = False


@dataclass
class _Work:
    """A batch under way. Changes are named by their offsets in the journal."""

    batch: Batch
    #: What is still to be written: a part of the batch that covers the same run of offsets.
    left: Batch
    #: Everything of the run before it is behind us.
    reached: int
    #: Kept as letters, and not written.
    aside: set[int]
    refused: int = 0
    #: In a flow with transforms: where each change stands, once somebody has asked.
    stands: dict[int, Stands] | None = None


class Handover:
    """The hands of one flow. `deliver` may be called again for the same batch after any failure."""

    def __init__(
        self,
        flow: str,
        terms: Terms,
        letters: LetterStore | None,
        breaker: Breaker,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        self.flow = flow
        self.terms = terms
        self.breaker = breaker
        self._letters = letters
        self._stopping = stopping
        self._watch = Watch(terms.limits)
        self._size = Size(terms.most)
        self._work: _Work | None = None
        #: Beyond the checkpoint, written already or kept as letters: where a new session cuts its batches at
        #: other places, they do not come again.
        self._written: set[int] = set()
        self._aside: set[int] = set()
        self.placed: dict[int, Placed] = {}
        #: Everything kept, and what of it later changes have to wait for.
        self.standing, self.holding = Standing(), Standing()
        self.dead = self.parked = 0
        #: Letters have gone since this was last set to False: others may be free to go.
        self.loosened = True

    async def load(self) -> None:
        """Recalls the flow's letters."""
        if self._letters is None:
            return
        found = await asyncio.to_thread(self._letters.placed, self.flow)
        self.placed, self.standing, self.holding = {}, Standing(), Standing()
        self.dead = self.parked = 0
        self._remember(found)
        self.loosened = True

    def attempt(self) -> AbstractAsyncContextManager[None]:
        """Around every write, of whatever: it waits while the destination is known to be down. Raises
        Stopping when the flow stops meanwhile."""
        return self.breaker.attempt(self._stopping)

    def forget(self) -> None:
        """What was under way comes from elsewhere in the journal now."""
        self._work = None
        self._written.clear()
        self._aside.clear()

    async def deliver(self, sink: Writer, batch: Batch, reader: Reader) -> None:
        """Returns when every change of the batch has its end, those among them that a transform has refused.

        Raises what the sink does when the rest has to wait.
        """
        if self._work is None or self._work.batch is not batch:
            left = _without(batch, self._written | self._aside)
            aside = {offset for offset in self._aside if batch.base <= offset < batch.end}
            self._work = _Work(batch, left, batch.base, aside)
        work = self._work
        if batch.refused:
            own = {batch.base + index: (reason, "") for index, reason in batch.refused.items()}
            await self._refuse(work, {o: r for o, r in own.items() if o not in work.aside}, reader)
        await self._park(work, reader)
        while work.reached < batch.end:
            part = self._part(work)
            # A batch without changes tells a sink that keeps its checkpoint how far it is, and others
            # nothing.
            if len(part) or self.terms.whole:
                await self._write(sink, work, part, reader)
            else:
                work.reached = part.end
        await self._settle(work, reader)
        self._watch.handled(len(batch) + len(batch.refused), work.refused)
        self._work = None
        if self._written or self._aside:
            self._written = {offset for offset in self._written if offset >= batch.end}
            self._aside = {offset for offset in self._aside if offset >= batch.end}

    def _part(self, work: _Work) -> Batch:
        rest = work.left.slice(work.reached - work.left.base, work.left.count)
        if len(rest) <= self._size.now:
            return rest
        end = _index_of(rest, self._size.now)
        part = rest.slice(0, end)
        return replace(part, last=position_at(part, part.count - 1) or ORIGIN)

    async def _write(self, sink: Writer, work: _Work, part: Batch, reader: Reader) -> None:
        """Writes a part, or what of it can be written. Raises what the sink does when the rest has to
        wait."""
        if self.terms.whole:
            # Once it is stored nobody tells it again, whatever happens before it is settled.
            await self._mark(work, part, reader)
        try:
            async with self.attempt():
                await self.in_time(sink.write(part), len(part))
        except Rejected as error:
            await self._rejected(work, part, error, reader)
            return
        except DeliveryError as error:
            if isinstance(error, Late):
                self._size.too_much(len(part))
            written = {part.base + index for index in error.written}
            self._passed(work, written)
            if error.refused:
                await self._refuse(work, _by_offset(part, error), reader)
                await self._park(work, reader)
            if isinstance(error, TooLarge):
                if len(part) > 1:
                    self._size.too_much(len(part))
                    return
                if not written and not error.refused:
                    [change] = part.changes()
                    await self._refuse(work, {change.offset: (str(error), "")}, reader)
                    await self._park(work, reader)
                    return
            raise
        self._size.fine(len(part))
        work.reached = part.end
        if part.end < work.batch.end and not self.terms.whole:
            self._written.update(change.offset for change in part.changes())

    async def in_time(self, writing: Awaitable[None], count: int) -> None:
        """A write of so many changes. Raises Late, besides what it raises itself."""
        try:
            async with asyncio.timeout(self.terms.deadline) as limit:
                await writing
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise Late(f"the sink has not written {count} change(s) in time") from error

    async def _rejected(self, work: _Work, part: Batch, error: Rejected, reader: Reader) -> None:
        """Everything that the error does not name is durable, unless the sink stores all or nothing."""
        refused = _by_offset(part, error)
        if not refused:
            raise Permanent("the sink refuses rows, and does not say which: this is a defect of the sink")
        if not self.terms.whole:
            withheld = {part.base + index for index in error.withheld}
            sent = {change.offset for change in part.changes()}
            self._passed(work, sent - refused.keys() - withheld)
        await self._refuse(work, refused, reader)
        await self._park(work, reader)

    def _passed(self, work: _Work, written: Collection[int]) -> None:
        if written:
            self._written.update(written)
            work.left = _without(work.left, written)

    async def _refuse(self, work: _Work, refused: Mapping[int, tuple[str, str]], reader: Reader) -> None:
        """Makes letters of them. Raises Rejected or TooManyRefused when they must not become any."""
        if not refused:
            return
        first = next(iter(refused.values()))[0]
        if self.terms.on_reject == "stop" or self._letters is None:
            raise Rejected({offset - work.batch.base: reason for offset, (reason, _) in refused.items()})
        new = [offset for offset in refused if offset not in self._offsets()]
        kept = len(self.placed) + len(new) if new else 0
        seen = len(work.batch) + len(work.batch.refused)
        why = self._watch.too_many(seen, work.refused + len(refused), kept)
        if why:
            raise TooManyRefused(
                f"{why}, the first because: {first}",
                hint="nothing became a dead letter; mend the cause, then `cdcflow flow retry`",
            )
        at = await self._stands(work, work.batch, reader, refused)
        raw = await asyncio.to_thread(from_journal, reader, refused)
        arrivals = [
            Arrival(raw[offset], at[offset], "dead", reason, answer)
            for offset, (reason, answer) in refused.items()
        ]
        await self._keep(work, arrivals)
        work.refused += len(refused)

    async def _park(self, work: _Work, reader: Reader) -> None:
        """Puts aside what has to wait behind a letter."""
        if not self.holding:
            return
        waiting: dict[int, Stands] = {}
        ahead = Standing()
        for offset, at in (await self._stands(work, work.left, reader)).items():
            if offset < work.reached:
                continue
            if self.holding.before(at, offset) or ahead.before(at, offset):
                waiting[offset] = at
                ahead.add(at, offset)
        if not waiting:
            return
        new = [offset for offset in waiting if offset not in self._offsets()]
        if new and len(self.placed) + len(new) > self.terms.limits.count:
            raise TooManyRefused(
                f"{len(new)} more change(s) wait behind dead letters: with them the flow would keep more than"
                f" its limit of {self.terms.limits.count}",
                hint="deliver or discard the dead letters: `cdcflow deadletters list`",
            )
        raw = await asyncio.to_thread(from_journal, reader, waiting)
        arrivals = [Arrival(raw[offset], at, "parked") for offset, at in waiting.items()]
        await self._keep(work, arrivals)

    async def _stands(
        self, work: _Work, part: Batch, reader: Reader, offsets: Collection[int] | None = None
    ) -> dict[int, Stands]:
        """Where changes of a part stand, by offset and in order: these, or all that can meet a letter."""
        if self.terms.transforms:
            if work.stands is None:
                work.stands = await asyncio.to_thread(_looked_up, work.batch, reader)
            wanted = {part.base + index for index in _indexes(part)} if offsets is None else offsets
            return {offset: work.stands[offset] for offset in sorted(wanted)}
        found = _of_tables(part, self.standing.tables()) if offsets is None else _at(part, offsets)
        return {change.offset: stands((change,), None) for change in found}

    async def _keep(self, work: _Work, arrivals: list[Arrival]) -> None:
        assert self._letters is not None
        found = await asyncio.to_thread(self._letters.add, self.flow, arrivals, self.terms.revision)
        if self.terms.whole:
            # What was marked in front of a write that has been refused is not any more.
            found = await asyncio.to_thread(self._letters.placed, self.flow)
        self._remember(found)
        offsets = {arrival.change.base for arrival in arrivals}
        work.aside |= offsets
        self._aside |= offsets
        work.left = _without(work.left, offsets)

    def _offsets(self) -> Collection[int]:
        return {placed.offset for placed in self.placed.values()} if self.placed else ()

    async def _settle(self, work: _Work, reader: Reader) -> None:
        """After everything of the batch: letters of what has now gone out end, and those that something newer
        has gone out for know it."""
        if not self.placed or self._letters is None:
            return
        run = range(work.batch.base, work.batch.end)
        gone = [
            placed
            for placed in self.placed.values()
            if placed.offset in run and placed.offset not in work.aside
        ]
        if gone:
            await asyncio.to_thread(self._letters.remove, [placed.number for placed in gone])
            self.drop(gone)
        await self._mark(work, work.batch, reader)

    async def _mark(self, work: _Work, part: Batch, reader: Reader) -> None:
        """Tells letters of later changes of their rows that go out, or are about to."""
        if self._letters is None or all(placed.newer for placed in self.placed.values()):
            return
        older = {placed.offset: placed.number for placed in self.placed.values() if not placed.newer}
        newer: dict[int, int] = {}
        for offset, at in (await self._stands(work, part, reader)).items():
            if offset not in work.aside:
                for one in self.standing.on(at, offset) & older.keys():
                    newer.setdefault(older[one], offset)
        if newer:
            positions = {change.offset: change.position for change in _at(part, set(newer.values()))}
            marks = [(number, positions[offset]) for number, offset in newer.items()]
            await asyncio.to_thread(self._letters.mark_newer, marks)
            self.outrun(newer)

    # The letters that are known.

    def older_than(self, gone: Collection[Placed]) -> dict[int, int]:
        """The letters, by number, that are older state of a row of which one of these has gone out, and the
        number of that."""
        numbers = {one.offset: one.number for one in self.placed.values() if not one.newer}
        found: dict[int, int] = {}
        for placed in sorted(gone, key=lambda one: one.offset):
            for offset in self.standing.on(placed.stands, placed.offset) & numbers.keys():
                found.setdefault(numbers[offset], placed.number)
        return {number: by for number, by in found.items() if number not in {one.number for one in gone}}

    def outrun(self, numbers: Iterable[int]) -> None:
        """Newer state than theirs has gone out."""
        for number in numbers:
            self.placed[number] = replace(self.placed[number], newer=True)

    def died(self, placed: Placed) -> None:
        """It was refused itself."""
        if placed.state == "parked":
            self._remember([replace(placed, state="dead")])

    def _remember(self, found: Collection[Placed]) -> None:
        self.drop([self.placed[one.number] for one in found if one.number in self.placed])
        for placed in found:
            self.placed[placed.number] = placed
            self.standing.add(placed.stands, placed.offset)
            if self._holds(placed):
                self.holding.add(placed.stands, placed.offset)
            self.dead += placed.state == "dead"
            self.parked += placed.state == "parked"

    def drop(self, gone: Iterable[Placed]) -> None:
        """They are letters no more."""
        self.loosened = True
        for one in gone:
            placed = self.placed.pop(one.number)
            self.standing.remove(placed.stands, placed.offset)
            if self._holds(placed):
                self.holding.remove(placed.stands, placed.offset)
            self.dead -= placed.state == "dead"
            self.parked -= placed.state == "parked"

    def _holds(self, placed: Placed) -> bool:
        """Whether later changes of its row have to wait for it. With `supersede` those do behind a change of
        the key: what comes for the new one does not take away the row under the old."""
        return self.terms.on_reject == "park" or placed.moves or placed.state == "parked"


def _by_offset(part: Batch, error: DeliveryError) -> dict[int, tuple[str, str]]:
    return {
        part.base + index: (reason, error.answers.get(index, "")) for index, reason in error.refused.items()
    }


def _without(batch: Batch, offsets: Collection[int]) -> Batch:
    """The same run without some of its changes."""
    gone = [offset - batch.base for offset in offsets if batch.base <= offset < batch.end]
    if not gone:
        return batch
    values = pa.array(gone, pa.uint32())
    return batch.with_groups(
        [group.take(pc.invert(pc.is_in(group.meta("index"), value_set=values))) for group in batch.groups]
    )


def _at(batch: Batch, offsets: Collection[int]) -> Iterable[Change]:
    return chosen(batch, [offset - batch.base for offset in offsets]).changes()


def _looked_up(batch: Batch, reader: Reader) -> dict[int, Stands]:
    """Where the changes of a batch stand behind the transforms and at the source, those among them that a
    transform has refused."""
    made: dict[int, list[Change]] = {batch.base + index: [] for index in batch.refused}
    for change in batch.changes():
        made.setdefault(change.offset, []).append(change)
    source = {change.offset: change for change in changes_at(reader, made)}
    return {offset: stands(parts, source[offset]) for offset, parts in made.items()}


def _indexes(batch: Batch) -> set[int]:
    return {index for group in batch.groups for index in group.meta("index").to_pylist()}


def _of_tables(batch: Batch, tables: Iterable[str]) -> Iterable[Change]:
    """The changes of some tables only, in total order."""
    wanted = set(tables)
    return batch.with_groups([g for g in batch.groups if g.relation.qualified in wanted]).changes()


def chosen(batch: Batch, indexes: Collection[int]) -> Batch:
    """The same run with these changes only."""
    values = pa.array(sorted(indexes), pa.uint32())
    return batch.with_groups(
        [group.take(pc.is_in(group.meta("index"), value_set=values)) for group in batch.groups]
    )


def _index_of(batch: Batch, number: int) -> int:
    """The index of the change before which there are `number` others."""
    indexes = pa.concat_arrays([group.meta("index") for group in batch.groups])
    return int(indexes.take(pc.sort_indices(indexes)[number : number + 1])[0].as_py())
