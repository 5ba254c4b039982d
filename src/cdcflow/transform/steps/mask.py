"""`mask`: values that must not leave are replaced, in new rows, old rows and keys alike.

A hash is HMAC-SHA256 (RFC 2104) of Postgres' text of the value: equal values of any table have equal hashes
under the same key, so that masked tables still join, and without the key nobody can try out values.
"""

import hmac
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b, sha256
from typing import Annotated, Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import Field, model_validator

from cdcflow.model import Column, Group, Relation
from cdcflow.sink import Secret
from cdcflow.transform.derive import Made, derived, passed
from cdcflow.transform.hashing import keyed
from cdcflow.transform.options import ColumnName, Plain, StepOptions, place_of
from cdcflow.transform.rows import assembled, bits, has_old, metas, new_columns, old_columns
from cdcflow.transform.step import Bound, Noted, Run, StepContext, StepError, StepPlugin

#: OID of text.
TEXT = 25

#: Values remembered with their masks, per step: what changes often is masked once. About 20 MB.
REMEMBERED = 100_000

#: Bytes that a key has at least: as long as a hash is hard to guess (RFC 2104, 3: shorter keys than the
#: hash's output weaken it; 16 random bytes are beyond anybody's reach).
KEY_BYTES = 16

Method = Literal["sha256", "sha256_unkeyed", "tokenise", "partial", "redact", "null"]

_KEYED = ("sha256", "tokenise")


class Rule(StepOptions):
    """How one column is masked: the name of a method, or a mapping."""

    method: Method
    #: Instead of the configuration's `mask.key`.
    key: Secret | None = None
    #: partial: how many characters stay at each end.
    first: Annotated[int, Field(ge=0)] = 0
    last: Annotated[int, Field(ge=0)] = 4
    #: redact: what stands instead.
    text: str = "***"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        if value is None:  # YAML's own word for nothing, and the name of a method
            return {"method": "null"}
        return {"method": value} if isinstance(value, str) else value


class Rules(Plain[dict[ColumnName, Rule]]):
    """Column → how it is masked."""


@dataclass(frozen=True)
class _Masked:
    """A column's mask: from text to text, or None for NULL instead."""

    rule: Rule
    mask: Callable[[pa.Array], pa.Array] | None
    #: Part of the column's number: other masks make another column.
    salt: str


class _Mask:
    def __init__(self, options: Rules, context: StepContext) -> None:
        self._masked: dict[str, _Masked] = {}
        noted = Noted()
        for name, rule in options.root.items():
            with noted.one():
                self._masked[name] = _made(name, rule, context)
        noted.raise_all()

    def bind(self, relation: Relation) -> Bound:
        places: dict[int, _Masked] = {}
        columns = passed(relation)
        noted = Noted()
        for name, masked in self._masked.items():
            with noted.one():
                place = _place(relation, name, masked.rule)
                places[place] = masked
                columns[place] = Made(_typed(relation.columns[place], masked.rule), None, masked.salt)
        noted.raise_all()
        output = derived(relation, columns)

        def apply(group: Group, _run: Run) -> list[Group]:
            new, old = new_columns(group), old_columns(group)
            for place, masked in places.items():
                new[place] = _replaced(new[place], masked)
                if place in old:
                    old[place] = _replaced(old[place], masked)
            return [
                assembled(output, metas(group), new, has_old=has_old(group), old=old, unchanged=bits(group))
            ]

        return Bound((output,), apply)


def _place(relation: Relation, name: str, rule: Rule) -> int:
    place = place_of(relation, name, (name,))
    if relation.columns[place].key and not relation.full and rule.method not in ("sha256", "sha256_unkeyed"):
        raise StepError(
            f"{name!r} is part of the key, and {rule.method} makes different rows look alike",
            hint="mask it with sha256",
            way=(name,),
        )
    return place


def _typed(column: Column, rule: Rule) -> Column:
    return column if rule.method == "null" else replace(column, type_oid=TEXT, typmod=-1, type_name="")


def _replaced(values: pa.Array, masked: _Masked) -> pa.Array:
    return pa.nulls(len(values), pa.string()) if masked.mask is None else masked.mask(values)


