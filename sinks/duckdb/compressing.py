"""What DuckDB is spared: it tries every way that it has to compress a column, and text is the dearest.

A symbol table (FSST) halves what text takes in the file, for a third of the CPU of storing it: only where
`compression` is `full`. A dictionary costs a fifth to try, and where hardly any text comes twice it is never
chosen: then it is not tried.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import duckdb
import pyarrow.compute as pc

from cdcflow.model import Group
from cdcflow_sinks.duckdb.settings import Compression
from cdcflow_sinks.duckdb.target import Target

#: What is not tried, in DuckDB's words.
NOT_TRIED: Mapping[Compression, str] = {"light": "FSST", "full": ""}

#: Rows of a batch that are looked at.
_SAMPLE = 1_024


@contextmanager
def compressing(connection: Any, target: Target, group: Group, compression: Compression) -> Iterator[None]:
    """For the insert of the rows of `group`, which DuckDB compresses as it comes. Of what is left of it for a
    checkpoint, a dictionary is tried again."""
    if not _all_differ(target, group):
        yield
        return
    usual = NOT_TRIED[compression]
    do_not_try(connection, f"Dictionary,{usual}" if usual else "Dictionary")
    try:
        yield
    finally:
        # In a failed transaction this fails too; then the next one does it.
        with suppress(duckdb.Error):
            do_not_try(connection, usual)


def do_not_try(connection: Any, methods: str) -> None:
    """For the instance that the connection is of."""
    connection.execute(f"SET disabled_compression_methods = '{methods}'")


def _all_differ(target: Target, group: Group) -> bool:
    """Whether in every column of text most values differ."""
    texts = [i for i, kind in enumerate(target.kinds) if kind == "VARCHAR"]
    found = [group.new(column)[:_SAMPLE].drop_null() for column in texts]
    samples = [values for values in found if len(values)]
    return bool(samples) and all(2 * pc.count_distinct(values).as_py() > len(values) for values in samples)
