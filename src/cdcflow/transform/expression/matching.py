"""LIKE, ILIKE, SIMILAR TO and regular expressions. Patterns of LIKE may vary by row; the others must be
constants."""

import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import regex
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Refused,
    Supported,
    Variant,
    by_row,
    constant_value,
    operator,
    row_kernel,
)
from cdcflow.transform.expression.letters import lower, lower_kernel
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.sqltype import BOOL, TEXT

# --- LIKE --------------------------------------------------------------------------------------------------

_ENDS = "LIKE pattern must not end with escape character"


def _tokens(pattern: str) -> list[str]:
    """Literal runs, `%` and `_` of a pattern; literals are marked with a leading `=`."""
    found: list[str] = []
    at = 0
    while at < len(pattern):
        mark = pattern[at]
        if mark in "%_":
            found.append(mark)
        else:
            if mark == "\\":
                at += 1
                if at == len(pattern):
                    raise Fails(_ENDS)
            if found and found[-1].startswith("="):
                found[-1] += pattern[at]
            else:
                found.append(f"={pattern[at]}")
        at += 1
    return found


_WILD = {"%": ".*", "_": "."}


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    body = "".join(_WILD.get(token) or re.escape(token[1:]) for token in _tokens(pattern))
    return re.compile(body, re.DOTALL)


def _like(value: str, pattern: str) -> bool:
    try:
        return _compiled(pattern).fullmatch(value) is not None
    except Fails:
        # Postgres raises the error only when matching gets that far.
        if _compiled(pattern[:-1] + "%").fullmatch(value) is None:
            return False
        raise


def _constant_like(pattern: str) -> Callable[[Any], pa.Array]:
    """A kernel for a pattern that is the same for all rows."""
    tokens = _tokens(pattern)
    match tokens:
        case []:
            return lambda values: pc.equal(values, "")
        case [one] if one.startswith("="):
            return lambda values: pc.equal(values, one[1:])
        case ["%"]:
            return lambda values: pc.if_else(pc.is_null(values), pa.scalar(None, pa.bool_()), True)
        case [head, "%"] if head.startswith("="):
            return lambda values: pc.starts_with(values, head[1:])
        case ["%", tail] if tail.startswith("="):
            return lambda values: pc.ends_with(values, tail[1:])
        case ["%", middle, "%"] if middle.startswith("="):
            return lambda values: pc.match_substring(values, middle[1:])
    wild = {"%": "(?s:.)*", "_": "(?s:.)"}
    body = "".join(wild.get(t) or "".join(f"\\x{{{ord(c):x}}}" for c in t[1:]) for t in tokens)
    return lambda values: pc.match_substring_regex(values, rf"\A{body}\z")


def like(*, negated: bool, ignore_case: bool) -> Callable[[Bound, Bound], Kernel]:
    def bind(value: Bound, pattern: Bound) -> Kernel:
        by_code_point = "C" if value.collation or pattern.collation else ""
        lowered = lower_kernel(by_code_point)
        if pattern.constant is not None:
            text = constant_value(pattern)
            matches = _constant_like(lower(text, by_code_point) if ignore_case else text)

            def kernel(rows: Rows, values: Datum, _pattern: Datum) -> pa.Array:
                values = as_array(values, rows.count)
                found = matches(lowered(rows, values) if ignore_case else values)
                return pc.invert(found) if negated else found

            return kernel

        def by_row(value: str, pattern: str) -> bool:
            if ignore_case:
                value, pattern = lower(value, by_code_point), lower(pattern, by_code_point)
            return _like(value, pattern) is not negated

        return row_kernel(by_row, [TEXT, TEXT], BOOL)

    return bind


def _like_escape(pattern: str, escape: str) -> str:
    """like_match.c, do_like_escape: a pattern with another escape character, with backslashes instead."""
    if len(escape) > 1:
        raise Fails("invalid escape string")
    if not escape:
        return pattern.replace("\\", "\\\\")
    if escape == "\\":
        return pattern
    pieces, after = [], False
    for character in pattern:
        if character == escape and not after:
            pieces.append("\\")
            after = True
        elif character == "\\":
            pieces.append("\\" if after else "\\\\")
            after = False
        else:
            pieces.append(character)
            after = False
    return "".join(pieces)


# --- regular expressions -----------------------------------------------------------------------------------


def _pattern(argument: Bound, what: str) -> str:
    if argument.constant is None:
        raise Refused(f"the pattern of {what} must be a constant here")
    value: str = constant_value(argument)
    return value


def matches(*, negated: bool, ignore_case: bool) -> Callable[[Bound, Bound], Kernel]:
    def bind(_value: Bound, pattern: Bound) -> Kernel:
        found = regex.translate(_pattern(pattern, "~"), ignore_case)
        re2 = found.re2

        def kernel(rows: Rows, values: Datum, _pattern: Datum) -> pa.Array:
            result = pc.match_substring_regex(as_array(values, rows.count), re2)
            return pc.invert(result) if negated else result

        return kernel

    return bind


def _flags(argument: Bound | None, allowed: str) -> str:
    if argument is None:
        return ""
    if argument.constant is None:
        raise Refused("the flags must be a constant here")
    flags: str = constant_value(argument)
    if not set(flags) <= set(allowed):
        raise Refused(f"these flags are not supported: only {' and '.join(allowed)} are")
    return flags


def _same_match(found: regex.Pattern) -> None:
    if found.why_not:
        raise Refused(
            f"Postgres may take another match than we would: the pattern has {found.why_not}",
            hint="it can be used with ~, which asks only whether there is a match",
        )


