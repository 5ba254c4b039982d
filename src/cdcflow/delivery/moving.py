"""Carries out what a person has said about where a flow is to go on: see `cdcflow.delivery.moves`. Only while
the flow writes nothing, and never to a place that the journal does not hold."""

import asyncio
import logging

from cdcflow.delivery.checkpoints import CheckpointStore
from cdcflow.delivery.feed import position_at
from cdcflow.delivery.moves import Move, Wishes
from cdcflow.errors import JournalDamaged, JournalError, Permanent
from cdcflow.journal import Reader
from cdcflow.model import ORIGIN, Position
from cdcflow.sink import RewindableSink, Sink, TransactionalSink

log = logging.getLogger(__name__)


async def carry_out(flow: str, reader: Reader, store: CheckpointStore, sink: Sink) -> None:
    """Moves the flow, if that is wished. What the sink refuses is written down, and the flow goes on where
    it was. Raises what says that it may succeed later."""
    wishes = await asyncio.to_thread(Wishes, store)
    move = await asyncio.to_thread(wishes.move, flow)
    if move is None or move.refused:
        return
    try:
        position = await _move(reader, move, sink)
    except (Permanent, JournalError) as error:
        reason = f"{error} ({error.hint})" if error.hint else str(error)
        log.warning("flow %s cannot go on at offset %d: %s", flow, move.offset, reason)
        await asyncio.to_thread(wishes.refused, flow, move, reason)
        return
    await asyncio.to_thread(wishes.carried_out, flow, move, position)
    log.info("flow %s goes on at offset %d, as %s wished", flow, move.offset, move.who)


async def _move(reader: Reader, move: Move, sink: Sink) -> Position:
    first, end = reader.first_offset(), reader.head().offset
    if not first <= move.offset <= end:
        raise JournalError(f"the journal holds offsets {first} to {end}, not {move.offset}")
    position = await asyncio.to_thread(position_before, reader, move.offset) or ORIGIN
    if isinstance(sink, TransactionalSink):
        if not isinstance(sink, RewindableSink):
            raise Permanent("the sink keeps its own checkpoint and cannot be told another one")
        await sink.move(move.offset, position, whole=is_whole(reader, move.offset))
    return position


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
