"""The `salesforce` sink: rows become records of one object, matched by an external ID field.

Every record ends in the last state of its row. Only states are sent that differ from what Salesforce
acknowledged last (`only_changes`): two hundred per call, or from `bulk` records on in one job. A record that
Salesforce refuses is refused alone, with a reason that says which field and why; a locked one goes again.
"""

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cdcflow.errors import DeliveryError, Permanent
from cdcflow.model import Batch, Relation
from cdcflow.sink import ExpectedTable, Field, Finding, FlowContext, Rendered
from cdcflow.sink.records import Ledger, Mapped, Plan, Writer, columns_of, preview
from cdcflow.sink.records.mapping import judge_columns, plan
from cdcflow_sinks.salesforce.bulk import Bulk
from cdcflow_sinks.salesforce.client import Client
from cdcflow_sinks.salesforce.describe import Described, FieldInfo, Problem, parents, problems
from cdcflow_sinks.salesforce.objects import Objects
from cdcflow_sinks.salesforce.settings import SalesforceOptions, SalesforceSettings
from cdcflow_sinks.salesforce.values import matched, planned

LEDGER = "ledger.sqlite"
JOB = "bulk.json"

#: The fact in the ledger that has the fields of the org's objects, as it describes them.
FIELDS = "fields"


class SalesforceSink:
    """See the module."""

    def __init__(
        self, settings: SalesforceSettings, options: SalesforceOptions, context: FlowContext
    ) -> None:
        self._options = options
        self._flow = context.flow
        self._client = Client(settings, context.budget)
        self._ledger = Ledger(context.state / LEDGER)
        bulk = Bulk(self._client, options, context.state / JOB)
        self._objects = Objects(self._client, options, bulk, settings.concurrency)
        self._writer = Writer(
            self._objects,
            self._ledger,
            follow=options.deletes != "ignore",
            only_changes=options.only_changes,
        )
        self._plans: dict[str, Plan] = {}
        self._others: dict[str, Described] = {}
        #: What the org has said of the fields that are mapped, by object.
        self._raw: dict[str, list[Any]] = {}

    async def open(self) -> None:
        """Reads the object's fields. Raises Permanent where the mapping does not fit them."""
        await self._client.open()
        wrong = await self._look()
        if wrong:
            raise Permanent(
                "; ".join(one.message for one in wrong), hint="; ".join(one.remedy for one in wrong)
            )
        # Another org, object or field is another place: nothing of this ledger is there.
        identity = f"salesforce {self._client.org} {self._options.object} {self._options.matched[0]}"
        await asyncio.to_thread(self._ledger.open, identity, keep=self._options.only_changes)
        await asyncio.to_thread(self._ledger.note, FIELDS, orjson.dumps(self._raw).decode())
        self._plans = {}

    async def prepare(self, relations: Sequence[Relation]) -> None:
        for relation in relations:
            self._plan(relation)

    async def write(self, batch: Batch) -> None:
        plans = (self._plan(group.relation) for group in batch.groups)
        await self._writer.write(batch, {one.relation.fingerprint: one for one in plans if one is not None})

    def preview(self, batch: Batch) -> Sequence[Rendered]:
        """By the org's fields as they were when the flow ran last; before its first run their types are not
        known, and values are text."""
        options, there = self._options, self._ledger.look()
        try:
            raw = orjson.loads((self._ledger.fact(FIELDS) if there else None) or b"{}")
            self._know({name: Described.read(name, fields) for name, fields in raw.items()})
            self._plans = {}
            plans = (self._plan(group.relation) for group in batch.groups)
            return preview(
                batch,
                {one.relation.fingerprint: one for one in plans if one is not None},
                self._ledger if there else None,
                follow=options.deletes != "ignore",
                only_changes=options.only_changes,
                target=f"salesforce {options.object}",
                text=self._objects.shown,
            )
        finally:
            self._ledger.close()

    def _know(self, found: Mapping[str, Described]) -> None:
        """Takes the fields of objects as given; where the object is not among them, as text."""
        own, names = self._options.object, [self._options.matched[0], *self._options.mapped]
        plain = {name: FieldInfo(name) for name in names if "." not in name}
        self._objects.described = found.get(own) or Described(own, plain)
        self._others = {name: one for name, one in found.items() if name != own}

    async def close(self) -> None:
        await self._client.close()
        self._ledger.close()

    async def probe(self) -> Sequence[Finding]:
        subject = f"salesforce {self._options.object}"
        try:
            await self._client.open()
            wrong = await self._look()
        except DeliveryError as error:
            return [Finding("error", subject, str(error), error.hint)]
        finally:
            await self._client.close()
        if wrong:
            return [Finding("error", subject, one.message, one.remedy) for one in wrong]
        count = len(self._options.mapped)
        return [
            Finding("ok", subject, f"matched by {self._options.matched[0]}, {count} more fields are mapped")
        ]

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
        columns = columns_of(self._options)
        return judge_columns(f"flow {self._flow}", columns, tables)

    def forget(self) -> int:
        return self._ledger.forget()

    async def objects(self) -> Sequence[str]:
        try:
            await self._client.open()
            found = await self._client.get("/sobjects")
        finally:
            await self._client.close()
        listed = found.get("sobjects", ()) if isinstance(found, Mapping) else ()
        return sorted(str(one.get("name")) for one in listed)

    async def fields(self, name: str) -> Sequence[Field]:
        try:
            await self._client.open()
            described = await self._read(name)
        finally:
            await self._client.close()
        return [
            Field(
                one.name,
                one.label or one.name,
                one.type,
                unique=one.external_id,
                required=one.required,
                read_only=not one.writable,
                options=one.options,
            )
            for one in sorted(described.fields.values(), key=lambda one: one.name)
        ]

    async def _look(self) -> list[Problem]:
        """What is wrong with the mapping, as the org is now."""
        self._objects.described = own = await self._read(self._options.object)
        self._others = {name: await self._read(name) for name in sorted(parents(self._options, own))}
        return problems(self._options, own, self._others)

    async def _read(self, name: str) -> Described:
        found = await self._client.get(f"/sobjects/{name}/describe")
        fields = found.get("fields") or []
        meant = {part for one in (self._options.matched[0], *self._options.mapped) for part in one.split(".")}
        self._raw[name] = [
            one for one in fields if one.get("name") in meant or one.get("relationshipName") in meant
        ]
        return Described.read(name, fields)

    def _field(self, name: str) -> FieldInfo:
        """A field of the object, or of the parent that a path names."""
        own = self._objects.described
        relationship, dot, key = name.partition(".")
        if not dot:
            return own.fields[name]
        reference = own.reference(relationship)
        other = self._others.get(reference.parents[0]) if reference is not None else None
        # A parent is named by text, whatever the field's type.
        return FieldInfo(key if other is None else other.fields[key].name)

    def _plan(self, relation: Relation) -> Plan | None:
        bound = self._plans.get(relation.fingerprint)
        if bound is None:
            name, column = self._options.matched
            fields = [
                Mapped(one, source, planned(self._field(one), self._options.nulls, one))
                for one, source in self._options.mapped.items()
            ]
            match = Mapped(name, column, matched(self._field(name)))
            found = plan(f"flow {self._flow}", relation, match, fields, self._objects.fold)
            if found is None:
                return None
            bound = self._plans[relation.fingerprint] = found
        return bound
