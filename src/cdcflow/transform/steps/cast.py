"""`cast`: columns in other types, by Postgres' rules. A column stays the same one."""

from cdcflow.model import Relation
from cdcflow.transform.computing import Item, bound_columns, bound_expression, quoted
from cdcflow.transform.options import ColumnName, Plain, place_of
from cdcflow.transform.step import Bound, Noted, StepContext, StepPlugin
from cdcflow.transform.steps.typenames import column_type


class Types(Plain[dict[ColumnName, str]]):
    """Column → type."""


class _Cast:
    def __init__(self, options: Types, _context: StepContext) -> None:
        self._types = options.root
        noted = Noted()
        for name, text in self._types.items():
            with noted.one():
                column_type(text, (name,))
        noted.raise_all()

    def bind(self, relation: Relation) -> Bound:
        items = []
        noted = Noted()
        for name, text in self._types.items():
            with noted.one():
                place_of(relation, name, (name,))
                expression = bound_expression(f"CAST({quoted(name)} AS {text})", relation, (name,))
                items.append(Item(name, expression, (name,), continues=True))
        noted.raise_all()
        return bound_columns(relation, items)


cast = StepPlugin(
    "cast",
    Types,
    _Cast,
    makes=lambda options: options.root,
    about="""\
Gives columns another type, by Postgres' own rules: a value that the type cannot hold makes Postgres raise an
error, and the change is refused for good. The warehouse changes the type of its column where it can.""",
    example="- cast: {amount: 'numeric(12,2)', created_at: date}",
)
