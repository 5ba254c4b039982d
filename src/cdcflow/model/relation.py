"""A relation is one generation of a table's shape: what a Relation message of pgoutput says.

DDL makes a new generation; the same shape announced again is the same generation, because the
fingerprint is made of the content alone. What the message does not say, capture adds as the `layout`.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import msgpack

from cdcflow.model.layout import Layout

#: pg_class.relreplident: d(efault), n(othing), f(ull), i(ndex).
ReplicaIdentity = Literal["d", "n", "f", "i"]


#: OIDs from here on are of tables that a flow's transforms send rows to, and the source does not have. A
#: database must have made half as many objects as there are OIDs to come so far by itself.
ROUTED = 1 << 31


@dataclass(frozen=True, slots=True)
class Column:
    """A published column: its name, the type's OID and modifier, and whether it is part of the key."""

    name: str
    type_oid: int
    typmod: int = -1
    key: bool = False
    #: `schema.name` of a type that is not built in (a Type message said so), else empty.
    type_name: str = ""


@dataclass(frozen=True)
class Relation:
    """One generation of a table. Under FULL the server flags every column as part of the key.

    `layout` is what capture found in the catalog when the generation came, which may be later than its
    changes; None where the table was gone by then.
    """

    oid: int
    schema: str
    name: str
    replica_identity: ReplicaIdentity
    columns: tuple[Column, ...]
    layout: Layout | None = None

    @property
    def qualified(self) -> str:
        """`schema.table`, for people and for patterns. Not quoted: never put it into SQL."""
        return f"{self.schema}.{self.name}"

    @cached_property
    def key(self) -> tuple[int, ...]:
        """Indexes of the replica identity's columns, in column order. Empty: nothing identifies a row."""
        return tuple(i for i, column in enumerate(self.columns) if column.key)

    @property
    def full(self) -> bool:
        """Whether updates and deletes carry the whole old row, which is then all that identifies it."""
        return self.replica_identity == "f"

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    @cached_property
    def fingerprint(self) -> str:
        """16 hex digits that name this generation, the same in every process and after any restart."""
        state = self.to_state()
        if self.layout is not None:
            state["layout"] = self.layout.to_state()[:-1]  # without the place where it was seen
        packed = msgpack.packb(state)
        return hashlib.blake2b(packed, digest_size=8).hexdigest()

    def to_state(self) -> dict[str, Any]:
        """Plain values for msgpack; `from_state` reads them back."""
        state: dict[str, Any] = {
            "oid": self.oid,
            "schema": self.schema,
            "name": self.name,
            "identity": self.replica_identity,
            "columns": [[c.name, c.type_oid, c.typmod, c.key, c.type_name] for c in self.columns],
        }
        if self.layout is not None:
            state["layout"] = self.layout.to_state()
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Relation":
        return cls(
            oid=state["oid"],
            schema=state["schema"],
            name=state["name"],
            replica_identity=state["identity"],
            columns=tuple(Column(*fields) for fields in state["columns"]),
            layout=Layout.from_state(state["layout"]) if "layout" in state else None,
        )
