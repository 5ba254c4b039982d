"""The `duckdb` sink: a warehouse file whose tables equal the source's, transaction by transaction."""

from cdcflow.sink import Batching, FlowContext, SinkOptions, SinkPlugin
from cdcflow_sinks.duckdb.settings import DuckDBSettings
from cdcflow_sinks.duckdb.sink import DuckDBSink

__all__ = ["DuckDBSettings", "DuckDBSink", "plugin"]


def _create(settings: DuckDBSettings, options: SinkOptions, context: FlowContext) -> DuckDBSink:
    return DuckDBSink(settings, options, context)


plugin = SinkPlugin(
    name="duckdb",
    settings=DuckDBSettings,
    create=_create,
    # A transaction costs the same however little it brings (a scan of the key column, a commit to
    # disk), so batches are large; the bytes bound the worker's memory.
    batching=Batching(max_changes=50_000, max_bytes=16 << 20),
    exclusive=lambda settings: str(settings.path.resolve()),
)
