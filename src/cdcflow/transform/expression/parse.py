"""The text of an expression → our own syntax tree, whose nodes know their place in the text. The grammar is
Postgres' own.

Nothing is resolved here. What no expression of ours can be (subqueries, aggregates with DISTINCT, row
constructors …) is refused here, with its place.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from cdcflow import parser
from cdcflow.errors import ExpressionError

_HEAD = "SELECT "
#: `table` is reserved in SQL, but a name here: it is quoted before the parser sees it.
_TABLE = "TABLE"


@dataclass(frozen=True, slots=True)
class Name:
    """A column or a value of the change: `status`, `new.status`, `op`."""

    parts: tuple[str, ...]
    at: int


@dataclass(frozen=True, slots=True)
class Literal:
    """A constant as written. `kind` is one of string, integer, decimal, boolean, null."""

    kind: str
    text: str
    at: int


@dataclass(frozen=True, slots=True)
class Call:
    """A function, or what the grammar has turned into one."""

    name: str
    args: tuple["Node", ...]
    at: int


@dataclass(frozen=True, slots=True)
class Operation:
    """An operator; `left` is None where it stands in front."""

    name: str
    left: "Node | None"
    right: "Node"
    at: int


@dataclass(frozen=True, slots=True)
class TypeName:
    """A type as written: `numeric(10,2)[]`."""

    name: str
    schema: str
    modifiers: tuple[int, ...]
    array: bool
    at: int


@dataclass(frozen=True, slots=True)
class Cast:
    operand: "Node"
    to: TypeName
    at: int


@dataclass(frozen=True, slots=True)
class Case:
    """`operand` is None for a searched CASE; `otherwise` is None without ELSE."""

    operand: "Node | None"
    branches: tuple[tuple["Node", "Node"], ...]
    otherwise: "Node | None"
    at: int


@dataclass(frozen=True, slots=True)
class Form:
    """What has a syntax of its own. `kind` says which:

    and, or, not, is null, is not null, is true … is not unknown, is distinct, is not distinct, in, not in,
    between, not between, between symmetric, not between symmetric, coalesce, nullif, greatest, least, array,
    any, all (`name` is the operator), like, similar (`name` is the operator), subscript, collate (`name`),
    value (`name`: current_date …).
    """

    kind: str
    args: tuple["Node", ...]
    at: int
    name: str = ""


Node = Name | Literal | Call | Operation | Cast | Case | Form


@lru_cache(maxsize=1024)
def parse(text: str) -> Node:
    """Raises ExpressionError for what is not one SQL expression."""
    if "\0" in text:
        raise ExpressionError("an expression cannot hold a NUL character", text=text, at=text.index("\0"))
    return _Reader(text).read()


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        #: Places in the parsed text, in characters, at which a quote was put in.
        self._quotes: list[int] = []

    def read(self) -> Node:
        if not self.text.strip():
            raise self._refuse("the expression is empty", 0)
        sql = self._quoted()
        try:
            document = parser.document(sql)
        except parser.ParserMissing:
            raise self._refuse("there is no parser of SQL: install pglast", 0) from None
        except parser.NotParsed as error:
            at = len(self.text) if error.at is None else self._place_in_text(error.at)
            message = str(error).replace("end of input", "the end of the expression")
            raise self._refuse(f"not an SQL expression: {message}", at) from None
        # Places are in bytes of UTF-8; people count characters.
        self._bytes = sql.encode() if not sql.isascii() else None
        if len(document["stmts"]) != 1:
            raise self._refuse("one expression is expected, without `;`", self.text.find(";"))
        statement = document["stmts"][0]["stmt"].get("SelectStmt", {})
        targets = statement.get("targetList", [])
        if not statement.keys() <= {"targetList", "limitOption", "op"}:
            raise self._refuse("one expression is expected, not a query", 0, "no FROM, WHERE or subquery")
        if not targets:
            raise self._refuse("the expression is empty", 0)
        if len(targets) > 1:
            at = self._at(targets[1]["ResTarget"])
            raise self._refuse("one expression is expected, not a list of them", at)
        if "name" in targets[0]["ResTarget"]:
            raise self._refuse(
                f"an expression has no name of its own, but this one is called"
                f" {targets[0]['ResTarget']['name']!r}",
                0,
                "is an operator missing between two words?",
            )
        return self._node(targets[0]["ResTarget"]["val"])

    def _quoted(self) -> str:
        """The text behind SELECT, with the word `table` in quotes."""
        if _TABLE not in self.text.upper():
            return _HEAD + self.text
        try:
            tokens = parser.tokens(_HEAD + self.text)
        except parser.NotParsed:
            return _HEAD + self.text
        pieces, done = [], 0
        source = _HEAD + self.text
        for token in tokens:
            if token.name == _TABLE:
                pieces += [source[done : token.start], '"table"']
                start = token.start + len(self._quotes)
                self._quotes += [start, start + 6]
                done = token.end + 1
        return "".join([*pieces, source[done:]])

    def _place_in_text(self, place: int) -> int:
        """The place in the user's text of a place, in characters, in what was parsed."""
        return min(
            max(place - len(_HEAD) - sum(1 for quote in self._quotes if quote < place), 0), len(self.text)
        )

    def _at(self, fields: Any) -> int:
        place = fields.get("location", len(_HEAD))
        if place < 0:
            return 0
        if self._bytes is not None:
            place = len(self._bytes[:place].decode(errors="ignore"))
        return self._place_in_text(place)

    def _refuse(self, message: str, at: int, hint: str = "") -> ExpressionError:
        return ExpressionError(message, text=self.text, at=max(at, 0), hint=hint)

    def _nodes(self, items: list[Any]) -> tuple[Node, ...]:
        return tuple(self._node(item) for item in items)

    def _node(self, node: Any) -> Node:
        ((kind, fields),) = node.items()
        read = getattr(self, f"_{kind.lower()}", None)
        if read is None:
            what = _REFUSED.get(kind, f"{kind} is not supported")
            raise self._refuse(what, self._at(fields))
        result: Node = read(fields)
        return result

    def _columnref(self, fields: Any) -> Node:
        if any("A_Star" in part for part in fields["fields"]):
            raise self._refuse("`*` is not a value", self._at(fields), "name the columns")
        return Name(tuple(_string(part) for part in fields["fields"]), self._at(fields))

    def _a_const(self, fields: Any) -> Node:
        at = self._at(fields)
        if fields.get("isnull"):
            return Literal("null", "", at)
        if "ival" in fields:
            return Literal("integer", str(fields["ival"].get("ival", 0)), at)
        if "fval" in fields:
            return Literal("decimal", fields["fval"]["fval"], at)
        if "boolval" in fields:
            return Literal("boolean", "t" if fields["boolval"].get("boolval") else "f", at)
        if "sval" in fields:
            return Literal("string", fields["sval"].get("sval", ""), at)
        raise self._refuse("bit strings are not supported", at)

    def _typecast(self, fields: Any) -> Node:
        to = self._type(fields["typeName"])
        at = self._at(fields) if fields.get("location", -1) >= 0 else to.at
        return Cast(self._node(fields["arg"]), to, at)

    def _type(self, fields: Any) -> TypeName:
        names = [_string(part) for part in fields["names"]]
        at = self._at(fields)
        modifiers = []
        for modifier in fields.get("typmods", []):
            constant = modifier.get("A_Const", {})
            if "ival" not in constant:
                raise self._refuse("a type's modifier must be an integer", at)
            modifiers.append(constant["ival"].get("ival", 0))
        if fields.get("setof") or fields.get("pct_type") or len(names) > 2:
            raise self._refuse("this is not a type that a value can be cast to", at)
        return TypeName(
            names[-1],
            names[0] if len(names) == 2 else "",
            tuple(modifiers),
            bool(fields.get("arrayBounds")),
            at,
        )

    def _funccall(self, fields: Any) -> Node:
        at = self._at(fields)
        names = [_string(part) for part in fields["funcname"]]
        for flag, what in _CALL_REFUSED.items():
            if fields.get(flag):
                raise self._refuse(f"{'.'.join(names)}: {what}", at)
        if len(names) > 1 and names[0] != "pg_catalog":
            raise self._refuse(
                f"{'.'.join(names)}() is a function of your database, which cannot be called here", at
            )
        args = self._nodes(fields.get("args", []))
        return Call(names[-1], args, at)

    def _a_expr(self, fields: Any) -> Node:
        at = self._at(fields)
        names = [_string(part) for part in fields["name"]]
        if len(names) > 1 and names[0] != "pg_catalog":
            raise self._refuse("an operator of your database cannot be used here", at)
        name, kind = names[-1], fields["kind"]
        right = fields.get("rexpr", {})
        if kind == "AEXPR_OP":
            left = self._node(fields["lexpr"]) if "lexpr" in fields else None
            return Operation(name, left, self._node(right), at)
        left = self._node(fields["lexpr"])
        if kind in (
            "AEXPR_IN",
            "AEXPR_BETWEEN",
            "AEXPR_BETWEEN_SYM",
            "AEXPR_NOT_BETWEEN",
            "AEXPR_NOT_BETWEEN_SYM",
        ):
            args = self._nodes(right["List"]["items"])
            if kind == "AEXPR_IN":
                return Form("in" if name == "=" else "not in", (left, *args), at)
            return Form(name.lower(), (left, *args), at)
        args = (left, self._node(right))
        if kind in _FORMS:
            return Form(_FORMS[kind], args, at, name)
        raise self._refuse(f"{name} is not supported here", at)

    def _boolexpr(self, fields: Any) -> Node:
        kind = {"AND_EXPR": "and", "OR_EXPR": "or", "NOT_EXPR": "not"}[fields["boolop"]]
        return Form(kind, self._nodes(fields["args"]), self._at(fields))

    def _nulltest(self, fields: Any) -> Node:
        kind = "is null" if fields["nulltesttype"] == "IS_NULL" else "is not null"
        return Form(kind, (self._node(fields["arg"]),), self._at(fields))

    def _booleantest(self, fields: Any) -> Node:
        kind = fields["booltesttype"].lower().replace("_", " ")
        return Form(kind, (self._node(fields["arg"]),), self._at(fields))

    def _caseexpr(self, fields: Any) -> Node:
        branches = tuple(
            (self._node(when["CaseWhen"]["expr"]), self._node(when["CaseWhen"]["result"]))
            for when in fields["args"]
        )
        operand = self._node(fields["arg"]) if "arg" in fields else None
        otherwise = self._node(fields["defresult"]) if "defresult" in fields else None
        return Case(operand, branches, otherwise, self._at(fields))

    def _coalesceexpr(self, fields: Any) -> Node:
        return Form("coalesce", self._nodes(fields["args"]), self._at(fields))

    def _minmaxexpr(self, fields: Any) -> Node:
        kind = "greatest" if fields["op"] == "IS_GREATEST" else "least"
        return Form(kind, self._nodes(fields["args"]), self._at(fields))

    def _a_arrayexpr(self, fields: Any) -> Node:
        return Form("array", self._nodes(fields.get("elements", [])), self._at(fields))

    def _collateclause(self, fields: Any) -> Node:
        name = _string(fields["collname"][-1])
        return Form("collate", (self._node(fields["arg"]),), self._at(fields), name)

    def _sqlvaluefunction(self, fields: Any) -> Node:
        name = fields["op"].removeprefix("SVFOP_").removesuffix("_N").lower()
        if fields.get("typmod", -1) != -1:
            raise self._refuse(f"{name} with a precision is not supported", self._at(fields))
        return Form("value", (), self._at(fields), name)

    def _a_indirection(self, fields: Any) -> Node:
        operand = self._node(fields["arg"])
        indexes = []
        for step in fields["indirection"]:
            index = step.get("A_Indices")
            if index is None or index.get("is_slice"):
                what = "a slice of an array" if index else "an attribute of a composite"
                raise self._refuse(f"{what} is not supported", operand.at)
            indexes.append(self._node(index["uidx"]))
        return Form("subscript", (operand, *indexes), operand.at)


