"""What flows on one connection know of its being down: while it is, one of them tries, and the others wait
for what it finds. With a folder, flows in all processes of an engine do; each flow has one of its own, unless
told otherwise."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from cdcflow.delivery import policy
from cdcflow.delivery.down import Down, Everywhere, Here, Known
from cdcflow.errors import Transient

#: How often who waits for others' probe looks what they have found, in seconds: they may be other processes.
LOOK_SECONDS = 0.5


class Stopping(Exception):
    """Not an error: the flow stops while it waits to be let through."""


class Breaker:
    """The state of one connection. Closed: everybody may call. Open: until its time has come nobody does, and
    then one probe at a time."""

    def __init__(self, known: Known | None = None) -> None:
        self._known = known or Here()
        self._changed = asyncio.Event()
        #: Why it is open, as was seen last; empty: it is not.
        self.reason = ""

    @asynccontextmanager
    async def attempt(self, stopping: Callable[[], bool]) -> AsyncIterator[None]:
        """Waits until a call may be made, and learns from how it ends. Raises Stopping when `stopping` says
        so meanwhile; `wake` has it looked at."""
        probe = await self._admitted(stopping)
        try:
            yield
        except Transient as error:
            if error.everywhere:
                self._open(error)
            else:
                self._close()
            raise
        except Exception:
            # It answered, whatever it said.
            self._close()
            raise
        else:
            self._close()
        finally:
            if probe:
                self._known.release()
                self.wake()

    async def _admitted(self, stopping: Callable[[], bool]) -> bool:
        """Whether this call is the probe."""
        while (down := self._look()) is not None:
            if stopping():
                raise Stopping
            wait = down.until - time.time()
            # Longer than anybody waits: the clock was put back.
            if not 0 < wait <= policy.LONGEST_WISH and self._known.claim():
                if self._look() == down:
                    return True
                # Somebody else has tried between our look and our turn.
                self._known.release()
                continue
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(wait, LOOK_SECONDS) if wait > 0 else LOOK_SECONDS):
                    await self._changed.wait()
        return False

    def _look(self) -> Down | None:
        down = self._known.read()
        self.reason = "" if down is None else down.reason
        return down

    def hurry(self) -> None:
        """A person says that the destination is back: the next one may try at once."""
        down = self._look()
        if down is not None:
            self._known.write(Down(down.failures, 0.0, down.reason))
        self.wake()

    def _open(self, error: Transient) -> None:
        before = self._look()
        failures = 1 if before is None else before.failures + 1
        longest = min(policy.LONGEST_PAUSE, 2 * policy.FIRST_PAUSE * 2 ** min(failures, 20))
        pause = max(random.uniform(policy.FIRST_PAUSE, longest), error.retry_after or 0.0)  # noqa: S311
        self.reason = str(error)
        self._known.write(Down(failures, time.time() + min(pause, policy.LONGEST_WISH), self.reason))
        self.wake()

    def _close(self) -> None:
        if self._look() is not None:
            self._known.write(None)
            self.reason = ""
            self.wake()

    def wake(self) -> None:
        """Whoever waits looks again; whoever comes later waits for the next news."""
        self._changed.set()
        self._changed = asyncio.Event()


class Breakers:
    """The breakers by connection: of this process, or with a `folder`, of all that are given the same."""

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._known: dict[str, Breaker] = {}

    def of(self, connection: str) -> Breaker:
        if connection not in self._known:
            where = Here() if self._folder is None else Everywhere(self._folder / f"down-{connection}")
            self._known[connection] = Breaker(where)
        return self._known[connection]
