"""One flow, for as long as it lives: reads the journal from the flow's checkpoint, writes to the sink, and
moves the checkpoint only behind what the sink holds durably. Every change is written at least once, in
order; whatever fails, nothing is skipped and the worker stays alive.
"""

import asyncio
import contextlib
import logging
import time
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import pyarrow as pa
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception

from cdcflow.delivery import policy
from cdcflow.delivery.behind import Behind
from cdcflow.delivery.breaker import Breakers, Stopping
from cdcflow.delivery.checkpoints import CheckpointStore
from cdcflow.delivery.credentials import Look, look, replaced
from cdcflow.delivery.feed import Feed
from cdcflow.delivery.handover import Handover, OnReject, Terms
from cdcflow.delivery.in_flight import InFlight, read_again
from cdcflow.delivery.letters import LetterStore
from cdcflow.delivery.moving import Road, carry_out
from cdcflow.delivery.progress import FlowReport, state_of
from cdcflow.delivery.redelivery import Outcome, Redelivery
from cdcflow.delivery.refusals import Limits
from cdcflow.delivery.start import find_start
from cdcflow.errors import CdcflowError, DeliveryError, EnvironmentFault, Rejected
from cdcflow.journal import Reader
from cdcflow.journal.layout import HEAD, MANIFEST
from cdcflow.model import Batch, PrefixPatterns
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import (
    Budget,
    FlowContext,
    QuerySink,
    SchemaSink,
    Sink,
    SinkOptions,
    SinkPlugin,
    SinkSettings,
    TransactionalSink,
)
from cdcflow.sink.settings import secret_files
from cdcflow.transform import Chain, Select

log = logging.getLogger(__name__)

T = TypeVar("T")

#: How often a worker looks for a journal that capture has yet to make.
LOOK_SECONDS = 0.1


@dataclass(frozen=True)
class FlowPlan:
    """What a worker needs to know of its flow."""

    name: str
    tables: TablePatterns
    plugin: SinkPlugin
    settings: SinkSettings
    options: SinkOptions
    start: Literal["earliest", "latest"] = "earliest"
    #: Which logical messages it gets.
    messages: PrefixPatterns = field(default_factory=PrefixPatterns)
    #: The file that flows on the same connection count their calls in; None: it is not shared.
    budget: Path | None = None
    #: The account at the destination; flows on the same one learn from each other that it is down.
    connection: str = ""
    on_reject: OnReject = "stop"
    limits: Limits = field(default_factory=Limits)
    chain: Chain = field(default_factory=Chain)
    #: Which version of what is written of the flow this is: `cdcflow flow history` has the text.
    revision: str = ""


class _Stop(Exception):
    """Not an error: unwinds to `run`, where the flow ends."""