#: Kinds of A_Expr whose operands are two expressions.
_FORMS = {
    "AEXPR_DISTINCT": "is distinct",
    "AEXPR_NOT_DISTINCT": "is not distinct",
    "AEXPR_NULLIF": "nullif",
    "AEXPR_OP_ANY": "any",
    "AEXPR_OP_ALL": "all",
    "AEXPR_LIKE": "like",
    "AEXPR_ILIKE": "like",
    "AEXPR_SIMILAR": "similar",
}

_CALL_REFUSED = {
    "over": "window functions are not supported: an expression sees one change",
    "agg_star": "aggregates are not supported: an expression sees one change",
    "agg_distinct": "aggregates are not supported: an expression sees one change",
    "agg_order": "aggregates are not supported: an expression sees one change",
    "agg_filter": "aggregates are not supported: an expression sees one change",
    "agg_within_group": "aggregates are not supported: an expression sees one change",
    "func_variadic": "VARIADIC is not supported",
}

_REFUSED = {
    "SubLink": "subqueries are not supported: an expression sees one change",
    "RowExpr": "row values are not supported: compare the columns one by one",
    "ParamRef": "parameters such as $1 are not supported",
    "NamedArgExpr": "arguments by name are not supported: write them in their order",
    "GroupingFunc": "aggregates are not supported: an expression sees one change",
    "SetToDefault": "DEFAULT is not a value",
    "JsonIsPredicate": "IS JSON is not supported",
    "XmlExpr": "XML is not supported",
    "JsonFuncExpr": "SQL/JSON functions are not supported: use ->, ->>, #> or #>>",
}


def _string(node: Any) -> str:
    value: str = node["String"].get("sval", "")
    return value
