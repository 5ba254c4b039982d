"""Composites, for who says himself which attributes they have: an object by attribute, NULL apart from "".

The stream does not name attributes (see `declared`), so nothing here is chosen by a column's type: a flow's
step `composite` asks for it by name.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import orjson
import pyarrow as pa

from cdcflow.types.base import PgType, by_value


class WrongAttributes(ValueError):
    """A value has another number of attributes than the type is said to have."""


def fields(text: str) -> list[str | None]:
    """The attributes' texts of a composite's text. Raises ValueError for what record_out does not write
    (src/backend/utils/adt/rowtypes.c)."""
    if not (text.startswith("(") and text.endswith(")")):
        raise ValueError("not a composite")
    found: list[str | None] = []
    at, end = 1, len(text) - 1
    while True:
        if at < end and text[at] == '"':
            value, at = _quoted(text, at + 1, end)
            found.append(value)
        else:
            stop = text.find(",", at, end)
            stop = end if stop < 0 else stop
            value = text[at:stop]
            if '"' in value or "(" in value or ")" in value or "\\" in value:
                raise ValueError("a mark that is not quoted")
            found.append(value or None)  # an empty text is quoted, nothing at all is NULL
            at = stop
        if at >= end:
            return found
        if text[at] != ",":
            raise ValueError("text behind an attribute")
        at += 1


def _quoted(text: str, at: int, end: int) -> tuple[str, int]:
    """The value whose opening quote is before `at`, and the place behind its closing quote. Quotes and
    backslashes in it are doubled."""
    pieces: list[str] = []
    while at < end:
        mark = text[at]
        if mark in ('"', "\\"):
            if text[at + 1 : at + 2] == mark and at + 1 < end:
                pieces.append(mark)
                at += 2
                continue
            if mark == '"':
                return "".join(pieces), at + 1
            raise ValueError("a backslash that is not doubled")
        stop = min(i for i in (text.find('"', at, end), text.find("\\", at, end), end) if i >= 0)
        pieces.append(text[at:stop])
        at = stop
    raise ValueError("a quote that does not end")


@dataclass(frozen=True)
class Composite(PgType):
    """A composite with these attributes, in their order."""

    attributes: tuple[tuple[str, PgType], ...] = field(default=())

    @classmethod
    def of(cls, attributes: Sequence[tuple[str, PgType]]) -> "Composite":
        return cls("composite", pa.string(), "VARCHAR", tuple(attributes))

    def json(self, text: str) -> object:
        values = fields(text)
        if len(values) != len(self.attributes):
            raise WrongAttributes(f"has {len(values)} attributes, and {len(self.attributes)} are named")
        return {
            name: None if value is None else kind.json(value)
            for (name, kind), value in zip(self.attributes, values, strict=True)
        }

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return by_value(values, lambda text: orjson.dumps(self.json(text)).decode(), self.arrow)
