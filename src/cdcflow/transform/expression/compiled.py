"""A compiled expression, as the chain of steps uses it."""

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import EvaluationError, ExpressionError
from cdcflow.transform.expression.bind import bind
from cdcflow.transform.expression.conversion import codec
from cdcflow.transform.expression.frame import Frame, Input, Rows
from cdcflow.transform.expression.node import Bound, Mask, as_array, truth
from cdcflow.transform.expression.scope import Scope
from cdcflow.transform.expression.sqltype import BOOL, SqlType


@dataclass(frozen=True)
class Expression:
    """An expression bound to one generation of a table. Immutable, and safe to share between threads.

    Evaluating raises EvaluationError with the rows for which Postgres would raise an error. Rows whose
    value is not known (see `unknown`) are evaluated as though it were NULL.
    """

    source: str
    _bound: Bound

    @property
    def type(self) -> SqlType:
        return self._bound.type

    @property
    def inputs(self) -> frozenset[Input]:
        """What it reads: ("new" or "old", index of the column)."""
        return self._bound.inputs

    @property
    def uses_old(self) -> bool:
        return any(row == "old" for row, _ in self._bound.inputs)

    @property
    def metas(self) -> frozenset[str]:
        """Which of `op`, `table`, `schema`, `commit_time` and `position` it reads."""
        return self._bound.metas

    def evaluate(self, frame: Frame) -> pa.Array:
        """The values, one per row, as `conversion` holds the type."""
        values, failures = self.attempt(frame)
        if failures:
            raise EvaluationError(failures)
        return values

    def attempt(self, frame: Frame) -> tuple[pa.Array, Mapping[int, str]]:
        """As `evaluate`, but instead of raising it gives the rows that fail, with the reasons; they are
        null."""
        rows = Rows(frame, frame.count)
        values = as_array(self._bound.run(rows), rows.count)
        if rows.failures:
            failed = pa.array([row in rows.failures for row in range(rows.count)])
            values = pc.if_else(failed, pa.scalar(None, values.type), values)
        return values, rows.failures

    def text(self, frame: Frame) -> pa.StringArray:
        """The values as Postgres' own text, as a batch holds them."""
        read = self._bound.text
        if read is not None:
            return read(Rows(frame, frame.count))
        return self.write(self.evaluate(frame))

    def write(self, values: pa.Array) -> pa.StringArray:
        """Postgres' text of values that `evaluate` or `attempt` gave."""
        return codec(self.type).write(values)

    def predicate(self, frame: Frame) -> pa.BooleanArray:
        """Where the value is true: NULL counts as false. The expression must be boolean."""
        assert self.type.key == BOOL.key
        return truth(self.evaluate(frame), frame.count)

    def unknown(self, frame: Frame) -> Mask:
        """The rows whose value cannot be known, because a TOASTed value was not sent; None where there are
        none."""
        mask = self._bound.unknown(Rows(frame, frame.count))
        return mask if mask is not None and mask.true_count else None


def compile(text: str, scope: Scope) -> Expression:
    """Binds an expression. Raises ExpressionError for what is wrong or not supported, with the place in
    the text."""
    return Expression(text, bind(text, scope))


def compile_predicate(text: str, scope: Scope) -> Expression:
    """As `compile`, for a condition. Raises ExpressionError also where the value is not boolean."""
    bound = bind(text, scope)
    if bound.type.key != BOOL.key:
        raise ExpressionError(
            f"a condition must be true or false, but this is of type {bound.type.name}",
            text=text,
            hint="compare it with something",
        )
    return Expression(text, bound)
