"""Which batch was being written when a process ended, so that it can be given again exactly as it was: for
destinations that know a request for several changes by an id of its own (`SinkPlugin.repeats`)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from cdcflow.delivery.checkpoints import CheckpointStore
from cdcflow.delivery.feed import Piece, joined, pieces, position_at
from cdcflow.journal import Reader
from cdcflow.model import ORIGIN, Batch
from cdcflow.sink import Batching


class InFlight:
    """By flow. Raises EnvironmentFault when the state database cannot be used."""

    def __init__(self, path: Path) -> None:
        self._store = CheckpointStore(path, "in_flight_table")

    def begin(self, flow: str, batch: Batch, delivered: Batch | None = None) -> None:
        """It is about to be written; durable on return, with the checkpoint behind what is `delivered`: one
        fsync between two batches and not two."""
        with self._store.transaction():
            if delivered is not None:
                self._store.save(flow, delivered.end, delivered.last)
            self._store.write("REPLACE INTO in_flight VALUES (?, ?, ?)", flow, batch.base, batch.end)

    def of(self, flow: str, offset: int) -> int | None:
        """Where the batch ends that began at the flow's checkpoint, or None."""
        found = self._store.one("SELECT end_offset FROM in_flight WHERE flow = ? AND base = ?", flow, offset)
        return None if found is None else int(found[0])

    def close(self) -> None:
        self._store.close()


async def read_again(
    reader: Reader, step: Callable[[Batch], Batch], limits: Batching, offset: int, end: int | None
) -> Sequence[Batch]:
    """The changes from one offset to another, as a batch. Empty where there is nothing to repeat.

    Raises JournalError where the journal does not hold them any more.
    """
    return [] if end is None else await asyncio.to_thread(_read_again, reader, step, limits, offset, end)


def _read_again(
    reader: Reader, step: Callable[[Batch], Batch], limits: Batching, offset: int, end: int
) -> Sequence[Batch]:
    found: list[Piece] = []
    while offset < end:
        frames = reader.read(offset, max_changes=end - offset, max_bytes=limits.max_bytes)
        if not frames:
            # It was cut off the journal's end, with what was written of it: a power cut.
            break
        for frame in frames:
            if frame.end > end:
                last = position_at(frame, end - frame.base - 1) or ORIGIN
                frame = replace(frame.slice(0, end - frame.base), last=last)
            found += pieces(frame, step, limits)
            offset = frame.end
            if offset >= end:
                break
    return [piece.batch for piece in joined(found)] if found else []
