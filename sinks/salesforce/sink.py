"""The `salesforce` sink: rows become records of one object, matched by an external ID field.

Every record ends in the last state of its row. Only states are sent that differ from what Salesforce
acknowledged last (`only_changes`): two hundred per call, or from `bulk` records on in one job. A record that
Salesforce refuses is refused alone, with a reason that says which field and why; a locked one goes again.
"""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from cdcflow.model import Relation
from cdcflow.sink import Field, FlowContext
from cdcflow.sink.records import Mapped, Plan, Problem, RecordSink, Wanted, ledger_in
from cdcflow.sink.records.mapping import plan
from cdcflow_sinks.salesforce.bulk import Bulk
from cdcflow_sinks.salesforce.client import Client
from cdcflow_sinks.salesforce.describe import Described, FieldInfo, parents, problems
from cdcflow_sinks.salesforce.objects import Objects
from cdcflow_sinks.salesforce.settings import SalesforceOptions, SalesforceSettings
from cdcflow_sinks.salesforce.values import matched, planned

JOB = "bulk.json"


class SalesforceSink(RecordSink):
    """See the module."""

    name: ClassVar[str] = "salesforce"

    def __init__(
        self, settings: SalesforceSettings, options: SalesforceOptions, context: FlowContext
    ) -> None:
        self._options = options
        self._client = Client(settings, context.budget)
        bulk = Bulk(self._client, options, context.state / JOB)
        self._objects = Objects(self._client, options, bulk, settings.concurrency)
        super().__init__(
            self._client,
            self._objects,
            ledger_in(context.state),
            options,
            context.flow,
            follow=options.deletes != "ignore",
        )
        self._others: dict[str, Described] = {}
        #: What the org said of the fields of objects.
        self._said: dict[str, list[Mapping[str, Any]]] = {}

    async def _look(self) -> Sequence[Problem]:
        self._objects.described = own = await self._read(self._options.object)
        self._others = {name: await self._read(name) for name in sorted(parents(self._options, own))}
        return problems(self._options, own, self._others)

    async def _read(self, name: str) -> Described:
        found = await self._client.get(f"/sobjects/{name}/describe")
        self._said[name] = fields = found.get("fields") or []
        return Described.read(name, fields)

    async def _account(self) -> str:
        return f"{self._client.org} {self._options.object}"

    def _noted(self) -> object:
        meant = {part for name in self._names for part in name.split(".")}
        return {
            name: [one for one in fields if {one.get("name"), one.get("relationshipName")} & meant]
            for name, fields in self._said.items()
        }

    def _recall(self, noted: Any) -> None:
        said: Mapping[str, list[Any]] = noted or {}
        found = {name: Described.read(name, fields) for name, fields in said.items()}
        plain = {name: FieldInfo(name) for name in self._names if "." not in name}
        own = self._options.object
        self._objects.described = found.get(own) or Described(own, plain)
        self._others = found

    @property
    def _names(self) -> Sequence[str]:
        return (self._options.matched[0], *self._options.mapped)

    def _shown(self, record: Wanted) -> str:
        return self._objects.shown(record)

    async def _objects_there(self) -> Sequence[str]:
        found = await self._client.get("/sobjects")
        listed = found.get("sobjects", ()) if isinstance(found, Mapping) else ()
        return sorted(str(one.get("name")) for one in listed)

    async def _fields_of(self, name: str) -> Sequence[Field]:
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
            for one in (await self._read(name)).fields.values()
        ]

    def _bound(self, relation: Relation) -> Plan | None:
        name, column = self._options.matched
        fields = [
            Mapped(one, source, planned(self._field(one), self._options.nulls, one))
            for one, source in self._options.mapped.items()
        ]
        match = Mapped(name, column, matched(self._field(name)))
        return plan(f"flow {self._flow}", relation, match, fields, self._objects.fold)

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
