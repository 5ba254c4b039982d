"""`filter`: which rows, or which changes, are passed on.

A condition over the row alone is a view of the table: a row that comes to fulfil it is inserted there, one
that ceases to is deleted. A condition that asks for more (`old.x`, `changed(x)`, `op` …) is about the
change and is asked once for each.
"""

from typing import Any, Literal

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from cdcflow.errors import EvaluationError
from cdcflow.model import Group, Op, Relation
from cdcflow.transform.computing import about_change, bound_expression, check, inputs, unsent
from cdcflow.transform.expression import Expression, Frame
from cdcflow.transform.options import StepOptions
from cdcflow.transform.rows import (
    assembled,
    bits,
    filled,
    for_reading,
    has_old,
    having_new,
    metas,
    new_columns,
    old_columns,
    only,
    scattered,
)
from cdcflow.transform.step import Bound, Run, StepContext, StepPlugin

_OUT = "does not fulfil the condition"
_LEFT = "ceased to fulfil the condition, and on_leave is ignore"
_WAS_OUT = "the row that is gone did not fulfil the condition"


class Condition(StepOptions):
    """The condition, and what becomes of a row that ceases to fulfil it."""

    where: str
    on_leave: Literal["delete", "ignore"] = "delete"

    @model_validator(mode="before")
    @classmethod
    def _short(cls, value: Any) -> Any:
        return {"where": value} if isinstance(value, str) else value


class _Filter:
    def __init__(self, options: Condition, _context: StepContext) -> None:
        self._options = options
        check(options.where, ("where",))

    def bind(self, relation: Relation) -> Bound:
        condition = bound_expression(self._options.where, relation, ("where",), condition=True)
        if about_change(condition):
            return Bound((relation,), _Changes(condition))
        return Bound((relation,), _Rows(relation, condition, leaves=self._options.on_leave == "delete"))


class _Asked:
    """Asks a condition of rows, and refuses the changes for which there is no answer."""

    def __init__(self, condition: Expression) -> None:
        self._condition = condition
        self._reads = inputs(condition)
        self._read = frozenset(column for row, column in condition.inputs if row == "new")

    def ask(self, group: Group, run: Run, *, of: pa.Array | None = None) -> tuple[Group, pa.Array | None]:
        """The group without what is refused, and where the condition is true; null outside of `of`. None:
        something was refused, and the question is open."""
        part = for_reading(group, of, self._reads)
        frame = Frame(part)
        wrong: dict[int, str] = {}
        answer = None
        try:
            answer = self._condition.predicate(frame)
        except EvaluationError as error:
            wrong = {row: f"the condition cannot be computed: {reason}" for row, reason in error.rows.items()}
        unknown = self._condition.unknown(frame) if part.unchanged else None
        if unknown is not None:
            for columns, rows in part.unchanged_patterns:
                for row in pc.indices_nonzero(pc.and_(rows, unknown)).to_pylist():
                    missing = unsent(part.relation, columns & self._read)
                    wrong.setdefault(row, f"the condition cannot be known: {missing}")
        if not wrong:
            return group, answer if of is None else scattered(answer, of)
        rows_of = range(len(group)) if of is None else pc.indices_nonzero(of).to_pylist()
        return run.refuse_rows(group, {rows_of[row]: reason for row, reason in wrong.items()}), None


class _Changes(_Asked):
    """A condition about the change."""

    def __call__(self, group: Group, run: Run) -> list[Group]:
        while len(group):
            truncated = group.is_op(Op.TRUNCATE)
            some = pc.invert(truncated) if pc.any(truncated).as_py() else None
            group, answer = self.ask(group, run, of=some)
            if answer is None:
                continue
            # A truncate empties the table whatever its rows are.
            keep = pc.fill_null(answer, True)
            return [group] if keep.true_count == len(group) else [run.drop(group, keep, _OUT)]
        return []


