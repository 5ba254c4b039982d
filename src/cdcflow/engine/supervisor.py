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
from pathlib import Path
from typing import Any

import orjson

import cdcflow
from cdcflow.config import Config, flow_files, flow_folder
from cdcflow.delivery import CheckpointStore, FlowReport
from cdcflow.engine import accepted, backfills
from cdcflow.engine import log as logs
from cdcflow.engine.accepted import Accepted
from cdcflow.engine.assignment import Assignment
from cdcflow.engine.control import ControlServer
from cdcflow.engine.examination import Examiner, check_all, check_start
from cdcflow.engine.places import Places, take_lock
from cdcflow.engine.preview import misfit
from cdcflow.engine.process import Child
from cdcflow.engine.reports import CaptureReport, Delivered, Ended, Live, Report
from cdcflow.engine.revisions import Revisions
from cdcflow.engine.sdnotify import Notifier
from cdcflow.engine.status import (
    Life,
    Source,
    capture_document,
    findings_document,
    flow_document,
    held_back,
    how_it_ended,
    journal_document,
    judge,
    letter_findings,
    refusal_document,
    refused_flow,
)
from cdcflow.engine.watching import State, Watcher, state_of
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
    lock = take_lock(
        places.engine_lock,
        what="another cdcflow already runs on this state folder",
        hint="stop it first, or give this one another folder at engine.state",
        timeout=LOCK_SECONDS,
    )
    try:
        running = accepted.start(config.path, misfit)
        for finding in running.findings():
            _say(f"{finding.severity}: {finding.subject}: {finding.message}", finding.remedy)
        accepted.keep(running)
        findings = (preflight or check_start)(running.config)
        if not passed(findings):
            return EnvironmentFault.exit_code
        commands = commands or Commands(config, verbose=verbose)
        with CheckpointStore(places.checkpoints) as store:
            supervisor = Supervisor(running, commands, store)
            supervisor.examine(preflight or check_all, known=findings)
            return asyncio.run(supervisor.run())
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
    """How the processes are started: this interpreter, `cdcflow.engine.child`, the configuration that was
    taken over."""

    def __init__(self, config: Config, *, verbose: bool = False) -> None:
        self.config = str(config.path)
        self._options = ["--accepted", str(Places(config.engine.state).accepted)]
        self._options += ["--verbose"] if verbose else []

    def capture(self) -> list[str]:
        return self._child("capture")

    def deliver(self) -> list[str]:
        return self._child("deliver")

    def _child(self, kind: str) -> list[str]:
        module = [sys.executable, "-m", "cdcflow.engine.child"]
        return [*module, kind, "--config", self.config, *self._options]


