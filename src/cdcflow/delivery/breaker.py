"""What flows on one connection know of its being down: while it is, one of them tries, and the others wait
for what it finds. For the flows of one process, in one event loop."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from cdcflow.delivery import policy
from cdcflow.errors import Transient


class Stopping(Exception):
    """Not an error: the flow stops while it waits to be let through."""


class Breaker:
    """The state of one connection. Closed: everybody may call. Open: until its time has come nobody does, and
    then one probe at a time."""

    def __init__(self) -> None:
        self._failures = 0
        self._until = 0.0
        self._probing = False
        self._changed = asyncio.Event()
        #: Why it is open; empty: it is not.
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
                self._probing = False
                self.wake()

    async def _admitted(self, stopping: Callable[[], bool]) -> bool:
        """Whether this call is the probe."""
        while self.reason:
            if stopping():
                raise Stopping
            wait = self._until - time.monotonic()
            if wait <= 0 and not self._probing:
                self._probing = True
                return True
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait if wait > 0 else None):
                    await self._changed.wait()
        return False

    def hurry(self) -> None:
        """A person says that the destination is back: the next one may try at once."""
        self._until = 0.0
        self.wake()

    def _open(self, error: Transient) -> None:
        self._failures += 1
        longest = min(policy.LONGEST_PAUSE, 2 * policy.FIRST_PAUSE * 2 ** min(self._failures, 20))
        pause = max(random.uniform(policy.FIRST_PAUSE, longest), error.retry_after or 0.0)  # noqa: S311
        self._until = time.monotonic() + min(pause, policy.LONGEST_WISH)
        self.reason = str(error)
        self.wake()

    def _close(self) -> None:
        if self.reason:
            self._failures, self.reason = 0, ""
            self.wake()

    def wake(self) -> None:
        """Whoever waits looks again; whoever comes later waits for the next news."""
        self._changed.set()
        self._changed = asyncio.Event()


class Breakers:
    """The breakers of a process, by connection."""

    def __init__(self) -> None:
        self._known: dict[str, Breaker] = {}

    def of(self, connection: str) -> Breaker:
        return self._known.setdefault(connection, Breaker())
