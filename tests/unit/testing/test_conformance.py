"""The conformance suite finds what it says it finds."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import orjson
import pytest

from cdcflow.errors import Permanent
from cdcflow.model import UNCHANGED, Batch, Op, Relation, Value
from cdcflow.sink import FlowContext, Sink
from cdcflow.sink.event import encode, events
from cdcflow.testing.conformance import SinkConformance

Event = dict[str, Any]
Row = dict[str, Value]


class EventSink:
    """Keeps events in a list that outlives it."""

    def __init__(self, arrived: list[Event]) -> None:
        self.arrived = arrived

    async def open(self) -> None:
        """Nothing to open."""

    async def write(self, batch: Batch) -> None:
        self.arrived += self.events(batch)

    async def close(self) -> None:
        """Nothing to close."""

    def events(self, batch: Batch) -> list[Event]:
        return [orjson.loads(encode(event)) for _, event in events(batch)]


class StateSink:
    """Keeps tables in a dictionary that outlives it, with its checkpoint."""

    def __init__(self, tables: dict[Relation, list[Row]], place: dict[str, int]) -> None:
        self.tables = tables
        self.place = place

    async def open(self) -> None:
        """Nothing to open."""

    async def checkpoint(self) -> int | None:
        return self.place.get("end")

    async def write(self, batch: Batch) -> None:
        have = self.place.get("end", batch.base)
        if batch.base > have:
            raise Permanent("a gap")
        for change in batch.slice(have - batch.base, batch.count).changes():
            table = self.tables.setdefault(change.relation, [])
            if change.op is Op.TRUNCATE:
                self.truncate(table)
                continue
            row: Row = {}
            found = self.find(table, change.relation, change.old, change.old_key or change.key)
            if found is not None:
                row = found
                table.remove(found)
            if change.new is not None:
                table.append(self.merge(row, change.new))
        self.place["end"] = max(batch.end, have)

    async def close(self) -> None:
        """Nothing to close."""

    def truncate(self, table: list[Row]) -> None:
        table.clear()

    def find(
        self, table: list[Row], relation: Relation, old: Mapping[str, Value] | None, key: Sequence[Value]
    ) -> Row | None:
        if relation.full:
            return next((row for row in table if row == old), None)
        names = [relation.names[i] for i in relation.key]
        return next((row for row in table if [row[name] for name in names] == list(key)), None)

    def merge(self, row: Row, new: Mapping[str, Value]) -> Row:
        return {**row, **{name: value for name, value in new.items() if value is not UNCHANGED}}


class Events(SinkConformance):
    holds = "events"
    large = 100
    kind: ClassVar[type[EventSink]] = EventSink

    def make_sink(self, context: FlowContext) -> Sink:
        self.arrived: list[Event] = getattr(self, "arrived", [])
        return self.kind(self.arrived)

    def events(self) -> Sequence[Mapping[str, Any]]:
        return self.arrived


class State(SinkConformance):
    holds = "state"
    large = 100
    kind: ClassVar[type[StateSink]] = StateSink

    def make_sink(self, context: FlowContext) -> Sink:
        self.tables: dict[Relation, list[Row]] = getattr(self, "tables", {})
        self.kept: dict[str, int] = getattr(self, "kept", {})
        return self.kind(self.tables, self.kept)

    def rows(self, relation: Relation) -> Sequence[Mapping[str, str | None]]:
        return self.tables.get(relation, [])  # type: ignore[return-value]


class TestGoodEventSink(Events):
    """A sink that does everything right passes."""


class TestGoodStateSink(State):
    """A sink that does everything right passes."""


class Loses(EventSink):
    def events(self, batch: Batch) -> list[Event]:
        return super().events(batch)[:-1]


class Reverses(EventSink):
    def events(self, batch: Batch) -> list[Event]:
        return super().events(batch)[::-1]


class Blurs(EventSink):
    """NULL becomes the empty string."""

    def events(self, batch: Batch) -> list[Event]:
        found = super().events(batch)
        for event in found:
            if event["new"] is not None:
                event["new"] = {name: value or "" for name, value in event["new"].items()}
        return found


class Invents(EventSink):
    """What was not sent becomes NULL."""

    def events(self, batch: Batch) -> list[Event]:
        found = super().events(batch)
        for event in found:
            for name in event.get("unchanged", ()):
                event["new"][name] = None
        return found


class DelaysTruncates(EventSink):
    def events(self, batch: Batch) -> list[Event]:
        return sorted(super().events(batch), key=lambda event: event["op"] == "truncate")


class ForgetsValues(StateSink):
    """What was not sent is lost."""

    def merge(self, row: Row, new: Mapping[str, Value]) -> Row:
        return {name: None if value is UNCHANGED else value for name, value in new.items()}


class IgnoresTruncates(StateSink):
    def truncate(self, table: list[Row]) -> None:
        """Nothing."""


class ForgetsOldKeys(StateSink):
    def find(
        self, table: list[Row], relation: Relation, old: Mapping[str, Value] | None, key: Sequence[Value]
    ) -> Row | None:
        return None if old is not None and not relation.full else super().find(table, relation, old, key)


class AppliesTwice(StateSink):
    async def write(self, batch: Batch) -> None:
        self.place.pop("end", None)
        await super().write(batch)


class SkipsGaps(StateSink):
    async def write(self, batch: Batch) -> None:
        self.place["end"] = max(self.place.get("end", 0), batch.base)
        await super().write(batch)


class FailsToClose(EventSink):
    async def close(self) -> None:
        raise Permanent("already closed")


Test = Callable[[SinkConformance], None]


@pytest.mark.parametrize(
    ("kind", "test"),
    [
        (Loses, SinkConformance.test_every_kind_of_change_arrives),
        (Loses, SinkConformance.test_a_large_batch_arrives_whole),
        (Reverses, SinkConformance.test_order_is_kept_within_each_key),
        (Reverses, SinkConformance.test_a_changed_key_moves_the_row),
        (Blurs, SinkConformance.test_null_is_not_an_empty_string),
        (Invents, SinkConformance.test_values_that_were_not_sent_are_kept),
        (DelaysTruncates, SinkConformance.test_a_truncate_empties_its_table_and_no_other),
        (FailsToClose, SinkConformance.test_close_is_fine_without_open_and_twice),
        (ForgetsValues, SinkConformance.test_values_that_were_not_sent_are_kept),
        (IgnoresTruncates, SinkConformance.test_a_truncate_empties_its_table_and_no_other),
        (ForgetsOldKeys, SinkConformance.test_a_changed_key_moves_the_row),
        (AppliesTwice, SinkConformance.test_a_row_without_a_key_keeps_its_equals_over_a_replay),
        (SkipsGaps, SinkConformance.test_the_checkpoint_is_kept_with_the_data),
    ],
    ids=lambda value: value.__name__,
)
def test_a_sink_with_a_defect_is_found(kind: type[Any], test: Test, tmp_path: Path) -> None:
    suite: SinkConformance = type(
        "Suite", (State if issubclass(kind, StateSink) else Events,), {"kind": kind}
    )()
    suite.place = tmp_path
    suite.context = FlowContext("conformance", tmp_path)
    with pytest.raises((AssertionError, Permanent, pytest.fail.Exception)):
        test(suite)


def test_a_replay_is_a_duplicate_where_each_event_may_be_there_only_once(tmp_path: Path) -> None:
    suite = type("Suite", (Events,), {"exactly_once": True})()
    suite.place, suite.context = tmp_path, FlowContext("conformance", tmp_path)
    with pytest.raises(AssertionError, match="is there twice"):
        suite.test_a_batch_written_twice_changes_nothing_more()
