"""`type: null`: counts what it is given and keeps nothing. For measuring what comes before a sink."""

from cdcflow.sink import Batching, SinkPlugin
from cdcflow_sinks.null.sink import NullSettings, NullSink

__all__ = ["NullSettings", "NullSink", "plugin"]

plugin = SinkPlugin(
    name="null",
    settings=NullSettings,
    create=lambda _settings, _options, _context: NullSink(),
    # As large as the DuckDB sink's, so that the two can be compared.
    batching=Batching(max_changes=100_000, max_bytes=32 << 20),
)
