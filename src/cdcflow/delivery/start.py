"""Where a flow begins to read: its checkpoint, if there is one that belongs to this journal. A flow never
begins elsewhere without saying so: what cannot be read any more, or is not the same journal, is an error."""

import asyncio
from collections.abc import Awaitable, Callable

from cdcflow.delivery.checkpoints import CheckpointStore
from cdcflow.delivery.moving import position_before
from cdcflow.errors import JournalDamaged, JournalError
from cdcflow.journal import Reader
from cdcflow.model import ORIGIN
from cdcflow.sink import PositionedSink, TransactionalSink

_ANOTHER_JOURNAL = (
    "restore the journal that this flow was delivered from; or, to begin anew with this one, move away what "
    "the sink holds and give the flow a new name"
)

_BACKFILL = (
    "stop cdcflow, `cdcflow teardown --yes`, move the journal and the sinks' data away, `cdcflow setup` and "
    "`cdcflow run` read all rows anew; or let a flow of another name begin without them, with `start: latest`"
)


async def find_start(
    flow: str,
    reader: Reader,
    store: CheckpointStore,
    keeper: TransactionalSink | None,
    latest: Callable[[], Awaitable[None]] | None,
) -> int:
    """The offset to read next.

    The sink's own checkpoint wins, then the store's. A flow that has neither begins at the oldest change
    the journal holds, or at its end, once `latest` has returned; where that was is stored at once, so that
    a flow whose sink is down from the first moment misses nothing that retention removes meanwhile.

    Raises JournalError when the journal no longer holds the offset, or never did; also for a flow that is
    to begin with the existing rows, when retention has removed them: without them its sink would lack what
    nobody changes any more, and nothing would show it.
    """
    own = None if keeper is None else await keeper.checkpoint()
    stored = await asyncio.to_thread(store.get, flow)
    if own is not None:
        offset = own
    elif stored is not None:
        offset = stored.offset
    else:
        if latest is not None:
            await latest()
            offset = reader.head().offset
        else:
            offset = _earliest(flow, reader)
        await asyncio.to_thread(store.save, flow, offset)
    first = reader.first_offset()
    if offset < first:
        raise JournalError(
            f"flow {flow!r} is at offset {offset}, but the journal begins at {first}: "
            f"{first - offset} change(s) are missing",
            hint=f"the flow needs a backfill: {_BACKFILL}",
        )
    try:
        # Looks beyond a head that a power cut has left behind what is durable.
        await asyncio.to_thread(reader.read, offset, max_changes=1, max_bytes=1)
    except JournalDamaged:
        raise
    except JournalError as error:
        if offset < reader.first_offset():
            raise
        raise JournalError(
            f"flow {flow!r} is at offset {offset}, beyond the journal's end at {reader.head().offset}: the "
            "journal was replaced or went back",
            hint=_ANOTHER_JOURNAL,
        ) from error
    known = [] if stored is None else [(stored.offset, stored.position)]
    if own is not None and isinstance(keeper, PositionedSink):
        known.append((own, await keeper.position() or ORIGIN))
    for at, position in known:
        if position == ORIGIN or at <= first:
            continue
        found = await asyncio.to_thread(position_before, reader, at)
        if found != position:
            raise JournalError(
                f"flow {flow!r} was delivered up to position {position}, but the journal holds "
                f"{found or 'nothing'} before offset {at}: it is another journal",
                hint=_ANOTHER_JOURNAL,
            )
    return offset


def _earliest(flow: str, reader: Reader) -> int:
    """The oldest offset, unless existing rows lie before it."""
    first, rows = reader.first_offset(), reader.initial_rows()
    if rows is not None and first > rows:
        raise JournalError(
            f"flow {flow!r} is new, and the journal, which begins at offset {first}, no longer holds the "
            f"existing rows from offset {rows} on",
            hint=f"the flow needs a backfill: {_BACKFILL}",
        )
    return first
