"""Records in parts, as many as a call takes, with several calls under way at a time."""

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from cdcflow.errors import DeliveryError
from cdcflow.sink.records.writer import Outcome, Wanted


async def in_parts(
    records: Sequence[Wanted],
    most: int,
    send: Callable[[Sequence[Wanted]], Coroutine[Any, Any, Outcome]],
    *,
    at_once: int,
) -> Outcome:
    """What became of all of them. After a failure no further part is begun, but for one that is about single
    records (`Transient.everywhere`)."""
    parts = [records[start : start + most] for start in range(0, len(records), most)]
    total, waiting = Outcome(), iter(parts)

    async def work() -> None:
        for part in waiting:
            if total.error is not None and getattr(total.error, "everywhere", True):
                return
            try:
                total.add(await send(part))
            except DeliveryError as error:
                total.fail(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(at_once, len(parts))):
            group.create_task(work())
    return total
