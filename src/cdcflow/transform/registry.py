"""Finds steps by the entry point group `cdcflow.transforms`: the built-in ones and anybody else's alike."""

from difflib import get_close_matches
from functools import lru_cache
from importlib.metadata import entry_points

from cdcflow.errors import ConfigurationError
from cdcflow.transform.step import StepPlugin

GROUP = "cdcflow.transforms"


def names() -> list[str]:
    """The steps that a flow's `transforms` may name, sorted."""
    return sorted({entry.name for entry in entry_points(group=GROUP)})


@lru_cache(maxsize=256)
def load(name: str) -> StepPlugin:
    """The plugin of a step. Raises ConfigurationError when there is none, or when it cannot be imported."""
    found = [entry for entry in entry_points(group=GROUP) if entry.name == name]
    if not found:
        known = names()
        close = get_close_matches(name, known, n=1)
        raise ConfigurationError(
            f"there is no step {name!r}",
            hint=(f"did you mean {close[0]!r}? " if close else "")
            + f"installed: {', '.join(known) or 'none'}",
        )
    entry = found[0]
    try:
        plugin = entry.load()
    except ImportError as error:
        raise ConfigurationError(
            f"the step {name!r} of {entry.value} cannot be imported: {error}",
            hint="install what it needs, or remove the package that brings it",
        ) from error
    if not isinstance(plugin, StepPlugin):
        raise ConfigurationError(f"{entry.value} is not a StepPlugin but {type(plugin).__name__}")
    return plugin
