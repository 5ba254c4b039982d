"""The `hubspot` sink: rows become records of one object, matched by a unique property.

Every record ends in the last state of its row. Only states are sent that differ from what HubSpot
acknowledged last (`only_changes`), a hundred per call, several calls at a time, within the account's limits.
A record that HubSpot refuses is refused alone, with a reason that says which property and why.
"""

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial

import orjson

from cdcflow.errors import DeliveryError, Permanent
from cdcflow.model import Batch, Relation
from cdcflow.sink import ExpectedTable, Field, Finding, FlowContext, Rendered
from cdcflow.sink.records import Ledger, Mapped, Plan, Writer, columns_of, preview
from cdcflow.sink.records.mapping import judge_columns, plan
from cdcflow_sinks.hubspot.client import Client
from cdcflow_sinks.hubspot.describe import (
    REQUIRED,
    STANDARD_NAMES,
    Problem,
    Property,
    Schema,
    problems,
    standard,
)
from cdcflow_sinks.hubspot.objects import Objects, fold
from cdcflow_sinks.hubspot.settings import HubSpotOptions, HubSpotSettings
from cdcflow_sinks.hubspot.values import matched, planned

LEDGER = "ledger.sqlite"

#: The fact in the ledger that has the types of the account's properties by name.
KINDS = "kinds"


class HubSpotSink:
    """See the module."""

    def __init__(self, settings: HubSpotSettings, options: HubSpotOptions, context: FlowContext) -> None:
        self._options = options
        self._flow = context.flow
        self._client = Client(settings, context.budget)
        self._ledger = Ledger(context.state / LEDGER)
        self._objects = Objects(self._client, options, self._ledger, settings.concurrency)
        self._writer = Writer(
            self._objects,
            self._ledger,
            follow=options.deletes != "ignore",
            only_changes=options.only_changes,
        )
        self._schema: Schema | None = None
        self._plans: dict[str, Plan] = {}

    async def open(self) -> None:
        """Reads the account's properties. Raises Permanent where the mapping does not fit them."""
        await self._client.open()
        schema, wrong = await self._look()
        if wrong:
            raise Permanent(
                "; ".join(one.message for one in wrong), hint="; ".join(one.remedy for one in wrong)
            )
        # Another account, object or property is another place: nothing of this ledger is there.
        portal = await self._client.account()
        identity = f"hubspot {portal} {schema.object} {self._options.matched[0]}"
        await asyncio.to_thread(self._ledger.open, identity, keep=self._options.only_changes)
        known = [schema.properties[name] for name in (self._options.matched[0], *self._options.mapped)]
        kinds = {one.name: (one.type, one.multiple) for one in known}
        await asyncio.to_thread(self._ledger.note, KINDS, orjson.dumps(kinds).decode())
        self._schema = schema
        self._plans = {}

    async def prepare(self, relations: Sequence[Relation]) -> None:
        for relation in relations:
            self._plan(relation)

    async def write(self, batch: Batch) -> None:
        plans = (self._plan(group.relation) for group in batch.groups)
        await self._writer.write(batch, {one.relation.fingerprint: one for one in plans if one is not None})

    def preview(self, batch: Batch) -> Sequence[Rendered]:
        """By the account's properties as they were when the flow ran last; before its first run their types
        are not known, and values are text."""
        options, there = self._options, self._ledger.look()
        try:
            kinds = orjson.loads((self._ledger.fact(KINDS) if there else None) or b"{}")
            names = (options.matched[0], *options.mapped)
            properties = {name: Property(name, *kinds.get(name, ())) for name in names}
            self._schema = Schema(options.object, properties)
            self._plans = {}
            plans = (self._plan(group.relation) for group in batch.groups)
            return preview(
                batch,
                {one.relation.fingerprint: one for one in plans if one is not None},
                self._ledger if there else None,
                follow=options.deletes != "ignore",
                only_changes=options.only_changes,
                target=f"hubspot {options.object}",
                text=self._objects.shown,
            )
        finally:
            self._ledger.close()

    async def close(self) -> None:
        await self._client.close()
        self._ledger.close()

    async def probe(self) -> Sequence[Finding]:
        subject = f"hubspot {self._options.object}"
        try:
            await self._client.open()
            _, wrong = await self._look()
        except DeliveryError as error:
            return [Finding("error", subject, str(error), error.hint)]
        finally:
            await self._client.close()
        if wrong:
            return [Finding("error", subject, one.message, one.remedy) for one in wrong]
        count = len(self._options.mapped)
        return [
            Finding(
                "ok", subject, f"matched by {self._options.matched[0]}, {count} more properties are mapped"
            )
        ]

    def judge(self, tables: Sequence[ExpectedTable]) -> Sequence[Finding]:
        columns = [*columns_of(self._options), *(one.column for one in self._options.associate)]
        return judge_columns(f"flow {self._flow}", columns, tables)

    def forget(self) -> int:
        return self._ledger.forget()

    async def objects(self) -> Sequence[str]:
        try:
            await self._client.open()
            found = await self._client.get("/crm/v3/schemas")
        finally:
            await self._client.close()
        listed = found.get("results", ()) if isinstance(found, Mapping) else ()
        return [*STANDARD_NAMES, *sorted(str(one.get("name")) for one in listed)]

    async def fields(self, name: str) -> Sequence[Field]:
        try:
            await self._client.open()
            schema = await self._read(name)
        finally:
            await self._client.close()
        return [
            Field(
                one.name,
                one.label or one.name,
                one.type,
                unique=one.unique,
                required=one.name in schema.required,
                read_only=one.read_only,
                options=one.options,
            )
            for one in sorted(schema.properties.values(), key=lambda one: one.name)
        ]

    async def _look(self) -> tuple[Schema, list[Problem]]:
        """The object's schema, and what is wrong with the mapping to it."""
        schema = await self._read(self._options.object)
        others = {one.to: await self._read(one.to) for one in self._options.associate}
        return schema, problems(self._options, schema, others)

    async def _read(self, name: str) -> Schema:
        found = await self._client.get(f"/crm/v3/properties/{name}")
        known = standard(name)
        required: Sequence[str] = REQUIRED.get(known or "", ())
        if known is None:
            described = await self._client.get(f"/crm/v3/schemas/{name}")
            required = described.get("requiredProperties") or ()
        return Schema.read(known or name, found.get("results") or (), required)

    def _plan(self, relation: Relation) -> Plan | None:
        bound = self._plans.get(relation.fingerprint)
        if bound is None:
            assert self._schema is not None, "the sink is not open"
            own, options = self._schema.properties, self._options
            name, column = options.matched
            fields = [
                Mapped(one, source, planned(own[one], options.nulls))
                for one, source in options.mapped.items()
            ]
            for one in options.associate:
                # Matched by text: the property's own form of it.
                target = Property(one.field)
                fields.append(Mapped(one.field, one.column, planned(target, "clear")))
            found = plan(
                f"flow {self._flow}",
                relation,
                Mapped(name, column, matched(own[name])),
                fields,
                partial(fold, name),
            )
            if found is None:
                return None
            bound = self._plans[relation.fingerprint] = found
        return bound
