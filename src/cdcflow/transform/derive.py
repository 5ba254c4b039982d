"""The relation that a step makes of another: names, types, key and layout.

A column that a step passes on keeps its attribute number, whatever it is called, so that a sink which
follows schema changes takes a renamed column for the same one. What a step computes has a number of its own
that follows from its name: negative, which no column of a table's own has (manual, 52.7: those of system
columns are from −1 to −6, and never in a layout). A column that is not passed on stays in the layout, hidden:
it was not dropped at the source, and when a flow takes it up later its older values are known to be missing.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b

from cdcflow.model import Attribute, Column, Layout, Relation
from cdcflow.model.layout import HIDDEN


@dataclass(frozen=True)
class Made:
    """A column of the output: which of the input it continues, or None for a computed one, whose number
    then follows from `salt` besides its name."""

    column: Column
    source: int | None = None
    salt: str = ""


def passed(relation: Relation) -> list[Made]:
    """All columns as they are."""
    return [Made(column, i) for i, column in enumerate(relation.columns)]


def derived(relation: Relation, columns: Sequence[Made]) -> Relation:
    """The relation with these columns. They must have different names."""
    return replace(
        relation,
        columns=tuple(made.column for made in columns),
        layout=None if relation.layout is None else _layout(relation, relation.layout, columns),
    )


def _layout(relation: Relation, layout: Layout, columns: Sequence[Made]) -> Layout:
    attributes = dict(layout.by_number)
    continued: dict[str, Made] = {}
    for made in columns:
        if made.source is not None:
            continued[relation.columns[made.source].name] = made
    names = {made.column.name for made in columns}
    ours = set(relation.names)
    for number, attribute in layout.by_number.items():
        following = continued.get(attribute.name)
        if following is not None:
            before, after = relation.columns[following.source or 0], following.column
            found = replace(attribute, name=after.name)
            if (before.type_oid, before.typmod) != (after.type_oid, after.typmod):
                found = replace(found, type_oid=after.type_oid, typmod=after.typmod)
            attributes[number] = found
        elif attribute.name in ours and number < 0:
            del attributes[number]  # computed by an earlier step, and gone with this one
        elif attribute.name in ours or attribute.name in names:
            attributes[number] = replace(attribute, name=f"{HIDDEN}{number}")
    for made in columns:
        if made.source is None:
            number = synthetic(made.column.name, made.salt)
            attributes[number] = Attribute(
                number, made.column.name, made.column.type_oid, made.column.typmod, version=0
            )
    return replace(layout, attributes=tuple(attributes[number] for number in sorted(attributes)))


def synthetic(name: str, salt: str = "") -> int:
    """The number of a computed column: from −2^31 to −1,001, the same in every process."""
    digest = int.from_bytes(blake2b(f"{name}\0{salt}".encode(), digest_size=4).digest())
    return -(1_001 + digest % (2**31 - 1_001))


def unkeyed(relation: Relation) -> Relation:
    """The same, with nothing that identifies a row."""
    columns = tuple(replace(column, key=False) for column in relation.columns)
    return replace(relation, columns=columns, replica_identity="n")
