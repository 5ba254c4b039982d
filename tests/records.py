"""Several tables into one account: what several flows do, as one sink, so that the conformance suite can ask
a sink that maps a single kind of record."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc

from cdcflow.model import Batch, Column, Group, Relation
from cdcflow.sink import FlowContext, SchemaSink

TEXT = 25


class Flows:
    """A sink per table. A table whose key has several columns gets one more that joins them, as a flow's
    step would make it, since records are matched by one."""

    def __init__(self, make: Callable[[Relation, FlowContext], SchemaSink], context: FlowContext) -> None:
        self._make = make
        self._context = context
        self._sinks: dict[str, SchemaSink] = {}

    async def open(self) -> None:
        """Sinks are made when their table is met."""

    async def prepare(self, relations: Sequence[Relation]) -> None:
        for relation in relations:
            await (await self._sink(relation)).prepare([with_key(relation)])

    async def write(self, batch: Batch) -> None:
        for group in batch.groups:
            sink = await self._sink(group.relation)
            await sink.write(batch.with_groups([_with_key(group)]))

    async def close(self) -> None:
        for sink in self._sinks.values():
            await sink.close()

    async def _sink(self, relation: Relation) -> SchemaSink:
        sink = self._sinks.get(relation.qualified)
        if sink is None:
            state = Path(self._context.state) / str(relation.oid)
            state.mkdir(exist_ok=True)
            sink = self._make(with_key(relation), replace(self._context, state=state))
            self._sinks[relation.qualified] = sink
            await sink.open()
        return sink


def match_column(relation: Relation) -> str:
    """The column that records of this (prepared) table are matched by."""
    return "joined_key" if "joined_key" in relation.names else relation.names[relation.key[0]]


def with_key(relation: Relation) -> Relation:
    if len(relation.key) < 2:
        return relation
    return replace(relation, columns=(*relation.columns, Column("joined_key", TEXT)))


def _with_key(group: Group) -> Group:
    relation = group.relation
    if len(relation.key) < 2:
        return group
    joined = pc.binary_join_element_wise(*(group.new(i) for i in relation.key), "/")
    wider = with_key(relation)
    schema = Group.schema(wider, old=group.old, unchanged=group.unchanged)
    place = schema.get_field_index(f"n{len(relation.columns)}")
    return replace(group, relation=wider, data=group.data.add_column(place, schema.field(place), joined))
