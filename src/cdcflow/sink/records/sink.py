"""A sink of records, but for what is its destination's own: see `RecordSink`."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

import orjson

from cdcflow.errors import DeliveryError, Permanent
from cdcflow.model import Batch, Relation
from cdcflow.model.expected import ExpectedTable
from cdcflow.model.finding import Finding
from cdcflow.sink.describing import Field
from cdcflow.sink.protocol import Rendered
from cdcflow.sink.records.collapse import Plan
from cdcflow.sink.records.ledger import Ledger
from cdcflow.sink.records.mapping import RecordOptions, columns_of, judge_columns
from cdcflow.sink.records.preview import preview
from cdcflow.sink.records.writer import Destination, Wanted, Writer

_LEDGER = "ledger.sqlite"

#: The fact in the ledger that a preview goes by.
_NOTED = "noted"


@dataclass(frozen=True)
class Problem:
    """What is wrong with a mapping, and what to do."""

    message: str
    remedy: str


class Session(Protocol):
    """Whatever calls the destination."""

    async def open(self) -> None: ...

    async def close(self) -> None: ...


def ledger_in(state: Path) -> Ledger:
    """A flow's ledger, in its state folder."""
    return Ledger(state / _LEDGER)


class RecordSink:
    """Implements Sink, SchemaSink, Probe, Previews, Judges, Remembers and Describes over a `Destination`. A
    subclass answers the methods at the end, which are asked while the session is open, but for a preview."""

    #: What people know the destination by, in findings and as the beginning of the ledger's identity.
    name: ClassVar[str]
    #: What it calls the fields of its records.
    called: ClassVar[str] = "fields"

    def __init__(
        self,
        session: Session,
        destination: Destination,
        ledger: Ledger,
        options: RecordOptions,
        flow: str,
        *,
        follow: bool,
    ) -> None:
        self._session = session
        self._ledger = ledger
        self._mapping = options
        self._flow = flow
        self._follow = follow
        self._writer = Writer(destination, ledger, follow=follow, only_changes=options.only_changes)
        self._plans: dict[str, Plan] = {}

    async def open(self) -> None:
        """Reads what the destination says of its records. Raises Permanent where the mapping does not fit."""
        await self._session.open()
        wrong = await self._look()
        if wrong:
            raise Permanent(
                "; ".join(one.message for one in wrong), hint="; ".join(one.remedy for one in wrong)
            )
        # Another account, object or field is another place: nothing of this ledger is there.
        identity = f"{self.name} {await self._account()} {self._mapping.matched[0]}"
        await asyncio.to_thread(self._ledger.open, identity, keep=self._mapping.only_changes)
        await asyncio.to_thread(self._ledger.note, _NOTED, orjson.dumps(self._noted()).decode())
        self._plans = {}

    async def prepare(self, relations: Sequence[Relation]) -> None:
        for relation in relations:
            self._plan(relation)

    async def write(self, batch: Batch) -> None:
        plans = (self._plan(group.relation) for group in batch.groups)
        await self._writer.write(batch, {one.relation.fingerprint: one for one in plans if one is not None})

    def preview(self, batch: Batch) -> Sequence[Rendered]:
        """By what the destination said of its fields when the flow ran last; before its first run their types
        are not known, and values are text."""
        there = self._ledger.look()
        try:
            noted = self._ledger.fact(_NOTED) if there else None
            self._recall(None if noted is None else orjson.loads(noted))
            self._plans = {}
            plans = (self._plan(group.relation) for group in batch.groups)
            return preview(
                batch,
                {one.relation.fingerprint: one for one in plans if one is not None},
                self._ledger if there else None,
                follow=self._follow,
                only_changes=self._mapping.only_changes,
                target=f"{self.name} {self._mapping.object}",
                text=self._shown,
            )
        finally:
            self._ledger.close()

    async def close(self) -> None:
        await self._session.close()
        self._ledger.close()

    async def probe(self) -> Sequence[Finding]:
        subject = f"{self.name} {self._mapping.object}"
        try:
            await self._session.open()
            wrong = await self._look()
        except DeliveryError as error:
            return [Finding("error", subject, str(error), error.hint)]
        finally:
            await self._session.close()
        if wrong:
            return [Finding("error", subject, one.message, one.remedy) for one in wrong]
        match, count = self._mapping.matched[0], len(self._mapping.mapped)
        return [Finding("ok", subject, f"matched by {match}, {count} more {self.called} are mapped")]

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
        return judge_columns(f"flow {self._flow}", self._columns(), tables)

    def forget(self) -> int:
        return self._ledger.forget()

    async def objects(self) -> Sequence[str]:
        try:
            await self._session.open()
            return await self._objects_there()
        finally:
            await self._session.close()

    async def fields(self, name: str) -> Sequence[Field]:
        try:
            await self._session.open()
            found = await self._fields_of(name)
        finally:
            await self._session.close()
        return sorted(found, key=lambda one: one.name)

    def _plan(self, relation: Relation) -> Plan | None:
        bound = self._plans.get(relation.fingerprint)
        if bound is None:
            bound = self._bound(relation)
            if bound is not None:
                self._plans[relation.fingerprint] = bound
        return bound

    def _columns(self) -> Sequence[str]:
        """Every column that the flow's options name."""
        return columns_of(self._mapping)

    async def _look(self) -> Sequence[Problem]:
        """Reads what there is, for what comes later, and says what is wrong with the mapping to it."""
        raise NotImplementedError

    async def _account(self) -> str:
        """What names the account and the kind of record, once `_look` has found nothing wrong."""
        raise NotImplementedError

    def _bound(self, relation: Relation) -> Plan | None:
        """The plan of a table; None where no record is made of it."""
        raise NotImplementedError

    def _noted(self) -> object:
        """What `_bound` has to know of the destination, for JSON, once `_look` has found nothing wrong."""
        raise NotImplementedError

    def _recall(self, noted: Any) -> None:
        """Takes what `_noted` gave when the flow ran last, in the place of a look; None: it never ran."""
        raise NotImplementedError

    def _shown(self, record: Wanted) -> str:
        """For people: what would be asked for."""
        raise NotImplementedError

    async def _objects_there(self) -> Sequence[str]:
        """The kinds of records that the account has."""
        raise NotImplementedError

    async def _fields_of(self, name: str) -> Sequence[Field]:
        """The fields of one of them, in any order."""
        raise NotImplementedError
