"""The `duckdb` sink: a warehouse file whose tables equal the source's, batch by batch.

A batch and the flow's checkpoint (table `cdcflow.checkpoint`) are one DuckDB transaction, so a replay
changes nothing. Column types are those of `cdcflow.types`, where every value is exact: numeric without a
precision, json, arrays and whatever else DuckDB has no exact type for are VARCHAR. A value that its column
cannot hold (NaN in a DECIMAL, an infinite interval, a moment after the year 294247) stops the flow with
the ALTER TABLE that makes the column VARCHAR; the sink then writes Postgres' own text there.
"""

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
    writes="states",
    # A transaction in a thread cannot be taken back from outside.
    deadline=None,
    exclusive=lambda settings: str(settings.path.resolve()),
    marked=True,
)
