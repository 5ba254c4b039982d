"""SQL expressions over changes: Postgres' own syntax and results, vectorised.

    scope = Scope.of(relation)
    expression = compile("round(amount * 0.92, 2)", scope)      # ExpressionError: what, where, what instead
    expression.text(Frame(group))                               # EvaluationError: which rows, and why

`docs/expressions.md` says what is supported: it is printed from the table in `table.py` by
`python -m cdcflow.transform.expression`. Where a result could differ from Postgres', the expression is
refused.
"""

from cdcflow.transform.expression.compiled import Expression, compile, compile_predicate
from cdcflow.transform.expression.frame import Frame
from cdcflow.transform.expression.scope import Scope
from cdcflow.transform.expression.sqltype import SqlType

__all__ = ["Expression", "Frame", "Scope", "SqlType", "compile", "compile_predicate"]
