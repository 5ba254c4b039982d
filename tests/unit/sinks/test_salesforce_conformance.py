"""The suite that every sink must pass, against a Salesforce org, one object per table."""

from collections.abc import Iterator, Mapping, Sequence
from typing import ClassVar

import pytest
from pydantic import SecretStr

from cdcflow.model import Relation
from cdcflow.sink import FlowContext, Sink
from cdcflow.testing.conformance import SinkConformance
from cdcflow.testing.salesforce import Field, Salesforce
from cdcflow_sinks.salesforce import SalesforceOptions, SalesforceSettings, SalesforceSink
from records import Flows, match_column, with_key


class SalesforceConformance(SinkConformance):
    holds = "state"
    keyless = False
    # A text field that is empty is null.
    has_null = False
    large = 4_000
    #: From so many records on, bulk jobs.
    bulk: ClassVar[int | None]

    @pytest.fixture(autouse=True)
    def _org(self) -> Iterator[None]:
        with Salesforce() as self.salesforce:
            yield

    def make_sink(self, context: FlowContext) -> Sink:
        return Flows(self._of_table, context)

    def make_failing_sink(self, context: FlowContext) -> Sink:
        mapping = {"object": "Contact", "match": {"Number__c": "id"}, "fields": {"LastName": "name"}}
        options = SalesforceOptions.model_validate(mapping)
        return SalesforceSink(self._settings("wrong"), options, context)

    def rows(self, relation: Relation) -> Sequence[Mapping[str, str | None]]:
        kind = self._object(relation)
        if kind not in self.salesforce.org.types:
            return []
        return [
            {name: record.values.get(f"C{i}__c") for i, name in enumerate(relation.names)}
            for record in self.salesforce.org.living(kind)
        ]

    def _of_table(self, relation: Relation, context: FlowContext) -> SalesforceSink:
        kind = self._object(relation)
        if kind not in self.salesforce.org.types:
            columns = [Field(f"C{i}__c", "textarea", 1_000_000) for i in range(len(relation.columns))]
            key = Field("Key__c", external_id=True, case_sensitive=True)
            self.salesforce.org.add_object(kind, key, *columns)
        options = SalesforceOptions(
            object=kind,
            match={"Key__c": match_column(relation)},
            fields={f"C{i}__c": name for i, name in enumerate(relation.names)},
            deletes="delete",
            bulk=self.bulk,
        )
        return SalesforceSink(self._settings(self.salesforce.client_secret), options, context)

    def _settings(self, secret: str) -> SalesforceSettings:
        return SalesforceSettings(
            url=self.salesforce.url,
            client_id=self.salesforce.client_id,
            client_secret=SecretStr(secret),
        )

    @staticmethod
    def _object(relation: Relation) -> str:
        return f"Table{with_key(relation).oid}__c"


class TestSalesforceConforms(SalesforceConformance):
    bulk = None


class TestSalesforceConformsByBulkJobs(SalesforceConformance):
    bulk = 1
