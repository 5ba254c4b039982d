"""Delivers letters, in the flow's own worker and between its batches, so that order holds: what is parked
behind a letter goes out right after it, and before anything later of the same lane."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

from cdcflow.delivery.handover import Handover, chosen
from cdcflow.delivery.letters import LetterStore, Placed
from cdcflow.delivery.payload import unpack
from cdcflow.errors import CdcflowError, DeliveryError, Permanent, Rejected
from cdcflow.model import Batch, join
from cdcflow.sink import Redelivers, SchemaSink, Sink, TransactionalSink

#: Letters that go out between two of the flow's batches: a retry of thousands does not hold up what is new.
AT_ONCE = 100


def at_once(rate: float | None) -> int:
    """Letters of one request, at so many a second."""
    return AT_ONCE if rate is None else min(max(int(rate), 1), AT_ONCE)


_FINAL = "the sink has newer state of the row, and its tables go back for nobody: discard the letter"

What = Literal["delivered", "refused", "superseded", "parked", "dropped", "unknown"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a letter: `delivered`; `refused` once more, with the reason; `superseded`: newer state
    of its key has gone out, so that it takes `force`; `parked` behind another one, which goes first;
    `dropped`: the flow as it is now does not pass it on; `unknown`: there is none of this number."""

    number: int
    what: What
    reason: str = ""

    def document(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Job:
    """Letters that somebody wants delivered now."""

    numbers: Sequence[int]
    force: bool
    #: Letters a second, what is parked behind them included; None: as fast as it goes.
    rate: float | None
    done: "asyncio.Future[list[Outcome]]"
    found: list[Outcome] = field(default_factory=list)


#: Takes a change as the journal has it through the flow's transforms, as they are now.
Step = Callable[[Batch], Batch]


class Redelivery:
    """The letters of one flow on their way out. `run` is called by the worker when no batch is under way, and
    `nudge` calls the worker when there is something for `run` again."""

    def __init__(
        self, handover: Handover, letters: LetterStore, step: Step, nudge: Callable[[], None]
    ) -> None:
        self._handover = handover
        self._letters = letters
        self._step = step
        self._nudge = nudge
        self._jobs: list[Job] = []
        #: Of the latest job, until all that it has set free is out.
        self._rate: float | None = None
        #: When the next letter may go out, by `time.monotonic()`, where there is a rate.
        self._next = 0.0

    @property
    def waiting(self) -> bool:
        """Whether there is something for `run`."""
        rate = self._jobs[0].rate if self._jobs else self._rate
        return (bool(self._jobs) or self._handover.loosened) and self._due(rate)

    def _due(self, rate: float | None) -> bool:
        return rate is None or time.monotonic() >= self._next

    def ask(
        self, numbers: Sequence[int], *, force: bool, rate: float | None = None
    ) -> "asyncio.Future[list[Outcome]]":
        job = Job(numbers, force, rate, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        return job.done

    def fail(self, error: CdcflowError) -> None:
        """Whoever waits for letters is told that they cannot go out now."""
        jobs, self._jobs = self._jobs, []
        for job in jobs:
            if not job.done.done():
                job.done.set_exception(error)

    async def run(self, sink: Sink) -> None:
        """Does the next job, and lets out what is parked behind nothing. Raises what the sink does when all
        that is left has to wait."""
        if self._jobs:
            job = self._jobs[0]
            self._rate = job.rate
            try:
                await self._do(job, sink)
            except CdcflowError as error:
                # The job ends, the letters stay. The flow itself finds out with its next batch.
                self._jobs.remove(job)
                if not job.done.done():
                    job.done.set_exception(error)
                return
            self._jobs.remove(job)
            if not job.done.done():
                job.done.set_result(job.found)
        await self._let_out(sink)

    async def _do(self, job: Job, sink: Sink) -> None:
        wanted: list[Placed] = []
        for number in job.numbers:
            placed = self._handover.placed.get(number)
            if placed is None:
                job.found.append(Outcome(number, "unknown"))
            elif placed.newer and self._final(placed, sink):
                job.found.append(Outcome(number, "superseded", _FINAL))
            elif placed.newer and not job.force:
                job.found.append(Outcome(number, "superseded"))
            else:
                wanted.append(placed)
        wanted.sort(key=lambda placed: placed.offset)
        while wanted:
            ready = [placed for placed in wanted if not self._behind(placed)][:AT_ONCE]
            if not ready:
                job.found += [Outcome(placed.number, "parked") for placed in wanted]
                break
            job.found += await self._send(sink, ready)
            await self._let_out(sink)
            sent = {placed.number for placed in ready}
            wanted = [placed for placed in wanted if placed.number not in sent]
            # Those that were parked may have gone out by themselves.
            gone = [placed.number for placed in wanted if placed.number not in self._handover.placed]
            job.found += [Outcome(number, "delivered") for number in gone]
            wanted = [placed for placed in wanted if placed.number not in gone]
        await self._let_out(sink)

    def _behind(self, placed: Placed) -> bool:
        """Whether another letter stands before it that it has to wait for."""
        return self._handover.holding.before(placed.stands, placed.offset)

    def _final(self, placed: Placed, sink: Sink) -> bool:
        """Whether the sink's tables are to be those of the source, and have newer state of the row."""
        keyed = all(stand.lanes for stand in placed.stands)
        return keyed and self._handover.terms.states and isinstance(sink, TransactionalSink)

    def _free(self) -> list[Placed]:
        """Parked letters with nothing in front of them: what stood there was delivered or discarded."""
        if not self._handover.parked:
            return []
        parked = [placed for placed in self._handover.placed.values() if placed.state == "parked"]
        return sorted((one for one in parked if not self._behind(one)), key=lambda placed: placed.offset)

    async def _let_out(self, sink: Sink) -> None:
        sent = 0
        while free := self._free()[: at_once(self._rate)]:
            if sent >= AT_ONCE or not self._due(self._rate):
                return
            await self._send(sink, free)
            sent += len(free)
        self._handover.loosened = False
        self._rate = None

    def _spent(self, count: int) -> None:
        """So many letters have gone out, or were refused: the next ones wait their time."""
        if self._rate is None:
            return
        now = time.monotonic()
        self._next = max(self._next, now) + count / self._rate
        # A millisecond later: the loop's clock may be early by its resolution.
        asyncio.get_running_loop().call_later(self._next - now + 0.001, self._nudge)

    async def _send(self, sink: Sink, placed: Sequence[Placed]) -> list[Outcome]:
        """Writes letters of which none waits for another; each is removed once it is durable."""
        self._spent(len(placed))
        found: list[Outcome] = []
        going: list[tuple[Placed, Batch]] = []
        for one in placed:
            payload = await asyncio.to_thread(self._letters.payload, one.number)
            if payload is None:
                found.append(Outcome(one.number, "unknown"))
                continue
            kept = await asyncio.to_thread(self._step, unpack(payload))
            if kept.refused:
                reason = next(iter(kept.refused.values()))
                found += await self._refused([(one, reason, "")])
            elif not len(kept):
                found.append(Outcome(one.number, "dropped"))
                await self._gone([one])
            else:
                going.append((one, kept))
        # In a run of offsets that is none of the journal's.
        runs = join([replace(batch, base=i) for i, (_, batch) in enumerate(going)]) if going else []
        for run in runs:
            found += await self._write(sink, run, [one for one, _ in going[run.base : run.end]])
        return found

    async def _write(self, sink: Sink, run: Batch, placed: Sequence[Placed]) -> list[Outcome]:
        if isinstance(sink, SchemaSink):
            await sink.prepare([group.relation for group in run.groups])
        try:
            async with self._handover.attempt():
                handing = self._hand(sink, run, [one.offset for one in placed])
                await self._handover.in_time(handing, len(placed))
        except DeliveryError as error:
            found = await self._refused(
                [(placed[i], why, error.answers.get(i, "")) for i, why in error.refused.items()]
            )
            written = set(error.written)
            if isinstance(error, Rejected):
                written = set(range(len(placed))) - error.refused.keys() - error.withheld
                if written and isinstance(sink, TransactionalSink):
                    # It has stored nothing of a batch in which it refuses rows.
                    await self._hand(sink, chosen(run, written), [one.offset for one in placed])
            await self._went_out([placed[i] for i in sorted(written)])
            found += [Outcome(placed[i].number, "delivered") for i in sorted(written)]
            if not isinstance(error, Rejected):
                raise
            return found
        await self._went_out(placed)
        return [Outcome(one.number, "delivered") for one in placed]

    async def _hand(self, sink: Sink, run: Batch, offsets: Sequence[int]) -> None:
        if isinstance(sink, Redelivers):
            await sink.redeliver(run, offsets)
        elif isinstance(sink, TransactionalSink):
            raise Permanent(
                "the sink keeps its own place in the journal and takes nothing from before it",
                hint="export the dead letters and apply them yourself, or rewind the flow",
            )
        else:
            await sink.write(run)

    async def _went_out(self, placed: Sequence[Placed]) -> None:
        """Letters from before them are of an older state now."""
        older = self._handover.older_than(placed)
        if older:
            await asyncio.to_thread(self._letters.outrun, older)
            self._handover.outrun(older)
        await self._gone(placed)

    async def _gone(self, placed: Sequence[Placed]) -> None:
        if placed:
            await asyncio.to_thread(self._letters.remove, [one.number for one in placed])
            self._handover.drop(placed)

    async def _refused(self, refused: Sequence[tuple[Placed, str, str]]) -> list[Outcome]:
        found = []
        for one, reason, answer in refused:
            await asyncio.to_thread(
                self._letters.refuse, one.number, reason, answer, self._handover.terms.revision
            )
            self._handover.died(one)
            found.append(Outcome(one.number, "refused", reason))
        return found

    async def discard(self, numbers: Sequence[int], why: str, who: str) -> int:
        """Removes letters; what was parked behind them goes out at the next `run`."""
        gone = [self._handover.placed[number] for number in numbers if number in self._handover.placed]
        count = await asyncio.to_thread(self._letters.discard, [one.number for one in gone], why, who)
        self._handover.drop(gone)
        return count
