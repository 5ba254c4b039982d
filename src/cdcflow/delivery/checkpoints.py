"""The engine's own checkpoints, for sinks that cannot keep them with the data. A checkpoint that `save`
has returned from survives a power cut, and any number of processes may use the store at once."""

import time
from dataclasses import dataclass
from pathlib import Path

from cdcflow import sql
from cdcflow.delivery.database import Database
from cdcflow.model import ORIGIN, Position


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a flow's sink holds everything.

    `offset` is the next offset to read. `position` is that of the change right before it, or `ORIGIN`
    where it is not known; it tells whether a journal is still the one the checkpoint was made in.
    `updated` is in seconds since 1970.
    """

    offset: int
    position: Position
    updated: float


class CheckpointStore(Database):
    """Checkpoints by flow, in the state database; `tables` are others that are written together with them."""

    def __init__(self, path: Path, *tables: str) -> None:
        super().__init__(path, "checkpoint_table", *tables)

    def get(self, flow: str) -> Checkpoint | None:
        """None for a flow that never had one."""
        row = self.one(sql.load("checkpoint_get"), flow)
        return None if row is None else Checkpoint(row[0], Position.parse(row[1]), row[2])

    def save(self, flow: str, offset: int, position: Position = ORIGIN) -> None:
        """Durable on return. An offset behind the stored one changes nothing: checkpoints only advance."""
        self.write(sql.load("checkpoint_save"), flow, offset, str(position), time.time())
