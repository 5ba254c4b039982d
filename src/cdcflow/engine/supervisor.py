"""The engine: one capture process and the delivery processes, started, watched, started again, and stopped
in the order that loses nothing and repeats as little as possible.

Stopping: capture first, then delivery, which finishes the writes in flight and not the backlog. A second
signal hurries both. Whatever is cut short comes again at the next start.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import orjson

import cdcflow
from cdcflow.config import Config
from cdcflow.delivery import FlowReport
from cdcflow.engine import backfills
from cdcflow.engine import log as logs
from cdcflow.engine.control import ControlServer
from cdcflow.engine.examination import Examiner, check_all, check_start
from cdcflow.engine.groups import group_flows
from cdcflow.engine.places import Lock, Places
from cdcflow.engine.process import Child
from cdcflow.engine.reports import CaptureReport, Delivered, Live, Report
from cdcflow.engine.sdnotify import Notifier
from cdcflow.engine.status import (
    Life,
    Source,
    capture_document,
    findings_document,
    flow_document,
    how_it_ended,
    journal_document,
    judge,
    letter_findings,
)
from cdcflow.errors import CdcflowError, ConfigurationError, EnvironmentFault
from cdcflow.sink import Finding

log = logging.getLogger(__name__)

#: Exit codes with which capture says that no restart helps: the configuration, the environment.
FATAL = frozenset({ConfigurationError.exit_code, EnvironmentFault.exit_code})

#: Capture ends behind one fsync and one message to the server.
CAPTURE_SECONDS = 10.0

#: A write in flight may be waiting for a slow destination. All of these limits together stay below what
#: deploy/ gives a stop before everything is killed.
DRAIN_SECONDS = 60.0

#: From a hint to hurry until a process is killed: longer than it gives itself.
HURRY_SECONDS = 5.0

#: How often the engine looks at itself.
TICK_SECONDS = 0.5

#: A predecessor that was killed has let go of its lock already; one that is stopping gets a moment.
LOCK_SECONDS = 1.0

Preflight = Callable[[Config], Sequence[Finding]]


def run(
    config: Config,
    *,
    verbose: bool = False,
    preflight: Preflight | None = None,
    commands: "Commands | None" = None,
) -> int:
    """Runs the engine until SIGTERM or SIGINT, and gives the exit code: 0 after a clean stop, 3 when a check
    of the source or the journal fails, or capture's own when it ends for good.

    `preflight` checks before the start and while it runs, by default what `cdcflow.engine.examination`
    does at each; `commands` start the processes. Raises EnvironmentFault when an engine runs on the same
    state folder, or it is unusable.
    """
    logs.configure(verbose=verbose)
    places = Places(config.engine.state)
    places.make()
    lock = Lock(
        places.engine_lock,
        what="another cdcflow already runs on this state folder",
        hint="stop it first, or give this one another folder at engine.state",
        timeout=LOCK_SECONDS,
    )
    try:
        findings = (preflight or check_start)(config)
        if not passed(findings):
            return EnvironmentFault.exit_code
        examiner = Examiner(lambda: (preflight or check_all)(config), known=findings)
        commands = commands or Commands(config, verbose=verbose)
        return asyncio.run(Supervisor(config, commands, examiner).run())
    finally:
        lock.release()


def passed(findings: Iterable[Finding]) -> bool:
    """Prints what is not in order, and says whether the engine may start."""
    errors = 0
    for finding in findings:
        if finding.severity == "ok":
            continue
        errors += finding.severity == "error"
        _say(f"{finding.severity}: {finding.subject}: {finding.message}", finding.remedy)
        if finding.sql:
            print(finding.sql, file=sys.stderr)
    return not errors


def _say(message: str, hint: str) -> None:
    print(message, file=sys.stderr)
    if hint:
        print(f"hint: {hint}", file=sys.stderr)


class Commands:
    """How the processes are started: this interpreter, `cdcflow.engine.child`, the same configuration."""

    def __init__(self, config: Config, *, verbose: bool = False) -> None:
        self.config = str(config.path)
        self._options = ["--verbose"] if verbose else []

    def capture(self) -> list[str]:
        return self._child("capture")

    def deliver(self, flows: Sequence[str]) -> list[str]:
        return [*self._child("deliver"), *flows]

    def _child(self, kind: str) -> list[str]:
        module = [sys.executable, "-m", "cdcflow.engine.child"]
        return [*module, kind, "--config", self.config, *self._options]


class Supervisor:
    """`run` is one life of the engine."""

    def __init__(self, config: Config, commands: Commands, examiner: Examiner) -> None:
        self._config = config
        self._examiner = examiner
        self._places = Places(config.engine.state)
        self._notifier = Notifier()
        self._started = time.time()
        self._state = "starting"
        self._figures: dict[str, Any] = {}
        self._figures_at = 0.0
        self._streaming_since = 0.0
        self._streamed = False
        self._reports = {name: FlowReport(name=name) for name in config.flows}
        self._heard_at: dict[str, float] = {}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        self._capture = Child(
            "capture", commands.capture(), heard=self._heard, changed=self._changed.set, fatal=FATAL
        )
        self._workers = {
            flows: Child(
                f"delivery of {', '.join(flows)}",
                commands.deliver(flows),
                heard=self._heard,
                changed=self._changed.set,
            )
            for flows in group_flows(config)
        }
        self._worker_of = {name: child for flows, child in self._workers.items() for name in flows}

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        server = await ControlServer.start(self._places.engine_socket, self._answer)
        capture = asyncio.create_task(self._capture.run())
        workers = [asyncio.create_task(child.run()) for child in self._workers.values()]
        ticking = asyncio.create_task(self._tick())
        stopping = asyncio.create_task(self._stop.wait())
        self._examiner.start()
        log.info("engine runs as process %d with %d flow(s)", os.getpid(), len(self._config.flows))
        try:
            await asyncio.wait({capture, stopping, ticking}, return_when=asyncio.FIRST_COMPLETED)
            self._state = "stopping"
            self._notifier.stopping()
            await self._end([self._capture], [capture], CAPTURE_SECONDS)
            await self._end(list(self._workers.values()), workers, DRAIN_SECONDS)
        finally:
            self._examiner.stop()
            ended = asyncio.gather(capture, *workers, ticking, stopping, return_exceptions=True)
            for task in (capture, *workers, ticking, stopping):
                task.cancel()
            await ended
            await server.close()
        if ticking.done() and not ticking.cancelled() and (defect := ticking.exception()) is not None:
            raise defect
        code = capture.result()
        if code is None:
            log.info("engine stopped")
            return 0
        failed = self._capture.failed
        message = failed.message if failed else f"capture ended with code {code}"
        _say(f"error: {message}", failed.hint if failed else "")
        return code

    def _signalled(self) -> None:
        if self._stop.is_set():
            log.info("hurries")
            self._hurry.set()
        else:
            log.info("stops behind the work in flight; a second signal hurries")
            self._stop.set()

    async def _end(self, children: Sequence[Child], runs: Sequence[asyncio.Task[Any]], limit: float) -> None:
        """Ends processes kindly, within the limit or until somebody hurries; then less and less so."""
        for child in children:
            child.stop()
        await self._unless_hurried(runs, limit)
        for step in (Child.hurry, Child.kill):
            left = [child for child, ran in zip(children, runs, strict=True) if not ran.done()]
            if not left:
                return
            for child in left:
                step(child)
            await asyncio.wait(runs, timeout=HURRY_SECONDS)

    async def _unless_hurried(self, runs: Sequence[asyncio.Task[Any]], limit: float) -> None:
        async def all_ended() -> None:
            if runs:
                await asyncio.wait(runs)

        waits = [asyncio.create_task(all_ended()), asyncio.create_task(self._hurry.wait())]
        try:
            await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)

    # What the processes say, and what follows from it.

    def _heard(self, message: Report) -> None:
        if isinstance(message, CaptureReport):
            if message.state == "streaming" and self._figures.get("state") != "streaming":
                self._streaming_since = time.monotonic()
            self._figures, self._figures_at = message.figures, time.monotonic()
            if message.state == "streaming" and not self._streamed:
                self._streamed = True
                for child in self._workers.values():
                    child.order(Live())
            self._changed.set()
        elif isinstance(message, FlowReport) and message.name in self._reports:
            before = self._reports[message.name]
            if message.checkpoint is None:  # a new process, which has yet to find its place
                message = replace(message, checkpoint=before.checkpoint)
            self._reports[message.name] = message
            self._heard_at[message.name] = time.monotonic()
            if (before.state, before.reason) != (message.state, message.reason):
                reason = f": {message.reason}" if message.reason else ""
                # Around the border between fresh and late a flow may change its state often.
                level = logging.INFO if "needs attention" in (before.state, message.state) else logging.DEBUG
                log.log(level, "flow %s: %s%s", message.name, message.state, reason)

    async def _tick(self) -> None:
        """Passes on how far all flows are, and tells systemd how the engine is."""
        ready = False
        while True:
            self._changed.clear()
            delivered = self._delivered()
            if delivered is not None:
                self._capture.order(Delivered(delivered))
            if self._capture_state() == "streaming" and not ready and self._state == "starting":
                ready, self._state = True, "running"
                log.info("engine is ready: the slot streams")
                self._notifier.ready()
            self._notifier.status(self._sentence())
            if self._notifier.watchdog_seconds is not None:
                self._notifier.alive()
            interval = min(TICK_SECONDS, self._notifier.watchdog_seconds or TICK_SECONDS)
            # Not `wait_for`, which loses a cancellation that comes together with the event (cpython#86296).
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(interval):
                    await self._changed.wait()

    def _capture_state(self) -> str:
        if self._capture.pid is None:
            return "stopped"
        # What the process before this one said of itself does not count.
        fresh = self._figures_at >= self._capture.since
        return str(self._figures.get("state")) if fresh else "connecting"

    def _delivered(self) -> int | None:
        """The least checkpoint of all flows, or None while one of them is not known: then nothing may be
        removed or confirmed on their account."""
        checkpoints = [report.checkpoint for report in self._reports.values()]
        known = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
        if not checkpoints:
            journal = self._figures.get("journal") or {}
            return journal.get("offset")
        return min(known) if len(known) == len(checkpoints) else None

    def _flow_reports(self) -> list[FlowReport]:
        error = str(self._figures.get("error") or "")
        streaming = time.monotonic() - self._streaming_since
        source = Source(self._capture_state(), self._streamed, error, streaming)
        return [judge(report, self._life(name), source) for name, report in self._reports.items()]

    def _life(self, flow: str) -> Life:
        child = self._worker_of[flow]
        heard = self._heard_at.get(flow)
        return Life(
            running=child.pid is not None,
            silent=None if heard is None or heard < child.since else time.monotonic() - heard,
            crashes=child.crashes,
            end=how_it_ended(child),
        )

    def _sentence(self) -> str:
        reports = self._flow_reports()
        fine = sum(report.state == "up to date" for report in reports)
        trouble = [report.name for report in reports if report.state == "needs attention"]
        text = f"{fine} of {len(reports)} flows up to date"
        return f"{text}; needs attention: {', '.join(trouble)}" if trouble else text

    # What others may ask.

    async def _answer(self, request: Mapping[str, Any]) -> bytes:
        if request.get("op") == "backfill":
            return await asyncio.to_thread(backfills.answer, self._config, request)
        if request.get("op") != "status":
            raise CdcflowError("the engine answers to `status` and `backfill`")
        journal = await asyncio.to_thread(journal_document, self._config.journal.path)
        figures = self._figures.get("backfills") or []
        shown = await asyncio.to_thread(backfills.document, self._config, figures)
        return orjson.dumps({**self._document(journal), "backfills": shown})

    def _document(self, journal: Mapping[str, int | None]) -> dict[str, Any]:
        flows = self._config.flows.values()
        return {
            "engine": {
                "state": self._state,
                "pid": os.getpid(),
                "started": self._started,
                "version": cdcflow.__version__,
            },
            "capture": {
                **capture_document(self._config, self._figures, self._capture_state(), self._capture),
                "journal": journal,
            },
            "flows": [
                flow_document(flow, self._config, report, self._worker_of[flow.name])
                for flow, report in zip(flows, self._flow_reports(), strict=True)
            ],
            "findings": findings_document([*self._examiner.latest, *letter_findings(self._reports.values())]),
        }
