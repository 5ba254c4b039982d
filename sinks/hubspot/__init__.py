"""`type: hubspot`: rows become contacts, companies, deals, tickets, custom objects, by a unique property."""

from cdcflow.sink import Batching, SinkPlugin
from cdcflow_sinks.hubspot.settings import HubSpotOptions, HubSpotSettings
from cdcflow_sinks.hubspot.sink import HubSpotSink

__all__ = ["HubSpotOptions", "HubSpotSettings", "HubSpotSink", "plugin"]

plugin = SinkPlugin(
    name="hubspot",
    settings=HubSpotSettings,
    options=HubSpotOptions,
    create=HubSpotSink,
    # Fifty calls of a hundred records, so that at most a call in fifty is not full; of what a Professional
    # account allows that is three seconds.
    batching=Batching(max_changes=5_000, max_bytes=32 << 20),
    writes="states",
    formulas=lambda options: options.formulas,
    account=lambda settings: settings.account,
)
