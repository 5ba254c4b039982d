"""Finds sinks by the entry point group `cdcflow.sinks`: the built-in ones and anybody else's alike."""

from difflib import get_close_matches
from importlib.metadata import entry_points

from cdcflow.errors import ConfigurationError
from cdcflow.sink.protocol import SinkPlugin

GROUP = "cdcflow.sinks"


def names() -> list[str]:
    """The types that `type:` may name, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


def load(name: str) -> SinkPlugin:
    """The plugin of a sink type. Raises ConfigurationError when there is none, or when it cannot be
    imported."""
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        known = names()
        close = get_close_matches(name, known, n=1)
        raise ConfigurationError(
            f"there is no sink of type {name!r}",
            hint=(f"did you mean {close[0]!r}? " if close else "")
            + f"installed: {', '.join(known) or 'none'}",
        )
    entry = found[0]
    try:
        plugin = entry.load()
    except ImportError as error:
        raise ConfigurationError(
            f"the sink {name!r} of {entry.value} cannot be imported: {error}",
            hint="install what it needs, or remove the package that brings it",
        ) from error
    if not isinstance(plugin, SinkPlugin):
        raise ConfigurationError(f"{entry.value} is not a SinkPlugin but {type(plugin).__name__}")
    return plugin
