"""json and jsonb: the raw text, never through a float or a dict, so that big integers, duplicate keys
and escaped lone surrogates arrive as Postgres holds them.

The warehouse column is VARCHAR, which DuckDB's JSON functions read: its JSON type refuses documents
that Postgres takes (lone surrogates in `json`), and a refusal would stop the flow.
"""

from dataclasses import dataclass

import orjson
import pyarrow as pa

from cdcflow.types.base import Family, Known, PgType
from cdcflow.types.text import as_text


@dataclass(frozen=True)
class Json(PgType):
    """json, jsonb."""

    @classmethod
    def of(cls, name: str) -> "Json":
        return cls(name, pa.string(), "VARCHAR")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        return values

    def json(self, text: str) -> object:
        # A raw line end can only stand between tokens (RFC 8259, section 7: control characters inside
        # strings are escaped), and would break a reader of lines.
        if "\n" in text or "\r" in text:
            text = text.replace("\r", " ").replace("\n", " ")
        return orjson.Fragment(text)


FAMILY = Family(
    "JSON",
    (
        Known("json", Json.of("json"), '{"a": 1, "a": 12345678901234567890}', 114, 199),
        Known("jsonb", Json.of("jsonb"), "null", 3802, 3807),
        as_text("jsonpath", '$."a"', 4072, 4073),
    ),
    notes="""\
* The text of the value becomes part of the event as it stands: big integers, duplicate keys and escaped lone
  surrogates included. SQL NULL and JSON `null` are both `null` in an event, whose `json_null` names the
  columns with the latter; in the warehouse they are NULL and the text `null`.
* `VARCHAR` in the warehouse, which DuckDB's JSON functions read: its JSON type refuses documents that
  Postgres takes.""",
)
