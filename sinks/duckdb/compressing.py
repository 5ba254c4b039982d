"""What a large insert is spared: DuckDB tries every way that it has to compress a column, and of text a
dictionary is the dearest to try (a fifth of the whole insert). Where hardly any text comes twice it is never
chosen."""

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import pyarrow.compute as pc

from cdcflow.model import Group
from cdcflow_sinks.duckdb.target import Target

#: Rows of a batch that are looked at.
_SAMPLE = 1_024


@contextmanager
def compressing(connection: Any, target: Target, group: Group) -> Iterator[None]:
    """For the insert of the rows of `group`, which DuckDB compresses as it comes. What is left of it for a
    checkpoint is compressed in every way."""
    if not _all_differ(target, group):
        yield
        return
    connection.execute("SET disabled_compression_methods = 'dictionary'")
    try:
        yield
    finally:
        # In a failed transaction this fails too; then the next one does it.
        with suppress(duckdb.Error):
            connection.execute("RESET disabled_compression_methods")


def _all_differ(target: Target, group: Group) -> bool:
    """Whether in every column of text most values differ."""
    texts = [i for i, kind in enumerate(target.kinds) if kind == "VARCHAR"]
    found = [group.new(column)[:_SAMPLE].drop_null() for column in texts]
    samples = [values for values in found if len(values)]
    return bool(samples) and all(2 * pc.count_distinct(values).as_py() > len(values) for values in samples)
