"""Carries out what a person has said about where a flow is to go on: see `cdcflow.delivery.moves`. Only while
the flow writes nothing, and never to a place that the journal does not hold."""

import asyncio
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from cdcflow.delivery.checkpoints import CheckpointStore
from cdcflow.delivery.feed import position_at
from cdcflow.delivery.letters import LetterStore
from cdcflow.delivery.moves import Move, Wishes
from cdcflow.errors import JournalDamaged, JournalError, Permanent
from cdcflow.journal import Reader
from cdcflow.model import ORIGIN, Batch, Position
from cdcflow.sink import Converges, RewindableSink, Sink, TransactionalSink
from cdcflow.transform import Pass

log = logging.getLogger(__name__)

#: What to do where changes cannot come again over what is there.
ONLY_WHOLE = (
    "rewind to `start`, which makes everything anew; where the journal no longer holds the beginning, have "
    "the table read anew: `cdcflow backfill start TABLE --replace`"
)


#: Read at once by who looks at a stretch of the journal.
READ_CHANGES = 50_000
READ_BYTES = 64 << 20


@dataclass(frozen=True)
class Road:
    """What changes go through on their way to a sink: `step` is what the flow makes of a batch, and `letters`
    are those that were refused. `stopping`: nobody waits for an answer any more."""

    step: Pass
    letters: LetterStore | None = None
    stopping: Callable[[], bool] = lambda: False


class _Stopping(Exception):
    """The flow is being stopped."""


async def carry_out(flow: str, reader: Reader, store: CheckpointStore, sink: Sink, road: Road) -> None:
    """Moves the flow, if that is wished. What the sink refuses is written down, and the flow goes on where
    it was. Raises what says that it may succeed later. A flow that is being stopped before anything has moved
    leaves the wish for its next start.
    """
    wishes = await asyncio.to_thread(Wishes, store)
    move = await asyncio.to_thread(wishes.move, flow)
    if move is None or move.refused:
        return
    try:
        position = await _move(flow, reader, move, sink, road)
    except _Stopping:
        return
    except (Permanent, JournalError) as error:
        reason = error.told
        log.warning("flow %s cannot go on at offset %d: %s", flow, move.offset, reason)
        await asyncio.to_thread(wishes.refused, flow, move, reason)
        return
    await asyncio.to_thread(wishes.carried_out, flow, move, position)
    log.info("flow %s goes on at offset %d, as %s wished", flow, move.offset, move.who)


async def _move(flow: str, reader: Reader, move: Move, sink: Sink, road: Road) -> Position:
    first, end = reader.first_offset(), reader.head().offset
    if not first <= move.offset <= end:
        raise JournalError(f"the journal holds offsets {first} to {end}, not {move.offset}")
    position = await asyncio.to_thread(position_before, reader, move.offset) or ORIGIN
    if isinstance(sink, TransactionalSink):
        if not isinstance(sink, RewindableSink):
            raise Permanent("the sink keeps its own checkpoint and cannot be told another one")
        whole, present = is_whole(reader, move.offset), await sink.checkpoint()
        if isinstance(sink, Converges) and not whole and present is not None and move.offset < present:
            why = await asyncio.to_thread(unrepeatable, flow, reader, sink, move.offset, present, road)
            if why:
                raise Permanent(why, hint=ONLY_WHOLE)
        await sink.move(move.offset, position, whole=whole)
    return position


def unrepeatable(flow: str, reader: Reader, sink: Converges, low: int, high: int, road: Road) -> str:
    """Why the changes between two offsets may not come to the sink a second time; empty where they may.
    Raises as the reader and the flow's steps do."""
    letters = [] if road.letters is None else road.letters.placed(flow)
    between = sum(low <= letter.offset < high for letter in letters)
    if between:
        # Among changes that come again, one that fits no row is none to refuse: it would be lost.
        return f"{between} of the flow's dead letters lie in between: deliver or discard them first"

    def given() -> Iterator[Batch]:
        for batch in changes_between(reader, low, high):
            if road.stopping():
                raise _Stopping
            yield road.step(batch)

    return sink.unrepeatable(given())


def changes_between(reader: Reader, low: int, high: int) -> Iterator[Batch]:
    """The changes from one offset up to another. Raises JournalError."""
    while low < high:
        for frame in reader.read(low, max_changes=READ_CHANGES, max_bytes=READ_BYTES):
            yield frame.slice(0, min(frame.count, high - frame.base))
            low = frame.end
            if low >= high:
                return


def position_before(reader: Reader, offset: int) -> Position | None:
    """The position of the change right before an offset; None where the journal does not hold it.

    Raises JournalDamaged.
    """
    if offset <= reader.first_offset():
        return None
    try:
        frames = reader.read(offset - 1, max_changes=1, max_bytes=1)
    except JournalDamaged:
        raise
    except JournalError:  # beyond its end
        return None
    return position_at(frames[0], 0) if frames else None


def is_whole(reader: Reader, offset: int) -> bool:
    """Whether everything that ever was in the journal comes at or behind an offset, the existing rows
    included: who begins there with nothing ends with everything."""
    rows = reader.initial_rows()
    return offset == 0 or (rows is not None and reader.first_offset() <= offset <= rows)
