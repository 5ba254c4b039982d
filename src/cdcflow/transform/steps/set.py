"""`set`: computed columns, each by an SQL expression over the row before the step."""

from cdcflow.model import Relation
from cdcflow.transform.computing import bound_columns, check, located
from cdcflow.transform.options import ColumnName, Plain
from cdcflow.transform.step import Bound, Noted, StepContext, StepPlugin


class Expressions(Plain[dict[ColumnName, str]]):
    """Column → expression."""


class _Set:
    def __init__(self, options: Expressions, _context: StepContext) -> None:
        self._expressions = options.root
        noted = Noted()
        for name, text in self._expressions.items():
            with noted.one():
                check(text, (name,))
        noted.raise_all()

    def bind(self, relation: Relation) -> Bound:
        return bound_columns(relation, located(self._expressions, relation))


set_ = StepPlugin(
    "set",
    Expressions,
    _Set,
    makes=lambda options: options.root,
    about="""\
Computes columns by [expressions](expressions.md). All of them see the row as it was before the step, so that
two can change places. A column that is there is replaced, a new one is added behind the others.

A value that an update did not send makes everything that is computed from it unchanged too; where an
expression mixes such a value with others, its result cannot be known, and the change is refused for good:
see `toast`. So is a change for which Postgres would raise an error, a division by zero for instance.

Under REPLICA IDENTITY FULL the column is computed for the old row as well. One that asks for `old.x`,
`changed(x)`, `op`, `commit_time` or `position` is about the change and not about the row: old rows do not
have it, and a sink that keeps rows needs `key` behind it. A column of the key can be computed from the key
only.""",
    example="- set: {amount_eur: 'round(amount * 0.92, 2)', name: 'initcap(name)'}",
)
