"""Types by the names that SQL has for them, in options of steps."""

from cdcflow.errors import ExpressionError
from cdcflow.model import Column, Relation
from cdcflow.transform.expression import Scope, compile
from cdcflow.transform.expression.parse import Cast, parse
from cdcflow.transform.step import StepError, Way

_NOWHERE = Relation(0, "", "", "n", ())


def column_type(text: str, way: Way) -> Column:
    """A nameless column of the type. Raises StepError where there is no such type here."""
    cast = f"CAST(NULL AS {text})"
    try:
        # So that nothing but a type's name passes.
        node = parse(cast)
        kind = compile(cast, Scope.of(_NOWHERE)).type
    except ExpressionError as error:
        raise StepError(f"{text!r} is no type that is known here", hint=error.hint, way=way) from error
    if not isinstance(node, Cast):
        raise StepError(f"{text!r} is not the name of a type", way=way)
    return Column("", kind.oid, kind.typmod, False, kind.type_name)
