"""`rename`: columns get other names. A column is the same one before and after, for sinks too."""

from dataclasses import replace

from cdcflow.model import Group, Relation
from cdcflow.transform.derive import Made, derived
from cdcflow.transform.options import ColumnName, Plain, places_of, unique
from cdcflow.transform.rows import renamed
from cdcflow.transform.step import Bound, Run, StepContext, StepPlugin


class NewNames(Plain[dict[ColumnName, ColumnName]]):
    """Column → its new name."""


class _Rename:
    def __init__(self, options: NewNames, _context: StepContext) -> None:
        self._names = options.root

    def bind(self, relation: Relation) -> Bound:
        places_of(relation, (((name,), name) for name in self._names))
        columns = [
            Made(replace(column, name=self._names.get(column.name, column.name)), i)
            for i, column in enumerate(relation.columns)
        ]
        unique(made.column.name for made in columns)
        output = derived(relation, columns)

        def apply(group: Group, _run: Run) -> list[Group]:
            return [renamed(group, output)]

        return Bound((output,), apply)


rename = StepPlugin(
    "rename",
    NewNames,
    _Rename,
    makes=lambda options: options.root.values(),
    about="""\
Gives columns other names; all at once, so that two can change places. The warehouse renames its column
instead of making a new one.""",
    example="- rename: {amount: amount_usd, cust_id: customer_id}",
)
