"""Prints the type table of the documentation: `python -m cdcflow.types > docs/types.md`."""

from collections.abc import Iterator

import orjson

from cdcflow.types import arrays, declared
from cdcflow.types.base import Family, Known
from cdcflow.types.builtin import FAMILIES

_HEAD = """\
# Types

Made from the code by `python -m cdcflow.types > docs/types.md`.

A value travels as the text of Postgres' own output function under pinned settings (`DateStyle=ISO`,
`TimeZone=UTC`, `bytea_output=hex`, `extra_float_digits=3` …), the same by backfill and by stream. Nothing is
rounded, clamped or turned into NULL: what a typed column of the warehouse cannot hold exactly is `VARCHAR`
there, or stops the flow with the `ALTER TABLE` that makes it so. A type that is not in these tables is text.

*In JSON* is what webhooks, files and `cdcflow tail` get for the example; *exact* is what a webhook or jsonl
sink with `numbers: exact` gets, where that differs.
"""


def page() -> str:
    families = (*FAMILIES, arrays.FAMILY, declared.FAMILY, *declared.EXTENSIONS)
    return "\n".join([_HEAD, *("\n".join(_section(family)) for family in families)])


def _section(family: Family) -> Iterator[str]:
    yield f"## {family.title}\n"
    yield "| Postgres | example | in JSON | in DuckDB |"
    yield "|---|---|---|---|"
    for known in family.types:
        yield "| " + " | ".join(_cells(known)) + " |"
    if family.notes:
        yield f"\n{family.notes}"
    yield ""


def _cells(known: Known) -> Iterator[str]:
    safe, exact = (orjson.dumps(known.kind.converter(n)(known.example)).decode() for n in ("safe", "exact"))
    same_name = known.kind.name == known.typname
    yield f"`{known.kind.name}`" if same_name else f"`{known.typname}`: {known.kind.name}"
    yield _code(known.example)
    yield _code(safe) if safe == exact else f"{_code(safe)}, exact: {_code(exact)}"
    yield f"`{known.kind.duckdb}`"


def _code(text: str) -> str:
    return f"`{text}`".replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
