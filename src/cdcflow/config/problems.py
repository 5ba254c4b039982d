"""Everything that is wrong with a configuration, collected first and told at once, each with its place."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from difflib import get_close_matches
from pathlib import Path

from cdcflow.errors import ConfigurationError


@dataclass(frozen=True)
class Place:
    """A line of a file, counted from 1."""

    file: Path
    line: int

    def __str__(self) -> str:
        return f"{shown(self.file)}:{self.line}"

    def moved(self, line: int) -> "Place":
        """Another line of the file."""
        return replace(self, line=line)


@dataclass(frozen=True)
class Problem:
    """`key` is the dotted way to the value within its file, or empty for the file as a whole."""

    place: Place
    key: str
    message: str
    hint: str = ""

    @property
    def sentence(self) -> str:
        return ": ".join(part for part in (str(self.place), self.key, self.message) if part)


class Problems:
    """Collects while reading goes on, so that one run shows all of a configuration's errors."""

    def __init__(self) -> None:
        self._found: list[Problem] = []

    def __bool__(self) -> bool:
        return bool(self._found)

    def add(self, place: Place, key: str, message: str, hint: str = "") -> None:
        """Notes what is wrong with the value of `key`. Only the first thing counts: what comes later
        is said of a value that was already wrong."""
        if key and any((p.place.file, p.key) == (place.file, key) for p in self._found):
            return
        self._found.append(Problem(place, key, message, hint))

    def __iter__(self) -> Iterator[Problem]:
        """In the order of files and lines."""
        return iter(sorted(self._found, key=lambda p: (str(p.place.file), p.place.line)))

    def files(self) -> set[Path]:
        """The files that have any."""
        return {problem.place.file for problem in self._found}

    def error(self, file: Path | None = None) -> ConfigurationError:
        """One exception for all that was found, or all in one file."""
        found = [p for p in self if file in (None, p.place.file)]
        if len(found) == 1:
            return ConfigurationError(found[0].sentence, hint=found[0].hint)
        lines = [p.sentence + (f" ({p.hint})" if p.hint else "") for p in found]
        return ConfigurationError("\n  ".join([f"{len(found)} things are wrong:", *lines]))


def shown(path: Path) -> str:
    """A file's name as a person at this place would write it."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or what there is when nothing is near."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean {close[0]!r}?"
    return f"known here: {', '.join(names)}" if names else ""
