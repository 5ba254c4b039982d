"""Prints the table of the documentation: `python -m cdcflow.transform.expression > docs/expressions.md`."""

from collections.abc import Iterator

from cdcflow.transform.expression import catalog
from cdcflow.transform.expression.function import Supported
from cdcflow.transform.expression.resolve import function, operator
from cdcflow.transform.expression.scope import METAS
from cdcflow.transform.expression.sqltype import builtin
from cdcflow.transform.expression.table import FAMILIES

_HEAD = """\
# SQL expressions

Made from the code by `python -m cdcflow.transform.expression > docs/expressions.md`.

Filters, computed columns and routes are expressions in Postgres' own syntax, with Postgres' types,
operators and results: NULL is neither true nor false, `1 / 2` is `0`, `1.10 + 1` is `2.10`. They are
parsed by Postgres' grammar and bound to a table's columns when a flow starts. What is not in these
tables is refused then, with its place in the text, the reason and the nearest thing that is supported.

A row for which Postgres would raise an error (`10 / parts` where `parts` is 0) fails, and the flow's
policy decides what becomes of it. As in Postgres, `case when parts <> 0 then 10 / parts end` does not
fail, nor does `parts <> 0 and 10 / parts > 1`.

`make differential` holds generated expressions, value by value, against a real Postgres.

## Names

| name | means |
|---|---|
| `status`, `new.status` | a column of the row after the change; all are NULL for a delete |
| `old.status` | the column before the change; NULL for an insert. Only those of the replica identity are \
in the stream: all of them under `REPLICA IDENTITY FULL`, else those of the key |
| `changed(status)` | whether its text is another than before; true for an insert with a value |
{metas}

A column that has the name of one of these is written `new.op`, and then the other is `change.op`. Names
with capitals stand in double quotes.

## Syntax

| syntax | |
|---|---|
| `and`, `or`, `not`, `is [not] true / false / unknown` | three-valued logic |
| `is [not] null`, `is [not] distinct from` | |
| `in (…)`, `not in (…)`, `between`, `between symmetric` | |
| `= any (array)`, `<> all (array)`, and the other comparisons | |
| `case when … then … else … end`, `case x when …` | |
| `coalesce`, `nullif`, `greatest`, `least` | |
| `x::type`, `cast(x as type)`, `type 'literal'` | with `numeric(p,s)`, `varchar(n)`, `char(n)` |
| `like`, `ilike`, `similar to`, `escape` | |
| `array[…]`, `tags[1]` | |
| `collate "C"` | compares text by code point |
| `current_date`, `current_timestamp`, `localtimestamp` | of the commit |

## What to know

* **The order of text** (`<`, `between`, `greatest` …) depends on the database's collation, which the
  stream does not tell. It is supported with `collate "C"`. Equality is the same everywhere.
* **Upper and lower case** of letters beyond ASCII are as under `C.UTF-8` or `en_US.UTF-8`, one character
  for one. In a database with the locale `C` they change ASCII only: write `upper(x collate "C")`, which
  is that here as well.
* **Regular expressions** are translated to RE2, which runs in linear time. Look-around, back references,
  `\\y`, `\\m`, non-greedy quantifiers are refused; so is a pattern of `regexp_replace` or `substring`
  for which Postgres could take a longer match than RE2. A pattern is a constant.
* **`now()`** is the time at which the change was committed, not the time of delivery: a replay gives the
  same again.
* **The time zone** is UTC. A named zone (`at time zone 'Europe/Berlin'`) follows the time zone data of
  the machine that cdcflow runs on.
* **Dates and times from text** are read in ISO 8601 and in Postgres' own output; a row with another form
  fails, though Postgres may know it (`Jan 2, 2026`).
* **Types that you have declared** are taken for enums: they are equal by label. Cast others to text:
  `x::text`. `citext` and other types of extensions need that as well.
* **A value that was not sent** (TOAST, unchanged) is taken from the old row under `REPLICA IDENTITY
  FULL`, and is unknown elsewhere, as is what is computed from it, unless something else decides: `false
  and …`.
* Where versions of Postgres differ, a row fails rather than giving either: the difference of infinite
  timestamps (an infinite interval since 17), a JSON `null` cast to a number (NULL since 18).
"""

_META_MEANINGS = {
    "op": "insert, update, delete, truncate, read (from a backfill) or message",
    "table": "the name of the table",
    "schema": "the name of its schema",
    "commit_time": "when the transaction was committed",
    "position": "the change's place in the source's history, as in `status`",
}


def page() -> str:
    metas = "\n".join(f"| `{name}` | {_META_MEANINGS[name]} |" for name in METAS)
    sections = ("\n".join(_section(title, entries)) for title, entries in FAMILIES)
    return "\n".join([_HEAD.replace("{metas}", metas), *sections])


def _section(title: str, entries: tuple[Supported, ...]) -> Iterator[str]:
    yield f"## {title}\n"
    yield "| | takes | gives | example |"
    yield "|---|---|---|---|"
    for entry in entries:
        signatures = dict.fromkeys(_signatures(entry))
        takes = "; ".join(args for args, _ in signatures)
        gives = ", ".join(dict.fromkeys(result for _, result in signatures))
        cells = (
            f"`{_safe(entry.name)}`: {_safe(entry.summary)}",
            _safe(takes),
            gives,
            f"`{_safe(entry.example)}`",
        )
        yield f"| {' | '.join(cells)} |"
    yield ""


def _signatures(entry: Supported) -> Iterator[tuple[str, str]]:
    for key in entry.variants:
        args = key.split(",") if key else []
        if any(arg.startswith("any") for arg in args) or key.endswith("_text"):
            yield ", ".join(_shown(arg) for arg in args), _polymorphic(entry.name, key)
            continue
        types = [builtin(arg) for arg in args]
        resolved = operator(entry.name, types) if entry.operator else function(entry.name, types)
        yield ", ".join(kind.name for kind in types) or "nothing", resolved.result.name


def _polymorphic(name: str, key: str) -> str:
    signatures = [*catalog.OPERATOR_SIGNATURES.get(name, ()), *catalog.FUNCTION_SIGNATURES.get(name, ())]
    for signature in signatures:
        if ",".join(signature.args) == key or (key == "any" and signature.variadic):
            return _shown(signature.result)
    return "text"


_WORDS = {
    "any": "anything",
    "anyarray": "array",
    "anycompatiblearray": "array",
    "anyelement": "anything",
    "anycompatible": "element",
    "anynonarray": "anything",
    "anyenum": "enum",
}


def _shown(key: str) -> str:
    return _WORDS.get(key) or builtin(key).name


def _safe(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(page(), end="")
