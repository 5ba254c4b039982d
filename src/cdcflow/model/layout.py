"""A table's columns as the source's catalog numbers them: what tells a renamed column from a new one.

pgoutput sends names and types only. By attribute numbers (manual: 52.7, "pg_attribute") a column keeps
its identity through RENAME and ALTER TYPE, and loses it when it is dropped and made again.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

#: The name of a column that a flow leaves out begins so. No name in Postgres holds a NUL.
HIDDEN = "\0"


@dataclass(frozen=True, slots=True)
class Attribute:
    """A column that was there: `number` is its attnum, never used twice in a table; negative for a column
    that a flow computes. One that a flow leaves out is hidden: its name is no column's.

    `version` is the transaction that last changed its catalog entry. `missing` is the value, as text,
    that the rows older than the column have without ever being written (attmissingval); None: NULL.
    """

    number: int
    name: str
    type_oid: int
    typmod: int
    version: int
    missing: str | None = None

    @property
    def hidden(self) -> bool:
        return self.name.startswith(HIDDEN)


@dataclass(frozen=True)
class Layout:
    """What the catalog said of a table, true at the WAL position `lsn`.

    `count` is how many columns the table has ever had; those that are not in `attributes` were dropped.
    `storage` names the files that hold its rows: it changes when the table is rewritten.
    """

    storage: str
    count: int
    attributes: tuple[Attribute, ...]
    #: No part of what makes a generation: the same layout seen later is the same.
    lsn: int = field(default=0, compare=False)

    @cached_property
    def by_number(self) -> Mapping[int, Attribute]:
        return {attribute.number: attribute for attribute in self.attributes}

    @cached_property
    def by_name(self) -> Mapping[str, Attribute]:
        return {attribute.name: attribute for attribute in self.attributes}

    def dropped(self, number: int) -> bool:
        """Whether there was a column of this number and is no longer."""
        return number <= self.count and number not in self.by_number

    def to_state(self) -> list[Any]:
        """Plain values for msgpack and JSON; `from_state` reads them back."""
        attributes = [[a.number, a.name, a.type_oid, a.typmod, a.version, a.missing] for a in self.attributes]
        return [self.storage, self.count, attributes, self.lsn]

    @classmethod
    def from_state(cls, state: list[Any]) -> "Layout":
        storage, count, attributes, lsn = state
        return cls(storage, count, tuple(Attribute(*fields) for fields in attributes), lsn)
