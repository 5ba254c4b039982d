"""Which flows share a process: those whose destination only one process can write, and, where the number
of processes is bounded, as many more as it takes."""

from collections.abc import Iterable, Sequence

from cdcflow.config import Config, Flow


def group_flows(config: Config) -> list[tuple[str, ...]]:
    """Names of the flows of each delivery process, in the order of the configuration."""
    return bounded(
        together((flow.name, _exclusive(config, flow)) for flow in config.flows.values()),
        config.engine.processes,
    )


def _exclusive(config: Config, flow: Flow) -> str | None:
    entry = config.sinks[flow.to]
    text = entry.plugin.exclusive(entry.settings)
    # The text means something within one sink type only.
    return None if text is None else f"{entry.plugin.name} {text}"


def together(flows: Iterable[tuple[str, str | None]]) -> list[tuple[str, ...]]:
    """Groups `(flow, exclusive text)` pairs: equal texts share a group, None stands alone."""
    groups: dict[object, list[str]] = {}
    for name, text in flows:
        groups.setdefault(("alone", name) if text is None else ("shared", text), []).append(name)
    return [tuple(names) for names in groups.values()]


def bounded(groups: Sequence[tuple[str, ...]], processes: int | None) -> list[tuple[str, ...]]:
    """At most `processes` groups, made by joining the given ones as evenly as that goes."""
    if processes is None or len(groups) <= processes:
        return list(groups)
    joined: list[tuple[str, ...]] = [()] * processes
    for group in sorted(groups, key=len, reverse=True):
        smallest = min(range(processes), key=lambda i: len(joined[i]))
        joined[smallest] += group
    return joined
