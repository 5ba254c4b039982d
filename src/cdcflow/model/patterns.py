"""Which tables are meant: patterns such as `public.*` and `!public.audit_*`, and nothing about databases.

A pattern is `schema.table`; without a dot it means `public.table`. `*` stands for any run of characters
and `?` for one. Double quotes take everything between them as it is, dots and stars included, and `""`
in them is one quote, as in SQL. Names are compared exactly as the catalog holds them: unlike SQL, a name
without quotes is not folded to lower case. `!` in front excludes, and an exclusion wins over every
inclusion, in whatever order they stand. Only exclusions mean: everything else.

System schemas never match: Postgres publishes none of their tables (manual, 29.1), and it reserves the
prefix `pg_` for them (5.10.5).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cdcflow.errors import ConfigurationError

DEFAULT_SCHEMA = "public"

#: What has a meaning in a pattern, so that a name with it needs quotes.
_SPECIAL = re.compile(r'[.*?"!\s]')


@dataclass(frozen=True)
class TablePattern:
    """One pattern. `literal` is the schema and table that it names, or None where it has a wildcard."""

    text: str
    excludes: bool
    literal: tuple[str, str] | None
    _schema: re.Pattern[str] = field(repr=False)
    _table: re.Pattern[str] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "TablePattern":
        """Raises ConfigurationError for what is not a pattern, with the place in it."""
        body = text.strip()
        excludes = body.startswith("!")
        parts = _split(text, body.removeprefix("!").lstrip())
        if len(parts) == 1:
            parts.insert(0, [(DEFAULT_SCHEMA, False)])
        if len(parts) > 2:
            raise ConfigurationError(
                f"the table pattern {text!r} has {len(parts)} parts, and must be schema.table",
                hint="put a name that holds a dot into double quotes",
            )
        if not all(parts):
            raise ConfigurationError(
                f"the table pattern {text!r} lacks a name before or after its dot",
                hint="write schema.table, for example public.orders or public.*",
            )
        wild = any(wildcard for part in parts for _, wildcard in part)
        schema, table = ("".join(text for text, _ in part) for part in parts)
        return cls(
            text=body,
            excludes=excludes,
            literal=None if wild else (schema, table),
            _schema=_compile(parts[0]),
            _table=_compile(parts[1]),
        )

    def covers(self, schema: str, table: str) -> bool:
        """Whether the pattern's names fit, its `!` left aside."""
        return bool(self._schema.fullmatch(schema) and self._table.fullmatch(table))


class TablePatterns:
    """Several patterns together: a table is meant if an inclusion fits it and no exclusion does."""

    def __init__(self, patterns: Iterable[str]) -> None:
        """Raises ConfigurationError for the first text that is not a pattern."""
        self.patterns = tuple(TablePattern.parse(text) for text in patterns)
        self._includes = tuple(p for p in self.patterns if not p.excludes)
        self._excludes = tuple(p for p in self.patterns if p.excludes)

    def matches(self, schema: str, table: str) -> bool:
        if _is_system(schema) or any(p.covers(schema, table) for p in self._excludes):
            return False
        if not self._includes:
            return bool(self._excludes)
        return any(p.covers(schema, table) for p in self._includes)

    def unmatched(self, tables: Iterable[tuple[str, str]]) -> list[str]:
        """The patterns that fit none of these `(schema, table)` pairs, as they were written.

        Exclusions are among them, with their `!`: one that excludes nothing may be a misspelt name.
        """
        known = [(schema, table) for schema, table in tables if not _is_system(schema)]
        return [p.text for p in self.patterns if not any(p.covers(*table) for table in known)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TablePatterns):
            return NotImplemented
        return self.texts == other.texts

    def __hash__(self) -> int:
        return hash(self.texts)

    @property
    def texts(self) -> tuple[str, ...]:
        return tuple(p.text for p in self.patterns)

    def __repr__(self) -> str:
        return f"TablePatterns({list(self.texts)!r})"


def exactly(schema: str, table: str) -> str:
    """The pattern that means this table and no other."""
    return f"{_quoted(schema)}.{_quoted(table)}"


def all_of(schema: str) -> str:
    """The pattern that means every table of this schema."""
    return f"{_quoted(schema)}.*"


def _quoted(name: str) -> str:
    if not _SPECIAL.search(name):
        return name
    return '"' + name.replace('"', '""') + '"'


def _is_system(schema: str) -> bool:
    return schema == "information_schema" or schema.startswith("pg_")


#: A stretch of a pattern's part: its text, and whether that text is a wildcard.
_Piece = tuple[str, bool]


def _split(text: str, body: str) -> list[list[_Piece]]:
    """The parts between the dots outside quotes, each as pieces."""
    parts: list[list[_Piece]] = [[]]
    at = 0
    while at < len(body):
        character = body[at]
        if character == '"':
            end = at + 1
            while (end := body.find('"', end)) != -1 and body[end : end + 2] == '""':
                end += 2
            if end == -1:
                raise ConfigurationError(f"the table pattern {text!r} opens a quote and never closes it")
            if end == at + 1:
                raise ConfigurationError(f"the table pattern {text!r} holds an empty name")
            parts[-1].append((body[at + 1 : end].replace('""', '"'), False))
            at = end
        elif character == ".":
            parts.append([])
        else:
            parts[-1].append((character, character in "*?"))
        at += 1
    return parts


def _compile(pieces: Sequence[_Piece]) -> re.Pattern[str]:
    wildcards = {"*": ".*", "?": "."}
    return re.compile("".join(wildcards[t] if wild else re.escape(t) for t, wild in pieces), re.DOTALL)
