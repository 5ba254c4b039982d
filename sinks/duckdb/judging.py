"""What the warehouse will not take, or not as people expect, said before the first row comes. Pure.

The same rules as `target.bind`, which stops the flow by them; here all of them are said at once.
"""

from collections.abc import Iterator, Mapping, Sequence

from cdcflow import types
from cdcflow.errors import Permanent
from cdcflow.model import Relation
from cdcflow.sink import ExpectedTable, Finding
from cdcflow_sinks.duckdb.target import check_names, clash, fold

#: Names in a message before it says how many more there are.
_SHOWN = 5


def judge(subject: str, tables: Sequence[ExpectedTable], schemas: Mapping[str, str]) -> list[Finding]:
    """Findings about the tables of a flow; `schemas` is the sink's setting."""
    relations = [table.relation for table in tables]
    refused = [*_unfit(relations, schemas), *_clashes(relations, schemas)]
    found = [Finding("error", subject, str(error), error.hint) for error in refused]
    inexact = [
        f"{relation.qualified}.{column.name}"
        for relation in relations
        for column in relation.columns
        if (kind := types.of(column)).name == "numeric" and kind.duckdb == "VARCHAR"
    ]
    if inexact:
        more = f" and {len(inexact) - _SHOWN} more" if len(inexact) > _SHOWN else ""
        found.append(
            Finding(
                "ok",
                subject,
                f"text in the warehouse, since no DECIMAL holds every value of a numeric without a precision"
                f" or with more than 38 digits: {', '.join(inexact[:_SHOWN])}{more}",
                "cast them in queries, or give the columns a precision at the source",
            )
        )
    return found


def _unfit(relations: Sequence[Relation], schemas: Mapping[str, str]) -> Iterator[Permanent]:
    for relation in relations:
        try:
            check_names(relation, schemas.get(relation.schema, relation.schema))
        except Permanent as error:
            yield error


def _clashes(relations: Sequence[Relation], schemas: Mapping[str, str]) -> Iterator[Permanent]:
    """Tables that would become one, and schemas that differ by the case of their letters only."""
    spelled: dict[str, str] = {}
    taken: dict[tuple[str, str], Relation] = {}
    for relation in relations:
        schema = schemas.get(relation.schema, relation.schema)
        other = spelled.setdefault(fold(schema), schema)
        if other != schema:
            yield clash(relation, f"schema {schema}", f"schema {other}")
            continue
        first = taken.setdefault((fold(schema), fold(relation.name)), relation)
        if first is not relation:
            yield clash(relation, f"table {relation.qualified}", f"table {first.qualified}")
