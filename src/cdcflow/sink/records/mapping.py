"""`object:`, `match:` and `fields:` of a flow: which column goes into which field of which kind of record."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from cdcflow.errors import Permanent
from cdcflow.model import BACKFILLS, MESSAGES, Column, Relation
from cdcflow.model.expected import ExpectedTable
from cdcflow.model.finding import Finding
from cdcflow.sink.formulas import Formula, Source, column_of, formula_of
from cdcflow.sink.records.collapse import Plan, Planned
from cdcflow.sink.settings import SinkOptions

#: What SQL NULL means: the field becomes empty, or keeps what it has.
Nulls = Literal["clear", "skip"]


def _match(value: Any) -> Any:
    return {value: value} if isinstance(value, str) else value


#: `match: order_id`, or `match: {order_number__c: order_id}` where field and column have different names.
Match = Annotated[dict[str, Source], BeforeValidator(_match), Field(min_length=1, max_length=1)]


class RecordOptions(SinkOptions):
    """What every mapping to records has; a sink adds its own."""

    #: The kind of record: `contacts`, `Account`.
    object: Annotated[str, Field(min_length=1)]
    #: The field that a record is found by, and the column of its value.
    match: Match
    #: Field → column, or an expression over the row.
    fields: Annotated[dict[str, Source], Field(min_length=1)]
    nulls: Nulls = "clear"
    #: A record is sent only where one of its fields has changed since it was delivered last.
    only_changes: bool = True

    @model_validator(mode="after")
    def _match_is_no_field_of_another_column(self) -> "RecordOptions":
        name, source = next(iter(self.match.items()))
        if self.fields.get(name, source) != source:
            raise ValueError(f"`match` and `fields` take {name} from different columns: give it once")
        return self

    @property
    def matched(self) -> tuple[str, str]:
        """The field and the column that a record is found by."""
        name, source = next(iter(self.match.items()))
        return name, column_of(name, source)

    @property
    def mapped(self) -> Mapping[str, str]:
        """Field → column, without the one that a record is found by."""
        return {
            field: column_of(field, source)
            for field, source in self.fields.items()
            if field != self.matched[0]
        }

    @property
    def formulas(self) -> Sequence[Formula]:
        """The expressions in the place of columns."""
        found = {
            one.column: one
            for place, given in (("match", self.match), ("fields", self.fields))
            for name, source in given.items()
            for one in formula_of(name, source, (place, name))
        }
        return list(found.values())


@dataclass(frozen=True)
class Mapped:
    """One field of the destination in a mapping: its `plan` makes values of a column, or raises ValueError
    with what does not fit where no value of the column's type can become one of the field's."""

    field: str
    column: str
    plan: Callable[[Column, int], Planned]


def plan(
    subject: str, relation: Relation, match: Mapped, fields: Iterable[Mapped], fold: Callable[[str], str]
) -> Plan | None:
    """Binds a mapping to a generation of a table; None for logical messages, which no record is made of.

    Raises Permanent with everything that does not fit.
    """
    if relation in (MESSAGES, BACKFILLS):
        return None
    wrong: list[str] = []
    planned: list[Planned] = []
    for one in (match, *fields):
        index = relation.names.index(one.column) if one.column in relation.names else -1
        if index < 0:
            close = nearest(one.column, relation.names)
            wrong.append(
                f"{one.field} comes from the column {one.column}, which {relation.qualified} does not have"
                + (f" (did you mean {close}?)" if close else "")
            )
            continue
        try:
            planned.append(one.plan(relation.columns[index], index))
        except ValueError as misfit:
            wrong.append(f"{one.field} comes from {relation.qualified}.{one.column}: {misfit}")
    if wrong:
        raise Permanent(
            f"{subject}: {'; '.join(wrong)}", hint="correct `match` and `fields` in the flow's `with:`"
        )
    return Plan(relation, planned[0], tuple(planned[1:]), fold)


def columns_of(options: RecordOptions) -> list[str]:
    """Every column that a mapping names."""
    return [options.matched[1], *options.mapped.values()]


def judge_columns(subject: str, columns: Iterable[str], tables: Sequence[ExpectedTable]) -> list[Finding]:
    """The tables of a flow that lack a column which its mapping names."""
    found = []
    for relation in (table.relation for table in tables):
        if relation in (MESSAGES, BACKFILLS):
            continue
        for column in dict.fromkeys(columns):
            if column not in relation.names:
                close = nearest(column, relation.names)
                found.append(
                    Finding(
                        "error",
                        subject,
                        f"{relation.qualified} has no column {column!r}, which `with:` names",
                        f"did you mean {close!r}?"
                        if close
                        else "correct `match` and `fields`, or take the table out of the flow's `from`",
                    )
                )
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """The name that was probably meant, or an empty string."""
    folded = {one.casefold(): one for one in known}
    close = get_close_matches(name.casefold(), folded, n=1)
    return folded[close[0]] if close else ""
