"""Postgres' regular expressions (advanced, manual 9.7.3) as those of RE2, for the part of them that means
the same.

Whether a pattern matches is the same question for both once the syntax is translated. *What* it matches
is not: Postgres takes the longest match, RE2 the first that it finds with greedy quantifiers. So where
the match is used (`regexp_replace`, `substring`), only patterns are taken for which the two agree:
sequences of single characters or sets with greedy quantifiers, groups without quantifier, and
alternatives that begin with different characters behind a part of fixed length.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from cdcflow.transform.expression.function import Refused

#: RE2's sets for the classes, and their characters below 128. Beyond, they are those of `C.UTF-8`.
_CLASSES: dict[str, tuple[str, str]] = {
    "alpha": (r"a-zA-Z\pL\p{Nl}", "a-zA-Z"),
    "digit": ("0-9", "0-9"),
    "alnum": (r"0-9a-zA-Z\pL\p{Nl}", "0-9a-zA-Z"),
    "word": (r"0-9a-zA-Z_\pL\p{Nl}", "0-9a-zA-Z_"),
    "upper": (r"A-Z\p{Lu}", "A-Z"),
    "lower": (r"a-z\p{Ll}", "a-z"),
    "space": (r"\t-\r \x{85}\pZ", "\t-\r "),
    "blank": (r"\t \p{Zs}", "\t "),
    "xdigit": ("0-9a-fA-F", "0-9a-fA-F"),
    "punct": (r"!-/:-@\[-`{-~\pP\pS", "!-/:-@[-`{-~"),
    "cntrl": (r"\x00-\x1f\x7f-\x{9f}", "\x00-\x1f\x7f-\x7f"),
}
_SHORT = {"d": "digit", "s": "space", "w": "word"}
_CONTROLS = {"a": 7, "b": 8, "e": 27, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11}
_LAST = 0x10FFFF

Ranges = tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Item:
    """A single character or set with its quantifier. `first` is what it may begin with, as ranges that
    may be too wide but never too narrow."""

    re2: str
    least: int
    most: int | None
    first: Ranges


@dataclass(frozen=True)
class Group:
    """A group; `least` and `most` say how often. `branches` are its alternatives."""

    branches: tuple[tuple["Piece", ...], ...]
    capturing: bool
    least: int = 1
    most: int | None = 1


@dataclass(frozen=True)
class Anchor:
    re2: str


Piece = Item | Group | Anchor


@dataclass(frozen=True)
class Pattern:
    """A pattern in RE2's syntax. `why_not` says why its match may be another than Postgres'; empty: it is
    not."""

    re2: str
    groups: int
    nullable: bool
    why_not: str


@lru_cache(maxsize=1024)
def translate(pattern: str, ignore_case: bool = False) -> Pattern:
    """Raises Refused for what is not supported."""
    if pattern.startswith("(?i)"):
        pattern, ignore_case = pattern[4:], True
    reader = _Reader(pattern, ignore_case)
    branches = reader.alternatives(0)
    if reader.at < len(pattern):
        raise _refused("a ) without its (")
    return Pattern(
        _alternatives(branches), reader.groups, any(_nullable(b) for b in branches), _ambiguity(branches)
    )


def _refused(what: str) -> Refused:
    return Refused(f"the regular expression is not supported: {what}")


class _Reader:
    def __init__(self, pattern: str, ignore_case: bool) -> None:
        self.pattern = pattern
        self.ignore_case = ignore_case
        self.at = 0
        self.groups = 0
        if pattern.startswith("***"):
            raise _refused("it begins with ***")

    def _peek(self, count: int = 1) -> str:
        return self.pattern[self.at : self.at + count]

    def alternatives(self, depth: int) -> tuple[tuple[Piece, ...], ...]:
        branches = [self._branch(depth)]
        while self._peek() == "|":
            self.at += 1
            branches.append(self._branch(depth))
        if len(branches) > 1 and not all(branches):
            raise _refused("an empty alternative")
        return tuple(branches)

    def _branch(self, depth: int) -> tuple[Piece, ...]:
        pieces: list[Piece] = []
        while self.at < len(self.pattern) and self._peek() not in ("|", ")"):
            pieces.append(self._piece(depth))
        return tuple(pieces)

    def _piece(self, depth: int) -> Piece:
        mark = self._peek()
        if mark in ("^", "$"):
            self.at += 1
            self._no_quantifier()
            return Anchor(r"\A" if mark == "^" else r"\z")
        if mark in ("*", "+", "?"):
            raise _refused(f"{mark} with nothing before it")
        if mark == "(":
            return self._group(depth)
        if mark == "[":
            ranges, re2 = self._set()
        elif mark == ".":
            self.at += 1
            ranges, re2 = ((0, _LAST),), "(?s:.)"
        elif mark == "\\":
            escaped = self._escape()
            if isinstance(escaped, Anchor):
                self._no_quantifier()
                return escaped
            ranges, re2 = escaped
        else:
            self.at += 1
            ranges, re2 = self._literal(mark)
        least, most = self._quantifier()
        return Item(re2, least, most, ranges)

    def _group(self, depth: int) -> Group:
        if depth > 20:
            raise _refused("groups are nested too deeply")
        self.at += 1
        capturing = True
        if self._peek() == "?":
            if self._peek(2) != "?:":
                raise _refused("a lookaround or an option within it")
            self.at += 2
            capturing = False
        self.groups += capturing
        branches = self.alternatives(depth + 1)
        if self._peek() != ")":
            raise _refused("a ( without its )")
        self.at += 1
        least, most = self._quantifier()
        if (least, most) == (0, 0):
            raise _refused("a group that is repeated zero times")
        return Group(branches, capturing, least, most)

    def _no_quantifier(self) -> None:
        if self._peek() in ("*", "+", "?") or (self._peek() == "{" and self._peek(2)[1:].isdigit()):
            raise _refused("a quantifier behind ^, $ or the like")

    def _quantifier(self) -> tuple[int, int | None]:
        mark = self._peek()
        least: int
        most: int | None
        if mark == "*":
            least, most = 0, None
        elif mark == "+":
            least, most = 1, None
        elif mark == "?":
            least, most = 0, 1
        elif mark == "{" and self._peek(2)[1:].isdigit():
            return self._bounds()
        else:
            return 1, 1
        self.at += 1
        self._end_of_quantifier()
        return least, most

    def _bounds(self) -> tuple[int, int | None]:
        close = self.pattern.find("}", self.at)
        inner = self.pattern[self.at + 1 : close] if close > 0 else ""
        low, comma, high = inner.partition(",")
        if not low.isdigit() or (high and not high.isdigit()):
            raise _refused("bounds that are not {m}, {m,} or {m,n}")
        least = int(low)
        most = least if not comma else int(high) if high else None
        if least > 255 or (most is not None and (most > 255 or most < least)):
            raise _refused("bounds that are not 0 to 255, in order")
        self.at = close + 1
        self._end_of_quantifier()
        return least, most

    def _end_of_quantifier(self) -> None:
        if self._peek() == "?":
            raise _refused("a quantifier that is not greedy")
        if self._peek() in ("*", "+") or (self._peek() == "{" and self._peek(2)[1:].isdigit()):
            raise _refused("a quantifier behind a quantifier")

    def _escape(self) -> tuple[Ranges, str] | Anchor:
        self.at += 1
        mark = self._peek()
        if not mark:
            raise _refused("it ends with a backslash")
        self.at += 1
        if mark.lower() in _SHORT:
            re2, _ = _CLASSES[_SHORT[mark.lower()]]
            ranges = _class_ranges(_SHORT[mark.lower()])
            return (ranges, f"[{re2}]") if mark.islower() else (_complement(ranges), f"[^{re2}]")
        if mark in ("A", "Z"):
            return Anchor(r"\A" if mark == "A" else r"\z")
        if mark in _CONTROLS:
            return self._literal(chr(_CONTROLS[mark]))
        if mark.isalnum():
            raise _refused(f"\\{mark}")
        return self._literal(mark)

    def _literal(self, character: str) -> tuple[Ranges, str]:
        variants = _cases(character) if self.ignore_case else (character,)
        ranges = tuple(sorted((ord(v), ord(v)) for v in variants))
        if len(variants) == 1:
            return ranges, _quoted(character)
        return ranges, f"[{''.join(_quoted(v) for v in variants)}]"

    def _set(self) -> tuple[Ranges, str]:
        """[…], in which a backslash escapes, as it does in Postgres' advanced expressions."""
        self.at += 1
        negated = self._peek() == "^"
        self.at += negated
        ranges: list[tuple[int, int]] = []
        parts: list[str] = []
        start = self.at
        while self._peek() != "]" or self.at == start:
            if not self._peek():
                raise _refused("a [ without its ]")
            if self._peek(2) == "[:":
                end = self.pattern.find(":]", self.at)
                name = self.pattern[self.at + 2 : end]
                if end < 0 or name not in _CLASSES:
                    raise _refused("a class of characters that is not known")
                if self.ignore_case and name in ("upper", "lower"):
                    name = "alpha"
                self.at = end + 2
                parts.append(_CLASSES[name][0])
                ranges += _class_ranges(name)
                continue
            if self._peek(2) in ("[.", "[="):
                raise _refused("a collating element or an equivalence class")
            low = self._set_character()
            if isinstance(low, str):
                parts.append(_CLASSES[low][0])
                ranges += _class_ranges(low)
                continue
            high = low
            if self._peek() == "-" and self._peek(2) not in ("-]", "-"):
                self.at += 1
                end_character = self._set_character()
                if isinstance(end_character, str) or self._peek(2) == "[:":
                    raise _refused("a range that ends with a class")
                high = end_character
            if high < low:
                raise _refused("a range whose end is before its beginning")
            for a, b in self._with_cases(low, high):
                ranges.append((a, b))
                parts.append(_quoted(chr(a)) if a == b else f"{_quoted(chr(a))}-{_quoted(chr(b))}")
        self.at += 1
        covered = tuple(sorted(ranges))
        if negated:
            return _complement(covered), f"[^{''.join(parts)}]"
        return covered, f"[{''.join(parts)}]"

    def _set_character(self) -> int | str:
        """A code point, or the name of a class."""
        mark = self._peek()
        self.at += 1
        if mark != "\\":
            return ord(mark)
        mark = self._peek()
        if not mark:
            raise _refused("it ends with a backslash")
        self.at += 1
        if mark in _SHORT:
            return _SHORT[mark]
        if mark in _CONTROLS:
            return _CONTROLS[mark]
        if mark.isalnum():
            raise _refused(f"\\{mark} within […]")
        return ord(mark)

    def _with_cases(self, low: int, high: int) -> list[tuple[int, int]]:
        if not self.ignore_case:
            return [(low, high)]
        if high - low > 500:
            raise _refused("a large range without regard to case")
        return [(ord(v), ord(v)) for c in range(low, high + 1) for v in _cases(chr(c))]


