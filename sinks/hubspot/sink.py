"""The `hubspot` sink: rows become records of one object, matched by a unique property.

Every record ends in the last state of its row. Only states are sent that differ from what HubSpot
acknowledged last (`only_changes`), a hundred per call, several calls at a time, within the account's limits.
A record that HubSpot refuses is refused alone, with a reason that says which property and why.
"""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from cdcflow.model import Relation
from cdcflow.sink import Field, FlowContext
from cdcflow.sink.records import Mapped, Plan, Problem, RecordSink, Wanted, ledger_in
from cdcflow.sink.records.mapping import plan
from cdcflow_sinks.hubspot.client import Client
from cdcflow_sinks.hubspot.describe import (
    REQUIRED,
    STANDARD_NAMES,
    Property,
    Schema,
    problems,
    standard,
)
from cdcflow_sinks.hubspot.objects import Objects, fold
from cdcflow_sinks.hubspot.settings import HubSpotOptions, HubSpotSettings
from cdcflow_sinks.hubspot.values import matched, planned


class HubSpotSink(RecordSink):
    """See the module."""

    name: ClassVar[str] = "hubspot"
    called: ClassVar[str] = "properties"

    def __init__(self, settings: HubSpotSettings, options: HubSpotOptions, context: FlowContext) -> None:
        self._options = options
        self._client = Client(settings, context.budget)
        ledger = ledger_in(context.state)
        self._objects = Objects(self._client, options, ledger, settings.concurrency)
        super().__init__(
            self._client,
            self._objects,
            ledger,
            options,
            context.flow,
            follow=options.deletes != "ignore",
        )
        self._schema: Schema | None = None

    async def _look(self) -> Sequence[Problem]:
        self._schema = await self._read(self._options.object)
        others = {one.to: await self._read(one.to) for one in self._options.associate}
        return problems(self._options, self._schema, others)

    async def _read(self, name: str) -> Schema:
        found = await self._client.get(f"/crm/v3/properties/{name}")
        known = standard(name)
        required: Sequence[str] = REQUIRED.get(known or "", ())
        if known is None:
            described = await self._client.get(f"/crm/v3/schemas/{name}")
            required = described.get("requiredProperties") or ()
        return Schema.read(known or name, found.get("results") or (), required)

    async def _account(self) -> str:
        assert self._schema is not None
        return f"{await self._client.account()} {self._schema.object}"

    def _noted(self) -> object:
        assert self._schema is not None
        own = self._schema.properties
        return {name: (own[name].type, own[name].multiple) for name in self._names}

    def _recall(self, noted: Any) -> None:
        kinds: Mapping[str, Sequence[Any]] = noted or {}
        found = {name: Property(name, *kinds.get(name, ())) for name in self._names}
        self._schema = Schema(self._options.object, found)

    @property
    def _names(self) -> Sequence[str]:
        return (self._options.matched[0], *self._options.mapped)

    def _shown(self, record: Wanted) -> str:
        return self._objects.shown(record)

    async def _objects_there(self) -> Sequence[str]:
        found = await self._client.get("/crm/v3/schemas")
        listed = found.get("results", ()) if isinstance(found, Mapping) else ()
        return [*STANDARD_NAMES, *sorted(str(one.get("name")) for one in listed)]

    async def _fields_of(self, name: str) -> Sequence[Field]:
        schema = await self._read(name)
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
            for one in schema.properties.values()
        ]

    def _columns(self) -> Sequence[str]:
        return [*super()._columns(), *(one.column for one in self._options.associate)]

    def _bound(self, relation: Relation) -> Plan | None:
        assert self._schema is not None, "the sink is not open"
        own, options = self._schema.properties, self._options
        name, column = options.matched
        fields = [
            Mapped(one, source, planned(own[one], options.nulls)) for one, source in options.mapped.items()
        ]
        for one in options.associate:
            # Matched by text: the property's own form of it.
            fields.append(Mapped(one.field, one.column, planned(Property(one.field), "clear")))
        match = Mapped(name, column, matched(own[name]))
        return plan(f"flow {self._flow}", relation, match, fields, partial(fold, name))
