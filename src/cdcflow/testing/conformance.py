"""What every sink must do, as tests that anybody can run against a sink of their own.

Subclass `SinkConformance` in a test module, say what the destination holds, and run pytest:

    from cdcflow.sink import FlowContext, Sink
    from cdcflow.testing.conformance import SinkConformance

    class TestMySink(SinkConformance):
        holds = "events"

        def make_sink(self, context: FlowContext) -> Sink:
            return MySink(MySettings(type="mine", folder=self.place), MyOptions(), context)

        def events(self):
            return [json.loads(line) for line in (self.place / "out").read_text().splitlines()]

`holds` decides what is compared:

* `"state"`: the destination has the tables as they are on the source. Implement `rows(relation)`.
* `"events"`: it got the changes. Implement `events()`: what arrived, in the order of arrival, in the form of
  `cdcflow.sink.event` (translate it back where yours is another). The same event may be there several times
  unless `exactly_once` says that it may not; the order within a key is judged by each event's first arrival.
* `"nothing"`: the sink keeps nothing, and is only asked not to fail.

Every test gets a fresh destination: `self.place` is an empty directory for it. A test may close the sink and
make another one over the same destination, as a restart does; `rows` and `events` are called only while no
sink is open. What a sink promises by an extra protocol (`TransactionalSink`, `SchemaSink`) is tested when it
has that protocol's methods. The engine's own part (waiting, retries, checkpoints elsewhere) is played by the
suite: batches come in order, the first offset of one is the end of the one before, and after a restart they
may come again from an earlier offset on and cut at other places.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from cdcflow.errors import DeliveryError, Permanent
from cdcflow.model import ORIGIN, TRUNCATE_RESTART_IDENTITY, UNCHANGED, Batch, Op, Relation, concat, join
from cdcflow.sink import (
    Converges,
    FlowContext,
    Redelivers,
    RewindableSink,
    SchemaSink,
    Sink,
    TransactionalSink,
)
from cdcflow.sink.event import encode, events
from cdcflow.testing.history import (
    CUSTOMERS,
    HOSTILE,
    LOG,
    ORDERS,
    STOCK,
    AnyChange,
    History,
    by_key,
    delete,
    expected_rows,
    insert,
    inserts,
    read,
    truncate,
    update,
)


class SinkConformance:
    """The suite. See the module's docstring for how to use it."""

    #: What the destination holds.
    holds: ClassVar[Literal["state", "events", "nothing"]]
    #: Events: whether each is there once even after a replay by a new sink.
    exactly_once: ClassVar[bool] = False
    #: State: whether rows that nothing identifies can be kept.
    keyless: ClassVar[bool] = True
    #: State: whether the destination tells NULL from an empty text.
    has_null: ClassVar[bool] = True
    #: How many changes make a large batch: as many as take about a second.
    large: ClassVar[int] = 10_000

    place: Path
    context: FlowContext

    @pytest.fixture(autouse=True)
    def _fresh_destination(self, tmp_path: Path) -> None:
        self.place = tmp_path / "destination"
        self.place.mkdir()
        state = tmp_path / "state"
        state.mkdir(mode=0o700)
        self.context = FlowContext(flow="conformance", state=state)

    # What a subclass says.

    def make_sink(self, context: FlowContext) -> Sink:
        """A new sink over this test's destination, not opened. Called again for every restart."""
        raise NotImplementedError

    def make_failing_sink(self, context: FlowContext) -> Sink | None:
        """A sink whose `open` must fail, or None where opening does nothing that can fail."""
        return None

    def rows(self, relation: Relation) -> Sequence[Mapping[str, str | None]]:
        """State: all rows of a table in any order, each value as Postgres would print it."""
        raise NotImplementedError(f"{type(self).__name__} holds state: implement rows()")

    def events(self) -> Sequence[Mapping[str, Any]]:
        """Events: everything that arrived, in the order of arrival."""
        raise NotImplementedError(f"{type(self).__name__} holds events: implement events()")

    # What it is asked.

    def test_every_kind_of_change_arrives(self) -> None:
        history = History()
        self.deliver_and_compare(
            history.batch(
                read(CUSTOMERS, id="1", name="Ada", notes="first"),
                insert(CUSTOMERS, id="2", name="Ben", notes=""),
                insert(CUSTOMERS, id="3", name="Cy", notes=None),
            ),
            history.batch(
                update(CUSTOMERS, id="2", name="Benedict", notes="renamed"), delete(CUSTOMERS, id="3")
            ),
            history.batch(update(CUSTOMERS, id="1", name="Ada L.", notes="first")),
        )

    def test_a_batch_written_twice_changes_nothing_more(self) -> None:
        history = History()
        first = history.batch(*inserts(CUSTOMERS, range(5)))
        second = history.batch(
            update(CUSTOMERS, id="1", name="one", notes="x"),
            delete(CUSTOMERS, id="2"),
            insert(CUSTOMERS, id="9", name="nine", notes="y"),
        )
        self.deliver_and_compare(first, second, sent=[first, first, second, second])

    def test_a_replay_cut_at_other_places_converges(self) -> None:
        history = History()
        batches = [
            history.batch(*inserts(CUSTOMERS, range(4))),
            history.batch(update(CUSTOMERS, id="1", name="b", notes=None), delete(CUSTOMERS, id="0")),
            history.batch(insert(CUSTOMERS, id="0", name="again", notes="z"), delete(CUSTOMERS, id="3")),
        ]
        everything = concat(batches)
        sent = [
            everything.slice(0, 5),
            everything.slice(3, 8),
            everything.slice(2, 6),
            everything.slice(6, 8),
        ]
        self.deliver_and_compare(*batches, sent=sent)

    def test_a_changed_key_moves_the_row(self) -> None:
        history = History()
        self.deliver_and_compare(
            history.batch(*inserts(CUSTOMERS, range(3))),
            history.batch(
                # 1 goes to 10, 2 to the freed 1, and a new row takes the freed 2.
                update(CUSTOMERS, {"id": "1"}, id="10", name="was one", notes="a"),
                update(CUSTOMERS, {"id": "2"}, id="1", name="was two", notes="b"),
                insert(CUSTOMERS, id="2", name="new", notes="c"),
            ),
            history.batch(update(CUSTOMERS, {"id": "10"}, id="11", name="was one", notes="d")),
        )

    def test_a_truncate_empties_its_table_and_no_other(self) -> None:
        history = History()
        self.deliver_and_compare(
            history.batch(*inserts(CUSTOMERS, range(3)), *inserts(ORDERS, range(3))),
            history.batch(
                insert(CUSTOMERS, id="7", name="before", notes="x"),
                truncate(CUSTOMERS),
                insert(CUSTOMERS, id="1", name="after", notes="y"),
                truncate=TRUNCATE_RESTART_IDENTITY,
            ),
        )

    def test_values_that_were_not_sent_are_kept(self) -> None:
        history = History()
        self.deliver_and_compare(
            history.batch(insert(ORDERS, id="1", status="new", body="long text")),
            history.batch(update(ORDERS, id="1", status="paid", body=UNCHANGED)),
            history.batch(
                insert(ORDERS, id="2", status="new", body="another"),
                update(ORDERS, id="2", status="paid", body=UNCHANGED),
                update(ORDERS, id="1", status=UNCHANGED, body="replaced"),
                update(ORDERS, {"id": "2"}, id="3", status="moved", body=UNCHANGED),
            ),
            history.batch(update(ORDERS, {"id": "1"}, id="4", status=UNCHANGED, body=UNCHANGED)),
        )

    def test_null_is_not_an_empty_string(self) -> None:
        history = History()
        self.deliver_and_compare(
            history.batch(
                insert(CUSTOMERS, id="1", name="", notes=None),
                insert(CUSTOMERS, id="2", name=None, notes=""),
                insert(CUSTOMERS, id="3", name="NULL", notes="\\N"),
            ),
            history.batch(
                update(CUSTOMERS, id="1", name=None, notes=""), update(CUSTOMERS, id="2", name="", notes=None)
            ),
        )

    def test_text_arrives_as_it_was(self) -> None:
        history = History()
        texts = ["'", '"', "\\", "a\nb\r\nc\td", "{}[],;", "😀 ü \u2028", "\x01\x1f\x7f", " ", "x" * 300_000]
        self.deliver_and_compare(
            history.batch(
                *(insert(CUSTOMERS, id=str(i), name=text, notes=text) for i, text in enumerate(texts))
            )
        )

    def test_names_that_need_quoting_arrive_as_they_were(self) -> None:
        history = History()
        row = {'Id "x"': "1", "select": "a", "ключ": "b", "a.b c": None}
        self.deliver_and_compare(
            history.batch(
                (HOSTILE, Op.INSERT, row, None), (HOSTILE, Op.INSERT, {**row, 'Id "x"': "2"}, None)
            ),
            history.batch(
                (HOSTILE, Op.UPDATE, {**row, "select": "c"}, None),
                (HOSTILE, Op.DELETE, None, {'Id "x"': "2"}),
            ),
        )

    def test_several_tables_in_one_batch_are_kept_apart(self) -> None:
        history = History()
        changes = []
        for i in range(20):
            changes += [
                insert(CUSTOMERS, id=str(i), name=f"customer {i}", notes=""),
                insert(ORDERS, id=str(i), status="new", body=f"order {i}"),
                update(CUSTOMERS, id=str(i), name=f"customer {i}", notes="ordered"),
                insert(STOCK, amount=str(i), shelf=f"s{i % 3}", article=f"a{i}"),
            ]
        self.deliver_and_compare(
            history.batch(*changes),
            history.batch(
                delete(ORDERS, id="3"),
                delete(STOCK, shelf="s0", article="a3"),
                update(STOCK, {"shelf": "s1", "article": "a4"}, amount="1", shelf="s2", article="a4"),
            ),
        )

    def test_a_row_without_a_key_keeps_its_equals(self) -> None:
        if self.holds == "state" and not self.keyless:
            pytest.skip("the sink keeps no rows that nothing identifies")
        history = History()
        line = {"level": "info", "text": None}
        self.deliver_and_compare(
            history.batch(*[insert(LOG, **line)] * 3, insert(LOG, level="warn", text="x")),
            history.batch(
                delete(LOG, **line),
                (LOG, Op.UPDATE, {"level": "error", "text": "y"}, {"level": "warn", "text": "x"}),
            ),
        )

    def test_a_row_without_a_key_keeps_its_equals_over_a_replay(self) -> None:
        sink = self.make_sink(self.context)
        if self.holds == "state" and not (self.keyless and isinstance(sink, TransactionalSink)):
            pytest.skip("only a checkpoint beside the data tells equal rows from a replay")
        history = History()
        first = history.batch(*[insert(LOG, level="info", text="x")] * 3)
        second = history.batch(delete(LOG, level="info", text="x"))
        self.deliver_and_compare(first, second, sent=[first, first, second, second])

    def test_order_is_kept_within_each_key(self) -> None:
        history = History()
        rounds = 12
        batches = [history.batch(*inserts(CUSTOMERS, range(7)))]
        for first in range(0, rounds, 4):
            changes: list[AnyChange] = []
            for number in range(first, first + 4):
                changes += [
                    update(CUSTOMERS, id=str(i), name=f"round {number}", notes=None) for i in range(7)
                ]
                changes.append(delete(CUSTOMERS, id=str(number % 7)))
                changes.append(insert(CUSTOMERS, id=str(number % 7), name=f"back {number}", notes=""))
            batches.append(history.batch(*changes))
        self.deliver_and_compare(*batches)

    def test_what_follows_a_restart_is_added_to_what_was_there(self) -> None:
        history = History()
        before = [
            history.batch(*inserts(CUSTOMERS, range(3))),
            history.batch(delete(CUSTOMERS, id="0")),
        ]
        after = [
            history.batch(update(CUSTOMERS, id="1", name="later", notes=UNCHANGED)),
            history.batch(insert(CUSTOMERS, id="0", name="back", notes="")),
        ]

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, before)
            # The last one comes again, as when the process died before its checkpoint.
            async with self.opened() as sink:
                await self.give(sink, [before[-1], *after])

        asyncio.run(run())
        self.compare([*before, *after])

    def test_a_batch_without_changes_is_taken(self) -> None:
        history = History()
        batches = [history.skip(10), history.batch(*inserts(CUSTOMERS, range(2))), history.skip(3)]
        self.deliver_and_compare(*batches)

    def test_a_large_batch_arrives_whole(self) -> None:
        history = History()
        changes: list[AnyChange] = []
        for i in range(self.large):
            key = str(i % (self.large // 2))
            row = {"id": key, "name": f"name {i}", "notes": None if i % 3 else "x" * (i % 50)}
            changes.append((CUSTOMERS, Op.INSERT if i < self.large // 2 else Op.UPDATE, row, None))
        self.deliver_and_compare(history.batch(*changes))

    def test_close_is_fine_without_open_and_twice(self) -> None:
        async def run() -> None:
            sink = self.make_sink(self.context)
            await sink.close()
            async with self.opened() as opened:
                pass
            await opened.close()

        asyncio.run(run())

    def test_a_failed_open_says_so_and_can_be_closed(self) -> None:
        sink = self.make_failing_sink(self.context)
        if sink is None:
            pytest.skip("nothing in opening this sink can fail")

        async def run(sink: Sink) -> None:
            with pytest.raises(DeliveryError):
                await sink.open()
            await sink.close()

        asyncio.run(run(sink))

    def test_the_checkpoint_is_kept_with_the_data(self) -> None:
        history = History(base=1_000)
        first, nothing, second = (
            history.batch(*inserts(CUSTOMERS, range(3))),
            history.skip(40),
            history.batch(delete(CUSTOMERS, id="0")),
        )
        later = history.batch(insert(CUSTOMERS, id="5", name="after a gap", notes=""))
        beyond = history.batch(insert(CUSTOMERS, id="6", name="after a gap", notes=""))

        async def run() -> None:
            async with self.opened() as sink:
                transactional = _transactional(sink)
                assert await transactional.checkpoint() is None, "a new destination has no checkpoint"
                await self.give(sink, [first])
            for batch in (nothing, second):
                async with self.opened() as sink:
                    found = await _transactional(sink).checkpoint()
                    assert found == batch.base, f"the checkpoint is {found} and not {batch.base}"
                    await self.give(sink, [batch])
            async with self.opened() as sink:
                # Everything once more, and then a gap, which must not be papered over.
                await self.give(sink, [first, nothing, second])
                assert await _transactional(sink).checkpoint() == second.end
                with pytest.raises(Permanent):
                    await self.give(sink, [beyond])
            async with self.opened() as sink:
                assert await _transactional(sink).checkpoint() == second.end
                await self.give(sink, [later])

        asyncio.run(run())
        self.compare([first, second, later])

    def test_a_rewind_to_the_beginning_ends_as_one_delivery_does(self) -> None:
        if not isinstance(self.make_sink(self.context), RewindableSink):
            pytest.skip("the sink cannot be told to go on elsewhere")
        history = History()
        batches = [
            history.batch(*inserts(CUSTOMERS, range(4)), *[insert(LOG, level="info", text="x")] * 2),
            history.batch(
                update(CUSTOMERS, id="1", name="renamed", notes=UNCHANGED), delete(CUSTOMERS, id="2")
            ),
            history.batch(
                delete(LOG, level="info", text="x"), insert(ORDERS, id="1", status="paid", body="two lamps")
            ),
        ]

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, batches)
            for again in (batches[:2], batches):  # the first is cut short, as by a crash
                async with self.opened() as sink:
                    assert isinstance(sink, RewindableSink)
                    await sink.move(batches[0].base, ORIGIN, whole=True)
                    assert await sink.checkpoint() == batches[0].base
                    await self.give(sink, again)

        asyncio.run(run())
        self.compare(batches)

    def test_a_rewind_to_the_middle_ends_as_one_delivery_does(self) -> None:
        if not isinstance(self.make_sink(self.context), RewindableSink):
            pytest.skip("the sink cannot be told to go on elsewhere")
        history = History()
        first = history.batch(
            *inserts(CUSTOMERS, range(6)), insert(ORDERS, id="1", status="new", body="two lamps")
        )
        again = [
            # The row is deleted further on, and a row of its key comes whole after that.
            history.batch(update(CUSTOMERS, id="1", name="before", notes=UNCHANGED)),
            history.batch(
                update(ORDERS, id="1", status="paid", body=UNCHANGED),
                delete(CUSTOMERS, id="1"),
                delete(CUSTOMERS, id="2"),
                insert(CUSTOMERS, id="1", name="after", notes=None),
                update(CUSTOMERS, {"id": "3"}, id="30", name="moved", notes="whole"),
            ),
        ]
        counted = history.batch(*[insert(LOG, level="info", text="x")] * 2)
        later = history.batch(update(CUSTOMERS, id="30", name="later", notes=UNCHANGED))

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, [first, *again])
                assert isinstance(sink, RewindableSink)
                assert not isinstance(sink, Converges) or not sink.unrepeatable(again)
            async with self.opened() as sink:
                assert isinstance(sink, RewindableSink)
                await sink.move(again[0].base, first.last, whole=False)
                assert await sink.checkpoint() == again[0].base
                await self.give(sink, again[:1])
            async with self.opened() as sink:
                await self.give(sink, [*again, counted, later])

        asyncio.run(run())
        self.compare([first, *again, counted, later])

    def test_changes_that_are_skipped_do_not_arrive_and_those_behind_them_do(self) -> None:
        if not isinstance(self.make_sink(self.context), RewindableSink):
            pytest.skip("the sink cannot be told to go on elsewhere")
        history = History()
        first, skipped, later = (
            history.batch(*inserts(CUSTOMERS, range(2))),
            history.batch(*inserts(CUSTOMERS, range(2, 4))),
            history.batch(*inserts(CUSTOMERS, range(4, 6))),
        )

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, [first])
            async with self.opened() as sink:
                assert isinstance(sink, RewindableSink)
                await sink.move(later.base, skipped.last, whole=False)
            async with self.opened() as sink:
                assert isinstance(sink, RewindableSink)
                assert await sink.checkpoint() == later.base
                await self.give(sink, [later])

        asyncio.run(run())
        self.compare([first, later])

    def test_a_dead_letter_is_delivered_once_and_the_checkpoint_stays(self) -> None:
        history, batches, letters = self.refused()

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, batches)
            for _ in range(2):  # the second time as after a crash before anybody had noted the first
                async with self.opened() as sink:
                    await self.give_letters(sink, letters)
                    await self.give_letters(sink, letters)
                    assert await _transactional(sink).checkpoint() == batches[-1].end
            async with self.opened() as sink:
                assert await _transactional(sink).checkpoint() == batches[-1].end
                await self.give(sink, [last])

        last = history.batch(
            insert(CUSTOMERS, id="9", name="last", notes=None), insert(LOG, level="b", text="y")
        )
        asyncio.run(run())
        self.compare([*batches, *letters, last])

    def test_a_dead_letter_outlasts_a_rewind_to_behind_its_place(self) -> None:
        history, batches, letters = self.refused()
        last = history.batch(insert(CUSTOMERS, id="9", name="last", notes=None))
        if not isinstance(self.make_sink(self.context), RewindableSink):
            pytest.skip("the sink cannot be told to go on elsewhere")

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, [*batches, last])
                await self.give_letters(sink, letters)
            for _ in range(2):
                async with self.opened() as sink:
                    assert isinstance(sink, RewindableSink)
                    try:
                        await sink.move(last.base, batches[-1].last, whole=False)
                    except Permanent:
                        pytest.skip("the sink goes back to the beginning only")
            async with self.opened() as sink:
                await self.give(sink, [last])

        asyncio.run(run())
        self.compare([*batches, *letters, last])

    def test_a_rewind_to_before_a_dead_letter_brings_it_again(self) -> None:
        _, batches, letters = self.refused()
        if not isinstance(self.make_sink(self.context), RewindableSink):
            pytest.skip("the sink cannot be told to go on elsewhere")

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, batches)
                await self.give_letters(sink, letters)
            async with self.opened() as sink:
                assert isinstance(sink, RewindableSink)
                await sink.move(batches[0].base, ORIGIN, whole=True)
            async with self.opened() as sink:
                await self.give(sink, batches)
                await self.give_letters(sink, letters)

        asyncio.run(run())
        self.compare([*batches, *letters])

    def refused(self) -> tuple[History, list[Batch], list[Batch]]:
        """A history in which some changes were refused: what came without them, and they themselves."""
        if not isinstance(self.make_sink(self.context), Redelivers):
            pytest.skip("dead letters come to the sink as anything else does")
        history = History()
        first = history.batch(*inserts(CUSTOMERS, range(3)), insert(LOG, level="a", text="x"))
        second = history.batch(
            insert(CUSTOMERS, id="4", name="refused", notes=None),
            update(CUSTOMERS, id="1", name="renamed", notes="x"),
            insert(LOG, level="a", text="x"),
            delete(CUSTOMERS, id="2"),
        )
        kept = {1}
        without = second.with_groups(
            [
                group.take(pc.is_in(group.meta("index"), pa.array(kept, pa.uint32())))
                for group in second.groups
            ]
        )
        third = history.batch(update(CUSTOMERS, id="0", name="later", notes=UNCHANGED))
        letters = [second.slice(i, i + 1) for i in range(second.count) if i not in kept]
        return history, [first, without, third], letters

    # How it is asked.

    async def give_letters(self, sink: Sink, letters: Sequence[Batch]) -> None:
        """Redelivers batches of one change each, as one."""
        assert isinstance(sink, Redelivers)
        [run] = join([replace(letter, base=i) for i, letter in enumerate(letters)])
        if isinstance(sink, SchemaSink):
            await sink.prepare([group.relation for group in run.groups])
        await sink.redeliver(run, [letter.base for letter in letters])

    def deliver_and_compare(self, *batches: Batch, sent: Sequence[Batch] | None = None) -> None:
        """Gives `sent` (else `batches`) to a sink, closes it, and compares with what `batches` mean."""

        async def run() -> None:
            async with self.opened() as sink:
                await self.give(sink, batches if sent is None else sent)

        asyncio.run(run())
        self.compare(batches)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[Sink]:
        sink = self.make_sink(self.context)
        try:
            await sink.open()
            yield sink
        finally:
            await sink.close()

    async def give(self, sink: Sink, batches: Iterable[Batch]) -> None:
        """Writes batches as the engine does: new generations are announced before their rows."""
        for batch in batches:
            if isinstance(sink, SchemaSink):
                await sink.prepare([group.relation for group in batch.groups])
            await sink.write(batch)

    def compare(self, batches: Sequence[Batch]) -> None:
        """Fails unless the destination holds what `batches` mean."""
        if self.holds == "state":
            self._compare_state(batches)
        elif self.holds == "events":
            self._compare_events(batches)

    def _compare_state(self, batches: Sequence[Batch]) -> None:
        for relation, expected in expected_rows(batches).items():
            found = Counter(_frozen(row, self.has_null) for row in self.rows(relation))
            wanted = Counter(_frozen(row, self.has_null) for row in expected)
            assert found == wanted, (
                f"{relation.qualified}: missing {list((wanted - found).elements())[:5]}, "
                f"too many {list((found - wanted).elements())[:5]}"
            )

    def _compare_events(self, batches: Sequence[Batch]) -> None:
        expected = {
            found["id"]: orjson.loads(encode(found)) for batch in batches for _, found in events(batch)
        }
        arrived = [dict(found) for found in self.events()]
        for found in arrived:
            wanted = expected.get(found["id"])
            assert wanted is not None, f"an event {found['id']} that nobody sent"
            for name, value in wanted.items():
                assert found.get(name) == value, f"event {found['id']}: {name} is not what was sent"
        place: dict[str, int] = {}
        for number, found in enumerate(arrived):
            assert found["id"] not in place or not self.exactly_once, f"event {found['id']} is there twice"
            place.setdefault(found["id"], number)
        missing = [identity for identity in expected if identity not in place]
        assert not missing, f"{len(missing)} event(s) are missing, the first is {missing[0]}"
        for key, identities in by_key(batches).items():
            arrival = sorted(identities, key=lambda identity: place[identity])
            assert arrival == identities, f"the changes of {key} arrived in another order"


def _frozen(row: Mapping[str, str | None], has_null: bool) -> tuple[tuple[str, str | None], ...]:
    values = row if has_null else {name: value or None for name, value in row.items()}
    return tuple(sorted(values.items()))


def _transactional(sink: Sink) -> TransactionalSink:
    if not isinstance(sink, TransactionalSink):
        pytest.skip("the sink keeps no checkpoint")
    return sink
