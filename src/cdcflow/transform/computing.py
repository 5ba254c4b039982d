"""What steps have in common in evaluating expressions: over new rows, over old ones, and what becomes of a
row whose value is not known or cannot be computed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import EvaluationError, ExpressionError
from cdcflow.model import Column, Group, Relation
from cdcflow.transform.derive import Made, derived, passed
from cdcflow.transform.expression import Expression, Frame, Scope, compile, compile_predicate
from cdcflow.transform.expression.parse import parse
from cdcflow.transform.options import unique
from cdcflow.transform.rows import (
    NO_COLUMNS,
    Columns,
    assembled,
    for_reading,
    has_old,
    having_new,
    mapped_bits,
    metas,
    new_columns,
    old_columns,
    scattered,
)
from cdcflow.transform.step import Bound, Noted, Run, StepError, Way

#: What belongs to a change and not to its row. The table's names are the same for all of them.
_OF_THE_CHANGE = frozenset(("op", "commit_time", "position"))

REMEDY = "put `toast: source` before the step, or run ALTER TABLE … REPLICA IDENTITY FULL at the source"


def check(text: str, way: Way = ()) -> None:
    """Raises StepError where the text is no expression at all, whatever the columns are."""
    try:
        parse(text)
    except ExpressionError as error:
        raise refusal(error, way) from error


def bound_expression(text: str, relation: Relation, way: Way = (), *, condition: bool = False) -> Expression:
    """The expression over the relation's rows. Raises StepError with the place in the text."""
    try:
        return (compile_predicate if condition else compile)(text, Scope.of(relation))
    except ExpressionError as error:
        raise refusal(error, way) from error


def refusal(error: ExpressionError, way: Way) -> StepError:
    """The error of an expression as one of a step, with the line that it is in a caret below the place."""
    if not error.text:
        return StepError(str(error), hint=error.hint, way=way)
    shown = "".join(f"\n    {line}" for line in error.excerpt.split("\n"))
    return StepError(f"{error}, at column {error.column}:{shown}", hint=error.hint, way=way, line=error.line)


def about_change(expression: Expression) -> bool:
    """Whether it asks for more than the row: for the old one, or for what happened to it."""
    return expression.uses_old or bool(expression.metas & _OF_THE_CHANGE)


def inputs(expression: Expression) -> Columns:
    """The columns that it reads, of the new row or the old."""
    return frozenset(column for _, column in expression.inputs)


def column_of(expression: Expression, name: str, *, key: bool = False) -> Column:
    """The column that holds the expression's values."""
    kind = expression.type
    return Column(name, kind.oid, kind.typmod, key, kind.type_name)


@dataclass(frozen=True)
class Values:
    """Of a group, the values of some expressions: texts, one entry per change and null where it has no such
    row; and `unchanged`, where a value was not sent and is what it was."""

    group: Group
    texts: list[pa.Array]
    unchanged: list[pa.Array | None]


class Computed:
    """Expressions over the rows of one relation, each under a name for people."""

    def __init__(self, expressions: Sequence[Expression], names: Sequence[str]) -> None:
        self._expressions = tuple(expressions)
        self._names = tuple(names)
        self._reads = NO_COLUMNS.union(*map(inputs, self._expressions))
        self._inputs = [
            frozenset(column for row, column in expression.inputs if row == "new")
            for expression in self._expressions
        ]

    def new(self, group: Group, run: Run) -> Values:
        """The values for the new rows. Changes for which one cannot be computed, or not be known, are refused
        and not in the group that comes back."""
        while len(group):
            some = having_new(group)
            part = for_reading(group, some, self._reads)
            frame = Frame(part)
            wrong, texts = self._texts(frame)
            unsent: list[pa.Array | None] = []
            if not wrong and group.unchanged:
                wrong, unsent = self._unsent(frame, part, run)
            if not wrong:
                unsent = unsent or [None] * len(texts)
                if some is None:
                    return Values(group, texts, unsent)
                return Values(
                    group,
                    [scattered(text, some) for text in texts],
                    [None if mask is None else pc.fill_null(scattered(mask, some), False) for mask in unsent],
                )
            rows = range(len(group)) if some is None else pc.indices_nonzero(some).to_pylist()
            group = run.refuse_rows(group, {rows[row]: reason for row, reason in wrong.items()})
        return Values(group, [pa.array([], pa.string())] * len(self._names), [None] * len(self._names))

    def before(self, group: Group, run: Run) -> Values:
        """The values for the old rows, which must hold all that the expressions read."""
        while True:
            came = has_old(group)
            if came is None:
                return Values(group, [pa.nulls(len(group), pa.string())] * len(self._names), [])
            wrong, texts = self._texts(Frame(for_reading(group, came, self._reads), before=True))
            if not wrong:
                return Values(group, [scattered(text, came) for text in texts], [])
            rows = pc.indices_nonzero(came).to_pylist()
            group = run.refuse_rows(group, {rows[row]: reason for row, reason in wrong.items()})

    def _texts(self, frame: Frame) -> tuple[dict[int, str], list[pa.Array]]:
        wrong: dict[int, str] = {}
        texts: list[pa.Array] = []
        for expression, name in zip(self._expressions, self._names, strict=True):
            try:
                texts.append(expression.text(frame))
            except EvaluationError as error:
                for row, reason in error.rows.items():
                    wrong.setdefault(row, f"{name} cannot be computed: {reason}")
        return wrong, texts

    def _unsent(self, frame: Frame, group: Group, run: Run) -> tuple[dict[int, str], list[pa.Array | None]]:
        wrong: dict[int, str] = {}
        masks: list[pa.Array | None] = []
        for expression, name, read in zip(self._expressions, self._names, self._inputs, strict=True):
            mask = expression.unknown(frame)
            masks.append(mask)
            if mask is None or run.omits:
                continue
            for columns, rows in group.unchanged_patterns:
                if not columns & read or read <= columns:
                    continue
                for row in pc.indices_nonzero(pc.and_(rows, mask)).to_pylist():
                    wrong.setdefault(row, f"{name} cannot be known: {unsent(group.relation, columns & read)}")
        return wrong, masks


