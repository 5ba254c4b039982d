"""What a publication publishes of its tables' columns and rows, against what the tables are. Pure.

The sharpest edge is that a publication can break the application: an UPDATE or DELETE is refused by the
server itself when a column list, a row filter or an unpublished generated column does not fit the table's
replica identity (manual, 29.4 and 29.5; for generated columns from 18 on, 29.6).
"""

from collections.abc import Iterator, Mapping, Sequence

from cdcflow.model import Relation
from cdcflow.model.expected import ExpectedTable
from cdcflow.model.finding import Finding, Stage
from cdcflow.source.catalog import Member, Publication, Shape, Table
from cdcflow.source.statements import full_identity, publish_generated, republish

#: The first major version that can publish generated columns, and that refuses to leave them out of a
#: replica identity.
GENERATED = 18
#: Names in a message before it says how many more there are.
_SHOWN = 5

Shapes = Mapping[int, Shape]


def expected(
    tables: Sequence[Table], shapes: Shapes, publication: Publication | None, major: int
) -> tuple[ExpectedTable, ...]:
    """The tables as the stream will announce them; where they are not published yet, as `cdcflow setup`
    would publish them."""
    found = []
    for table in tables:
        shape = shapes.get(table.oid)
        if shape is None:
            continue  # dropped between two looks
        names = _published(table, shape, publication, major)
        attributes = [a for a in shape.attributes if a.column.name in names]
        relation = Relation(
            table.oid, table.schema, table.name, table.replica_identity, tuple(a.column for a in attributes)
        )
        toasted = tuple(a.column.name for a in attributes if a.toastable) if shape.toast_bytes else ()
        found.append(ExpectedTable(relation, toasted, shape.toast_bytes))
    return tuple(found)


def _published(table: Table, shape: Shape, publication: Publication | None, major: int) -> set[str]:
    member = publication.by_name.get((table.schema, table.name)) if publication else None
    if member is not None:
        return set(member.columns)
    kinds = {"", "s"} if major >= GENERATED else {""}
    return {a.column.name for a in shape.attributes if a.generated in kinds}


def stored(tables: Sequence[Table], shapes: Shapes) -> bool:
    """Whether any table has a stored generated column."""
    return any(a.generated == "s" for t in tables if t.oid in shapes for a in shapes[t.oid].attributes)


def judge_contents(
    tables: Sequence[Table], shapes: Shapes, publication: Publication, major: int
) -> Iterator[Finding]:
    """Findings about the published columns and rows."""
    members = [
        (table, shapes[table.oid], publication.by_name[table.schema, table.name])
        for table in tables
        if table.oid in shapes and (table.schema, table.name) in publication.by_name
    ]
    for table, shape, member in members:
        if publication.update or publication.delete:
            yield from _breaking(publication.name, table, shape, member, major)
        if member.row_filter is not None:
            yield Finding(
                "ok",
                "publication",
                f"of {table.qualified} it publishes only the rows that meet its condition",
            )
        listed = _left_out(shape, member, "")
        if listed:
            yield Finding("ok", "publication", f"of {table.qualified} it leaves out {_names(listed)}")
    yield from _generated(publication.name, members, major)


def _left_out(shape: Shape, member: Member, generated: str) -> list[str]:
    """The columns of a kind that are not published."""
    return [
        a.column.name
        for a in shape.attributes
        if a.generated == generated and a.column.name not in member.columns
    ]


def _breaking(name: str, table: Table, shape: Shape, member: Member, major: int) -> Iterator[Finding]:
    """Why the server refuses the application's UPDATE and DELETE of a table that has an identity."""
    if not table.identified:
        return  # said elsewhere
    keys = {a.column.name for a in shape.attributes if a.column.key}
    missing = [key for key in _left_out(shape, member, "") if key in keys]
    if missing:
        columns = [a.column.name for a in shape.attributes if a.column.name in {*member.columns, *missing}]
        yield _broken(
            table,
            f"its column list leaves out {_names(missing)}, which is part of the replica identity",
            "publish the whole replica identity",
            republish(name, table, columns, member.row_filter),
        )
    strange = [column for column in member.filter_columns if column not in keys]
    if strange:
        yield _broken(
            table,
            f"its row filter looks at {_names(strange)}, which is not part of the replica identity",
            "let updates and deletes carry the whole old row, or take the filter away",
            "" if _left_out(shape, member, "") else full_identity(table.quoted),
            stage="tables",
        )
    if major < GENERATED:
        return
    virtual = [key for key in _left_out(shape, member, "v") if key in keys]
    if virtual:
        back = f"ALTER TABLE {table.quoted} REPLICA IDENTITY DEFAULT;" if table.primary_key else ""
        yield _broken(
            table,
            f"its replica identity is FULL and holds the virtual column {_names(virtual)}, which cannot be"
            " published",
            "let its primary key, or a unique index, be its replica identity",
            back,
            stage="tables",
        )
    computed = [key for key in _left_out(shape, member, "s") if key in keys]
    if computed:
        yield _broken(
            table,
            f"its replica identity holds the generated column {_names(computed)}, which is not published",
            "publish generated columns",
            publish_generated(name) if not _left_out(shape, member, "") else "",
        )


def _broken(table: Table, why: str, remedy: str, sql: str, *, stage: Stage = "publication") -> Finding:
    return Finding(
        "error",
        "replica identity",
        f"the application's own UPDATE and DELETE of {table.qualified} fail: {why}",
        remedy,
        sql,
        stage,
    )


def _generated(name: str, members: Sequence[tuple[Table, Shape, Member]], major: int) -> Iterator[Finding]:
    """Columns that the server computes, and that destinations will not see."""
    lacking = [
        f"{table.qualified}.{column}"
        for table, shape, member in members
        # With a column list of its own, a table has what somebody wanted it to have.
        if not _left_out(shape, member, "")
        for column in _left_out(shape, member, "s")
    ]
    if lacking and major >= GENERATED:
        yield Finding(
            "warning",
            "generated columns",
            f"{_names(lacking)} are not published: the destinations will not see them",
            "publish stored generated columns",
            publish_generated(name),
            "publication",
        )
    elif lacking:
        yield Finding(
            "ok",
            "generated columns",
            f"{_names(lacking)} are not captured: PostgreSQL publishes generated columns from {GENERATED} on",
        )
    virtual = [f"{t.qualified}.{c}" for t, shape, member in members for c in _left_out(shape, member, "v")]
    if virtual:
        yield Finding(
            "ok",
            "generated columns",
            f"{_names(virtual)} are not captured: the server stores no virtual column and publishes none",
        )


def _names(items: Sequence[str]) -> str:
    more = len(items) - _SHOWN
    return ", ".join(items[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
