"""`type: webhook`: events as JSON over HTTP, signed as Standard Webhooks say, in order per key."""

from cdcflow.sink import Batching, SinkPlugin
from cdcflow_sinks.webhook.settings import WebhookSettings
from cdcflow_sinks.webhook.sink import WebhookSink

__all__ = ["WebhookSettings", "WebhookSink", "plugin"]

plugin = SinkPlugin(
    name="webhook",
    settings=WebhookSettings,
    create=lambda settings, _options, context: WebhookSink(settings, context),
    # A second or less of sending, so that a stop need not wait long and a failure repeats little.
    # A request has a timeout of its own, and a thousand of them may take their time.
    deadline=None,
    repeats=lambda settings: bool(settings.batch),
    batching=Batching(max_changes=1_000, max_bytes=8 << 20),
)
