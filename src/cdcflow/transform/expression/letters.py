"""Upper and lower case.

Of ASCII letters they are the same in every database (but with the Turkish locales). Other letters change
as Unicode's simple mappings say, one character for one: so do `C.UTF-8`, `en_US.UTF-8` and their like; a
database with the locale `C` leaves them alone, and so does `collate "C"` here and there.
"""

from functools import lru_cache
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Kernel

Case = Literal["lower", "upper"]


@lru_cache(maxsize=8192)
def _lower(character: str) -> str:
    if character == "İ":
        return "i"
    found = character.lower()
    return found if len(found) == 1 else character


@lru_cache(maxsize=8192)
def _upper(character: str) -> str:
    found = character.upper()
    return found if len(found) == 1 else character


def lower(text: str, collation: str = "") -> str:
    return _mapped(text, "lower", collation)


def upper(text: str, collation: str = "") -> str:
    return _mapped(text, "upper", collation)


def _mapped(text: str, case: Case, collation: str) -> str:
    if text.isascii():
        return text.lower() if case == "lower" else text.upper()
    change = _lower if case == "lower" else _upper
    return "".join(c if collation and not c.isascii() else change(c) for c in text)


def initcap(text: str) -> str:
    """Letters and digits make words; their first character becomes upper case, the others lower."""
    pieces, inside = [], False
    for character in text:
        pieces.append(_lower(character) if inside else _upper(character))
        inside = character.isalnum()
    return "".join(pieces)


def _kernel(case: Case, collation: str) -> Kernel:
    fast = pc.ascii_lower if case == "lower" else pc.ascii_upper

    def kernel(_rows: Rows, values: Datum) -> pa.Array:
        if collation or _is_ascii(values):
            return fast(values)
        return pa.array(
            [None if text is None else _mapped(text, case, "") for text in values.to_pylist()], pa.string()
        )

    return kernel


def _is_ascii(values: pa.Array) -> bool:
    return bool(pc.all(pc.string_is_ascii(values), min_count=0).as_py())


def lower_kernel(collation: str) -> Kernel:
    return _kernel("lower", collation)


def upper_kernel(collation: str) -> Kernel:
    return _kernel("upper", collation)
