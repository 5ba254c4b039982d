"""The sink's entry in `cdcflow.yaml`."""

from collections.abc import Mapping
from typing import Literal

from pydantic import Field

from cdcflow.sink import ConfigPath, SinkSettings

Compression = Literal["light", "full"]


class DuckDBSettings(SinkSettings):
    """A DuckDB file that holds the tables' current state."""

    #: The warehouse's file. It is made if missing; its directory must exist.
    path: ConfigPath
    #: Source schema → schema in the warehouse. A schema that is not named keeps its name.
    schemas: Mapping[str, str] = Field(default_factory=dict)
    #: A column that the source drops stays here as `name (dropped N)`, N being its number at the source,
    #: or is dropped too. What is kept are the values of rows that do not change any more.
    dropped_columns: Literal["keep", "drop"] = "keep"
    #: ALTER … TYPE rewrites rows without sending them. `widen`: a change to a wider type is repeated
    #: here, as though it had no USING that changes values. `stop`: only what the server provably did
    #: without rewriting is.
    type_changes: Literal["widen", "stop"] = "widen"
    #: How text is stored. `light`: by a dictionary where that saves something, else as it is. `full`: with
    #: symbol tables too (FSST), which makes the files of most tables half as large, and stores a fifth fewer
    #: rows a second. It counts for what is written from then on.
    compression: Compression = "light"
    #: Threads of DuckDB. Two keep a core each for conversion and insertion busy at the sizes of a batch.
    threads: int = Field(default=2, ge=1)
    #: What DuckDB may use before it spills to `<path>.tmp`: it wants 125 MB per thread (DuckDB's guide to
    #: performance, "Environment"). The process takes about 150 MB more. A single value needs several times
    #: its own size, and deletes and updates all over a large table 256 kB for each of its row groups: at
    #: 256 MB some 9 MB for each million rows, at 1 GB and two threads 2 MB (`database.row_group`).
    memory_limit: str = Field(default="256MB", pattern=r"^\d+(\.\d+)? ?(KB|MB|GB|KiB|MiB|GiB)$")
