"""The suite that every sink must pass, against a HubSpot account, one object per table."""

from collections.abc import Iterator, Mapping, Sequence

import pytest
from pydantic import SecretStr

from cdcflow.model import Relation
from cdcflow.sink import FlowContext, Sink
from cdcflow.testing.conformance import SinkConformance
from cdcflow.testing.hubspot import HubSpot, Limits, Property
from cdcflow.testing.hubspot.server import TOKEN
from cdcflow_sinks.hubspot import HubSpotOptions, HubSpotSettings, HubSpotSink
from records import Flows, match_column, with_key


class TestHubSpotConforms(SinkConformance):
    holds = "state"
    keyless = False
    # An empty string is how a property is emptied.
    has_null = False
    large = 4_000

    @pytest.fixture(autouse=True)
    def _account(self) -> Iterator[None]:
        with HubSpot(limits=Limits(calls=10_000)) as self.hubspot:
            yield

    def make_sink(self, context: FlowContext) -> Sink:
        return Flows(self._of_table, context)

    def make_failing_sink(self, context: FlowContext) -> Sink:
        wrong = HubSpotSettings(token=SecretStr("pat-wrong"), url=self.hubspot.url)
        options = HubSpotOptions(object="contacts", match={"email": "email"}, fields={"firstname": "name"})
        return HubSpotSink(wrong, options, context)

    def rows(self, relation: Relation) -> Sequence[Mapping[str, str | None]]:
        if self._object(relation) not in self.hubspot.account.types:
            return []
        return [
            {name: record.properties.get(f"c{i}") for i, name in enumerate(relation.names)}
            for record in self.hubspot.account.living(self._object(relation))
        ]

    def _of_table(self, relation: Relation, context: FlowContext) -> HubSpotSink:
        kind = self._object(relation)
        if kind not in self.hubspot.account.types:
            columns = [Property(f"c{i}", longest=1_000_000) for i in range(len(relation.columns))]
            self.hubspot.account.add_type(kind, Property("key", unique=True), *columns)
        settings = HubSpotSettings(token=SecretStr(TOKEN), url=self.hubspot.url)
        options = HubSpotOptions(
            object=kind,
            match={"key": match_column(relation)},
            fields={f"c{i}": name for i, name in enumerate(relation.names)},
            deletes="archive",
        )
        return HubSpotSink(settings, options, context)

    @staticmethod
    def _object(relation: Relation) -> str:
        return f"table_{with_key(relation).oid}"