class _Rows(_Asked):
    """A condition about the row."""

    def __init__(self, relation: Relation, condition: Expression, *, leaves: bool) -> None:
        super().__init__(condition)
        self._leaves = leaves
        #: Old rows hold all that is asked for. Where none is sent, the key is what it was.
        self._known_before = bool(relation.key) and inputs(condition) <= frozenset(relation.key)
        self._full = relation.full

    def __call__(self, group: Group, run: Run) -> list[Group]:
        while len(group):
            kind = only(group)
            if kind is Op.TRUNCATE:
                return [group]
            group, after = self.ask(group, run, of=having_new(group))
            if after is None:
                continue
            if kind in (Op.INSERT, Op.READ):
                return [group] if after.true_count == len(group) else [run.drop(group, after, _OUT)]
            found = self._changed(group, after, run)
            if found is not None:
                return found
            group = _without_refused(group, run)
        return []

    def _changed(self, group: Group, after: pa.Array, run: Run) -> list[Group] | None:
        """Updates and deletes, with what old rows say. None: one was refused, and all is to be done again."""
        before = self._before(group, run) if self._known_before else None
        if before is None and self._known_before:
            return None
        updated, deleted = group.is_op(Op.UPDATE), group.is_op(Op.DELETE)
        matches = pc.fill_null(after, False)
        fresh = pc.and_(matches, group.is_op(Op.INSERT, Op.READ))
        truncated = group.is_op(Op.TRUNCATE)
        if before is None:
            # An update of a row that is not there is an insert to whoever keeps rows, and a delete nothing.
            stays = pc.and_(updated, matches)
            leaves = pc.and_(updated, pc.invert(matches))
            keep = pc.or_(pc.or_(fresh, truncated), pc.or_(stays, deleted))
            enters = None
        else:
            stays = pc.and_(updated, pc.and_(matches, before))
            enters = pc.and_(updated, pc.and_(matches, pc.invert(before)))
            leaves = pc.and_(updated, pc.and_(pc.invert(matches), before))
            gone = pc.and_(deleted, before)
            keep = pc.or_(pc.or_(fresh, truncated), pc.or_(pc.or_(stays, enters), gone))
        if self._leaves:
            keep = pc.or_(keep, leaves)
        self._note(group, keep, leaves, deleted, run)
        ops = group.meta("op")
        if enters is not None and enters.true_count:
            ops = pc.if_else(enters, pa.scalar(int(Op.INSERT), pa.uint8()), ops)
        if self._leaves and leaves.true_count:
            ops = pc.if_else(leaves, pa.scalar(int(Op.DELETE), pa.uint8()), ops)
        else:
            leaves = None
        if ops is not group.meta("op"):
            group = _with_ops(group, ops, enters, leaves)
        return [group if keep.true_count == len(group) else group.take(keep)]

    def _before(self, group: Group, run: Run) -> pa.Array | None:
        """Whether the row fulfilled the condition before each update and delete. None where one of them is
        refused."""
        frame = Frame(group, before=True)
        try:
            return pc.fill_null(self._condition.predicate(frame), False)
        except EvaluationError as error:
            asked = group.is_op(Op.UPDATE, Op.DELETE).to_pylist()
            wrong = {row: reason for row, reason in error.rows.items() if asked[row]}
            if wrong:
                run.refuse_rows(
                    group,
                    {
                        row: f"the condition cannot be computed for the old row: {reason}"
                        for row, reason in wrong.items()
                    },
                )
                return None
            part = group.is_op(Op.UPDATE, Op.DELETE)
            some = Frame(for_reading(group, part, self._reads), before=True)
            return pc.fill_null(scattered(self._condition.predicate(some), part), False)

    def _note(self, group: Group, keep: pa.Array, leaves: pa.Array, deleted: pa.Array, run: Run) -> None:
        if run.notes is None:
            return
        dropped = pc.invert(keep)
        run.drop(group, pc.invert(pc.and_(dropped, leaves)), _LEFT)
        run.drop(group, pc.invert(pc.and_(dropped, deleted)), _WAS_OUT)
        run.drop(group, pc.or_(keep, pc.or_(leaves, deleted)), _OUT)


def _without_refused(group: Group, run: Run) -> Group:
    gone = pa.array(list(run.refused), pa.uint32())
    return group.take(pc.invert(pc.is_in(group.meta("index"), value_set=gone)))


def _with_ops(group: Group, ops: pa.Array, enters: pa.Array | None, leaves: pa.Array | None) -> Group:
    """The group with other kinds of changes: what enters has no old row, what leaves no new one."""
    relation = group.relation
    meta = metas(group)
    meta[1] = ops
    new = new_columns(group)
    came, old, bitmaps = has_old(group), old_columns(group), bits(group)
    if leaves is not None:
        if came is None:
            came = filled(len(group), False, pa.bool_())
            old = {i: pa.nulls(len(group), pa.string()) for i in relation.key}
        # Without an old row the key was what it is.
        lacking = pc.and_(leaves, pc.invert(came))
        old = {i: pc.if_else(lacking, new[i], column) for i, column in old.items()}
        came = pc.or_(came, leaves)
        nothing = pa.scalar(None, pa.string())
        new = [pc.if_else(leaves, nothing, column) for column in new]
        if bitmaps is not None:
            bitmaps = pc.if_else(leaves, pa.scalar(None, pa.binary()), bitmaps)
    if enters is not None and came is not None:
        came = pc.and_(came, pc.invert(enters))
    return assembled(relation, meta, new, has_old=came, old=old, unchanged=bitmaps)


filter_ = StepPlugin(
    "filter",
    Condition,
    _Filter,
    makes=lambda _options: (),
    about="""\
Passes on what fulfils a condition, an [expression](expressions.md) that is true or false; NULL counts as
false.

**A condition over the row alone** makes a view of the table. A row that comes to fulfil it enters, one that
ceases to leaves, and the sink is told so:

| change | old row fulfils it | new row fulfils it | what is passed on |
|---|---|---|---|
| insert, read | | yes | the insert |
| insert, read | | no | nothing |
| update | yes | yes | the update |
| update | no | yes | an insert |
| update | yes | no | a delete; nothing with `on_leave: ignore` |
| update | no | no | nothing |
| update | not known | yes | the update: an insert to a sink that keeps rows |
| update | not known | no | a delete of its key, which is harmless where the row never was; nothing with `on_leave: ignore` |
| delete | yes, or not known | | the delete |
| delete | no | | nothing |
| truncate | | | the truncate |

The old row is known under REPLICA IDENTITY FULL, and where the condition asks for columns of the key only.

**A condition that asks for** `old.x`, `changed(x)`, `op`, `commit_time` **or** `position` is about the
change: what does not fulfil it is dropped, nothing is made into anything else. Truncates pass.

A row that enters by an update which did not send a large value comes without it, and a sink that keeps rows has
none: put `toast: source` before the filter of a table that has such values and is not under REPLICA IDENTITY
FULL. A change whose condition cannot be known, because the update did not send a value that it asks for, is refused
for good: see `toast`.""",  # noqa: E501
    example="""\
- filter: status = 'paid' and amount > 100
- filter: {where: country = 'AT', on_leave: ignore}
- filter: new.status = 'paid' and old.status is distinct from 'paid'""",
)
