"""Which operator or function a name means for given argument types: Postgres' own rules (manual, chapter
10, and src/backend/parser/parse_func.c, parse_oper.c, parse_coerce.c), over everything that Postgres has
of that name.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from cdcflow.transform.expression import catalog
from cdcflow.transform.expression.catalog import CAST_CONTEXT, CATEGORY, PREFERRED, Signature
from cdcflow.transform.expression.sqltype import TEXT, UNKNOWN, SqlType, builtin

_ANY = "any"
_POLYMORPHIC = frozenset(
    {
        "any",
        "anyelement",
        "anyarray",
        "anynonarray",
        "anyenum",
        "anyrange",
        "anymultirange",
        "anycompatible",
        "anycompatiblearray",
        "anycompatiblenonarray",
        "anycompatiblerange",
        "anycompatiblemultirange",
    }
)
_ARRAYS = frozenset({"anyarray", "anycompatiblearray"})
_NOT_ARRAYS = frozenset({"anynonarray", "anycompatiblenonarray"})
_RANGES = frozenset({"anyrange", "anymultirange", "anycompatiblerange", "anycompatiblemultirange"})


#: Types of extensions, whose equality is not that of their text. Other declared types are taken for enums.
_EXTENSIONS = frozenset(
    {
        *("citext", "hstore", "ltree", "lquery", "ltxtquery", "vector", "halfvec", "sparsevec", "geometry"),
        *("geography", "raster", "box2d", "box3d", "cube", "seg", "isbn", "isbn13", "issn", "issn13", "ismn"),
        *("ismn13", "ean13", "upc"),
    }
)


@dataclass(frozen=True)
class Resolved:
    """The signature that is meant, and its argument and result types with polymorphic ones settled."""

    signature: Signature
    args: tuple[SqlType, ...]
    result: SqlType

    @property
    def key(self) -> str:
        """As a table of variants names it."""
        return self.signature.declared or ",".join(self.signature.args)


class NoMatch(Exception):
    """Nothing of that name takes these types, or several do equally well."""

    def __init__(self, ambiguous: bool) -> None:
        super().__init__("ambiguous" if ambiguous else "no match")
        self.ambiguous = ambiguous


def category(of: SqlType) -> str:
    if of.declared:
        return "E" if not of.key.rpartition(".")[2].startswith("_") else "A"
    return CATEGORY[of.key]


def can_coerce(source: SqlType, target: str) -> bool:
    """Whether a value of `source` is taken for `target` without a word."""
    if source.key == target or target == _ANY or source.key == UNKNOWN.key:
        return True
    if target in _POLYMORPHIC:
        is_array = source.is_array or (source.declared and category(source) == "A")
        if target in _RANGES:
            return category(source) == "R"
        if target == "anyenum":
            return source.declared and source.key.rpartition(".")[2] not in _EXTENSIONS
        return is_array if target in _ARRAYS else not (target in _NOT_ARRAYS and is_array)
    if source.declared:
        return False
    if CAST_CONTEXT.get((source.key, target)) == "i":
        return True
    if source.is_array and target.startswith("_"):
        return can_coerce(source.element, target[1:])
    return False


def operator(name: str, args: Sequence[SqlType]) -> Resolved:
    """Raises NoMatch. One argument is a prefix operator."""
    candidates = [s for s in catalog.OPERATOR_SIGNATURES.get(name, ()) if len(s.args) == len(args)]
    exact = _exact_operator(candidates, args)
    return _settle(exact, args) if exact else _best(candidates, args)


def _exact_operator(candidates: Sequence[Signature], args: Sequence[SqlType]) -> Signature | None:
    """parse_oper.c, binary_oper_exact: a lone unknown operand is taken for the other's type."""
    keys = [arg.key for arg in args]
    known = [key for key in keys if key != UNKNOWN.key]
    if len(known) == 1 and len(keys) == 2:
        keys = known * 2
    elif len(known) < len(keys):
        return None
    return next((s for s in candidates if list(s.args) == keys), None)


def function(name: str, args: Sequence[SqlType]) -> Resolved:
    """Raises NoMatch."""
    candidates = []
    for signature in catalog.FUNCTION_SIGNATURES.get(name, ()):
        fitted = _fit(signature, len(args))
        if fitted is not None:
            candidates.append(fitted)
    keys = [arg.key for arg in args]
    for candidate in candidates:
        if list(candidate.args) == keys:
            return _settle(candidate, args)
    return _best(candidates, args)


def _fit(signature: Signature, count: int) -> Signature | None:
    """The signature with exactly `count` arguments, if it can have them."""
    have = len(signature.args)
    if signature.variadic and count >= have:
        last = signature.args[-1]
        # VARIADIC "any" is listed as such, VARIADIC text[] as its array.
        repeated = last if last == _ANY else last.removeprefix("_")
        args = (*signature.args[:-1], *[repeated] * (count - have + 1))
        return Signature(args, signature.result, declared=",".join(signature.args))
    if have - signature.defaults <= count <= have:
        return Signature(signature.args[:count], signature.result)
    return None


def _best(candidates: Sequence[Signature], args: Sequence[SqlType]) -> Resolved:
    fitting = [s for s in candidates if _fits(s, args)]
    if not fitting:
        raise NoMatch(ambiguous=False)
    if len(fitting) > 1:
        chosen = _select(fitting, args)
        if chosen is None:
            raise NoMatch(ambiguous=True)
        fitting = [chosen]
    return _settle(fitting[0], args)