def _cases(character: str) -> tuple[str, ...]:
    """The character with its other cases, one by one as in regc_locale.c, allcases."""
    found = {character, *(c for c in (character.lower(), character.upper()) if len(c) == 1)}
    return tuple(sorted(found))


def _class_ranges(name: str) -> Ranges:
    ascii_part = _CLASSES[name][1]
    ranges = [(0x80, _LAST)] if name not in ("digit", "xdigit") else []
    at = 0
    while at < len(ascii_part):
        if ascii_part[at + 1 : at + 2] == "-" and at + 2 < len(ascii_part):
            ranges.append((ord(ascii_part[at]), ord(ascii_part[at + 2])))
            at += 3
        else:
            ranges.append((ord(ascii_part[at]), ord(ascii_part[at])))
            at += 1
    return tuple(sorted(ranges))


def _complement(ranges: Ranges) -> Ranges:
    """What is surely outside, and all beyond 127, where ranges may be too wide."""
    outside, at = [], 0
    for low, high in sorted(ranges):
        if low > at:
            outside.append((at, low - 1))
        at = max(at, high + 1)
    if at <= _LAST:
        outside.append((at, _LAST))
    return (*outside, (0x80, _LAST))


def _quoted(character: str) -> str:
    code = ord(character)
    if character.isalnum() and code < 128:
        return character
    return f"\\x{{{code:x}}}"


