"""json and jsonb: reading without a float, and jsonb's own text (sorted keys, numbers as numeric has
them)."""

import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from functools import lru_cache
from typing import Any

from cdcflow.transform.expression import exact
from cdcflow.transform.expression.conversion import numeric_text
from cdcflow.transform.expression.function import Fails

_CONTROL = re.compile(r'[\x00-\x1f"\\]')
_SURROGATE = re.compile(r"[\ud800-\udfff\0]")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
INVALID = "invalid input syntax for type json"


def _constant(_word: str) -> Any:
    raise Fails(INVALID)


def number(text: str) -> Decimal:
    value = Decimal(text)
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent > 0:
        if value.adjusted() > 131_071 and not value.is_zero():
            raise Fails(exact.OVERFLOW)
        value = value.quantize(Decimal(1), context=exact.CONTEXT)
    return value


DECODER = json.JSONDecoder(parse_float=number, parse_int=number, parse_constant=_constant)


@lru_cache(maxsize=4096)
def load(text: str) -> Any:
    """The document with Decimal for every number. The value is shared: never change it."""
    try:
        return DECODER.decode(text)
    except (ValueError, RecursionError):
        raise Fails(INVALID) from None


def check(text: str) -> str:
    """A json value is its own text, if it is JSON."""
    load(text)
    return text


def canonical(text: str) -> str:
    """The text that jsonb has for a document."""
    return dump(load(text), checked=True)


def dump(value: Any, *, checked: bool = False) -> str:
    pieces: list[str] = []
    _dump(value, pieces, checked)
    return "".join(pieces)


def _dump(value: Any, pieces: list[str], checked: bool) -> None:
    if value is None:
        pieces.append("null")
    elif isinstance(value, bool):
        pieces.append("true" if value else "false")
    elif isinstance(value, Decimal):
        pieces.append(numeric_text(value))
    elif isinstance(value, str):
        pieces.append(quoted(value, checked=checked))
    elif isinstance(value, Mapping):
        pieces.append("{")
        # jsonb orders keys by length, then by bytes (jsonb_util.c, lengthCompareJsonbStringValue).
        keys = sorted(value, key=lambda key: (len(raw := key.encode("utf-8", "surrogatepass")), raw))
        for i, key in enumerate(keys):
            pieces.append(", " if i else "")
            pieces.append(quoted(key, checked=checked) + ": ")
            _dump(value[key], pieces, checked)
        pieces.append("}")
    else:
        assert isinstance(value, Sequence)
        pieces.append("[")
        for i, element in enumerate(value):
            pieces.append(", " if i else "")
            _dump(element, pieces, checked)
        pieces.append("]")


def quoted(value: str, *, checked: bool = False) -> str:
    """json.c, escape_json. `checked`: refuses what a jsonb string cannot hold."""
    if checked and _SURROGATE.search(value):
        raise Fails("a \\u escape in the document cannot be converted to text")
    return '"' + _CONTROL.sub(_escape, value) + '"'


def _escape(match: re.Match[str]) -> str:
    return _ESCAPES.get(match[0]) or f"\\u{ord(match[0]):04x}"
