"""`type: slack`: a message per change, through an incoming webhook."""

from cdcflow.sink import Batching, SinkPlugin
from cdcflow_slack.sink import SlackOptions, SlackSettings, SlackSink

__all__ = ["SlackOptions", "SlackSettings", "SlackSink", "plugin"]

plugin = SinkPlugin(
    name="slack",
    settings=SlackSettings,
    options=SlackOptions,
    create=SlackSink,
    # A message per second: a batch of a few is a few seconds of work, which a stop has to wait for.
    batching=Batching(max_changes=10),
    # Every change is a message of its own; a later one does not make it needless.
    writes="events",
    account=lambda settings: settings.url.get_secret_value(),
)
