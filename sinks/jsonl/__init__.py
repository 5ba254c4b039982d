"""`type: jsonl`: files of events in a directory, one JSON object per line, each change exactly once."""

from cdcflow.sink import Batching, SinkPlugin
from cdcflow_sinks.jsonl.settings import JsonlSettings, Rotate
from cdcflow_sinks.jsonl.sink import JsonlSink

__all__ = ["JsonlSettings", "JsonlSink", "Rotate", "plugin"]

plugin = SinkPlugin(
    name="jsonl",
    settings=JsonlSettings,
    create=lambda settings, _options, context: JsonlSink(settings, context),
    # An fsync per batch is the price of a batch, so a backlog is better written in large ones; 16 MB of
    # Postgres' text is about 100 MB as Python values.
    batching=Batching(max_changes=20_000, max_bytes=16 << 20),
    # An fsync in a thread cannot be taken back.
    deadline=None,
)
