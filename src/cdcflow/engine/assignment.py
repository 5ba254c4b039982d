"""Which delivery process has which flows: started when there is a first flow for it, ended when there is
none, told when it is to have others. A flow that nothing has happened to is left alone."""

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from pydantic import SecretStr

from cdcflow.config import Config, Flow, SinkEntry
from cdcflow.delivery import CheckpointStore, FlowReport, Move, Pause, Wishes
from cdcflow.engine.groups import group_flows
from cdcflow.engine.process import Child
from cdcflow.engine.reports import Assigned

Retire = Callable[[Child, "asyncio.Task[Any]"], Coroutine[Any, Any, None]]


class Assignment:
    """`make` gives a child that has yet to run; `retire` ends one kindly. All methods but the constructor are
    called from the event loop."""

    def __init__(self, make: Callable[[], Child], retire: Retire, store: CheckpointStore) -> None:
        self._make = make
        self._retire = retire
        self._store = store
        self._wishes = Wishes(store)
        #: All that a flow is made of: where that is as before, the flow is left alone.
        self._meant: dict[str, tuple[Flow, SinkEntry, SecretStr | None]] = {}
        self._tokens: dict[str, int] = {}
        self._places: dict[str, int] = {}
        self._pauses: dict[str, Pause] = {}
        self._moves: dict[str, Move] = {}
        self._children: dict[int, Child] = {}
        self._runs: dict[int, asyncio.Task[Any]] = {}
        self._told: dict[int, Mapping[str, str]] = {}
        self._retiring: set[asyncio.Task[None]] = set()
        #: Flows that some process may be writing.
        self._present: set[str] = set()
        self._frozen = False

    def assign(self, config: Config) -> None:
        """Delivers the flows of a configuration from now on. Those that are as before go on undisturbed."""
        meant = {name: (flow, config.sinks[flow.to], config.mask_key) for name, flow in config.flows.items()}
        for name, now in meant.items():
            if self._meant.get(name) != now:
                self._tokens[name] = self._tokens.get(name, 0) + 1
                self._read_wishes(name)
        for name in self._meant.keys() - meant.keys():
            self._pauses.pop(name, None)
            self._moves.pop(name, None)
        self._meant = meant
        self._places = group_flows(config, self._places)
        self._reconcile()

    def obey(self, flow: str) -> None:
        """Somebody has paused, resumed or moved a flow: the state database says what."""
        if flow in self._meant:
            self._read_wishes(flow)
            if flow in self._moves:
                self._tokens[flow] += 1
            self._reconcile()

    def _read_wishes(self, flow: str) -> None:
        pause, move = self._wishes.paused(flow), self._wishes.move(flow)
        self._pauses.pop(flow, None)
        self._moves.pop(flow, None)
        if pause is not None:
            self._pauses[flow] = pause
        if move is not None and not move.refused:
            self._moves[flow] = move

    def freeze(self) -> None:
        """Starts no process from now on."""
        self._frozen = True

    def processes(self) -> tuple[list[Child], list["asyncio.Task[Any]"]]:
        return list(self._children.values()), [self._runs[number] for number in self._children]

    def child_of(self, flow: str) -> Child | None:
        return self._children.get(self._places.get(flow, -1))

    def ended(self, flow: str, last: FlowReport | None) -> None:
        """The flow writes no more; a paused one stands where its last report says."""
        self._present.discard(flow)
        if flow in self._pauses and last is not None and last.checkpoint is not None:
            self._wishes.stands(flow, last.checkpoint)
            self._pauses[flow] = replace(self._pauses[flow], reached=last.checkpoint)

    def _reconcile(self) -> None:
        if self._frozen:
            return
        wanted: dict[int, dict[str, str]] = {}
        for flow, number in self._places.items():
            if flow not in self._pauses:
                wanted.setdefault(number, {})[flow] = str(self._tokens[flow])
        for number in {*wanted, *self._children}:
            child, flows = self._children.get(number), wanted.get(number, {})
            if child is None:
                self._start(number, flows)
            elif child.stopping:
                continue  # whoever comes after it starts when it has ended
            elif not flows or self._anew(self._told[number], flows):
                # A process of its own begins anew with its flow: nothing of what was there before is left.
                child.stop()
                retiring = asyncio.create_task(self._retire(child, self._runs[number]))
                self._retiring.add(retiring)
                retiring.add_done_callback(self._retiring.discard)
            elif flows != self._told[number]:
                self._tell(number, child, flows)

    @staticmethod
    def _anew(before: Mapping[str, str], flows: Mapping[str, str]) -> bool:
        return bool(before) and all(before.get(flow) != token for flow, token in flows.items())

    def _start(self, number: int, flows: dict[str, str]) -> None:
        child = self._children[number] = self._make()
        self._tell(number, child, flows)
        run = self._runs[number] = asyncio.create_task(child.run())
        run.add_done_callback(lambda _: self._gone(number, child))

    def _tell(self, number: int, child: Child, flows: dict[str, str]) -> None:
        self._told[number] = flows
        self._present |= flows.keys()
        child.name = f"delivery of {', '.join(flows)}"
        child.order(Assigned(flows))

    def _gone(self, number: int, child: Child) -> None:
        if self._frozen:
            return
        self._present -= {flow for flow, at in self._places.items() if at == number}
        for kept in (self._children, self._runs, self._told):
            kept.pop(number, None)
        self._reconcile()

    # What is known of flows that have no process.

    def paused(self, report: FlowReport, head: int | None) -> FlowReport | None:
        """The report of a flow that is paused; None for one that is not, or that still writes."""
        pause = self._pauses.get(report.name)
        if pause is None or self._writes(report.name):
            return None
        at = datetime.fromtimestamp(pause.since, UTC)
        reason = f"by {pause.who} since {at:%Y-%m-%d %H:%M} UTC" + (f": {pause.why}" if pause.why else "")
        checkpoint = self.checkpoint(report)
        lag = None if head is None or checkpoint is None else max(head - checkpoint, 0)
        return replace(
            report, state="paused", reason=reason, checkpoint=checkpoint, lag_changes=lag, lag_seconds=None
        )

    def _writes(self, flow: str) -> bool:
        child = self.child_of(flow)
        return flow in self._present and child is not None and child.pid is not None

    def checkpoint(self, report: FlowReport) -> int | None:
        """Up to where the flow's sink holds everything, also of a flow that has no process."""
        if report.checkpoint is not None or report.name not in self._pauses:
            return report.checkpoint
        reached = self._pauses[report.name].reached
        if reached is not None:
            return reached
        stored = self._store.get(report.name)
        return None if stored is None else stored.offset

    def needs(self, report: FlowReport) -> int | None:
        """The offset from which on the flow needs the journal, now or once it has moved."""
        known = self.checkpoint(report)
        move = self._moves.get(report.name)
        if move is None:
            return known
        self._moves.pop(report.name)
        if (left := self._wishes.move(report.name)) is None or left.refused:
            return known
        self._moves[report.name] = left
        return left.offset if known is None else min(left.offset, known)

    def stands_at(self, report: FlowReport) -> int | None:
        """Where a paused flow stands; None for one that is not paused, or where it is not known."""
        return self.checkpoint(report) if report.name in self._pauses else None

    def wishes(self, flow: str) -> dict[str, Any]:
        """What people have said of a flow, for the status document."""
        pause, move = self._pauses.get(flow), self._wishes.move(flow)
        return {
            "paused": None if pause is None else asdict(pause),
            "move": None if move is None else asdict(move),
        }