def _made(name: str, rule: Rule, context: StepContext) -> _Masked:
    key = b""
    if rule.method in _KEYED:
        secret = rule.key or context.mask_key
        if secret is None:
            raise StepError(
                f"{rule.method} needs a secret key, and there is none",
                hint="write `mask: {key: ${MASK_KEY}}` into cdcflow.yaml (or a `key` here); to hash without"
                " one, so that anybody can find values by trying, write sha256_unkeyed",
                way=(name,),
            )
        key = secret.get_secret_value().encode()
        if len(key) < KEY_BYTES:
            raise StepError(
                f"the key has {len(key)} bytes, which can be found by trying",
                hint=f"take at least {KEY_BYTES}, for example from `openssl rand -hex 32`",
                way=(name,),
            )
    elif rule.key is not None:
        raise StepError(f"{rule.method} takes no key", hint="leave it out", way=(name, "key"))
    told = f"{rule.method} {rule.first} {rule.last} {rule.text}"
    salt = blake2b(told.encode(), key=blake2b(key).digest(), digest_size=8).hexdigest()
    if rule.method == "null":
        return _Masked(rule, None, salt)
    if rule.method == "redact":
        return _Masked(rule, _redacting(rule.text), salt)
    if rule.method == "sha256":
        return _Masked(rule, keyed(key), salt)
    return _Masked(rule, _Remembering(_masking(rule, key)), salt)


def _redacting(text: str) -> Callable[[pa.Array], pa.Array]:
    def redact(values: pa.Array) -> pa.Array:
        return pc.if_else(values.is_valid(), pa.scalar(text), pa.scalar(None, pa.string()))

    return redact


def _masking(rule: Rule, key: bytes) -> Callable[[str], str]:
    if rule.method == "sha256_unkeyed":
        return lambda text: sha256(text.encode()).hexdigest()
    if rule.method == "tokenise":
        return lambda text: tokenised(text, key)
    return lambda text: partly(text, rule.first, rule.last)


def partly(text: str, first: int, last: int) -> str:
    """The ends of a text, and a star for each character between. Where less than half would be hidden,
    all of it is."""
    size = len(text)
    if (first + last) * 2 > size:
        return "*" * size
    return text[:first] + "*" * (size - first - last) + (text[-last:] if last else "")


def tokenised(text: str, key: bytes) -> str:
    """A text of the same form: digits become digits and letters letters of the same case, by the key;
    everything else stays. The same text gives the same token."""
    found: list[str] = []
    stream = b""
    block = 0
    for number, mark in enumerate(text):
        if 2 * number >= len(stream):
            stream += hmac.digest(key, block.to_bytes(4) + text.encode(), "sha256")
            block += 1
        # Two bytes for each, so that no digit or letter is noticeably likelier than another.
        drawn = stream[2 * number] << 8 | stream[2 * number + 1]
        if mark.isdecimal():
            found.append(chr(ord("0") + drawn % 10))
        elif mark.isalpha():
            found.append(chr(ord("A" if mark.isupper() else "a") + drawn % 26))
        else:
            found.append(mark)
    return "".join(found)


class _Remembering:
    """Masks columns value by value, and remembers the masks of the last values."""

    def __init__(self, mask: Callable[[str], str]) -> None:
        self._mask = mask
        self._known: dict[str | None, str | None] = {None: None}

    def __call__(self, values: pa.Array) -> pa.Array:
        known = self._known
        if len(known) > REMEMBERED:
            known = self._known = {None: None}
        texts: Sequence[str | None] = values.to_pylist()
        mask = self._mask
        for text in texts:
            if text not in known:
                known[text] = None if text is None else mask(text)
        return pa.array([known[text] for text in texts], pa.string())


#: What each method does, for the reference.
METHODS: Mapping[str, str] = {
    "sha256": "HMAC-SHA256 with the key, as 64 hex digits",
    "sha256_unkeyed": "SHA-256 without a key: the same everywhere, and anybody can find a value by trying",
    "tokenise": "a text of the same form (digits for digits, letters for letters), always the same by"
    " the key; different values may get the same one",
    "partial": "stars but for `first` characters (0) and `last` characters (4)",
    "redact": "`text` (`***`) instead",
    "null": "NULL instead",
}

mask = StepPlugin(
    "mask",
    Rules,
    _Mask,
    makes=lambda options: options.root,
    about="""\
Replaces values, in new rows, old rows and keys. NULL stays NULL. The column becomes `text` (but for `null`).

| method | |
|---|---|
"""
    + "\n".join(f"| `{name}` | {what} |" for name, what in METHODS.items())
    + """

The key comes from `mask: {key: …}` in `cdcflow.yaml`, or from the rule's own `key`; without one, `sha256` and
`tokenise` are refused. Equal values have equal hashes in every table and flow with the same key, whatever
their type: what is hashed is Postgres' text. In the key of a table only the hashes are allowed.

A warehouse takes a masked column for another one than the plain one: masking a column of a table that is
there already, or with another key, stops the flow until the table is read anew.""",
    example="- mask:\n    email: sha256\n    phone: {method: partial, last: 3}\n    note: null",
)
