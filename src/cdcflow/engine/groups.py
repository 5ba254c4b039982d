"""Which flows share a process: those whose destination only one process can write, and, where the number
of processes is bounded, as many more as it takes. Who has a place keeps it when flows come and go."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import count

from cdcflow.config import Config, Flow


def group_flows(config: Config, before: Mapping[str, int]) -> dict[str, int]:
    """The number of each flow's process; `before`: what they were."""
    groups = together((flow.name, _exclusive(config, flow)) for flow in config.flows.values())
    return placed(groups, before, config.engine.processes)


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


def placed(
    groups: Sequence[tuple[str, ...]], before: Mapping[str, int], processes: int | None
) -> dict[str, int]:
    """A process for every group: the one that its first known flow had, else a new one, else, where there
    may be no more than `processes`, the one with the fewest flows."""
    members: dict[int, list[str]] = {}
    fresh = []
    for group in groups:
        known = [before[name] for name in group if name in before]
        if known and (known[0] not in members or processes is not None):
            members.setdefault(known[0], []).extend(group)
        else:
            fresh.append(group)
    # The large ones first: what comes then evens them out.
    for group in fresh if processes is None else sorted(fresh, key=len, reverse=True):
        if processes is None or len(members) < processes:
            # Also not that of a process which is to end: its number is free when it has.
            taken = {*members, *before.values()}
            number = next(number for number in count() if number not in taken)
        else:
            number = min(members, key=lambda number: (len(members[number]), number))
        members.setdefault(number, []).extend(group)
    return {name: number for number, names in members.items() for name in names}
