"""`key`: which columns identify a row, from here on. Old rows then hold these and nothing else."""

from dataclasses import replace
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator

from cdcflow.model import Group, Relation
from cdcflow.transform.derive import Made, derived, unkeyed
from cdcflow.transform.options import Names, Plain, places_of
from cdcflow.transform.rows import assembled, bits, has_old, metas, new_columns, old_columns
from cdcflow.transform.step import Bound, Run, StepContext, StepError, StepPlugin


def _none(value: Any) -> Any:
    return "none" if value is None else value


class KeyColumns(Plain[Annotated[Names | Literal["none"], BeforeValidator(_none)]]):
    """The key's columns, or none."""


class _Key:
    def __init__(self, options: KeyColumns, _context: StepContext) -> None:
        self._names = () if options.root == "none" else options.root

    def bind(self, relation: Relation) -> Bound:
        wanted = set(places_of(relation, (((i,), name) for i, name in enumerate(self._names))))
        unknown = [relation.names[i] for i in sorted(wanted) if i not in relation.key]
        if unknown:
            raise StepError(
                f"old rows do not hold {unknown[0]!r}, so a change of it would lose the row",
                hint=f"name columns of the present key ({_listed(relation)}), or run ALTER TABLE "
                f"{relation.qualified} REPLICA IDENTITY FULL at the source",
            )
        if wanted:
            columns = [Made(replace(column, key=i in wanted), i) for i, column in enumerate(relation.columns)]
            output = replace(derived(relation, columns), replica_identity="i")
        else:
            output = unkeyed(relation)

        def apply(group: Group, _run: Run) -> list[Group]:
            return [
                assembled(
                    output,
                    metas(group),
                    new_columns(group),
                    has_old=has_old(group) if wanted else None,
                    old=old_columns(group),
                    unchanged=bits(group),
                )
            ]

        return Bound((output,), apply)


def _listed(relation: Relation) -> str:
    return ", ".join(relation.names[i] for i in relation.key) or "there is none"


key = StepPlugin(
    "key",
    KeyColumns,
    _Key,
    about="""\
Says which columns identify a row from here on. Mostly for tables under REPLICA IDENTITY FULL, whose events
carry whole old rows and no key: steps before this one see the whole old row, and the sink gets a table with a
key. cdcflow takes your word that no two rows have the same one.

`key: none` says that nothing identifies a row; for events. A warehouse then takes inserts only.""",
    example="- key: [id]",
)
