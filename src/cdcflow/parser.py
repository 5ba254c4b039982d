"""Postgres' own parser for the SQL that people write. The only module that imports pglast.

pglast is GPL-3.0-or-later (see "Licence" in the README), so everything must work without it that does not
need to understand SQL: `statements` says `NotParsed` then, like for a text that is no SQL.
"""

from dataclasses import dataclass
from typing import Any


class NotParsed(Exception):
    """The text is not SQL that this parser takes, or no parser is installed."""


@dataclass(frozen=True, slots=True)
class Statement:
    """`tree` is the parse tree's node, of `pglast.ast`; `text` its part of what was parsed."""

    tree: Any
    text: str


def statements(sql: str) -> list[Statement]:
    """The statements of a text, in order. Raises NotParsed."""
    try:
        from pglast import parse_sql
        from pglast.parser import ParseError
    except ImportError as error:
        raise NotParsed("pglast is not installed") from error
    try:
        found = parse_sql(sql)
    except ParseError as error:
        raise NotParsed(str(error)) from error
    return [
        Statement(
            raw.stmt,
            sql[raw.stmt_location or 0 :][: raw.stmt_len or None].strip(),
        )
        for raw in found
    ]


def written(tree: Any) -> str:
    """A node of a tree as SQL again, such as a type's name with its modifier."""
    from pglast.stream import RawStream

    return str(RawStream()(tree))
