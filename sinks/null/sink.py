"""A sink that counts changes and batches and forgets them."""

from typing import Literal

from cdcflow.model import Batch
from cdcflow.sink import SinkSettings


class NullSettings(SinkSettings):
    """Nothing can be set."""

    type: Literal["null"] = "null"


class NullSink:
    """`changes` and `batches` are what was written since the sink was made."""

    def __init__(self) -> None:
        self.changes = 0
        self.batches = 0

    async def open(self) -> None:
        """Does nothing: there is nothing to open."""

    async def write(self, batch: Batch) -> None:
        self.changes += len(batch)
        self.batches += 1

    async def close(self) -> None:
        """Does nothing; the counts stay readable."""
