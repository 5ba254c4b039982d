"""`flatten`: fields of a JSON document as columns of their own. Which, and of what types, is written down, so
that the columns are known before any document comes."""

from typing import Annotated, Any

from pydantic import Field, model_validator

from cdcflow import types
from cdcflow.model import Relation
from cdcflow.transform.computing import Item, bound_columns, bound_expression, quoted
from cdcflow.transform.options import ColumnName, StepOptions, place_of
from cdcflow.transform.step import Bound, Noted, StepContext, StepError, StepPlugin, Way
from cdcflow.transform.steps.typenames import column_type
from cdcflow.types.json import Json
from cdcflow.types.text import Text

#: Types that take the JSON as it is, and no text of it.
_JSON = (114, 3802)


class JsonField(StepOptions):
    """One field: the way to it, with dots, and its type. A number in the way is a place in an array, from
    0."""

    path: Annotated[str, Field(min_length=1)]
    type: str = "text"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value


class Document(StepOptions):
    """Which column, and which fields."""

    column: ColumnName
    fields: Annotated[dict[ColumnName, JsonField], Field(min_length=1)]
    #: Whether the document stays beside its fields.
    keep: bool = False


class _Flatten:
    def __init__(self, options: Document, _context: StepContext) -> None:
        self._options = options
        noted = Noted()
        for name, one in options.fields.items():
            with noted.one():
                column_type(one.type, ("fields", name))
        noted.raise_all()

    def bind(self, relation: Relation) -> Bound:
        options = self._options
        place = place_of(relation, options.column, ("column",))
        column = relation.columns[place]
        kind = types.of(column)
        if not isinstance(kind, Json | Text):
            raise StepError(
                f"{column.name!r} is of type {kind.name}, and no JSON",
                hint="name a column of type json, jsonb or text",
                way=("column",),
            )
        if column.key and not relation.full and not options.keep:
            raise StepError(f"{column.name!r} is part of the key", hint="write `keep: true`", way=("column",))
        document = quoted(column.name) if isinstance(kind, Json) else f"{quoted(column.name)}::jsonb"
        items = []
        noted = Noted()
        for name, one in options.fields.items():
            with noted.one():
                items.append(self._item(relation, document, name, one, ("fields", name)))
        noted.raise_all()
        drop = frozenset() if options.keep or column.name in options.fields else frozenset((place,))
        return bound_columns(relation, items, drop)

    def _item(self, relation: Relation, document: str, name: str, one: JsonField, way: Way) -> Item:
        wanted = column_type(one.type, way)
        path = _path(one.path)
        whole = wanted.type_oid in _JSON
        text = f"{document} {'#>' if whole else '#>>'} {path}"
        return Item(name, bound_expression(f"CAST({text} AS {one.type})", relation, way), way)


def _path(path: str) -> str:
    """The way as an array of text, each element quoted (manual, 8.15.2, "Array Value Input")."""
    parts = (part.replace("\\", "\\\\").replace('"', '\\"') for part in path.split("."))
    array = "{" + ",".join(f'"{part}"' for part in parts) + "}"
    return "'" + array.replace("'", "''") + "'"


flatten = StepPlugin(
    "flatten",
    Document,
    _Flatten,
    makes=lambda options: options.fields,
    about="""\
Makes columns of fields of a JSON document (`json`, `jsonb`, or `text` that holds JSON). A field is named by
its path, with dots, and is `text` unless a type is given; where the document lacks it, and where it is
JSON's null, the column is NULL. The document itself is left out unless `keep: true` is given.""",
    example="""\
- flatten:
    column: payload
    fields:
      city: address.city
      total: {path: totals.gross, type: 'numeric(12,2)'}""",
)
