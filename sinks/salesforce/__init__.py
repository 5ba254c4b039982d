"""`type: salesforce`: rows become records of an object, by an external ID field."""

from cdcflow.sink import Batching, SinkPlugin
from cdcflow_sinks.salesforce.settings import SalesforceOptions, SalesforceSettings
from cdcflow_sinks.salesforce.sink import SalesforceSink

__all__ = ["SalesforceOptions", "SalesforceSettings", "SalesforceSink", "plugin"]

plugin = SinkPlugin(
    name="salesforce",
    settings=SalesforceSettings,
    options=SalesforceOptions,
    create=SalesforceSink,
    # What fills bulk jobs while a backlog lasts; a job of 10,000 rows is one of Salesforce's own batches.
    batching=Batching(max_changes=10_000, max_bytes=64 << 20),
    writes="states",
    formulas=lambda options: options.formulas,
    account=lambda settings: settings.account,
    # A bulk job takes its time, and goes on by itself: a call has a timeout, a `write` has none.
    deadline=None,
)
