"""Finds plugins by the entry point group that packages name them under: ours like anybody else's."""

from difflib import get_close_matches
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from cdcflow.errors import ConfigurationError

Plugin = TypeVar("Plugin")


class Plugins(Generic[Plugin]):
    """The plugins of one group, each of which is a `kind`. `what` is one for people: "there is no …"."""

    def __init__(self, group: str, kind: type[Plugin], what: str) -> None:
        self.group = group
        self._kind = kind
        self._what = what

    def names(self) -> list[str]:
        """The names that there are, sorted."""
        return sorted({entry.name for entry in entry_points(group=self.group)})

    def load(self, name: str) -> Plugin:
        """Raises ConfigurationError when there is none of this name, or when it cannot be imported."""
        found = [entry for entry in entry_points(group=self.group) if entry.name == name]
        if not found:
            known = self.names()
            close = get_close_matches(name, known, n=1)
            raise ConfigurationError(
                f"there is no {self._what} {name!r}",
                hint=(f"did you mean {close[0]!r}? " if close else "")
                + f"installed: {', '.join(known) or 'none'}",
            )
        entry = found[0]
        try:
            plugin = entry.load()
        except ImportError as error:
            raise ConfigurationError(
                f"the {self._what} {name!r} of {entry.value} cannot be imported: {error}",
                hint="install what it needs, or remove the package that brings it",
            ) from error
        if not isinstance(plugin, self._kind):
            raise ConfigurationError(
                f"{entry.value} is not a {self._kind.__name__} but {type(plugin).__name__}"
            )
        return plugin
