"""Arrays: nested lists in JSON, exact to NULL against "NULL", quotes, dimensions and lower bounds.

Postgres fixes neither the number of dimensions nor the bounds by the column's type: the next row of an
`int[]` may hold `{{1,2},{3,4}}` or `[0:1]={1,2}`. A DuckDB LIST could not take that row, so the warehouse
column is VARCHAR with the JSON text, which DuckDB's JSON functions read.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.types.base import Family, Known, Numbers, PgType, by_value
from cdcflow.types.numbers import Integer, Numeric
from cdcflow.types.text import Text

_QUOTE, _ESCAPE = '"', "\\"


@dataclass(frozen=True)
class Array(PgType):
    """An array of `element`. `delimiter` is the element type's `typdelim`: `;` for box, else a comma.

    A value whose lower bounds are not all 1 is the object
    `{"lower_bounds": [0], "elements": [1, 2]}` instead of a list, so that they are neither lost nor
    taken for the usual ones.
    """

    element: PgType
    delimiter: str = ","

    @classmethod
    def of(cls, element: PgType, delimiter: str = ",") -> Self:
        return cls(f"{element.name}[]", pa.string(), "VARCHAR", element, delimiter)

    def _convert(self, values: pa.StringArray) -> pa.Array:
        if isinstance(self.element, Integer) and self.element.arrow.bit_width <= 32:
            # Integers that JSON writes as they stand: the two texts differ by their brackets only.
            plain = pc.match_substring_regex(values, r"^\{[-0-9,]*\}$")
            if pc.all(plain, min_count=0).as_py():
                return pc.replace_substring(pc.replace_substring(values, "{", "["), "}", "]")
        return by_value(values, self._dump, self.arrow)

    def _dump(self, text: str) -> str:
        value = self.json(text)
        return value if isinstance(value, str) else orjson.dumps(value).decode()

    def json(self, text: str) -> object:
        return self._nested(text, self.element.json)

    def converter(self, numbers: Numbers) -> Callable[[str], object]:
        return partial(self._nested, element=self.element.converter(numbers))

    def _nested(self, text: str, element: Callable[[str], object]) -> object:
        if not text.startswith(("{", "[")):
            return text  # somebody's own type whose name begins like an array's
        lower: list[int] = []
        if text.startswith("["):
            # `[0:1][2:3]={{…},{…}}`: given only when a lower bound is not 1.
            bounds, _, text = text.partition("=")
            lower = [int(part.partition(":")[0]) for part in bounds[1:-1].split("][")]
        elements = parse_array(text, self.delimiter, element)
        return {"lower_bounds": lower, "elements": elements} if lower else elements


def elements(text: str, delimiter: str = ",") -> list[str | None]:
    """The texts of an array's elements, as `unnest` gives them: those of inner arrays in a row. Raises
    ValueError for a text that is no array."""
    if text.startswith("["):
        _, _, text = text.partition("=")
    found: list[str | None] = []

    def collect(value: object) -> None:
        if isinstance(value, list):
            for inner in value:
                collect(inner)
        else:
            assert value is None or isinstance(value, str)
            found.append(value)

    collect(parse_array(text, delimiter, lambda value: value))
    return found


def parse_array(text: str, delimiter: str, element: Callable[[str], object]) -> list[object]:
    """The nested list of `{…}`. Raises ValueError for what array_out does not write
    (src/backend/utils/adt/arrayfuncs.c)."""
    root: list[object] = []
    stack: list[list[object]] = [root]
    at, end = 0, len(text)
    while at < end:
        mark = text[at]
        if mark == "{":
            inner: list[object] = []
            stack[-1].append(inner)
            stack.append(inner)
            at += 1
        elif mark == "}":
            stack.pop()
            at += 1
            if len(stack) == 1 and at < end:
                raise ValueError("text behind an array's end")
        elif len(stack) == 1:
            raise ValueError("not an array")
        elif mark == delimiter:
            at += 1
        elif mark == _QUOTE:
            value, at = _quoted(text, at + 1)
            stack[-1].append(element(value))
        else:
            stop = at
            while stop < end and text[stop] != delimiter and text[stop] != "}":
                stop += 1
            value, at = text[at:stop], stop
            # array_out quotes the text NULL, so the bare word is SQL NULL.
            stack[-1].append(None if value == "NULL" else element(value))
    if len(stack) != 1 or len(root) != 1 or not isinstance(root[0], list):
        raise ValueError("an array that does not end")
    return root[0]


def _quoted(text: str, at: int) -> tuple[str, int]:
    """The value that starts behind the quote before `at`, and the place behind its closing quote."""
    close = text.index(_QUOTE, at)
    escape = text.find(_ESCAPE, at, close)
    if escape < 0:
        return text[at:close], close + 1
    pieces = []
    while True:
        close = text.index(_QUOTE, at)
        escape = text.find(_ESCAPE, at, close)
        if escape < 0:
            pieces.append(text[at:close])
            return "".join(pieces), close + 1
        pieces.append(text[at:escape])
        pieces.append(text[escape + 1])
        at = escape + 2


FAMILY = Family(
    "Arrays",
    (
        Known("numeric[]", Array.of(Numeric.of()), "{{1.10,NULL},{NaN,2}}"),
        Known("text[]", Array.of(Text.of("text")), '{a,NULL,"NULL",""}'),
        Known("text[]", Array.of(Text.of("text")), "[0:1]={a,b}"),
    ),
    notes="""\
* Nested lists of whatever the element is. Lower bounds other than 1 are kept, in an object.
* `VARCHAR` in the warehouse, with the JSON: neither the number of dimensions nor the bounds are fixed by the
  column's type, so the next row may not fit a `LIST`.
* Of a type that is not built in, the server says no more than the array's name: the elements of an array of
  enums are labels, those of an array of domains or composites are strings with the element's text.""",
)
