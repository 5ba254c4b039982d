"""How much to send at once to a destination that does not say what it can take: half as much after each time
that it was too much, and slowly more again. Pure."""

#: So many successes at a size before a larger one is tried: a try that fails costs as much as several
#: succeed.
PATIENCE = 8


class Size:
    """The present size, at most `most` and at least 1."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.now = most
        self._successes = 0

    def too_much(self, tried: int) -> None:
        """So many were too many at once."""
        self._successes = 0
        self.now = max(min(self.now, tried) // 2, 1)

    def fine(self, sent: int) -> None:
        """So many went through. Only what was as large as it could be teaches anything."""
        if self.now == self.most or sent < self.now:
            return
        self._successes += 1
        if self._successes >= PATIENCE:
            self._successes = 0
            self.now = min(self.now + max(self.now // 4, 1), self.most)
