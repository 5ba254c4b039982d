"""The work of a delivery process: one worker per flow, in one event loop, and a socket per flow on which
its sink can be asked. Flows come and go while it runs; none of them disturbs another."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from cdcflow.config import Config, make_chain
from cdcflow.delivery import (
    Breakers,
    CheckpointStore,
    FlowPlan,
    FlowReport,
    FlowWorker,
    LetterStore,
    Limits,
)
from cdcflow.engine.control import ControlServer, ipc_bytes
from cdcflow.engine.lookups import tables_of
from cdcflow.engine.places import Places, take_lock
from cdcflow.engine.reports import Assigned, Ended, Live, Order, Report
from cdcflow.errors import CdcflowError, ConfigurationError, EnvironmentFault
from cdcflow.lock import FileLock
from cdcflow.model import PrefixPatterns
from cdcflow.model.patterns import TablePatterns

#: How often a flow says how it is, changed or not.
REPORT_SECONDS = 0.5

#: At most so often after a change, so that a flow whose state flickers does not fill the pipe.
SETTLE_SECONDS = 0.02

#: A predecessor whose supervisor was killed needs up to ORPHAN_SECONDS, and a loaded machine its time. Who
#: holds a flow for longer is said.
LOCK_SECONDS = 10.0

#: How often a held lock is tried again.
LOCK_RETRY = 0.05


def plan_of(config: Config, name: str) -> FlowPlan:
    """What a flow's worker needs to know. Raises ConfigurationError where the configuration has no such
    flow."""
    flow = config.flows.get(name)
    if flow is None:
        raise ConfigurationError(
            f"flow {name!r} is no longer in {config.path}",
            hint="restart cdcflow to run the configuration as it is now",
        )
    entry = config.sinks[flow.to]
    return FlowPlan(
        name=name,
        tables=TablePatterns(flow.from_),
        plugin=entry.plugin,
        settings=entry.settings,
        options=flow.options,
        start=flow.start,
        messages=PrefixPatterns(flow.messages),
        chain=make_chain(flow, base=config.base, mask_key=config.mask_key, tables=tables_of(config)),
        budget=Places(config.engine.state).budget(entry.connection),
        connection=entry.connection,
        on_reject=flow.on_reject,
        limits=Limits(flow.dead_letters.limit, flow.dead_letters.share),
        revision=flow.revision,
    )


@dataclass
class _Life:
    """One flow in this process, from its assignment to its end."""

    token: str
    task: "asyncio.Task[None]"
    worker: FlowWorker | None = None
    report: FlowReport | None = None
    stopped: bool = False

    def stop(self) -> None:
        """At a batch boundary."""
        if not self.stopped:
            self.stopped = True
            if self.worker is None:
                self.task.cancel()
            else:
                self.worker.stop()


class Delivering:
    """Delivers `flows`, or without any those that the supervisor assigns. `read` gives the configuration as
    it is to be run now.

    `run` returns 0 after `stop`, behind the writes in flight, and 1 after `hurry`.
    """

    def __init__(
        self, read: Callable[[], Config], flows: Sequence[str], report: Callable[[Report], None]
    ) -> None:
        """Raises ConfigurationError for a flow that the configuration does not have."""
        config = read()
        for name in flows:
            plan_of(config, name)
        self._read = read
        self._places = Places(config.engine.state)
        self._wanted: Mapping[str, str] = dict.fromkeys(flows, "")
        #: Flows that were assigned, and of which it was not said that they have ended.
        self._seen: set[str] = set()
        self._report = report
        self._breakers = Breakers(self._places.run)
        self._letters: LetterStore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lives: dict[str, _Life] = {}
        self._changed = asyncio.Event()
        self._wake = asyncio.Event()
        self._stopping = threading.Event()
        self._hurrying = threading.Event()
        self._live = threading.Event()

    def run(self) -> int:
        self._places.make()
        path = self._places.checkpoints
        with CheckpointStore(path) as store, LetterStore(path) as self._letters:
            return asyncio.run(self._run(store))

    def stop(self) -> None:
        self._stopping.set()
        self._in_loop(self._wake.set)

    def hurry(self) -> None:
        self._hurrying.set()
        self._stopping.set()
        self._in_loop(self._cancel)

    def obey(self, order: Order) -> None:
        if isinstance(order, Live):
            self._live.set()
            self._in_loop(self._go_live)
        elif isinstance(order, Assigned):
            self._seen |= order.flows.keys()
            self._wanted = order.flows
            self._in_loop(self._wake.set)

    def _in_loop(self, action: Callable[[], None]) -> None:
        """Before the loop runs there is nothing to act on, and `_run` looks at everything itself."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed: all is over
                self._loop.call_soon_threadsafe(action)

    def _cancel(self) -> None:
        for life in self._lives.values():
            life.task.cancel()
        self._wake.set()

    def _go_live(self) -> None:
        for worker in self._workers().values():
            worker.go_live()

    def _workers(self) -> dict[str, FlowWorker]:
        return {name: life.worker for name, life in self._lives.items() if life.worker is not None}

    async def _run(self, store: CheckpointStore) -> int:
        self._loop = asyncio.get_running_loop()
        reporting = asyncio.create_task(self._keep_reporting())
        failure: BaseException | None = None
        try:
            while True:
                self._wake.clear()
                wanted = {} if self._stopping.is_set() or failure else self._wanted
                for name, life in list(self._lives.items()):
                    if life.task.done():
                        failure = failure or self._ended(name, life)
                    elif wanted.get(name) != life.token:
                        life.stop()
                if failure and wanted:
                    continue
                for name in self._seen - wanted.keys() - self._lives.keys():
                    self._seen.discard(name)
                    self._report(Ended(name))
                for name, token in wanted.items():
                    if name not in self._lives:
                        self._begin(name, token, store)
                if not self._lives and (self._stopping.is_set() or failure):
                    break
                await self._wake.wait()
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
        if failure is not None:
            raise failure
        return 1 if self._hurrying.is_set() else 0

    def _begin(self, name: str, token: str, store: CheckpointStore) -> None:
        task = asyncio.create_task(self._deliver(name, store))
        task.add_done_callback(lambda _: self._wake.set())
        self._lives[name] = _Life(token, task)

    def _ended(self, name: str, life: _Life) -> BaseException | None:
        """What it ended of, where nobody wished it."""
        del self._lives[name]
        if life.worker is not None:
            self._report(life.worker.report())
        return None if life.task.cancelled() else life.task.exception()

    async def _deliver(self, name: str, store: CheckpointStore) -> None:
        life = self._lives[name]
        lock = await self._lock(name, life)
        try:
            config = await asyncio.to_thread(self._read)
            worker = FlowWorker(
                plan_of(config, name),
                journal=config.journal.path,
                state=config.engine.state,
                store=store,
                changed=self._changed.set,
                letters=self._letters,
                breakers=self._breakers,
            )
            server = await ControlServer.start(self._places.flow_socket(name), self._answer)
            try:
                life.worker = worker
                if self._live.is_set():
                    worker.go_live()
                await worker.run()
            finally:
                await server.close()
        finally:
            lock.release()

    async def _lock(self, name: str, life: _Life) -> FileLock:
        deadline = asyncio.get_running_loop().time() + LOCK_SECONDS
        while True:
            try:
                return take_lock(
                    self._places.flow_lock(name),
                    what=f"flow {name!r} is already being delivered",
                    hint="stop the engine that delivers it, or give this one a state folder of its own",
                )
            except EnvironmentFault as error:
                if asyncio.get_running_loop().time() > deadline:
                    life.report = FlowReport(
                        name=name, state="needs attention", reason=f"{error} ({error.hint})"
                    )
            await asyncio.sleep(LOCK_RETRY)

    async def _keep_reporting(self) -> None:
        while True:
            self._changed.clear()
            self._report_all()
            await asyncio.sleep(SETTLE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS - SETTLE_SECONDS):
                    await self._changed.wait()

    def _report_all(self) -> None:
        for name, life in self._lives.items():
            known = life.report or FlowReport(name=name)
            self._report(known if life.worker is None else life.worker.report())

    async def _answer(self, request: Mapping[str, Any]) -> bytes:
        worker = self._workers().get(str(request.get("flow")))
        if worker is None:
            raise CdcflowError("this process does not deliver the flow asked for")
        match request.get("op"):
            case "query":
                table = await worker.query(str(request.get("sql")))
                return await asyncio.to_thread(ipc_bytes, table)
            case "retry":
                worker.retry()
                return b"{}"
            case "deliver letters":
                found = await worker.deliver_letters(
                    request["numbers"], force=bool(request.get("force")), rate=request.get("rate")
                )
                return orjson.dumps([outcome.document() for outcome in found])
            case "discard letters":
                numbers, why, who = request["numbers"], str(request["why"]), str(request["who"])
                return orjson.dumps(await worker.discard_letters(numbers, why, who))
            case _:
                raise CdcflowError("a flow answers to `query`, `retry`, and what becomes of its dead letters")
