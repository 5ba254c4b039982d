"""A flow's checkpoint on its way to the disk while the next batch is on its way to the sink: an fsync does
not stand between two writes. It is still saved only behind what the sink holds, so a crash in between repeats
what was written meanwhile, and loses nothing.
"""

import asyncio
import time
from collections.abc import Callable

from cdcflow.model import Batch

#: Whoever delivers waits for a checkpoint that has been under way for so long, in seconds: a disk that hangs
#: must not make a restart repeat more than about this.
LATE = 1.0


class Behind:
    """Saves checkpoints, the latest only where several have come meanwhile. `save` runs in a thread and
    returns when it is durable; `failed` is called when it did not, and `settled` then tries it again."""

    def __init__(self, save: Callable[[Batch], None], failed: Callable[[], None]) -> None:
        self._save = save
        self._failed = failed
        #: The last batch that is delivered, while the checkpoint behind it is not known to be durable.
        self._latest: Batch | None = None
        self._since = 0.0
        self._task: asyncio.Task[None] | None = None
        self._broken = False

    def begin(self, batch: Batch) -> None:
        """Everything up to the end of `batch` is delivered: the checkpoint may move there."""
        self.note(batch)
        if self._task is None and not self._broken:
            self._start()

    def note(self, batch: Batch) -> None:
        """The same, for who will save it together with something else (`left`) or have it settled."""
        if self._latest is None:
            self._since = time.monotonic()
        self._latest = batch

    @property
    def late(self) -> bool:
        """Whether the checkpoint is to be waited for, by `settled`, before anything more is delivered."""
        return self._latest is not None and (self._broken or time.monotonic() - self._since > LATE)

    async def settled(self) -> None:
        """Returns when the checkpoint is durable. Raises what `save` does."""
        while self._latest is not None:
            # Shielded: a thread that writes cannot be cancelled, and what it writes still counts.
            await asyncio.shield(self._task or self._start())

    async def left(self) -> Batch | None:
        """What was noted and is nobody's yet; a save under way is waited for. Raises what `save` does."""
        if self._task is not None or self._broken:
            await self.settled()
        return self._latest

    def saved(self, batch: Batch) -> None:
        """The checkpoint is durable up to the end of `batch`."""
        self._broken = False
        self._since = time.monotonic()
        if self._latest is batch:
            self._latest = None

    def _start(self) -> asyncio.Task[None]:
        self._task = asyncio.create_task(self._run())
        # `settled` raises it again, whoever asks and if anybody does.
        self._task.add_done_callback(lambda task: task.cancelled() or task.exception())
        return self._task

    async def _run(self) -> None:
        try:
            while (batch := self._latest) is not None:
                await asyncio.to_thread(self._save, batch)
                self.saved(batch)
        except Exception:
            self._broken = True
            self._failed()
            raise
        finally:
            # Here and not when the task has ended: what is noted in between would be nobody's.
            self._task = None
