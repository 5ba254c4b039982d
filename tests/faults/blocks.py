"""Whether the warehouse holds the rows of `goods` as the source does, whatever their number: each side makes
one hash for every thousand ids, and what differs is looked up."""

from collections.abc import Callable, Sequence
from typing import Any

from cdcflow.demo.compare import Ask

#: One text per row, by the same words on both sides; lengths, so that no two rows have the same.
_TEXT = (
    "id::{text} || ' ' || version::{text} || ' ' || coalesce(length(name)::{text} || name, 'NULL')"
    " || ' ' || coalesce(length(body)::{text} || body, 'NULL')"
)
_BLOCKS = (
    "SELECT id {per} 1000, count(*), md5(string_agg(md5({words}), '' ORDER BY id))"
    " FROM public.goods GROUP BY 1"
)
_ROWS = "SELECT id, md5({words}) FROM public.goods WHERE id {per} 1000 = {block}"
#: Blocks whose rows are looked at where there are differences.
_LOOKED_AT = 3

_Form = tuple[Callable[[str], Sequence[tuple[Any, ...]]], str, str]


def assert_same_rows(source: Callable[[str], list[Any]], warehouse: Ask) -> int:
    """Gives how many rows there are."""
    sides: list[_Form] = [(source, "text", "/"), (lambda query: list(warehouse(query)), "VARCHAR", "//")]
    ours, theirs = ({row[0]: row[1:] for row in _ask(side, _BLOCKS)} for side in sides)
    wrong = sorted(block for block in ours.keys() | theirs.keys() if ours.get(block) != theirs.get(block))
    said = [
        f"{block} (rows {sorted(set(_ask(sides[0], _ROWS, block)) ^ set(_ask(sides[1], _ROWS, block)))[:5]})"
        for block in wrong[:_LOOKED_AT]
    ]
    assert not wrong, f"{len(wrong)} of {len(ours)} blocks of rows differ: {'; '.join(said)}"
    return sum(int(count) for count, _ in ours.values())


def _ask(side: _Form, query: str, block: int = 0) -> list[tuple[Any, ...]]:
    ask, text, per = side
    return [tuple(row) for row in ask(query.format(words=_TEXT.format(text=text), per=per, block=block))]