class FlowWorker:
    """Delivers one flow. All methods but `run` and `query` return at once.

    `changed` is called whenever the flow's state, or the reason for it, becomes another.
    """

    def __init__(
        self,
        plan: FlowPlan,
        *,
        journal: Path,
        state: Path,
        store: CheckpointStore,
        changed: Callable[[], None] = lambda: None,
        letters: LetterStore | None = None,
        breakers: Breakers | None = None,
    ) -> None:
        self.plan = plan
        self._journal = journal
        self._state = state
        self._store = store
        self._changed = changed
        self._select = Select(plan.tables, plan.messages, flow=plan.name, marked=plan.plugin.marked)
        self._stop = asyncio.Event()
        self._told = asyncio.Event()
        self._live = asyncio.Event()
        self._reader: Reader | None = None
        self._feed: Feed | None = None
        self._sink: Sink | None = None
        self._prepared: set[str] = set()
        self._writing: Batch | None = None
        terms = Terms(
            on_reject=plan.on_reject,
            limits=plan.limits,
            revision=plan.revision,
            most=plan.plugin.batching.max_changes,
            deadline=plan.plugin.deadline,
            states=plan.plugin.writes == "states",
            transforms=bool(plan.chain),
        )
        breaker = (breakers or Breakers()).of(plan.connection)
        self._handover = Handover(plan.name, terms, letters, breaker, self._stop.is_set)
        self._redelivery = (
            None if letters is None else Redelivery(self._handover, letters, self._whole_chain, self._nudge)
        )
        self._road = Road(self._whole_chain, letters, self._stop.is_set)
        self._secrets: Look = {}
        self._in_flight = InFlight(store.path) if plan.plugin.repeats(plan.settings) else None
        self._behind = Behind(self._save, self._nudge)
        self._failure: Exception | None = None
        self._failing_since: float | None = None
        self._checkpoint: int | None = None
        self._delivered = self._batches = self._retries = 0
        self._last_delivery: float | None = None

    async def run(self) -> None:
        """Delivers until `stop`; then finishes the write in flight and its checkpoint, and closes the sink.

        To hurry, cancel the task: the write in flight is abandoned, and comes again after a restart.
        """
        try:
            await self._persist(self._session)
        except _Stop:
            pass
        finally:
            if self._reader is not None:
                self._reader.close()
            if self._in_flight is not None:
                self._in_flight.close()
            await asyncio.to_thread(self.plan.chain.close)

    def stop(self) -> None:
        """Ends `run` as soon as the write in flight is done."""
        self._stop.set()
        self._handover.breaker.wake()
        self.plan.chain.interrupt()
        if self._feed is not None:
            self._feed.stop()

    def retry(self) -> None:
        """Ends the present wait after a failure, if there is one: a person has mended the cause."""
        self._handover.breaker.hurry()
        self._told.set()

    async def deliver_letters(
        self, numbers: Sequence[int], *, force: bool, rate: float | None = None
    ) -> list[Outcome]:
        """Delivers dead letters between the flow's own batches, with what is parked behind them: together at
        most `rate` a second, for as long as this worker runs. Raises
        CdcflowError when that cannot be done now; then those that were not delivered are as they were."""
        redelivery = self._redelivery
        if redelivery is None or self._feed is None or self._failure is not None:
            raise CdcflowError(
                f"flow {self.plan.name!r} does not deliver now: {self._reason() or 'it is starting'}",
                hint="nothing was sent; mend the cause first, and see `cdcflow status`",
            )
        done = redelivery.ask(numbers, force=force, rate=rate)
        self._nudge()
        return await done

    async def discard_letters(self, numbers: Sequence[int], why: str, who: str) -> int:
        """Discards letters, and lets out what was parked behind them; returns how many there were."""
        if self._redelivery is None:
            raise CdcflowError(f"flow {self.plan.name!r} keeps no dead letters")
        count = await self._redelivery.discard(numbers, why, who)
        self._nudge()
        self._changed()
        return count

    def _nudge(self) -> None:
        """There is something to do besides delivering what comes."""
        if self._feed is not None:
            self._feed.nudge()

    def go_live(self) -> None:
        """The source is being streamed: from here on, `start: latest` has a meaning."""
        self._live.set()

    async def query(self, sql: str) -> pa.Table:
        """What the sink answers to a SELECT. Raises Permanent when the sink refuses it, and CdcflowError
        when there is nobody to ask."""
        sink = self._sink
        if sink is None:
            raise CdcflowError(
                f"flow {self.plan.name!r} has not opened its sink", hint="see `cdcflow status` for the reason"
            )
        if not isinstance(sink, QuerySink):
            raise CdcflowError(f"the sink of flow {self.plan.name!r} does not answer SQL")
        return await sink.query(sql)

    def report(self) -> FlowReport:
        lag, seconds = self._lag()
        return FlowReport(
            name=self.plan.name,
            state=state_of(
                reading=self._feed is not None or self._stop.is_set(),
                stuck=self._stuck(),
                failing=self._failure is not None,
                lag_seconds=seconds,
            ),
            reason=self._reason(),
            checkpoint=self._checkpoint,
            lag_changes=lag,
            lag_seconds=seconds,
            delivered=self._delivered,
            batches=self._batches,
            retries=self._retries,
            last_delivery=self._last_delivery,
            dead=self._handover.dead,
            parked=self._handover.parked,
        )

    def _stuck(self) -> bool:
        if self._failure is None or self._failing_since is None:
            return False
        impatient = time.monotonic() - self._failing_since > policy.PATIENCE
        return impatient or policy.rule(self._failure).action != "wait"

    def _lag(self) -> tuple[int | None, float | None]:
        """Changes between the flow and the journal's end, and the age of the oldest, in seconds."""
        if self._reader is None or self._feed is None:
            return None, None
        writing = self._writing if self._writing is not None and len(self._writing) else None
        reached = self._feed.reached if writing is None else writing.base
        changes = max(self._reader.head().offset - reached, 0)
        if changes == 0:
            return 0, 0.0
        oldest = self._feed.oldest if writing is None else _first_commit_time(writing)
        return changes, None if oldest is None else max(time.time() - oldest / 1e6, 0.0)

    def _reason(self) -> str:
        if self._failure is not None:
            return describe(self._failure)
        if self._writing is not None and self._handover.breaker.reason:
            return self._handover.breaker.reason
        if self._waits_for_source():
            return "starts with the first change after the source is connected"
        return ""

    def _waits_for_source(self) -> bool:
        return self.plan.start == "latest" and self._sink is not None and self._checkpoint is None

    # A session: from opening the sink to losing it.

    async def _session(self) -> None:
        reader = await self._open_reader()
        folder = self._folder()
        budget = Budget(self.plan.budget, stopping=self._stop.is_set)
        self._secrets = look(secret_files(self.plan.settings) | secret_files(self.plan.options))
        sink = self.plan.plugin.create(
            self.plan.settings, self.plan.options, FlowContext(self.plan.name, folder, budget)
        )
        try:
            await self._unless_stopped(sink.open())
            self._sink = sink
            self._prepared = set()
            await carry_out(self.plan.name, reader, self._store, sink, self._road)
            offset = await find_start(
                self.plan.name,
                reader,
                self._store,
                sink if isinstance(sink, TransactionalSink) else None,
                self._latest if self.plan.start == "latest" else None,
            )
            self._checkpoint = offset
            await self._handover.load()
            self._healed()
            log.info("flow %s delivers from offset %d", self.plan.name, offset)
            limits, window = self.plan.plugin.batching, self.plan.chain.window
            again = await self._read_again(reader, offset)
            offset = again[-1].end if again else offset
            together = bool(self.plan.chain)
            async with Feed(
                Reader(self._journal), offset, self._transform, limits, window, together=together
            ) as feed:
                self._feed = feed
                await self._deliver(sink, feed, again)
        finally:
            self._sink = self._feed = None
            await self._settle()
            if self._redelivery is not None:
                self._redelivery.fail(CdcflowError(f"flow {self.plan.name!r} has stopped meanwhile"))
            await self._close(sink)

    def _transform(self, batch: Batch) -> Batch:
        return self.plan.chain(self._select(batch))

    def _whole_chain(self, batch: Batch) -> Batch:
        return self.plan.chain.finish(self._transform(batch))

    def _folder(self) -> Path:
        """The sink's own directory for this flow."""
        folder = self._state / "flows" / self.plan.name
        try:
            folder.parent.mkdir(mode=0o700, exist_ok=True)
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise EnvironmentFault(
                f"the folder {folder} cannot be made: {error.strerror}",
                hint="make the state folder writable for this user",
            ) from error
        return folder

    async def _open_reader(self) -> Reader:
        if self._reader is None:
            while not _is_made(self._journal):
                await self._pause(LOOK_SECONDS)
            self._reader = Reader(self._journal)
        return self._reader

    async def _latest(self) -> None:
        """Returns when the journal's end is where the source is now. Before the first connection, an
        initial backfill may be about to come, which `latest` does not mean."""
        self._changed()
        await self._unless_stopped(self._live.wait())

    async def _read_again(self, reader: Reader, offset: int) -> Sequence[Batch]:
        if self._in_flight is None:
            return ()
        end = await asyncio.to_thread(self._in_flight.of, self.plan.name, offset)
        return await read_again(reader, self._transform, self.plan.plugin.batching, offset, end)

    async def _begin(self, batch: Batch) -> None:
        """Notes what is about to be written, and with it the checkpoint behind what was before."""
        assert self._in_flight is not None
        delivered = await self._behind.left()
        await asyncio.to_thread(self._in_flight.begin, self.plan.name, batch, delivered)
        if delivered is not None:
            self._behind.saved(delivered)
            self._checkpoint = delivered.end

    async def _deliver(self, sink: Sink, feed: Feed, again: Sequence[Batch] = ()) -> None:
        if self._stop.is_set():
            raise _Stop
        # Asked once: isinstance of a runtime protocol costs as much as a small batch.
        keeps_checkpoint = isinstance(sink, TransactionalSink)
        schema_sink = sink if isinstance(sink, SchemaSink) else None
        self._handover.terms = replace(self._handover.terms, whole=keeps_checkpoint)
        first = list(again)
        while not self._stop.is_set():
            if self._redelivery is not None and self._redelivery.waiting:
                await self._persist(self._redeliver, sink)
                if self._redelivery.waiting:
                    feed.nudge()
            if self._behind.late:
                await self._persist(self._behind.settled)
            batch = first.pop(0) if first else await feed.take()
            if batch is None:
                continue
            self._writing = batch
            try:
                if self.plan.chain.gathers:
                    batch = await self._persist(self._finish, batch)
                if schema_sink is not None:
                    await self._persist(self._prepare, schema_sink, batch)
                # A batch without changes tells a transactional sink nothing but its new checkpoint.
                if self._in_flight is not None and len(batch):
                    await self._persist(self._begin, batch)
                if len(batch) or keeps_checkpoint or batch.refused:
                    await self._persist(self._hand_over, sink, batch)
            finally:
                self._writing = None
            if keeps_checkpoint:
                self._checkpoint = batch.end
            elif self._in_flight is not None and feed.waiting:
                self._behind.note(batch)
            else:
                self._behind.begin(batch)
            if len(batch):
                self._delivered += len(batch)
                self._batches += 1
                self._last_delivery = time.time()

    async def _finish(self, batch: Batch) -> Batch:
        return await asyncio.to_thread(self.plan.chain.finish, batch)

    async def _prepare(self, sink: SchemaSink, batch: Batch) -> None:
        """Tells the sink of generations that it has not seen, before the first of their rows."""
        fresh = {g.relation.fingerprint: g.relation for g in batch.groups}
        fresh = {name: relation for name, relation in fresh.items() if name not in self._prepared}
        if fresh:
            await sink.prepare(list(fresh.values()))
            self._prepared.update(fresh)

    async def _hand_over(self, sink: Sink, batch: Batch) -> None:
        assert self._reader is not None
        await self._unless_stopping(self._handover.deliver(sink, batch, self._reader))

    async def _redeliver(self, sink: Sink) -> None:
        assert self._redelivery is not None
        await self._unless_stopping(self._redelivery.run(sink))

    @staticmethod
    async def _unless_stopping(writing: Awaitable[None]) -> None:
        """A write in flight is finished, and one that waits to begin is not begun."""
        try:
            await writing
        except Stopping:
            raise _Stop from None

    def _save(self, batch: Batch) -> None:
        self._store.save(self.plan.name, batch.end, batch.last)
        self._checkpoint = batch.end

    async def _settle(self) -> None:
        """At the end of a session: the next one begins at the checkpoint, in whatever process."""
        try:
            await self._behind.settled()
        except CdcflowError as error:
            log.warning("flow %s: what it wrote last comes again: %s", self.plan.name, describe(error))

    async def _close(self, sink: Sink) -> None:
        try:
            await sink.close()
        except Exception as error:  # noqa: BLE001 - everything written is durable already
            log.warning("flow %s: closing the sink failed: %s", self.plan.name, describe(error))

    # Failing and waiting.

    async def _persist(self, action: Callable[..., Coroutine[Any, Any, T]], *given: Any) -> T:
        """Does something until it succeeds, with the policy's waits between. Raises `_Stop` when told to
        stop while waiting."""
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._is_retried),
            wait=policy.pause,
            sleep=self._pause,
            before_sleep=self._failed,
            reraise=True,
        )
        result: T = await retrying(action, *given)
        self._healed()
        return result

    def _failed(self, state: RetryCallState) -> None:
        assert state.outcome is not None
        error = state.outcome.exception()
        assert isinstance(error, Exception)
        self._retries += 1
        again = (
            "when told" if state.upcoming_sleep == policy.UNTIL_TOLD else f"in {state.upcoming_sleep:.1f} s"
        )
        log.warning("flow %s: %s; tries again %s", self.plan.name, describe(error), again)
        if not isinstance(error, CdcflowError):
            # The frames without the exception's text, which may hold values.
            log.error("".join(traceback.format_tb(error.__traceback__)))
        self._failure = error
        if self._failing_since is None:
            self._failing_since = time.monotonic()
        self._changed()

    def _healed(self) -> None:
        if self._failure is not None:
            log.info("flow %s goes on", self.plan.name)
            self._failure = self._failing_since = None
            self._changed()

    async def _pause(self, seconds: float) -> None:
        """Sleeps that long, or until told; raises `_Stop` when it is time to stop."""
        self._told.clear()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None if seconds == policy.UNTIL_TOLD else seconds):
                await self._unless_stopped(self._woken())

    async def _woken(self) -> None:
        """Returns when a person has mended the cause of the failure: has said so, or replaced a
        credential."""
        waits: list[asyncio.Future[object]] = [asyncio.ensure_future(self._told.wait())]
        if self._failure is not None and policy.rule(self._failure).action == "reopen":
            waits.append(asyncio.ensure_future(replaced(self._secrets)))
        try:
            await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    def _is_retried(self, error: BaseException) -> bool:
        """Whether the same is to be done again after a pause. What takes a new session ends this one
        first."""
        if not isinstance(error, Exception) or isinstance(error, _Stop):
            return False
        return self._feed is None or policy.rule(error).action != "reopen"

    async def _unless_stopped(self, wait: Awaitable[T]) -> T:
        """Awaits it, and abandons it for `_Stop` when it is time to stop."""
        action = asyncio.ensure_future(wait)
        stop = asyncio.ensure_future(self._stop.wait())
        try:
            await asyncio.wait({action, stop}, return_when=asyncio.FIRST_COMPLETED)
            if action.done():
                return action.result()
            raise _Stop
        finally:
            for task in (action, stop):
                task.cancel()
            await asyncio.gather(action, stop, return_exceptions=True)


def describe(error: Exception) -> str:
    """A failure in one sentence, with the remedy where it has one, and never with a row's values."""
    if isinstance(error, Rejected):
        first = next(iter(error.rows.values()), "no reason given")
        return f"{len(error.rows)} change(s) refused for good, the first because: {first}"
    if isinstance(error, CdcflowError):
        text = str(error)
        return f"{text} ({error.hint})" if error.hint else text
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"a defect: {type(error).__name__}{place}, where only {DeliveryError.__name__} may come"


def _is_made(journal: Path) -> bool:
    """Whether capture has made the journal, as far as a reader needs it."""
    try:
        return (journal / MANIFEST).exists() and (journal / HEAD).stat().st_size > 0
    except OSError:
        return False


def _first_commit_time(batch: Batch) -> int:
    return min(int(group.meta("commit_time")[0].as_py()) for group in batch.groups)
