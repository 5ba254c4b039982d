"""Postgres' own parser for the SQL that people write. The only module that imports pglast.

pglast is GPL-3.0-or-later (see "Licence" in the README), so everything must work without it that does not
need to understand SQL: the functions here then raise `ParserMissing`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import orjson


class NotParsed(Exception):
    """The text is not SQL. `at` is the place, in characters, None for its end."""

    def __init__(self, message: str, at: int | None = None) -> None:
        super().__init__(message)
        self.at = at


class ParserMissing(NotParsed):
    """pglast is not installed."""


@dataclass(frozen=True, slots=True)
class Statement:
    """`tree` is the parse tree's node, of `pglast.ast`; `text` its part of what was parsed."""

    tree: Any
    text: str


def statements(sql: str) -> list[Statement]:
    """The statements of a text, in order. Raises NotParsed."""
    parser = _parser()
    from pglast import parse_sql

    try:
        found = parse_sql(sql)
    except parser.ParseError as error:
        raise _not_parsed(error) from error
    return [
        Statement(raw.stmt, sql[raw.stmt_location or 0 :][: raw.stmt_len or None].strip()) for raw in found
    ]


def document(sql: str) -> Any:
    """The parse tree as JSON says it (libpg_query's own form), places in bytes of UTF-8. Raises NotParsed."""
    parser = _parser()
    try:
        return orjson.loads(parser.parse_sql_json(sql))
    except parser.ParseError as error:
        raise _not_parsed(error) from error


def tokens(sql: str) -> Sequence[Any]:
    """Its tokens, each with `name`, `start` and `end`, in characters. Raises NotParsed."""
    parser = _parser()
    try:
        found: Sequence[Any] = parser.scan(sql)
    except parser.ParseError as error:
        raise _not_parsed(error) from error
    return found


def written(tree: Any) -> str:
    """A node of a tree as SQL again, such as a type's name with its modifier."""
    from pglast.stream import RawStream

    return str(RawStream()(tree))


def _parser() -> ModuleType:
    try:
        from pglast import parser
    except ImportError as error:
        raise ParserMissing("pglast is not installed") from error
    module: ModuleType = parser
    return module


def _not_parsed(error: Exception) -> NotParsed:
    message, place = (*error.args, None)[:2]
    return NotParsed(str(message), place)
