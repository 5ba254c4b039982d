"""Which stretch of a table is read next: spans of places in its files, claimed by readers. Pure.

A place is a page and an offset in it (`reading.PAGE`). What is done comes from the ledger; what a reader
has claimed and did not deliver is given back.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from cdcflow.journal import Spans

PAGE = 1 << 16

#: Pages that a reader takes at once: 64 MB with pages of 8 kB, read one after the other.
STRETCH = 8_192
#: Near a table's end readers take less, so that they end at about the same time.
LEAST_STRETCH = 64


@dataclass(frozen=True)
class Claim:
    """A span of a part that one reader reads."""

    part: str
    low: int
    high: int


class Plan:
    """The parts of one table, by name, each with its size in pages."""

    def __init__(self, pages: Mapping[str, int], done: Mapping[str, Spans], readers: int) -> None:
        self._pages = dict(pages)
        self._taken = {part: Spans(done.get(part, ())) for part in pages}
        self._claims: set[Claim] = set()
        self._stretch = min(max(sum(pages.values()) // (readers * 4), LEAST_STRETCH), STRETCH) * PAGE

    def claim(self) -> Claim | None:
        """The next stretch; None where nothing is left to be claimed."""
        for part, pages in self._pages.items():
            for low, high in self._taken[part].gaps(0, pages * PAGE):
                claim = Claim(part, low, min(high, low + self._stretch))
                self._taken[part].add(claim.low, claim.high)
                self._claims.add(claim)
                return claim
        return None

    def reached(self, claim: Claim, high: int) -> Claim:
        """The claim was read up to `high`, and the rest of it is free again. What was read stays a claim
        until it is `delivered`: before, nobody may take the table for finished."""
        self._claims.discard(claim)
        part = Claim(claim.part, claim.low, max(high, claim.low))
        self._claims.add(part)
        self.give_back(claim.part, part.high, claim.high)
        return part

    def delivered(self, claim: Claim) -> None:
        """What was read of it is with who places it."""
        self._claims.discard(claim)

    def release(self, claim: Claim) -> None:
        """Nothing of the claim was read."""
        self._claims.discard(claim)
        self.give_back(claim.part, claim.low, claim.high)

    def give_back(self, part: str, low: int, high: int) -> None:
        """This span must be read after all."""
        if part in self._taken:
            self._taken[part].remove(low, high)

    @property
    def finished(self) -> bool:
        """Everything was delivered."""
        return not self._claims and not any(
            True for part, pages in self._pages.items() for _ in self._taken[part].gaps(0, pages * PAGE)
        )

    @property
    def share(self) -> float:
        """How much of all pages was claimed or read, from 0 to 1."""
        total = sum(self._pages.values())
        if not total:
            return 1.0
        taken = sum(
            min(high, self._pages[part] * PAGE) - min(low, self._pages[part] * PAGE)
            for part, spans in self._taken.items()
            for low, high in spans
        )
        waiting = sum(claim.high - claim.low for claim in self._claims)
        return max(taken - waiting, 0) / (total * PAGE)