def unsent(relation: Relation, columns: Columns) -> str:
    """Which values were not sent, and what to do."""
    names = ", ".join(relation.names[i] for i in sorted(columns))
    return f"the update did not send {names}, which it left alone: {REMEDY}"


@dataclass(frozen=True)
class Item:
    """A column to be computed. `continues`: it is the same column of that name as before, in another type."""

    name: str
    expression: Expression
    way: Way
    continues: bool = False


def bound_columns(relation: Relation, items: Sequence[Item], drop: Columns = frozenset()) -> Bound:
    """A step that computes columns from the row before it: those that are there are replaced, others added
    behind. Columns of `drop` are left out.

    A column that is about the change, and not about its row, is no part of what identifies the row.
    """
    made = passed(relation)
    places: list[int] = []
    old_side: list[int] = []
    noted = Noted()
    for number, item in enumerate(items):
        there = relation.names.index(item.name) if item.name in relation.names else None
        of_row = not about_change(item.expression)
        key = relation.full and of_row
        if there is not None and relation.columns[there].key and not relation.full:
            with noted.one():
                _check_key(relation, item)
            key = True
        column = column_of(item.expression, item.name, key=key)
        if key:
            old_side.append(number)
        if there is None:
            places.append(len(made))
            made.append(Made(column))
        else:
            places.append(there)
            made[there] = Made(column, there if item.continues else None)
    noted.raise_all()
    kept = [i for i in range(len(made)) if i not in drop]
    unique(made[i].column.name for i in kept)
    output = derived(relation, [made[i] for i in kept])
    apply = _Apply(relation, output, items, places, old_side, kept)
    return Bound((output,), apply)


def _check_key(relation: Relation, item: Item) -> None:
    lacking = inputs(item.expression) - frozenset(relation.key)
    if lacking or about_change(item.expression):
        names = ", ".join(relation.names[i] for i in sorted(lacking)) or "the change"
        raise StepError(
            f"{item.name!r} is part of the key, and is computed from {names}, which old rows do not hold",
            hint="compute it from columns of the key only, or give the new column another name",
            way=item.way,
        )


class _Apply:
    """See `bound_columns`."""

    def __init__(
        self,
        relation: Relation,
        output: Relation,
        items: Sequence[Item],
        places: Sequence[int],
        old_side: Sequence[int],
        kept: Sequence[int],
    ) -> None:
        self._output = output
        self._width = len(relation.columns)
        self._total = max([self._width - 1, *places]) + 1
        self._places = places
        self._kept = kept
        self._whole = len(kept) == self._total
        names = [item.name for item in items]
        self._new = Computed([item.expression for item in items], names)
        self._old_side = old_side
        self._old = Computed([items[n].expression for n in old_side], [names[n] for n in old_side])
        self._moved = {place: i for i, place in enumerate(kept)}

    def __call__(self, group: Group, run: Run) -> list[Group]:
        before: list[pa.Array] = []
        if self._old_side and group.old:
            found = self._old.before(group, run)
            group, before = found.group, found.texts
        values = self._new.new(group, run)
        if before and len(values.group) != len(group):
            before = self._old.before(values.group, run).texts
        group = values.group
        if not len(group):
            return []
        new = new_columns(group)
        new += [new[0]] * (self._total - self._width)
        for place, text in zip(self._places, values.texts, strict=True):
            new[place] = text
        old = old_columns(group)
        for number, text in zip(self._old_side, before, strict=False):
            old[self._places[number]] = text
        unchanged = self._unchanged(group, values.unchanged)
        if not self._whole:
            new = [new[i] for i in self._kept]
            old = {self._moved[i]: column for i, column in old.items() if i in self._moved}
        return [
            assembled(self._output, metas(group), new, has_old=has_old(group), old=old, unchanged=unchanged)
        ]

    def _unchanged(self, group: Group, masks: Sequence[pa.Array | None]) -> pa.Array | None:
        if not group.unchanged:
            return None
        width = len(self._kept)
        replaced = frozenset(self._places)

        def moved(columns: Columns) -> Columns:
            return frozenset(self._moved[i] for i in columns - replaced if i in self._moved)

        found = mapped_bits(group, moved, width)
        for place, mask in zip(self._places, masks, strict=True):
            if mask is not None:
                found = _with_bit(found, mask, self._moved[place], width)
        return found


def _with_bit(bitmaps: pa.Array | None, mask: pa.Array, place: int, width: int) -> pa.Array:
    """The bitmaps with the column's bit set where the mask is true."""
    size = (width + 7) // 8
    texts: list[bytes | None] = [None] * len(mask) if bitmaps is None else bitmaps.to_pylist()
    for row in pc.indices_nonzero(mask).to_pylist():
        number = int.from_bytes(texts[row] or b"", "little") | 1 << place
        texts[row] = number.to_bytes(size, "little")
    return pa.array(texts, pa.binary())


def quoted(name: str) -> str:
    """A column's name in an expression."""
    return '"' + name.replace('"', '""') + '"'


def located(options: Mapping[str, str], relation: Relation) -> list[Item]:
    """The items of a mapping from column to expression."""
    noted = Noted()
    items = []
    for name, text in options.items():
        with noted.one():
            items.append(Item(name, bound_expression(text, relation, (name,)), (name,)))
    noted.raise_all()
    return items
