"""What the names in an expression mean: the columns of the new row, `old.x`, `new.x`, and what belongs to
the change.

A name that could mean two things is refused, and so is an old value that the replica identity does not bring.
"""

from dataclasses import dataclass
from difflib import get_close_matches

from cdcflow.errors import ExpressionError
from cdcflow.model import MESSAGES, Relation
from cdcflow.transform.expression.frame import Row
from cdcflow.transform.expression.sqltype import TEXT, TIMESTAMPTZ, SqlType, of_column

#: Values of the change beside its rows. `change.op` means them where a column has the same name.
METAS: dict[str, SqlType] = {
    "op": TEXT,
    "table": TEXT,
    "schema": TEXT,
    "commit_time": TIMESTAMPTZ,
    "position": TEXT,
}


@dataclass(frozen=True)
class Column:
    """A column of a row."""

    row: Row
    index: int
    type: SqlType


@dataclass(frozen=True)
class Meta:
    """A value that belongs to the change."""

    name: str
    type: SqlType


@dataclass(frozen=True)
class Scope:
    """The names of one generation of a table. `with_change` is off for plain rows, which have no `op` or
    `old`."""

    relation: Relation
    with_change: bool = True

    @classmethod
    def of(cls, relation: Relation) -> "Scope":
        """The scope of a generation of a table, or of logical messages."""
        return cls(relation)

    def resolve(self, parts: tuple[str, ...], text: str, at: int) -> Column | Meta:
        """Raises ExpressionError for a name that means nothing, or two things."""
        if len(parts) == 1:
            return self._plain(parts[0], text, at)
        head, name = parts[0], parts[-1]
        if len(parts) == 2 and head == "new":
            return Column("new", *self._column(name, text, at))
        if len(parts) == 2 and head == "old" and self.with_change:
            return self.old(name, text, at)
        if len(parts) == 2 and head == "change" and self.with_change:
            if name not in METAS:
                raise ExpressionError(
                    f"a change has no {name!r}", text=text, at=at, hint=f"it has {', '.join(METAS)}"
                )
            return Meta(name, METAS[name])
        raise ExpressionError(
            f"{'.'.join(parts)} is not known here",
            text=text,
            at=at,
            hint=f"columns of this table are written {name}, new.{name} or old.{name}",
        )

    def old(self, name: str, text: str, at: int) -> Column:
        """`old.x`, or what `changed(x)` compares with."""
        index, kind = self._column(name, text, at)
        relation = self.relation
        if index not in relation.key:
            hint = f"ALTER TABLE {_quoted(relation.schema)}.{_quoted(relation.name)} REPLICA IDENTITY FULL"
            if relation == MESSAGES:
                hint = "a message has no old row"
            raise ExpressionError(
                f"the old value of {name} is not in the stream: the replica identity of {relation.qualified}"
                " does not hold it",
                text=text,
                at=at,
                hint=hint,
            )
        return Column("old", index, kind)

    def _plain(self, name: str, text: str, at: int) -> Column | Meta:
        is_meta = self.with_change and name in METAS
        if name in self.relation.names:
            if is_meta:
                raise ExpressionError(
                    f"{name} is a column of {self.relation.qualified} and also belongs to the change",
                    text=text,
                    at=at,
                    hint=f"write new.{name} or change.{name}",
                )
            return Column("new", *self._column(name, text, at))
        if is_meta:
            return Meta(name, METAS[name])
        raise self._no_column(name, text, at)

    def _column(self, name: str, text: str, at: int) -> tuple[int, SqlType]:
        names = self.relation.names
        if name not in names:
            raise self._no_column(name, text, at)
        index = names.index(name)
        return index, of_column(self.relation.columns[index])

    def _no_column(self, name: str, text: str, at: int) -> ExpressionError:
        candidates = [*self.relation.names, *(METAS if self.with_change else ())]
        near = get_close_matches(name, candidates, n=1, cutoff=0.6)
        if near:
            hint = f"did you mean {near[0]}?"
        elif name.lower() in (c.lower() for c in candidates):
            hint = "names with capitals are written in double quotes"
        else:
            hint = f"its columns are {', '.join(self.relation.names) or 'none'}"
        return ExpressionError(
            f"{self.relation.qualified} has no column {name!r}", text=text, at=at, hint=hint
        )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
