"""What people do with a flow that exists: pause, resume, rewind, skip. For the command line and the console
alike, and whether or not an engine runs: the wish is kept in the state database, and an engine that runs is
told.
"""

import asyncio
import getpass
import os
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from cdcflow.config import Config
from cdcflow.config.problems import nearest
from cdcflow.delivery import CheckpointStore, FlowPlan, LetterStore, Move, Pause, Wishes
from cdcflow.delivery.moving import Road, changes_between, is_whole, unrepeatable
from cdcflow.engine import control
from cdcflow.engine.delivering import plan_of
from cdcflow.engine.places import Places, take_lock
from cdcflow.errors import CdcflowError, ConfigurationError, EnvironmentFault
from cdcflow.journal import Reader
from cdcflow.journal.seeking import offset_at
from cdcflow.model import MESSAGES, Batch
from cdcflow.sink import Converges, FlowContext, RewindableSink, Sink, TransactionalSink
from cdcflow.sink.quantities import parse_duration
from cdcflow.transform import Select

#: A write in flight may take as long as its destination lets it.
WAIT_SECONDS = 60.0

#: How often the engine is asked whether it has done what it was told.
LOOK_SECONDS = 0.1


def me() -> str:
    """Who gives the command, as far as the system knows."""
    try:
        return os.environ.get("SUDO_USER") or getpass.getuser()
    except (KeyError, OSError):  # a user id without a name
        return str(os.getuid())


@contextmanager
def state(config: Config) -> Iterator[CheckpointStore]:
    """The state database, made if missing. Raises EnvironmentFault."""
    places = Places(config.engine.state)
    places.make()
    with CheckpointStore(places.checkpoints) as store:
        yield store


def plan(config: Config, flow: str) -> FlowPlan:
    """Raises ConfigurationError for a flow that the configuration does not have, and for one whose file is
    wrong."""
    if flow not in config.flows and flow in config.refused:
        raise _never_ran(flow, config.refused[flow])
    if flow not in config.flows:
        raise ConfigurationError(f"there is no flow {flow!r}", hint=nearest(flow, config.flows))
    return plan_of(config, flow)


def runnable(config: Config, flow: str) -> FlowPlan:
    """As `plan`; a running engine may refuse a file that is right in itself."""
    found = plan(config, flow)
    document = flow_status(config, flow) or {}
    if document.get("refused") and document.get("revision") is None:
        raise _never_ran(flow, document["refused"]["message"])
    return found


def _never_ran(flow: str, why: str) -> ConfigurationError:
    return ConfigurationError(
        f"the file of flow {flow!r} is refused, and nothing of it has ever run: {why}",
        hint=f"correct the file; `cdcflow flow validate {flow}` says whether it is right",
    )


# Pausing.


def pause(config: Config, flow: str, *, who: str, why: str = "") -> Pause:
    """Pauses a flow until it is resumed, over restarts. A running engine stops it behind the write in flight:
    `settled` says when it has."""
    runnable(config, flow)
    with state(config) as store:
        wishes = Wishes(store)
        found = wishes.pause(flow, who, why)
        if not control.obey(config.engine.state, flow) and found.reached is None:
            reached = _stopped_at(config, flow, store)
            if reached is not None:
                wishes.stands(flow, reached)
        return wishes.paused(flow) or found


def resume(config: Config, flow: str) -> bool:
    """Whether it was paused."""
    runnable(config, flow)
    with state(config) as store:
        was = Wishes(store).resume(flow)
    control.obey(config.engine.state, flow)
    return was


# Moving.


@dataclass(frozen=True)
class MovePlan:
    """What a move would mean. `present`: where the flow is, None where it has never begun. `counts`: changes
    of the flow's tables between the two places, before any transform, by table."""

    flow: str
    present: int | None
    offset: int
    first: int
    end: int
    counts: Mapping[str, int]
    #: Whether everything that the journal was ever given comes from there on.
    whole: bool
    #: Why the flow's sink does not go there; empty where nothing speaks against it.
    refused: str = ""

    @property
    def changes(self) -> int:
        return sum(self.counts.values())

    @property
    def back(self) -> bool:
        return self.present is not None and self.offset < self.present


def plan_move(config: Config, flow: str, to: str, *, now: float | None = None) -> MovePlan:
    """Works out where `to` is, and what lies between. `to` is an offset, `start`, `now`, a time (ISO 8601, in
    this machine's zone unless it says another) or a duration, which means so long ago.

    Raises ConfigurationError for a place that the journal does not hold, and for a sink that cannot move.
    """
    meant = runnable(config, flow)
    _check_movable(config, meant)
    with Reader(config.journal.path) as reader:
        first, end = reader.first_offset(), reader.head().offset
        offset = _offset_of(config, to, first, end, time.time() if now is None else now)
        if not first <= offset <= end:
            raise ConfigurationError(
                f"the journal holds offsets {first} to {end}, not {offset}",
                hint="name one of those, or `start` or `now`",
            )
        with state(config) as store:
            present = checkpoint(config, flow, store)
        low, high = sorted((offset, offset if present is None else max(present, first)))
        whole = is_whole(reader, offset)
        back = present is not None and offset < present and not whole
        return MovePlan(
            flow=flow,
            present=present,
            offset=offset,
            first=first,
            end=end,
            counts=_count(reader, Select(meant.tables, meant.messages), low, high),
            whole=whole,
            refused=_unrepeatable(config, meant, reader, low, high) if back else "",
        )