def _regexp_replace(_value: Bound, pattern: Bound, new: Bound, flags: Bound | None = None) -> Kernel:
    given = _flags(flags, "gi")
    found = regex.translate(_pattern(pattern, "regexp_replace"), "i" in given)
    _same_match(found)
    if new.constant is None:
        raise Refused("the replacement must be a constant here")
    rewrite = regex.replacement(constant_value(new), found.groups)
    everywhere = "g" in given
    if everywhere and found.nullable:
        raise Refused("the pattern can match nothing at all, which is not supported with the flag g")

    def kernel(rows: Rows, values: Datum, *_constants: Datum) -> pa.Array:
        return pc.replace_substring_regex(
            as_array(values, rows.count),
            pattern=found.re2,
            replacement=rewrite,
            max_replacements=None if everywhere else 1,
        )

    return kernel


def _substring(_value: Bound, pattern: Bound) -> Kernel:
    """The first group, or the whole match where the pattern has none."""
    found = regex.translate(_pattern(pattern, "substring"))
    _same_match(found)
    if found.groups and "|" in found.re2:
        raise Refused("a pattern with groups and alternatives is not supported in substring")
    return _extracting(found.re2 if found.groups else f"({found.re2})")


def _extracting(re2: str) -> Kernel:
    """The first group of the pattern, by its name: the only kind that extract_regex gives. A parenthesis in
    what `regex` writes is always a group's: as a character it is written by its code."""
    head, _, tail = re2.replace("(?", "\0").partition("(")
    named = f"{head}(?P<m>{tail.replace('(', '(?:')}".replace("\0", "(?")

    def kernel(rows: Rows, values: Datum, _pattern: Datum) -> pa.Array:
        return pc.struct_field(pc.extract_regex(as_array(values, rows.count), pattern=named), "m")

    return kernel


def _regexp_like(value: Bound, pattern: Bound, flags: Bound | None = None) -> Kernel:
    given = _flags(flags, "i")
    kernel = matches(negated=False, ignore_case="i" in given)(value, pattern)
    return lambda rows, values, *_constants: kernel(rows, values, None)


# --- SIMILAR TO --------------------------------------------------------------------------------------------


def _similar_to_escape(pattern: str, escape: str = "\\") -> str:
    """regexp.c, similar_escape_internal, for patterns without escape and without the separators of
    substring."""
    if len(escape) > 1:
        raise Fails("invalid escape string")
    if escape and escape in pattern:
        raise Fails("a pattern of SIMILAR TO with an escape is not supported here")
    pieces, inside = ["^(?:"], False
    for character in pattern:
        if inside:
            pieces.append("\\\\" if character == "\\" else character)
            inside = character != "]"
        elif character == "[":
            pieces.append("[")
            inside = True
        elif character == "%":
            pieces.append(".*")
        elif character == "_":
            pieces.append(".")
        elif character == "(":
            pieces.append("(?:")
        elif character in "\\.^$":
            pieces.append(f"\\{character}")
        else:
            pieces.append(character)
    return "".join(pieces) + ")$"


def _operators(negated: bool, ignore_case: bool) -> dict[str, Variant]:
    bind = like(negated=negated, ignore_case=ignore_case)
    return {
        kinds: Variant(bind=bind, fails=True, fails_by_constant=False)
        for kinds in ("text,text", "bpchar,text")
    }


def _regex_operators(negated: bool, ignore_case: bool) -> dict[str, Variant]:
    bind = matches(negated=negated, ignore_case=ignore_case)
    return {"text,text": Variant(bind=bind), "bpchar,text": Variant(bind=bind)}


SUPPORTED: tuple[Supported, ...] = (
    operator("~~", "`like`", "status like 'pa%'", _operators(False, False)),
    operator("!~~", "`not like`", "status not like 'pa%'", _operators(True, False)),
    operator("~~*", "`ilike`: like, without regard to case", "status ilike 'PA%'", _operators(False, True)),
    operator("!~~*", "`not ilike`", "status not ilike 'PA%'", _operators(True, True)),
    operator(
        "~",
        "matches a regular expression; also `similar to`",
        "status ~ '^p.*d$'",
        _regex_operators(False, False),
    ),
    operator("!~", "does not match a regular expression", "status !~ '^p'", _regex_operators(True, False)),
    operator("~*", "matches, without regard to case", "status ~* '^PAID$'", _regex_operators(False, True)),
    operator(
        "!~*", "does not match, without regard to case", "status !~* '^P'", _regex_operators(True, True)
    ),
    Supported(
        "like_escape",
        "`like … escape …`",
        "status like '50!%' escape '!'",
        {"text,text": by_row(_like_escape, "text,text", "text", fails=True)},
    ),
    Supported(
        "similar_to_escape",
        "the pattern of `similar to`, without an escape in it",
        "status similar to '(paid|open)%'",
        {
            "text": by_row(_similar_to_escape, "text", "text", fails=True),
            "text,text": by_row(_similar_to_escape, "text,text", "text", fails=True),
        },
    ),
    Supported(
        "regexp_replace",
        "replaces the first match, with the flag `g` all; `\\1` and `\\&` in the replacement",
        "regexp_replace(phone, '[^0-9]+', '', 'g')",
        {
            "text,text,text": Variant(bind=_regexp_replace),
            "text,text,text,text": Variant(bind=_regexp_replace),
        },
    ),
    Supported(
        "regexp_like",
        "whether there is a match",
        "regexp_like(status, '^paid', 'i')",
        {"text,text": Variant(bind=_regexp_like), "text,text,text": Variant(bind=_regexp_like)},
    ),
)

SUBSTRING = {"text,text": Variant(bind=_substring)}
