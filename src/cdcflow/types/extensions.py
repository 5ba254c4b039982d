"""Types of widespread extensions, which have no fixed OID and are known by the name that the server's
Type message gives: hstore, citext, ltree, and pgvector's three."""

from dataclasses import dataclass

import orjson
import pyarrow as pa

from cdcflow.types.base import PgType, by_value


@dataclass(frozen=True)
class Hstore(PgType):
    """hstore: an object of text or null. A text that does not read as hstore (somebody's own type of
    that name) stays text."""

    @classmethod
    def of(cls) -> "Hstore":
        return cls("hstore", pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return by_value(values, self._dump, self.arrow)

    def _dump(self, text: str) -> str:
        value = self.json(text)
        return value if isinstance(value, str) else orjson.dumps(value).decode()

    def json(self, text: str) -> object:
        try:
            return _pairs(text)
        except (ValueError, IndexError):
            return text


def _pairs(text: str) -> dict[str, str | None]:
    """`"a"=>"1", "b"=>NULL` as a dict; hstore_out quotes every key and every value but NULL."""
    pairs: dict[str, str | None] = {}
    at = 0
    while at < len(text):
        key, at = _quoted(text, at)
        if text[at : at + 2] != "=>":
            raise ValueError("not hstore")
        at += 2
        if text.startswith("NULL", at):
            pairs[key], at = None, at + 4
        else:
            pairs[key], at = _quoted(text, at)
        if at < len(text):
            if text[at : at + 2] != ", ":
                raise ValueError("not hstore")
            at += 2
    return pairs


def _quoted(text: str, at: int) -> tuple[str, int]:
    if text[at] != '"':
        raise ValueError("not hstore")
    at += 1
    pieces = []
    while text[at] != '"':
        if text[at] == "\\":
            at += 1
        pieces.append(text[at])
        at += 1
    return "".join(pieces), at + 1


@dataclass(frozen=True)
class Vector(PgType):
    """vector and halfvec: their text is a JSON list of numbers already, without NaN or infinity."""

    @classmethod
    def of(cls, name: str) -> "Vector":
        return cls(name, pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        return orjson.Fragment(text) if text.startswith("[") else text


@dataclass(frozen=True)
class SparseVector(PgType):
    """sparsevec: `{1:0.5,3:2}/5` as `{"dimensions": 5, "elements": {"1": 0.5, "3": 2.0}}`; indexes
    count from 1."""

    @classmethod
    def of(cls) -> "SparseVector":
        return cls("sparsevec", pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        elements, slash, dimensions = text.partition("}/")
        if not slash or not elements.startswith("{"):
            return text
        pairs = (pair.partition(":") for pair in elements[1:].split(",") if pair)
        return {"dimensions": int(dimensions), "elements": {index: float(value) for index, _, value in pairs}}
