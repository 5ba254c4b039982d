"""What a DDL command did, in a few words: the object and its columns. Pure.

The parse tree says it for tables, types, views and indexes; for everything else, without a parser, or where a
function ran the DDL, the catalog's own words remain, which came with the command.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Literal

from cdcflow import parser
from cdcflow.model.ddl import DdlCommand
from cdcflow.parser import NotParsed, Statement

Action = Literal["add", "drop", "rename", "type", "not null", "nullable", "default", "alter"]


@dataclass(frozen=True, slots=True)
class ColumnChange:
    """What happened to a column, or to an attribute of a type. `type` is the new type, `to` the new name."""

    name: str
    action: Action
    type: str | None = None
    to: str | None = None


@dataclass(frozen=True, slots=True)
class Summary:
    """`kind` is the command's tag. `statement` is the part of the text that is meant, None where it cannot
    be told. `to` is where a rename or a move has taken the object."""

    kind: str
    object: str
    statement: str | None = None
    columns: tuple[ColumnChange, ...] = ()
    to: str | None = None


def summarize(command: DdlCommand, nth: int = 0) -> Summary:
    """`nth` counts the commands of one text that have the same tag, from 0."""
    known = Summary(command.tag, ", ".join(dict.fromkeys(o.identity for o in command.objects[:1])))
    if command.text is None:
        return known
    try:
        found = parser.statements(command.text)
    except NotParsed:
        return known
    meant = [statement for statement in found if tag(statement.tree) == command.tag]
    if nth < len(meant):
        return _summary(command, meant[nth])
    if len(found) == 1 and tag(found[0].tree) is None:
        return replace(known, statement=found[0].text if _is_ddl(found[0].tree) else None)
    return known


def _is_ddl(tree: Any) -> bool:
    """Whether it can be the command itself, and not the call of a function that ran it."""
    return type(tree).__name__ not in ("SelectStmt", "DoStmt", "CallStmt", "ExecuteStmt")


#: Nodes whose tag is always the same.
_TAGS = {
    "CreateStmt": "CREATE TABLE",
    "IndexStmt": "CREATE INDEX",
    "ViewStmt": "CREATE VIEW",
    "CompositeTypeStmt": "CREATE TYPE",
    "CreateEnumStmt": "CREATE TYPE",
    "AlterEnumStmt": "ALTER TYPE",
    "CreateSchemaStmt": "CREATE SCHEMA",
    "CreateSeqStmt": "CREATE SEQUENCE",
    "CreateDomainStmt": "CREATE DOMAIN",
}


def tag(tree: Any) -> str | None:
    """The command tag of a statement that `_summary` understands, else None."""
    node = type(tree).__name__
    match node:
        case "CreateTableAsStmt":
            made = _words(tree.objtype)
            return (
                "SELECT INTO" if tree.is_select_into else f"CREATE {made}{' AS' if made == 'TABLE' else ''}"
            )
        case "SelectStmt" if tree.intoClause is not None:
            return "SELECT INTO"
        case "AlterTableStmt":
            return f"ALTER {_words(tree.objtype)}"
        case "RenameStmt":
            column = tree.renameType.name in ("OBJECT_COLUMN", "OBJECT_ATTRIBUTE")
            return f"ALTER {_words(tree.relationType if column else tree.renameType)}"
        case "AlterObjectSchemaStmt":
            return f"ALTER {_words(tree.objectType)}"
        case "DropStmt":
            return f"DROP {_words(tree.removeType)}"
    return _TAGS.get(node)


def _words(kind: Any) -> str:
    """`OBJECT_FOREIGN_TABLE` → `FOREIGN TABLE`."""
    words: str = kind.name.removeprefix("OBJECT_").replace("_", " ")
    return {"MATVIEW": "MATERIALIZED VIEW", "TABCONSTRAINT": "TABLE", "ATTRIBUTE": "TYPE"}.get(words, words)


def _summary(command: DdlCommand, statement: Statement) -> Summary:
    tree = statement.tree
    schema = next((o.schema for o in command.objects if o.schema), None)
    name = ", ".join(_qualified(parts, schema) for parts in _names(tree))
    fallback = command.objects[0].identity if command.objects else ""
    to = None
    if type(tree).__name__ == "RenameStmt" and tree.renameType.name in _WHOLE:
        to = tree.newname
    elif type(tree).__name__ == "AlterObjectSchemaStmt":
        to = f"{tree.newschema}.{_names(tree)[0][-1]}" if _names(tree) else tree.newschema
        schema = None
        name = ", ".join(".".join(parts) for parts in _names(tree))
    return Summary(command.tag, name or fallback, statement.text, tuple(_columns(tree)), to)


_WHOLE = ("OBJECT_TABLE", "OBJECT_VIEW", "OBJECT_MATVIEW", "OBJECT_INDEX", "OBJECT_TYPE", "OBJECT_SEQUENCE")


def _qualified(parts: tuple[str, ...], schema: str | None) -> str:
    return ".".join(parts if len(parts) > 1 or schema is None else (schema, *parts))


def _names(tree: Any) -> list[tuple[str, ...]]:
    """What the statement names, schema first where it says one."""
    if type(tree).__name__ == "DropStmt":
        named = [getattr(item, "names", item) for item in tree.objects]  # types come as TypeNames
        return [_list(names) for names in named if isinstance(names, tuple)]
    if type(tree).__name__ == "CreateSchemaStmt":
        return []
    for attribute in ("relation", "view", "typevar", "sequence"):
        found = getattr(tree, attribute, None)
        if found is not None:
            return [_range(found)]
    into = getattr(tree, "into", None) or getattr(tree, "intoClause", None)
    if into is not None:
        return [_range(into.rel)]
    for attribute in ("typeName", "domainname", "object"):
        found = getattr(tree, attribute, None)
        if isinstance(found, tuple):
            return [_list(found)]
    return []


def _range(found: Any) -> tuple[str, ...]:
    return (found.schemaname, found.relname) if found.schemaname else (found.relname,)


def _list(names: Any) -> tuple[str, ...]:
    return tuple(name.sval for name in names if hasattr(name, "sval"))


def _columns(tree: Any) -> Iterator[ColumnChange]:
    match type(tree).__name__:
        case "CreateStmt":
            yield from (_added(column) for column in tree.tableElts or () if hasattr(column, "colname"))
        case "CompositeTypeStmt":
            yield from (_added(column) for column in tree.coldeflist or ())
        case "AlterTableStmt":
            for command in tree.cmds:
                yield from _altered(command)
        case "RenameStmt" if tree.renameType.name in ("OBJECT_COLUMN", "OBJECT_ATTRIBUTE"):
            yield ColumnChange(tree.subname, "rename", to=tree.newname)


def _added(column: Any) -> ColumnChange:
    return ColumnChange(column.colname, "add", _type(column.typeName))


def _altered(command: Any) -> Iterator[ColumnChange]:
    definition = command.def_
    match command.subtype.name:
        case "AT_AddColumn":
            yield _added(definition)
        case "AT_DropColumn":
            yield ColumnChange(command.name, "drop")
        case "AT_AlterColumnType":
            yield ColumnChange(command.name, "type", _type(definition.typeName))
        case "AT_SetNotNull":
            yield ColumnChange(command.name, "not null")
        case "AT_DropNotNull":
            yield ColumnChange(command.name, "nullable")
        case "AT_ColumnDefault":
            yield ColumnChange(command.name, "default")


def _type(name: Any) -> str | None:
    return None if name is None else parser.written(name)