def _fits(signature: Signature, args: Sequence[SqlType]) -> bool:
    """Whether the arguments can be taken for the signature's, and its polymorphic ones agree
    (parse_coerce.c, can_coerce_type and check_generic_type_consistency)."""
    if not all(can_coerce(a, t) for a, t in zip(args, signature.args, strict=True)):
        return False
    try:
        _settle(signature, args)
    except NoMatch as error:
        return error.ambiguous
    return True


def _select(candidates: list[Signature], args: Sequence[SqlType]) -> Signature | None:
    """parse_func.c, func_select_candidate; the manual's 10.2 and 10.3, step 3."""
    unknown = [arg.key == UNKNOWN.key for arg in args]

    def exact(s: Signature) -> int:
        return sum(not u and a.key == t for a, t, u in zip(args, s.args, unknown, strict=True))

    candidates = _most(candidates, exact)
    if len(candidates) == 1:
        return candidates[0]

    def preferred(s: Signature) -> int:
        return sum(
            not u and (a.key == t or (t in PREFERRED and CATEGORY[t] == category(a)))
            for a, t, u in zip(args, s.args, unknown, strict=True)
        )

    candidates = _most(candidates, preferred)
    if len(candidates) == 1:
        return candidates[0]
    if not any(unknown):
        return None
    settled: dict[int, tuple[str, bool]] = {}
    for i in (i for i, u in enumerate(unknown) if u):
        categories = {CATEGORY[s.args[i]] for s in candidates}
        if "S" in categories:
            chosen = "S"
        elif len(categories) == 1:
            (chosen,) = categories
        else:
            settled.clear()
            break
        has_preferred = any(s.args[i] in PREFERRED and CATEGORY[s.args[i]] == chosen for s in candidates)
        settled[i] = chosen, has_preferred
    if settled:
        kept = [
            s
            for s in candidates
            if all(
                CATEGORY[s.args[i]] == chosen and (s.args[i] in PREFERRED or not has_preferred)
                for i, (chosen, has_preferred) in settled.items()
            )
        ]
        if kept:
            candidates = kept
        if len(candidates) == 1:
            return candidates[0]
    known = {arg.key for arg, u in zip(args, unknown, strict=True) if not u}
    if len(known) == 1:
        one = next(arg for arg, u in zip(args, unknown, strict=True) if not u)
        kept = [s for s in candidates if all(can_coerce(one, t) for t in s.args)]
        if len(kept) == 1:
            return kept[0]
    return None


def _most(candidates: list[Signature], score: Callable[[Signature], int]) -> list[Signature]:
    scores = [score(s) for s in candidates]
    best = max(scores)
    return [s for s, n in zip(candidates, scores, strict=True) if n == best]


def _settle(signature: Signature, args: Sequence[SqlType]) -> Resolved:
    """Puts real types for polymorphic ones. Raises NoMatch where they do not agree."""
    if not any(t in _POLYMORPHIC for t in signature.args):
        return Resolved(signature, tuple(builtin(t) for t in signature.args), builtin(signature.result))
    same: SqlType | None = None
    compatible: list[SqlType] = []
    for arg, target in zip(args, signature.args, strict=True):
        if target in _RANGES:
            raise NoMatch(ambiguous=False)
        if target not in _POLYMORPHIC or target == _ANY or arg.key == UNKNOWN.key:
            continue
        if arg.declared and target in _ARRAYS:
            raise NoMatch(ambiguous=False)
        element = arg.element if target in _ARRAYS else arg.bare
        if target.startswith("anycompatible"):
            compatible.append(element)
        elif same is None or same == element:
            same = element
        else:
            raise NoMatch(ambiguous=False)
    if compatible:
        same = common_type(compatible)
        if same is None:
            raise NoMatch(ambiguous=False)
    if same is None:
        if all(t == _ANY or t not in _POLYMORPHIC for t in signature.args) or any(
            t.startswith("anycompatible") for t in signature.args
        ):
            same = TEXT
        else:
            raise NoMatch(ambiguous=True)

    def real(target: str, arg: SqlType | None) -> SqlType:
        if target == _ANY:
            return TEXT if arg is None or arg.key == UNKNOWN.key else arg
        if target not in _POLYMORPHIC:
            return builtin(target)
        if target in _ARRAYS:
            if same.declared or same.is_array:
                raise NoMatch(ambiguous=False)
            return same.array
        return same

    settled = tuple(real(t, a) for t, a in zip(signature.args, args, strict=True))
    return Resolved(signature, settled, real(signature.result, None))


def common_type(types: Sequence[SqlType]) -> SqlType | None:
    """What CASE, COALESCE, IN and ARRAY make of several types (parse_coerce.c, select_common_type; the
    manual's 10.5), or None where they do not go together."""
    first = types[0]
    if first.key != UNKNOWN.key and all(t.key == first.key for t in types[1:]):
        return first.bare
    chosen = first
    for kind in types[1:]:
        if kind.key == UNKNOWN.key or kind.key == chosen.key:
            continue
        if chosen.key == UNKNOWN.key:
            chosen = kind
        elif category(kind) != category(chosen):
            return None
        elif (
            chosen.key not in PREFERRED
            and not kind.declared
            and can_coerce(chosen, kind.key)
            and not can_coerce(kind, chosen.key)
        ):
            chosen = kind
    return TEXT if chosen.key == UNKNOWN.key else chosen.bare