class Supervisor:
    """`run` is one life of the engine."""

    def __init__(self, running: Accepted, commands: Commands, store: CheckpointStore) -> None:
        self._running = running
        self._commands = commands
        self._examiner = Examiner(lambda: ())
        self._places = Places(running.config.engine.state)
        self._notifier = Notifier()
        self._started = time.time()
        self._state = "starting"
        self._figures: dict[str, Any] = {}
        self._figures_at = 0.0
        self._streaming_since = 0.0
        self._streamed = False
        self._reports: dict[str, FlowReport] = {}
        self._heard_at: dict[str, float] = {}
        self._stop = asyncio.Event()
        self._hurry = asyncio.Event()
        self._changed = asyncio.Event()
        self._capture = Child(
            "capture", commands.capture(), heard=self._heard, changed=self._changed.set, fatal=FATAL
        )
        self._revisions = Revisions(store)
        self._delivery = Assignment(self._make_child, self._retire, store)
        #: Where the flow files are by the main file of this stamp.
        self._stamp: State = {}
        self._folder: Path | None = None
        self._watcher = Watcher(self._watched, self._reload)
        self._take_over(running)

    @property
    def _config(self) -> Config:
        return self._running.config

    def examine(self, look: Preflight, *, known: Sequence[Finding]) -> None:
        """Has the checks made again and again, of the configuration that runs then."""
        self._examiner = Examiner(lambda: look(self._config), known=known)

    def _make_child(self) -> Child:
        child = Child("delivery", self._commands.deliver(), heard=self._heard, changed=self._changed.set)
        if self._streamed:
            child.order(Live())
        return child

    async def _retire(self, child: Child, run: asyncio.Task[Any]) -> None:
        await self._end([child], [run], DRAIN_SECONDS)

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._signalled)
        loop.add_signal_handler(signal.SIGHUP, self._watcher.tell)
        server = await ControlServer.start(self._places.engine_socket, self._answer)
        capture = asyncio.create_task(self._capture.run())
        self._delivery.assign(self._config)
        ticking = asyncio.create_task(self._tick())
        watching = asyncio.create_task(self._watcher.run())
        stopping = asyncio.create_task(self._stop.wait())
        self._examiner.start()
        log.info("engine runs as process %d with %d flow(s)", os.getpid(), len(self._config.flows))
        try:
            await asyncio.wait({capture, stopping, ticking, watching}, return_when=asyncio.FIRST_COMPLETED)
            self._state = "stopping"
            self._notifier.stopping()
            watching.cancel()
            self._delivery.freeze()
            await self._end([self._capture], [capture], CAPTURE_SECONDS)
            children, workers = self._delivery.processes()
            await self._end(children, workers, DRAIN_SECONDS)
        finally:
            self._examiner.stop()
            _, workers = self._delivery.processes()
            ours = (capture, *workers, ticking, watching, stopping)
            ended = asyncio.gather(*ours, return_exceptions=True)
            for task in ours:
                task.cancel()
            await ended
            await server.close()
        for task in (ticking, watching):
            if task.done() and not task.cancelled() and (defect := task.exception()) is not None:
                raise defect
        code = capture.result()
        if code is None:
            log.info("engine stopped")
            return 0
        failed = self._capture.failed
        message = failed.message if failed else f"capture ended with code {code}"
        _say(f"error: {message}", failed.hint if failed else "")
        return code

    # What files and people say while it runs.

    def _watched(self) -> list[Path]:
        path = self._config.path
        stamp = state_of([path])
        if stamp != self._stamp:
            self._stamp, self._folder = stamp, flow_folder(path)
        here = [] if self._folder is None else flow_files(self._folder)
        code = {file for flow in self._config.flows.values() for file in flow.code}
        # A module that a refused edit lacks may come.
        beside = {found for folder in {file.parent for file in code} for found in folder.glob("*.py")}
        return sorted({path, *here, *code, *beside, *self._running.texts})

    async def _reload(self) -> None:
        before = self._running
        try:
            after = await asyncio.to_thread(accepted.reload, before, misfit)
            if after.texts != before.texts:
                await asyncio.to_thread(accepted.keep, after)
        except CdcflowError as error:
            log.error("the configuration is not read again: %s", error)
            return
        told = {(finding.subject, finding.message) for finding in before.findings()}
        for finding in after.findings():
            if (finding.subject, finding.message) not in told:
                log.warning("%s: %s: %s", finding.severity, finding.subject, finding.message)
        self._take_over(after)
        self._delivery.assign(after.config)
        self._changed.set()

    def _take_over(self, after: Accepted) -> None:
        self._running = after
        for name in self._reports.keys() - after.config.flows.keys():
            log.info("flow %s is removed; its checkpoint is kept", name)
            del self._reports[name]
            self._heard_at.pop(name, None)
        for name in after.config.flows:
            self._reports.setdefault(name, FlowReport(name=name))
        self._revisions.record(after.config.flows.values())

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
                for child in self._delivery.processes()[0]:
                    child.order(Live())
            self._changed.set()
        elif isinstance(message, Ended):
            self._delivery.ended(message.flow, self._reports.get(message.flow))
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
            if (
                self._capture_state() in ("streaming", "backfilling")
                and not ready
                and self._state == "starting"
            ):
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
        checkpoints = [self._delivery.needs(report) for report in self._reports.values()]
        known = [checkpoint for checkpoint in checkpoints if checkpoint is not None]
        if not checkpoints:
            journal = self._figures.get("journal") or {}
            return journal.get("offset")
        return min(known) if len(known) == len(checkpoints) else None

    def _flow_reports(self, head: int | None = None) -> list[FlowReport]:
        """In the order of the configuration. `head`: the journal's end, where it is known."""
        error = str(self._figures.get("error") or "")
        streaming = time.monotonic() - self._streaming_since
        source = Source(self._capture_state(), self._streamed, error, streaming)
        return [
            self._delivery.paused(report, head) or judge(report, self._life(name), source)
            for name, report in ((name, self._reports[name]) for name in self._config.flows)
        ]

    def _life(self, flow: str) -> Life:
        child = self._delivery.child_of(flow)
        if child is None:
            return Life(running=False, silent=None)
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
        match request.get("op"):
            case "status":
                path = self._config.journal.path
                journal = await asyncio.to_thread(journal_document, path)
                held = await asyncio.to_thread(self._held_back)
                figures = self._figures.get("backfills") or []
                shown = await asyncio.to_thread(backfills.document, self._config, figures)
                return orjson.dumps({**self._document(journal, held), "backfills": shown})
            case "backfill":
                return await asyncio.to_thread(backfills.answer, self._config, request)
            case "obey":
                self._delivery.obey(str(request.get("flow")))
                self._changed.set()
                return b"{}"
            case "reload":
                self._watcher.tell()
                return b"{}"
            case _:
                raise CdcflowError("the engine answers to `status`, `backfill`, `obey` and `reload`")

    def _held_back(self) -> list[Finding]:
        """Paused flows for whose sake the journal keeps much."""
        reports = list(self._reports.values())
        stands = {report.name: self._delivery.stands_at(report) for report in reports}
        return held_back(self._config, {name: at for name, at in stands.items() if at is not None})

    def _document(self, journal: Mapping[str, int | None], held: Sequence[Finding]) -> dict[str, Any]:
        flows = self._config.flows.values()
        reports = self._flow_reports(journal["offset"])
        refusals = {refusal.flow: refusal for refusal in self._running.refused}
        described = [
            flow_document(flow, self._config, report, self._delivery.child_of(flow.name))
            | self._delivery.wishes(flow.name)
            | {"refused": refusal_document(refusals.get(flow.name))}
            for flow, report in zip(flows, reports, strict=True)
        ]
        described += [refused_flow(r) for r in self._running.refused if r.flow and not r.runs]
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
            "flows": described,
            "findings": findings_document(
                [
                    *self._running.findings(),
                    *held,
                    *self._examiner.latest,
                    *letter_findings(self._reports.values()),
                ]
            ),
        }
