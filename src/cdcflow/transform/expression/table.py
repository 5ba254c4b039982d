"""The one table of what is supported. A family's module lists its entries."""

from collections.abc import Iterable

from cdcflow.transform.expression import (
    clock,
    comparison,
    formatting,
    hashing,
    json_access,
    lists,
    matching,
    mathematics,
    numbers,
    strings,
)
from cdcflow.transform.expression.function import Supported

#: Title of a section of the documentation, and its entries.
FAMILIES: tuple[tuple[str, tuple[Supported, ...]], ...] = (
    ("Comparison", comparison.SUPPORTED),
    ("Numbers", (*numbers.SUPPORTED, *mathematics.SUPPORTED)),
    ("Text", strings.SUPPORTED),
    ("Patterns", matching.SUPPORTED),
    ("Dates and times", clock.SUPPORTED),
    ("Formats", formatting.SUPPORTED),
    ("Hashes and encodings", hashing.SUPPORTED),
    ("JSON", json_access.SUPPORTED),
    ("Arrays", lists.SUPPORTED),
)


def _named(entries: Iterable[Supported]) -> dict[str, Supported]:
    table: dict[str, Supported] = {}
    for entry in entries:
        if entry.name in table:
            # A name may stand in several families: `||`, `+`, `length`.
            merged = {**table[entry.name].variants, **entry.variants}
            table[entry.name] = Supported(entry.name, entry.summary, entry.example, merged, entry.operator)
        else:
            table[entry.name] = entry
    return table


OPERATORS = _named(e for _, entries in FAMILIES for e in entries if e.operator)
FUNCTIONS = _named(e for _, entries in FAMILIES for e in entries if not e.operator)