# --- writing -----------------------------------------------------------------------------------------------


def _alternatives(branches: Sequence[Sequence[Piece]]) -> str:
    return "|".join("".join(_written(piece) for piece in branch) for branch in branches)


def _written(piece: Piece) -> str:
    match piece:
        case Anchor():
            return piece.re2
        case Item():
            return piece.re2 + _times(piece.least, piece.most)
        case Group():
            head = "(" if piece.capturing else "(?:"
            return f"{head}{_alternatives(piece.branches)})" + _times(piece.least, piece.most)


def _times(least: int, most: int | None) -> str:
    if (least, most) == (1, 1):
        return ""
    if most is None:
        return {0: "*", 1: "+"}.get(least) or f"{{{least},}}"
    return "?" if (least, most) == (0, 1) else f"{{{least},{most}}}"


# --- where longest and first agree -------------------------------------------------------------------------


def _nullable(branch: Sequence[Piece]) -> bool:
    return all(
        isinstance(p, Anchor)
        or p.least == 0
        or (isinstance(p, Group) and any(_nullable(b) for b in p.branches))
        for p in branch
    )


def _fixed(branch: Sequence[Piece]) -> bool:
    """Whether every match has the same length."""
    return all(
        isinstance(p, Anchor)
        or (p.least == p.most and (isinstance(p, Item) or (len(p.branches) == 1 and _fixed(p.branches[0]))))
        for p in branch
    )


