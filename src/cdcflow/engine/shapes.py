"""The shapes of tables: as the journal knows them, as the catalog shows them, as somebody has written them
down, or as values suggest. For whatever looks at a flow without running it."""

from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from zlib import crc32

from cdcflow.config import Config
from cdcflow.engine.examination import check_source
from cdcflow.errors import ConfigurationError
from cdcflow.journal.contents import defined_relations
from cdcflow.journal.frame import Kind
from cdcflow.journal.layout import segments
from cdcflow.journal.segment import BadFrame, SegmentFile
from cdcflow.model import Column, Relation
from cdcflow.transform import StepError
from cdcflow.transform.steps.typenames import column_type

#: The newest segments that are looked at, beside the first: a table that has not changed for longer is one
#: whose rows the backfill brought.
NEWEST = 8

BOOL, INT8, TEXT, JSONB, NUMERIC, DATE, TIMESTAMPTZ = 16, 20, 25, 3802, 1700, 1082, 1184


def in_journal(path: Path) -> dict[str, Relation]:
    """The newest generation of each table that the journal's segments speak of, by `schema.table`. Empty
    where there is no journal."""
    try:
        found = segments(path)
    except OSError:
        return {}
    known: dict[str, Relation] = {}
    for segment in [*found[:1], *found[1:][-NEWEST:]]:
        # What stands behind the last whole frame is being written.
        with suppress(FileNotFoundError, BadFrame), closing(SegmentFile(segment.path)) as file:
            for frame in file.frames(segment.base, check=False):
                if frame.prefix.kind == Kind.CHANGES:
                    for relation in defined_relations(frame.header).values():
                        known[relation.qualified] = relation
    return known


def in_catalog(config: Config) -> dict[str, Relation]:
    """As the source's catalog shows them now; empty where it cannot be reached."""
    return {table.relation.qualified: table.relation for table in check_source(config).tables}


def written(table: str, columns: Mapping[str, str], *, full: bool) -> Relation:
    """The table as a `schema:` says it. Raises ConfigurationError for a type that is none."""
    made = []
    for name, text in columns.items():
        words = text.split()
        key = words[-1:] == ["key"]
        try:
            kind = column_type(" ".join(words[:-1] if key else words).removesuffix(" primary"), ())
        except StepError as error:
            raise ConfigurationError(f"{table}, column {name}: {error}", hint=error.hint) from error
        made.append(Column(name, kind.type_oid, kind.typmod, key, kind.type_name))
    return relation(table, made, full=full)


def guessed(table: str, rows: Iterable[Mapping[str, Any]], *, full: bool) -> Relation:
    """A table with the columns that rows name, of types that their values suggest; its key is `id`, or else
    the first column."""
    kinds: dict[str, int] = {}
    for row in rows:
        for name, value in row.items():
            if value is not None or name not in kinds:
                kinds[name] = _kind(value)
    key = "id" if "id" in kinds else next(iter(kinds), "")
    return relation(table, [Column(name, oid, key=name == key) for name, oid in kinds.items()], full=full)


def _kind(value: Any) -> int:
    match value:
        case bool():
            return BOOL
        case int():
            return INT8
        case float() | Decimal():
            return NUMERIC
        case datetime():
            return TIMESTAMPTZ
        case date():
            return DATE
        case list() | dict():
            return JSONB
        case _:
            return TEXT


def relation(table: str, columns: Iterable[Column], *, full: bool) -> Relation:
    """Under FULL every column is part of the key, as the server announces it."""
    schema, _, name = table.rpartition(".")
    made = tuple(
        Column(column.name, column.type_oid, column.typmod, full or column.key, column.type_name)
        for column in columns
    )
    oid = 16_384 + crc32(table.encode()) % 2**30
    return Relation(oid, schema or "public", name, "f" if full else "d", made)
