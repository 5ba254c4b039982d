"""What is wrong with a flow's steps: all of it at once, each mistake with its place and its remedy."""

from collections.abc import Iterable
from dataclasses import dataclass

from cdcflow.errors import ConfigurationError

#: A mistake that many tables have in common names so many of them.
NAMED = 3


@dataclass(frozen=True)
class Mistake:
    """One thing that does not fit. `place` is file, line and key, `table` the table that it does not fit."""

    place: str
    table: str
    message: str
    hint: str = ""

    @property
    def sentence(self) -> str:
        return f"{self.place}: {self.table}: {self.message}"


class Misfit(ConfigurationError):
    """Steps do not fit a table. Its message holds all of `mistakes`."""

    def __init__(self, mistakes: Iterable[Mistake]) -> None:
        self.mistakes = tuple(mistakes)
        if len(self.mistakes) == 1:
            super().__init__(self.mistakes[0].sentence, hint=self.mistakes[0].hint)
            return
        lines = (one.sentence + (f" ({one.hint})" if one.hint else "") for one in self.mistakes)
        super().__init__(
            "\n  ".join([f"{len(self.mistakes)} things are wrong:", *lines]), hint="correct all of them"
        )

    def __reduce__(self) -> tuple[type["Misfit"], tuple[tuple[Mistake, ...]]]:
        return Misfit, (self.mistakes,)


def by_place(mistakes: Iterable[Mistake]) -> list[Mistake]:
    """The same mistake with several tables told once, for all of them."""
    tables: dict[tuple[str, str, str], list[str]] = {}
    for one in mistakes:
        named = tables.setdefault((one.place, one.message, one.hint), [])
        if one.table not in named:
            named.append(one.table)
    return [Mistake(place, _listed(named), message, hint) for (place, message, hint), named in tables.items()]


def _listed(tables: list[str]) -> str:
    rest = len(tables) - NAMED
    return ", ".join(tables[:NAMED]) + (f" and {rest} more" if rest > 0 else "")