def _ambiguity(branches: Sequence[Sequence[Piece]], before_fixed: bool = True) -> str:
    if len(branches) > 1:
        if not before_fixed:
            return "alternatives behind a part whose length may vary"
        firsts = [_first(branch) for branch in branches]
        for i, a in enumerate(firsts):
            for b in firsts[i + 1 :]:
                if a is None or b is None or _overlap(a, b):
                    return "alternatives that can begin with the same character"
    for branch in branches:
        fixed = before_fixed
        for piece in branch:
            if isinstance(piece, Group):
                if (piece.least, piece.most) != (1, 1):
                    return "a group with a quantifier"
                if why := _ambiguity(piece.branches, fixed):
                    return why
                fixed = fixed and len(piece.branches) == 1 and _fixed(piece.branches[0])
            elif isinstance(piece, Item):
                fixed = fixed and piece.least == piece.most
    return ""


def _first(branch: Sequence[Piece]) -> Ranges | None:
    """What a branch begins with, or None where it may be empty."""
    ranges: list[tuple[int, int]] = []
    for piece in branch:
        if isinstance(piece, Anchor):
            continue
        if isinstance(piece, Item):
            ranges += piece.first
            if piece.least > 0:
                return tuple(ranges)
            continue
        firsts = [_first(b) for b in piece.branches]
        if any(f is None for f in firsts):
            return None
        ranges += [r for f in firsts if f is not None for r in f]
        return tuple(ranges)
    return None


def _overlap(a: Ranges, b: Ranges) -> bool:
    return any(low1 <= high2 and low2 <= high1 for low1, high1 in a for low2, high2 in b)


# --- replacements ------------------------------------------------------------------------------------------


def replacement(text: str, groups: int) -> str:
    r"""`\1`, `\&` and `\\` of a replacement, in RE2's form; any other backslash stands for itself."""
    pieces, at = [], 0
    while at < len(text):
        if text[at] != "\\":
            pieces.append(text[at])
            at += 1
            continue
        mark = text[at + 1 : at + 2]
        if mark == "&":
            pieces.append(r"\0")
        elif mark and mark in "123456789":
            pieces.append(f"\\{mark}" if int(mark) <= groups else "")
        elif mark == "\\":
            pieces.append(r"\\")
        else:
            pieces.append(r"\\")
            at += 1
            continue
        at += 2
    return "".join(pieces)
