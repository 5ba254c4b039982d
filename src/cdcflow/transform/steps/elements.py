"""The elements of arrays, SQL's and JSON's, each as the text that Postgres has for it. Pure."""

import re
from collections.abc import Callable
from dataclasses import replace

from cdcflow import types
from cdcflow.model import Column
from cdcflow.types import arrays
from cdcflow.types.builtin import FAMILIES
from cdcflow.types.json import Json

#: A text's elements; None: it is no array.
Split = Callable[[str], list[str | None] | None]

#: What matters between the elements of a JSON array; strings are taken whole.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{},]', re.DOTALL)

#: OID of an array type → (of its element, delimiter).
_ELEMENTS = {
    known.array_oid: (known.oid, known.delimiter)
    for family in FAMILIES
    for known in family.types
    if known.array_oid
}

_TEXT = 25


def splitter(column: Column) -> tuple[Split, Column] | None:
    """How to take the values of a column apart, and the column that an element is; None where its type is no
    array and no JSON."""
    kind = types.of(column)
    if isinstance(kind, Json):
        return json_elements, column
    if not isinstance(kind, arrays.Array):
        return None
    oid, delimiter = _ELEMENTS.get(column.type_oid, (_TEXT, kind.delimiter))
    name = ""
    if column.type_oid not in _ELEMENTS and "._" in column.type_name:
        # An array of a type that users declare: the element's name follows, its OID is not known.
        schema, _, array = column.type_name.rpartition(".")
        oid, name = 0, f"{schema}.{array.removeprefix('_')}"

    def split(text: str) -> list[str | None] | None:
        try:
            return arrays.elements(text, delimiter)
        except ValueError:
            return None

    return split, replace(column, type_oid=oid, typmod=-1, type_name=name)


def json_elements(text: str) -> list[str | None] | None:
    """The texts of the elements of a JSON array, as they stand; none for the document null."""
    body = text.strip()
    if body == "null":
        return []
    if not body.startswith("["):
        return None
    found: list[str | None] = []
    depth, start = 0, 1
    for match in _TOKEN.finditer(body):
        mark = match[0]
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
            if depth == 0:
                last = body[start : match.start()].strip()
                if last:
                    found.append(last)
                return found
        elif mark == "," and depth == 1:
            found.append(body[start : match.start()].strip())
            start = match.end()
    return None
