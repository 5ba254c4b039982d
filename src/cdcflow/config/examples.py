"""A flow's `examples`: changes that come, and what its sink is to get of them; and `schema`, the columns of
the tables that they speak of, for where no database is at hand."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from cdcflow.config.document import Document, Way, dotted, read
from cdcflow.config.problems import Place, Problems
from cdcflow.config.validation import validate
from cdcflow.sink import Settings

Word = Literal["insert", "update", "delete", "truncate", "read"]
Row = dict[str, Any]


def _several(value: Any) -> Any:
    """One change stands for a list of one; nothing, or the word `none`, for an empty list."""
    if value is None or value == "none":
        return []
    return [value] if isinstance(value, Mapping) else value


class ChangeSettings(Settings):
    """A change that comes. What kind it is follows from its rows, unless it says so."""

    table: str | None = None
    op: Word | None = None
    new: Row | None = None
    old: Row | None = None


class ExampleSettings(Settings):
    """One example. `given` are rows that steps can look up, by table."""

    name: str = ""
    in_: Annotated[list[ChangeSettings], BeforeValidator(_several), Field(alias="in", min_length=1)]
    out: Annotated[list[ChangeSettings], BeforeValidator(_several)]
    given: Annotated[dict[str, list[Row]], Field(default_factory=dict)]


@dataclass(frozen=True)
class Example:
    """An example and where it is written."""

    settings: ExampleSettings
    place: Place = field(compare=False)

    @property
    def name(self) -> str:
        return self.settings.name or f"line {self.place.line}"


#: Table → column → the type's name, with ` key` behind it for a column of the key.
Schema = Mapping[str, Mapping[str, str]]


def read_examples(document: Document, way: Way, given: object, problems: Problems) -> tuple[Example, ...]:
    """The examples at `way`, as far as they are right."""
    if given is None:
        return ()
    if not isinstance(given, list):
        problems.add(document.place(way), dotted(way), "must be a list of examples", "- in: {…}")
        return ()
    found = []
    for index in range(len(given)):
        here: Way = (*way, index)
        settings = validate(ExampleSettings, document, here, problems)
        if settings is not None:
            found.append(Example(settings, document.place(here)))
    return tuple(found)


def read_schema(document: Document, way: Way, given: object, problems: Problems) -> Schema:
    """The columns of tables at `way`, or in the file that is named there."""
    if isinstance(given, str):
        other = read(document.base / given, problems, base=document.base)
        if other is None:
            return {}
        document, way, given = other, (), other.data
    if given is None:
        return {}
    if not isinstance(given, dict):
        hint = "public.orders: {id: bigint key, status: text}"
        problems.add(document.place(way), dotted(way), "must be a mapping of tables, or a file", hint)
        return {}
    found: dict[str, dict[str, str]] = {}
    for table, columns in given.items():
        here: Way = (*way, table)
        if not isinstance(columns, dict) or not all(isinstance(kind, str) for kind in columns.values()):
            hint = "{id: bigint key, status: text}"
            problems.add(document.place(here), dotted(here), "must be a mapping from column to type", hint)
            continue
        found[table] = dict(columns)
    return found
