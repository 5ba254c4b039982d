"""The work of a delivery process: one worker per flow, in one event loop, and a socket per flow on which
its sink can be asked."""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import orjson

from cdcflow.config import Config, make_chain
from cdcflow.delivery import Breakers, CheckpointStore, FlowPlan, FlowWorker, LetterStore, Limits
from cdcflow.engine.control import ControlServer, ipc_bytes
from cdcflow.engine.places import Lock, Places
from cdcflow.engine.reports import Live, Order, Report
from cdcflow.errors import CdcflowError, ConfigurationError
from cdcflow.model import PrefixPatterns
from cdcflow.model.patterns import TablePatterns

#: How often a flow says how it is, changed or not.
REPORT_SECONDS = 0.5

#: At most so often after a change, so that a flow whose state flickers does not fill the pipe.
SETTLE_SECONDS = 0.02

#: A predecessor whose supervisor was killed needs up to ORPHAN_SECONDS, and a loaded machine its time.
LOCK_SECONDS = 10.0


class Delivering:
    """`run` returns 0 after `stop`, behind the writes in flight, and 1 after `hurry`."""

    def __init__(self, config: Config, flows: Sequence[str], report: Callable[[Report], None]) -> None:
        """Raises ConfigurationError for a flow that the configuration no longer has."""
        missing = [name for name in flows if name not in config.flows]
        if missing:
            raise ConfigurationError(
                f"flow {missing[0]!r} is no longer in {config.path}",
                hint="restart cdcflow to run the configuration as it is now",
            )
        self._config = config
        self._places = Places(config.engine.state)
        self._flows = tuple(flows)
        self._report = report
        self._breakers = Breakers()
        self._letters: LetterStore | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._workers: dict[str, FlowWorker] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._changed = asyncio.Event()
        self._stopping = threading.Event()
        self._hurrying = threading.Event()
        self._live = threading.Event()

    def run(self) -> int:
        self._places.make()
        locks = [
            Lock(
                self._places.flow_lock(name),
                what=f"flow {name!r} is already being delivered",
                hint="stop the engine that delivers it, or give this one a state folder of its own",
                timeout=LOCK_SECONDS,
            )
            for name in self._flows
        ]
        try:
            path = self._places.checkpoints
            with CheckpointStore(path) as store, LetterStore(path) as self._letters:
                return asyncio.run(self._run(store))
        finally:
            for lock in locks:
                lock.release()

    def stop(self) -> None:
        self._stopping.set()
        self._in_loop(self._stop_workers)

    def hurry(self) -> None:
        self._hurrying.set()
        self._in_loop(self._cancel_workers)

    def obey(self, order: Order) -> None:
        if isinstance(order, Live):
            self._live.set()
            self._in_loop(self._go_live)

    def _in_loop(self, action: Callable[[], None]) -> None:
        """Before the loop runs there is nothing to act on, and `_run` looks at the events itself."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # closed: all is over
                self._loop.call_soon_threadsafe(action)

    def _stop_workers(self) -> None:
        for worker in self._workers.values():
            worker.stop()

    def _cancel_workers(self) -> None:
        for task in self._tasks:
            task.cancel()

    def _go_live(self) -> None:
        for worker in self._workers.values():
            worker.go_live()

    async def _run(self, store: CheckpointStore) -> int:
        self._loop = asyncio.get_running_loop()
        self._workers = {name: self._worker(name, store) for name in self._flows}
        servers = [
            await ControlServer.start(self._places.flow_socket(name), self._answer) for name in self._flows
        ]
        self._tasks = [asyncio.create_task(worker.run()) for worker in self._workers.values()]
        if self._live.is_set():
            self._go_live()
        if self._stopping.is_set():
            self._stop_workers()
        reporting = asyncio.create_task(self._keep_reporting())
        try:
            results = await asyncio.gather(*self._tasks, return_exceptions=True)
        finally:
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            for server in servers:
                await server.close()
        for result in results:
            if isinstance(result, Exception):
                raise result
        return 1 if self._hurrying.is_set() else 0

    def _worker(self, name: str, store: CheckpointStore) -> FlowWorker:
        flow = self._config.flows[name]
        entry = self._config.sinks[flow.to]
        plan = FlowPlan(
            name=name,
            tables=TablePatterns(flow.from_),
            plugin=entry.plugin,
            settings=entry.settings,
            options=flow.options,
            start=flow.start,
            messages=PrefixPatterns(flow.messages),
            chain=make_chain(flow, base=self._config.base, mask_key=self._config.mask_key),
            budget=self._places.budget(entry.connection),
            connection=entry.connection,
            on_reject=flow.on_reject,
            limits=Limits(flow.dead_letters.limit, flow.dead_letters.share),
        )
        return FlowWorker(
            plan,
            journal=self._config.journal.path,
            state=self._config.engine.state,
            store=store,
            changed=self._changed.set,
            letters=self._letters,
            breakers=self._breakers,
        )

    async def _keep_reporting(self) -> None:
        while True:
            self._changed.clear()
            self._report_all()
            await asyncio.sleep(SETTLE_SECONDS)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(REPORT_SECONDS - SETTLE_SECONDS):
                    await self._changed.wait()

    def _report_all(self) -> None:
        for worker in self._workers.values():
            self._report(worker.report())

    async def _answer(self, request: Mapping[str, Any]) -> bytes:
        worker = self._workers.get(str(request.get("flow")))
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
                found = await worker.deliver_letters(request["numbers"], force=bool(request.get("force")))
                return orjson.dumps([outcome.document() for outcome in found])
            case "discard letters":
                numbers, why, who = request["numbers"], str(request["why"]), str(request["who"])
                return orjson.dumps(await worker.discard_letters(numbers, why, who))
            case _:
                raise CdcflowError("a flow answers to `query`, `retry`, and what becomes of its dead letters")
