"""When single refused rows are no longer single. Pure.

An expired token, a removed object or a mapping that fits nothing shows as row after row being refused. Then
the flow stops in front of them: a backlog never becomes dead letters.
"""

from collections import deque
from dataclasses import dataclass

#: A share is taken of so many of the latest changes at least (of a whole batch where that is more), so that
#: a mapping that has just become wrong costs few letters also where changes come one by one.
WINDOW = 100
#: So few refused ones are never too many.
FEWEST = 10


@dataclass(frozen=True, slots=True)
class Limits:
    """`count` is how many letters a flow may have, parked ones among them; `share` which part of its latest
    changes may be refused, from 0 to 1."""

    count: int = 1_000
    share: float = 0.2


class Watch:
    """Counts what becomes of a flow's changes since it was started."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        #: Runs of changes: how many, and how many of them were refused.
        self._runs: deque[tuple[int, int]] = deque()
        self._changes = self._refused = 0

    def handled(self, changes: int, refused: int) -> None:
        """So many more are behind the flow."""
        self._runs.append((changes, refused))
        self._changes += changes
        self._refused += refused
        while self._runs and self._changes - self._runs[0][0] >= WINDOW:
            gone, also = self._runs.popleft()
            self._changes -= gone
            self._refused -= also

    def too_many(self, changes: int, refused: int, letters: int) -> str:
        """Why `refused` of the `changes` at hand must not become letters; empty where they may. `letters` is
        how many the flow would have then."""
        if letters > self._limits.count:
            return (
                f"the flow would have {letters} dead letter(s), more than its limit of {self._limits.count}"
            )
        seen, bad = self._changes + changes, self._refused + refused
        if bad > FEWEST and bad > self._limits.share * seen:
            return f"{bad} of the latest {seen} changes were refused, more than {self._limits.share:.0%}"
        return ""
