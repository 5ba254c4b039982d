"""Logical messages, which `pg_logical_emit_message` writes into the WAL, as changes of a relation of their
own; and which of them are meant: patterns of prefixes.

A message stands in a batch beside the rows of tables, as an `Op.MESSAGE` of the relation `MESSAGES`:

| column          |                                                                                     |
|-----------------|-------------------------------------------------------------------------------------|
| `prefix`        | what the sender has put before it; its key, since order is kept by it               |
| `content`       | the content where it is UTF-8 without NUL bytes, as a text of Postgres is; else null |
| `bytes`         | the content where it is anything else, as the text of a bytea; else null            |
| `transactional` | `t` or `f`                                                                          |

A transactional message takes its place among the changes of its transaction. One that is not belongs to
no transaction: it stands alone at the LSN behind its own WAL record, with ordinal 0 and xid 0. Both come
from the WAL alone, so a message has the same position whenever it is read.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from cdcflow.errors import ConfigurationError
from cdcflow.model.ddl import DDL_PREFIX
from cdcflow.model.relation import Column, Relation

#: No table can be taken for it: 0 is nobody's OID, and Postgres reserves schemas in `pg_` for itself
#: (manual, 5.10.5), for which reason no table pattern matches it either.
MESSAGES = Relation(
    oid=0,
    schema="pg_logical",
    name="messages",
    replica_identity="d",
    columns=(
        Column("prefix", 25, key=True),  # text
        Column("content", 25),
        Column("bytes", 17),  # bytea
        Column("transactional", 16),  # boolean
    ),
)

#: Prefixes that begin so are what cdcflow writes itself. They are never events, but for `DDL_PREFIX` where it
#: is asked for by its full name.
OWN_PREFIX = "cdcflow"


@dataclass(frozen=True)
class PrefixPattern:
    """One pattern. `literal` is the prefix that it names, or None where it has a wildcard."""

    text: str
    excludes: bool
    literal: str | None
    _regex: re.Pattern[str] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "PrefixPattern":
        """Raises ConfigurationError for what can match no message."""
        excludes = text.startswith("!")
        body = text.removeprefix("!")
        if not body:
            raise ConfigurationError(
                f"the prefix pattern {text!r} is empty", hint="write a prefix, such as orders.*, or * for all"
            )
        if body.startswith(OWN_PREFIX) and body != DDL_PREFIX:
            raise ConfigurationError(
                f"the prefix pattern {text!r} is for messages of cdcflow's own, which are never events",
                hint=f"give your messages a prefix that does not begin with {OWN_PREFIX}",
            )
        wildcards = {"*": ".*", "?": "."}
        regex = "".join(wildcards.get(character) or re.escape(character) for character in body)
        literal = None if "*" in body or "?" in body else body
        return cls(text, excludes, literal, re.compile(regex, re.DOTALL))

    def covers(self, prefix: str) -> bool:
        """Whether the pattern fits, its `!` left aside."""
        return bool(self._regex.fullmatch(prefix))


class PrefixPatterns:
    """Which messages are meant, by their prefixes. `*` stands for any run of characters and `?` for one;
    `!` in front excludes, and wins. Only exclusions mean everything else; no patterns mean nothing.

    cdcflow's own messages are never meant, but for DDL where a pattern is just its prefix.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises ConfigurationError for the first text that is not a pattern."""
        self.patterns = tuple(PrefixPattern.parse(text) for text in patterns)
        self._includes = tuple(p for p in self.patterns if not p.excludes)
        self._excludes = tuple(p for p in self.patterns if p.excludes)

    def __bool__(self) -> bool:
        return bool(self.patterns)

    def matches(self, prefix: str) -> bool:
        if prefix.startswith(OWN_PREFIX):
            return prefix == DDL_PREFIX and any(p.literal == prefix for p in self._includes)
        if any(p.covers(prefix) for p in self._excludes):
            return False
        if not self._includes:
            return bool(self._excludes)
        return any(p.covers(prefix) for p in self._includes)

    def __repr__(self) -> str:
        return f"PrefixPatterns({[p.text for p in self.patterns]!r})"
