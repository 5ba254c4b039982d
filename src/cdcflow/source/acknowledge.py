"""When to speak to the server, and when its silence means that it is gone. Pure: it is told the time.

The walsender ends a session that has not heard from us for `wal_sender_timeout`, also in the middle of
a huge transaction; then the same transaction comes again, for ever. So a status goes out on time
whatever else happens, at once when the server asks, and soon after there is progress to tell.
"""

from collections import deque
from enum import Enum

#: Longest time between two status updates, in seconds; less where `wal_sender_timeout` is short.
STATUS_INTERVAL = 10.0
#: Shortest time between two status updates that only tell of progress.
PROGRESS_INTERVAL = 1.0
#: Seconds without a word from the server after which we ask for one, and after which it is taken for
#: dead. A server that decodes a huge transaction of unpublished tables can be silent for a while.
ASK_AFTER = 20.0
SILENCE = 90.0
#: Places between the slowest flow and the journal's end at which the slot can be confirmed. When there
#: are more, every second one goes: a flow that is down for weeks must not fill the memory.
STEPS = 4_096


class Say(Enum):
    NOTHING = 0
    STATUS = 1
    ASK = 2


class Acknowledger:
    """Decides what to send. `wal_sender_timeout` in seconds, None or 0 where the server has none.

    Times are seconds of one monotonic clock.
    """

    def __init__(self, now: float, wal_sender_timeout: float | None) -> None:
        self.interval = min(STATUS_INTERVAL, (wal_sender_timeout or 60.0) / 3)
        self._told_at = now
        self._told = 0
        self._heard_at = now
        self._asked = False
        self._owed = 0

    def heard(self, now: float) -> None:
        """Something came from the server, or we did not listen."""
        self._heard_at = now
        self._asked = False

    def owe(self, lsn: int) -> None:
        """The server waits to hear that everything up to `lsn` is durable: tell it as soon as it is."""
        self._owed = max(self._owed, lsn)

    def decide(self, now: float, *, durable: int, requested: bool) -> Say:
        """What to send now. `requested`: a keepalive asked for a reply."""
        if now - self._heard_at >= ASK_AFTER and not self._asked:
            return Say.ASK
        news = durable > self._told
        if (
            requested
            or now - self._told_at >= self.interval
            or (news and now - self._told_at >= PROGRESS_INTERVAL)
            or (news and self._told < self._owed <= durable)
        ):
            return Say.STATUS
        return Say.NOTHING

    def said(self, now: float, what: Say, durable: int) -> None:
        """A status with this durable LSN has gone out."""
        self._told_at = now
        self._told = durable
        self._asked = self._asked or what is Say.ASK

    def lost(self, now: float) -> bool:
        """The server has been silent for so long that it must be taken for dead."""
        return now - self._heard_at >= SILENCE

    def due(self, now: float) -> float:
        """Seconds until the next status at the latest."""
        return max(self._told_at + self.interval - now, 0.0)


class DeliveredBehind:
    """Which LSN lies behind what every flow has delivered, for slots that are confirmed only then."""

    def __init__(self) -> None:
        #: (journal offset, LSN that may be confirmed once every flow has passed it), both growing.
        self._steps: deque[tuple[int, int]] = deque()
        self._safe = 0

    def journaled(self, offset: int, committed: int) -> None:
        """The journal ends before `offset` and holds everything up to the LSN `committed`."""
        steps = self._steps
        if steps and steps[-1] == (offset, committed):
            return
        if steps and steps[-1][0] == offset:
            steps.pop()
        steps.append((offset, committed))
        if len(steps) > STEPS:
            # The last one stays, and each that goes is covered by the one behind it.
            self._steps = deque(list(steps)[::-2][::-1])

    def safe(self, delivered: int) -> int:
        """The LSN to confirm when every flow has delivered what lies before the offset `delivered`; 0 while
        none is known."""
        while self._steps and self._steps[0][0] <= delivered:
            self._safe = self._steps.popleft()[1]
        return self._safe
