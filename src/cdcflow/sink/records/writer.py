"""Brings a batch to a destination of records: collapsed, without what the destination has already, and taken
apart afterwards into what was written, what was refused and what failed.

A state that the destination refuses is refused for the change that brought it, and the state before it, if
the batch brings one, is written in its place: collapsing loses nothing that sending each change would not.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from cdcflow.errors import DeliveryError, Rejected
from cdcflow.model import Batch
from cdcflow.sink.records.collapse import Collapsed, Plan, Record, Step, collapse
from cdcflow.sink.records.ledger import Ledger, fingerprint, record_id

#: How many states of one record are tried in a `write` before its remaining changes are refused with it: each
#: try is a call, and who sends a bad state five times in a row has a fault that a sixth call will not mend.
TRIES = 3


@dataclass(frozen=True, slots=True)
class Wanted:
    """A record as it shall be: `values` to set; None: it shall be gone. `key` names it in an `Outcome`;
    `known`: the destination has acknowledged it before."""

    key: str
    match: str
    values: Mapping[str, object] | None
    known: bool = False


@dataclass(frozen=True, slots=True)
class Refusal:
    """`reason` is for people and holds no value; `answer` is what the destination said, which may."""

    reason: str
    answer: str = ""


@dataclass
class Outcome:
    """What became of the records of one call, by `Wanted.key`. What is neither done nor refused is unknown
    or was not tried, and then `error` says why."""

    done: set[str] = field(default_factory=set)
    refused: dict[str, Refusal] = field(default_factory=dict)
    error: DeliveryError | None = None

    def add(self, other: "Outcome") -> None:
        self.done |= other.done
        self.refused.update(other.refused)
        self.fail(other.error)

    def fail(self, error: DeliveryError | None) -> None:
        """Of several errors the one that waits longest for something to heal speaks for all."""
        if error is None:
            return
        if self.error is None or _weight(error) > _weight(self.error):
            self.error = error


def _weight(error: DeliveryError) -> tuple[bool, float]:
    wish = getattr(error, "retry_after", None)
    return (not hasattr(error, "retry_after"), wish if wish is not None else 0.0)


class Destination(Protocol):
    """What a sink of records does by itself. Must be repeatable: a record may be asked for again after any
    failure. Raises nothing on purpose: an error belongs into the outcome, with what was done before it."""

    async def put(self, records: Sequence[Wanted]) -> Outcome: ...

    async def remove(self, records: Sequence[Wanted]) -> Outcome: ...

    async def read(self, matches: Sequence[str], names: Sequence[str]) -> Mapping[str, Mapping[str, object]]:
        """The values of fields by folded match value, of those records that are there. Raises
        DeliveryError."""
        ...


class Writer:
    """`follow`: rows that disappear are removed. `only_changes`: records that the ledger knows to be as they
    shall be are not sent."""

    def __init__(self, destination: Destination, ledger: Ledger, *, follow: bool, only_changes: bool) -> None:
        self._destination = destination
        self._ledger = ledger
        self._follow = follow
        self._only_changes = only_changes

    async def write(self, batch: Batch, plans: Mapping[str, Plan]) -> None:
        """Returns when every record is as the batch wants it; raises as `Sink.write` does, and says what of
        the batch was written and refused before that."""
        collapsed = await asyncio.to_thread(self._collapse, batch, plans)
        names = frozenset[str]().union(*(plan.names for plan in plans.values()))
        state = _State(collapsed)
        known = await asyncio.to_thread(self._known, collapsed)
        open_records = dict(collapsed.records)
        if self._only_changes:
            for key, record in collapsed.records.items():
                mark = known.get(record_id(key))
                if mark is not None and mark == mark_of(record, names):
                    state.written(record)
                    del open_records[key]
        if known and open_records:
            await asyncio.to_thread(
                self._ledger.begin, [one for one in map(record_id, open_records) if one in known]
            )
        try:
            kept = await self._complete(open_records, names)
        except DeliveryError as error:
            raise _telling(error, state) from error.__cause__
        for attempt in range(1, TRIES + 1):
            outcome = await self._send(open_records, known, kept)
            await asyncio.to_thread(self._settle, outcome, open_records, state, names)
            open_records = state.refuse(outcome.refused, open_records, last=attempt == TRIES)
            if outcome.error is not None:
                raise _telling(outcome.error, state)
            if not open_records:
                break
        # Rows that were refused, or moved without a record of theirs being touched.
        if collapsed.moved:
            await asyncio.to_thread(self._ledger.settle, {}, (), state.moved())
        if state.refused:
            raise Rejected(state.refused, answers=state.answers)

    def _collapse(self, batch: Batch, plans: Mapping[str, Plan]) -> Collapsed:
        return collapse(batch, plans, self._ledger if self._follow else None)

    def _known(self, collapsed: Collapsed) -> dict[bytes, bytes]:
        if not collapsed.records:
            return {}
        return self._ledger.sent([record_id(key) for key in collapsed.records])

    async def _complete(self, records: Mapping[str, Record], names: frozenset[str]) -> set[str]:
        """Fetches the values that rows with another match value than before did not bring. Returns the
        records that they were fetched from, which must not be removed before these rows are written."""
        lacking: dict[str, tuple[Record, frozenset[str]]] = {}
        for key, record in records.items():
            known = record.known()
            if record.origin is not None and known is not None and names - known.keys():
                lacking[key] = (record, names - known.keys())
        origins = {record.origin for record, _ in lacking.values() if record.origin is not None}
        if not origins:
            return set()
        wanted = sorted(frozenset[str]().union(*(missing for _, missing in lacking.values())))
        there = await self._destination.read(sorted(origins), wanted)
        for record, missing in lacking.values():
            found = there.get(record.origin or "", {})
            fetched = {name: found[name] for name in missing if name in found}
            last = record.steps[-1]
            record.steps[-1] = Step(last.index, {**fetched, **(last.values or {})})
        return origins

    async def _send(
        self, records: Mapping[str, Record], known: Mapping[bytes, bytes], kept: set[str]
    ) -> Outcome:
        puts: list[Wanted] = []
        removals: list[Wanted] = []
        later: list[Wanted] = []
        for key, record in records.items():
            values = record.state()
            wanted = Wanted(key, record.match, values, record_id(key) in known)
            if values is not None:
                puts.append(wanted)
            else:
                (later if key in kept else removals).append(wanted)
        outcome = Outcome()
        # First what goes: a value that must be unique may be on its way from one record to another.
        for send, part in (
            (self._destination.remove, removals),
            (self._destination.put, puts),
            (self._destination.remove, later),
        ):
            if part and outcome.error is None:
                outcome.add(await send(part))
        return outcome

    def _settle(
        self, outcome: Outcome, records: Mapping[str, Record], state: "_State", names: frozenset[str]
    ) -> None:
        sent: dict[bytes, bytes | None] = {}
        removed = []
        for key in outcome.done:
            record = records[key]
            state.written(record)
            if record.state() is None:
                removed.append(record_id(key))
            else:
                sent[record_id(key)] = mark_of(record, names) if self._only_changes else None
        self._ledger.settle(sent if self._only_changes else {}, removed, state.moved())


def mark_of(record: Record, names: frozenset[str]) -> bytes | None:
    """The fingerprint of a record's state; None where a value was not sent by the source (TOAST), so that
    nobody here knows the whole of it."""
    known = record.known()
    return fingerprint(known) if known is not None and names <= known.keys() else None


def _telling(error: DeliveryError, state: "_State") -> DeliveryError:
    error.written = frozenset(state.done())
    error.refused = dict(state.refused)
    error.answers = dict(state.answers)
    return error


class _State:
    """What became of the changes of one batch."""

    def __init__(self, collapsed: Collapsed) -> None:
        self.refused: dict[int, str] = dict(collapsed.refused)
        self.answers: dict[int, str] = {}
        self._collapsed = collapsed
        self._complete: set[int] = set(collapsed.idle)
        #: A change may touch several records: those of its old and new match value, or all of a table.
        self._waits: dict[int, int] = {}
        for record in collapsed.records.values():
            for index in set(record.indexes):
                self._waits[index] = self._waits.get(index, 0) + 1

    def written(self, record: Record) -> None:
        for index in set(record.indexes):
            self._waits[index] -= 1
            if not self._waits[index]:
                self._complete.add(index)

    def done(self) -> set[int]:
        """The changes that need not come again. All of a record's or none: a truncate that has to come again
        for another record would undo a change behind it, and an update that comes again may lack a value
        that only a change before it brought."""
        over = self._complete | self.refused.keys()
        blocked: set[int] = set()
        if len(over) < len(self._waits):
            found = -1
            while found < len(blocked):
                found = len(blocked)
                for record in self._collapsed.records.values():
                    if any(index not in over or index in blocked for index in record.indexes):
                        blocked.update(record.indexes)
        return self._complete - blocked - self.refused.keys()

    def moved(self) -> dict[bytes, tuple[str, str | None]]:
        """What may be remembered of rows now. Not before all of a row's changes have had their end: a record
        that is still to be removed would be forgotten."""
        over = self.done() | self.refused.keys()
        moved = self._collapsed.moved
        return {key: (move.origin, move.match) for key, move in moved.items() if move.indexes <= over}

    def refuse(
        self, refused: Mapping[str, Refusal], records: Mapping[str, Record], *, last: bool
    ) -> dict[str, Record]:
        """Notes what was refused, and returns the records to try in the state that they had before."""
        again: dict[str, Record] = {}
        for key, refusal in refused.items():
            record = records[key]
            steps: Sequence[Step] = record.steps
            bad = {steps[-1].index} if not last else set(record.indexes)
            for index in bad:
                self.refused[index] = refusal.reason
                self.answers[index] = refusal.answer
            before = [step for step in steps if step.index not in bad]
            if before:
                again[key] = Record(record.match, before)
        return again
