"""How many calls an account answers: in ten seconds that roll on, and in a day.

https://developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines: a private app of a
Professional or Enterprise account has 190 calls in 10 s and 650,000 or more a day; what is beyond is answered
429 with the policy's name, and counts too.
"""

from collections import deque
from dataclasses import dataclass, field


@dataclass
class Limits:
    """The account's limits and what was used of them. A test may shrink `window`, and read `most`."""

    calls: int = 190
    window: float = 10.0
    daily: int = 650_000
    used_today: int = 0
    #: The most calls that were in any window, and how many were refused.
    most: int = 0
    refused: int = 0
    _recent: deque[float] = field(default_factory=deque)

    def take(self, now: float) -> str | None:
        """The name of the policy that refuses a call now, or None."""
        while self._recent and self._recent[0] <= now - self.window:
            self._recent.popleft()
        if self.used_today >= self.daily:
            self.refused += 1
            return "DAILY"
        if len(self._recent) >= self.calls:
            self.refused += 1
            self.most = max(self.most, len(self._recent) + 1)
            return "TEN_SECONDLY_ROLLING"
        self._recent.append(now)
        self.used_today += 1
        self.most = max(self.most, len(self._recent))
        return None

    def headers(self, *, daily: bool) -> dict[str, str]:
        """What every answer says of them; the daily ones only for private apps ("X-HubSpot-RateLimit-Daily
        is not included in the response to any API requests authorized using OAuth")."""
        found = {
            "X-HubSpot-RateLimit-Max": str(self.calls),
            "X-HubSpot-RateLimit-Remaining": str(max(self.calls - len(self._recent), 0)),
            "X-HubSpot-RateLimit-Interval-Milliseconds": str(round(self.window * 1000)),
        }
        if daily:
            found["X-HubSpot-RateLimit-Daily"] = str(self.daily)
            found["X-HubSpot-RateLimit-Daily-Remaining"] = str(max(self.daily - self.used_today, 0))
        return found
