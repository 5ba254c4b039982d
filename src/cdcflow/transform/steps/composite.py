"""`composite`: the values of a composite type as objects by attribute, for who says which attributes it has.

The stream does not say it, and no look-up can for certain (see `cdcflow.types.declared`). A value that has
another number of attributes is refused: the type was altered, and a guess would be wrong.
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Union

import orjson
import pyarrow as pa
from pydantic import Field

from cdcflow import types
from cdcflow.model import Column, Group, Relation
from cdcflow.transform.derive import Made, derived, passed
from cdcflow.transform.options import ColumnName, Plain, place_of
from cdcflow.transform.rows import assembled, bits, has_old, metas, new_columns, old_columns
from cdcflow.transform.step import Bound, Noted, Run, StepContext, StepError, StepPlugin, Way
from cdcflow.types import PgType
from cdcflow.types.arrays import Array
from cdcflow.types.composite import Composite, WrongAttributes

#: OID of jsonb.
JSONB = 3802

#: Attribute → the name of its type, or the attributes of a composite in it.
Attributes = dict[ColumnName, Union[str, "Attributes"]]


class Shapes(Plain[dict[ColumnName, Any]]):
    """Column → its attributes, in their order: name → type, or a mapping for a composite within."""

    root: dict[ColumnName, Any] = Field(min_length=1)


class _Composite:
    def __init__(self, options: Shapes, _context: StepContext) -> None:
        self._shapes: dict[str, Composite] = {}
        noted = Noted()
        for name, given in options.root.items():
            with noted.one():
                self._shapes[name] = _shape(given, (name,))
        noted.raise_all()

    def bind(self, relation: Relation) -> Bound:
        columns = passed(relation)
        kinds: dict[int, Composite] = {}
        noted = Noted()
        for name, kind in self._shapes.items():
            with noted.one():
                place = place_of(relation, name, (name,))
                column = relation.columns[place]
                if not column.type_name:
                    raise StepError(
                        f"{name!r} is of the built-in type {types.of(column).name}, and no composite",
                        hint="leave it out",
                        way=(name,),
                    )
                kinds[place] = kind
                json = Column(column.name, JSONB, key=column.key)
                columns[place] = Made(json, None, repr(_described(kind)))
        noted.raise_all()
        output = derived(relation, columns)

        def apply(group: Group, run: Run) -> list[Group]:
            wrong: dict[int, str] = {}
            new, old = new_columns(group), old_columns(group)
            for place, kind in kinds.items():
                name = relation.columns[place].name
                new[place] = _objects(new[place], kind, name, wrong)
                if place in old:
                    old[place] = _objects(old[place], kind, name, wrong)
            made = assembled(
                output, metas(group), new, has_old=has_old(group), old=old, unchanged=bits(group)
            )
            return [run.refuse_rows(made, wrong) if wrong else made]

        return Bound((output,), apply)


def _objects(values: pa.Array, kind: Composite, column: str, wrong: dict[int, str]) -> pa.Array:
    """The values as JSON. Rows whose value is not so made are named in `wrong`, and null."""
    array = Array.of(kind)
    found: list[str | None] = []
    for row, text in enumerate(values.to_pylist()):
        json = None
        if text is not None:
            try:
                # array_out writes braces, record_out parentheses: the type's name does not tell them apart.
                value = kind.json(text) if text.startswith("(") else array.json(text)
                if isinstance(value, str):
                    raise ValueError("neither a composite nor an array")
                json = orjson.dumps(value).decode()
            except WrongAttributes as error:
                wrong[row] = f"the value of {column} {error}: name those that its type has now"
            except (ValueError, IndexError):
                wrong[row] = f"the value of {column} is not a composite of these attributes"
        found.append(json)
    return pa.array(found, pa.string())


def _shape(given: object, way: Way) -> Composite:
    if not isinstance(given, Mapping) or not given:
        raise StepError("must be a mapping of attributes to their types, in their order", way=way)
    attributes: list[tuple[str, PgType]] = []
    for name, kind in given.items():
        here: Way = (*way, str(name))
        if not isinstance(kind, str):
            attributes.append((str(name), _shape(kind, here)))
            continue
        attributes.append((str(name), _kind(kind)))
    return Composite.of(attributes)


def _kind(name: str) -> PgType:
    """A type by the name that pg_type has, `int4[]` and `_int4` alike. One that is not known is text."""
    base, array, _ = name.strip().partition("[]")
    found = types.named(f"pg_catalog.{'_' if array else ''}{base}")
    return replace(found, name=name)


def _described(kind: PgType) -> Any:
    if isinstance(kind, Composite):
        return [(name, _described(inner)) for name, inner in kind.attributes]
    return kind.name


composite = StepPlugin(
    "composite",
    Shapes,
    _Composite,
    makes=lambda options: options.root,
    about="""\
Makes values of a composite type, and of arrays of it, objects by attribute, as `jsonb`. You say which
attributes the type has, in their order, with the names of their types as Postgres' own catalog has them
(`int4`, `text`, `timestamptz`, `_text` or `text[]`), or a mapping for a composite within; a type that is not
known is text. cdcflow does not look them up: the stream says nothing when `ALTER TYPE` adds, drops or renames
an attribute, so that names could be put to the wrong values. A value with another number of attributes is
refused. NULL is `null`, and the empty text is `""`.""",
    example="- composite:\n    address: {street: text, number: int4, place: {x: float8, y: float8}}",
)