def move(config: Config, planned: MovePlan, *, who: str, why: str = "") -> Move:
    """Has a flow go on elsewhere. A running engine does it at once, but not for a paused flow: then, and
    without an engine, it is done at the flow's next start."""
    with state(config) as store:
        found = Wishes(store).order(planned.flow, planned.offset, who, why)
    control.obey(config.engine.state, planned.flow)
    return found


def take_back(config: Config, flow: str) -> bool:
    """Forgets a move that is not carried out yet; whether there was one."""
    runnable(config, flow)
    with state(config) as store:
        was = Wishes(store).forget(flow)
    control.obey(config.engine.state, flow)
    return was


def _check_movable(config: Config, meant: FlowPlan) -> None:
    sink = _sink(config, meant)
    if isinstance(sink, TransactionalSink) and not isinstance(sink, RewindableSink):
        raise ConfigurationError(
            f"the sink {meant.plugin.name} of flow {meant.name!r} keeps its own checkpoint and cannot be "
            "told another one",
            hint="to deliver from the start again, give flow and sink another name and destination",
        )


def _unrepeatable(config: Config, meant: FlowPlan, reader: Reader, low: int, high: int) -> str:
    """Why the sink could not take the changes between two offsets a second time."""
    sink = _sink(config, meant)
    if not isinstance(sink, Converges):
        return ""
    select = Select(meant.tables, meant.messages, flow=meant.name, marked=meant.plugin.marked)

    def step(batch: Batch) -> Batch:
        return meant.chain.finish(meant.chain(select(batch)))

    try:
        with LetterStore(Places(config.engine.state).checkpoints) as letters:
            return unrepeatable(meant.name, reader, sink, low, high, Road(step, letters))
    finally:
        meant.chain.close()


def _sink(config: Config, meant: FlowPlan) -> Sink:
    folder = config.engine.state / "flows" / meant.name
    return meant.plugin.create(meant.settings, meant.options, FlowContext(meant.name, folder))


def _offset_of(config: Config, to: str, first: int, end: int, now: float) -> int:
    text = to.strip()
    if text == "start":
        return first
    if text in ("now", "end"):
        return end
    if re.fullmatch(r"\d[\d_,]*", text):
        return int(re.sub("[_,]", "", text))
    try:
        return offset_at(config.journal.path, int((now - parse_duration(text)) * 1e6))
    except ValueError:
        pass
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise ConfigurationError(
            f"{to!r} is no place in the journal",
            hint="give an offset, `start`, `now`, a time such as 2026-11-24T10:00, or 2h for two hours ago",
        ) from None
    return offset_at(config.journal.path, int(moment.astimezone(UTC).timestamp() * 1e6))


def _count(reader: Reader, select: Select, low: int, high: int) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for batch in changes_between(reader, low, high):
        for group in select(batch).groups:
            name = "messages" if group.relation == MESSAGES else group.relation.qualified
            counts[name] += len(group)
    return {table: count for table, count in sorted(counts.items()) if count}


def checkpoint(config: Config, flow: str, store: CheckpointStore) -> int | None:
    """Where a flow is; None where it has never begun. Asks the engine, or where none runs the sink."""
    document = flow_status(config, flow)
    if document is not None and document.get("checkpoint") is not None:
        return int(document["checkpoint"])
    paused = Wishes(store).paused(flow)
    if paused is not None and paused.reached is not None:
        return paused.reached
    return _stopped_at(config, flow, store)


def _stopped_at(config: Config, flow: str, store: CheckpointStore) -> int | None:
    """Where a flow that no process delivers has stopped."""
    stored = store.get(flow)
    if stored is None:
        return None
    meant = plan(config, flow)
    sink = _sink(config, meant)
    if not isinstance(sink, TransactionalSink):
        return stored.offset
    try:
        lock = take_lock(
            Places(config.engine.state).flow_lock(flow), what="the flow is being delivered", hint=""
        )
    except EnvironmentFault:
        return stored.offset
    try:
        return asyncio.run(_ask(sink)) or stored.offset
    except CdcflowError:
        return stored.offset
    finally:
        lock.release()


async def _ask(sink: TransactionalSink) -> int | None:
    try:
        await sink.open()
        return await sink.checkpoint()
    finally:
        await sink.close()


# What became of it.


def flow_status(config: Config, flow: str) -> Mapping[str, Any] | None:
    """What a running engine says of a flow; None where none runs, or it does not know the flow."""
    document = control.status(config.engine.state) or {}
    return next((found for found in document.get("flows", ()) if found["name"] == flow), None)


def settled(config: Config, flow: str, done: Callable[[Mapping[str, Any]], bool]) -> Mapping[str, Any] | None:
    """Waits until a running engine says of a flow what `done` looks for, and gives what it says then; None
    where no engine runs or it takes long."""
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        document = flow_status(config, flow)
        if document is None:
            return None
        if done(document):
            return document
        time.sleep(LOOK_SECONDS)
    return None
