"""hstore (extension): an object of text or null, exact to "NULL" against NULL."""

from dataclasses import dataclass

import orjson
import pyarrow as pa

from cdcflow.types.base import Family, Known, PgType, by_value


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


FAMILY = Family(
    "hstore",
    (Known("hstore", Hstore.of(), '"a"=>"1", "b"=>NULL'),),
    notes="`VARCHAR` in the warehouse, with the JSON text of the object.",
)
