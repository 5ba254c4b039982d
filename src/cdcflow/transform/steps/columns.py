"""`select` and `exclude`: which columns are passed on. They keep the table's order, and never a row less."""

from cdcflow.model import Group, Relation
from cdcflow.transform.derive import Made, derived
from cdcflow.transform.options import Names, Plain, places_of
from cdcflow.transform.rows import reshaped
from cdcflow.transform.step import Bound, Run, StepContext, StepError, StepPlugin


class ColumnNames(Plain[Names]):
    """A list of columns."""


class _Columns:
    def __init__(self, names: tuple[str, ...], *, keep: bool) -> None:
        self._names = names
        self._keep = keep

    def bind(self, relation: Relation) -> Bound:
        named = set(places_of(relation, (((i,), name) for i, name in enumerate(self._names))))
        kept = [i for i in range(len(relation.columns)) if (i in named) is self._keep]
        if not kept:
            raise StepError("no column would be left", hint="leave at least one")
        lost = [relation.names[i] for i in relation.key if i not in kept]
        if lost and not relation.full:
            raise StepError(
                f"the key column {lost[0]!r} would be left out: rows could not be told apart any more",
                hint="keep it, or put `- key: none` before this step where that is meant",
            )
        output = derived(relation, [Made(relation.columns[i], i) for i in kept])

        def apply(group: Group, _run: Run) -> list[Group]:
            return [reshaped(group, output, kept)]

        return Bound((output,), apply)


def _select(options: ColumnNames, _context: StepContext) -> _Columns:
    return _Columns(options.root, keep=True)


def _exclude(options: ColumnNames, _context: StepContext) -> _Columns:
    return _Columns(options.root, keep=False)


select = StepPlugin(
    "select",
    ColumnNames,
    _select,
    makes=lambda _options: (),
    about="""\
Passes on the named columns only, in the order that the table has them. The key's columns must be among them,
unless `key: none` stands before; a table under REPLICA IDENTITY FULL, whose rows are known by all of their
columns, may lose any. A column that is added to the table later is not passed on.""",
    example="- select: [id, status, amount]",
)

exclude = StepPlugin(
    "exclude",
    ColumnNames,
    _exclude,
    makes=lambda _options: (),
    about="""\
Passes on all columns but the named ones. A column that is added to the table later is passed on. The key's
columns cannot be left out, unless `key: none` stands before or the table is under REPLICA IDENTITY FULL.""",
    example="- exclude: [password_hash, internal_note]",
)
