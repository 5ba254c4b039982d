"""What becomes of changes that a sink refuses for good: a worker on a real journal and a real state
database."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from cdcflow.delivery import (
    Breakers,
    CheckpointStore,
    FlowPlan,
    FlowWorker,
    LetterStore,
    Limits,
    Selection,
)
from cdcflow.delivery.handover import OnReject
from cdcflow.delivery.payload import unpack
from cdcflow.errors import CdcflowError, DeliveryError, Permanent, Rejected, TooLarge, Transient, Unauthorized
from cdcflow.model import Batch
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import Batching, FlowContext, Secret, SinkOptions, SinkPlugin, SinkSettings
from cdcflow.sink.event import event
from cdcflow.testing.scripted import JournalSource, KeepingSink, RefusingSink, ScriptedSink, until
from cdcflow.testing.waiting import TIMEOUT


class Bench:
    """Workers of one flow after another on the same journal and state."""

    def __init__(self, source: JournalSource, store: CheckpointStore, letters: LetterStore) -> None:
        self.source = source
        self.store = store
        self.letters = letters
        self.limits = Limits(100, 1.0)

    def worker(
        self,
        sink: ScriptedSink,
        on_reject: OnReject = "park",
        *,
        settings: SinkSettings | None = None,
        most: int = 1_000,
        breakers: Breakers | None = None,
        flow: str = "hook",
        deadline: float | None = None,
    ) -> FlowWorker:
        def create(_settings: object, _options: object, _context: FlowContext) -> ScriptedSink:
            return sink

        batching = Batching(max_changes=most)
        plugin = SinkPlugin("scripted", SinkSettings, create, batching=batching, deadline=deadline)
        plan = FlowPlan(
            flow,
            TablePatterns(["public.*"]),
            plugin,
            settings or SinkSettings(type="scripted"),
            SinkOptions(),
            on_reject=on_reject,
            limits=self.limits,
            revision="r1",
        )
        return FlowWorker(
            plan,
            journal=self.source.path,
            state=self.store.path.parent,
            store=self.store,
            letters=self.letters,
            breakers=breakers,
        )

    def kept(self, state: str | None = None) -> list[int]:
        return [
            one.number
            for one in self.letters.select(Selection(flow="hook"))
            if state is None or one.state == state
        ]


@pytest.fixture
def letters(store: CheckpointStore) -> Iterator[LetterStore]:
    with LetterStore(store.path) as made:
        yield made


@pytest.fixture
def bench(source: JournalSource, store: CheckpointStore, letters: LetterStore) -> Bench:
    return Bench(source, store, letters)


def during(worker: FlowWorker, test: Callable[[], Awaitable[None]]) -> None:
    async def inside() -> None:
        running = asyncio.ensure_future(worker.run())
        try:
            await asyncio.wait_for(test(), 20)
        finally:
            worker.stop()
            await asyncio.wait_for(running, 10)

    asyncio.run(inside())


def reached(worker: FlowWorker, offset: int) -> Callable[[], Awaitable[None]]:
    async def wait() -> None:
        await until(lambda: worker.report().checkpoint == offset)

    return wait


def test_only_the_refused_change_becomes_a_dead_letter_with_all_that_a_person_needs(bench: Bench) -> None:
    sink = RefusingSink("poison 7")
    bench.source.change([(i, "poison 7" if i == 7 else f"note {i}") for i in range(20)])
    worker = bench.worker(sink)
    during(worker, reached(worker, 20))
    assert [key for key, _ in sink.taken] == [str(i) for i in range(20) if i != 7]
    [letter] = bench.letters.select(Selection())
    assert (letter.flow, letter.offset, letter.state, letter.attempts) == ("hook", 7, "dead", 1)
    assert letter.reason == "the field 'note' cannot be 'poison 7'"
    assert letter.cause == "the field '…' cannot be '…'"
    assert (letter.answer, letter.key, letter.op, letter.revision) == ("no 7", '{"id":"7"}', "insert", "r1")
    assert "poison" not in repr(letter)
    payload = bench.letters.payload(letter.number)
    assert payload is not None
    [change] = unpack(payload).changes()
    assert event(change)["new"] == {"id": "7", "note": "poison 7", "status": None}
    assert change.position == letter.position
    report = worker.report()
    assert (report.dead, report.parked, report.state) == (1, 0, "up to date")


def test_later_changes_of_the_key_are_parked_and_go_out_behind_it_in_order(bench: Bench) -> None:
    sink = RefusingSink("bad")
    bench.source.change([(1, "a"), (1, "bad"), (2, "b"), (1, "c")])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 4)
        assert sink.taken == [("1", "a"), ("2", "b")]
        bench.source.change([(1, "d"), (3, "e")])
        await until(lambda: worker.report().checkpoint == 6)
        assert sink.taken[2:] == [("3", "e")]
        assert (worker.report().dead, worker.report().parked) == (1, 2)
        sink.refused.clear()
        outcomes = await worker.deliver_letters(bench.kept("dead"), force=False)
        assert [outcome.what for outcome in outcomes] == ["delivered"]
        bench.source.change([(1, "f")])
        await until(lambda: worker.report().checkpoint == 7)

    during(worker, test)
    assert sink.taken[3:] == [("1", "bad"), ("1", "c"), ("1", "d"), ("1", "f")]
    assert bench.kept() == []


def test_many_parked_changes_go_out_behind_one_retry(bench: Bench) -> None:
    bench.limits = Limits(1_000, 1.0)
    sink = RefusingSink("bad")
    bench.source.change([(1, "bad"), *((1, str(i)) for i in range(250))])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 251)
        sink.refused.clear()
        await worker.deliver_letters(bench.kept("dead"), force=False)
        await until(lambda: worker.report().parked == 0)

    during(worker, test)
    assert [note for _, note in sink.taken] == ["bad", *map(str, range(250))]


def test_a_rate_holds_back_what_is_parked_behind_a_letter_too_and_not_what_is_new(bench: Bench) -> None:
    sink = RefusingSink("bad")
    bench.source.change([(1, "bad"), *((1, str(i)) for i in range(5))])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 6)
        sink.refused.clear()
        began = time.monotonic()
        await worker.deliver_letters(bench.kept("dead"), force=False, rate=10)
        assert sink.taken == [("1", "bad")]
        assert worker.report().parked == 5
        # A change of another row waits for none of them.
        bench.source.change([(2, "new")])
        await until(lambda: ("2", "new") in sink.taken)
        await until(lambda: worker.report().parked == 0)
        # One letter at the beginning, and then at least a tenth of a second for each that went before it;
        # at most so many at once as go out in a second.
        assert time.monotonic() - began >= 0.1

    during(worker, test)
    assert [note for key, note in sink.taken if key == "1"] == ["bad", *map(str, range(5))]
    assert bench.kept() == []


def test_a_rate_of_less_than_what_is_parked_takes_its_time_and_ends_with_it(bench: Bench) -> None:
    sink = RefusingSink("bad")
    bench.source.change([(1, "bad"), (1, "a"), (1, "b"), (1, "c")])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 4)
        sink.refused.clear()
        began = time.monotonic()
        await worker.deliver_letters(bench.kept("dead"), force=False, rate=1.9)
        await until(lambda: worker.report().parked == 0)
        assert time.monotonic() - began >= 3 / 1.9
        # Later letters go out as fast as they can.
        sink.refused.add("bad")
        bench.source.change([(1, "bad"), *((1, str(i)) for i in range(20))])
        await until(lambda: worker.report().checkpoint == 25)
        sink.refused.clear()
        began = time.monotonic()
        await worker.deliver_letters(bench.kept("dead"), force=False)
        await until(lambda: worker.report().parked == 0)
        assert time.monotonic() - began < 20 / 1.9

    during(worker, test)
    assert bench.kept() == []


def test_letters_hold_over_a_restart(bench: Bench) -> None:
    bench.source.change([(1, "bad"), (1, "c")])
    first = bench.worker(RefusingSink("bad"))
    during(first, reached(first, 2))
    sink = RefusingSink()
    worker = bench.worker(sink)
    bench.source.change([(1, "d"), (2, "e")])

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 4)
        assert sink.taken == [("2", "e")]
        assert (worker.report().dead, worker.report().parked) == (1, 2)
        await worker.deliver_letters(bench.kept("dead"), force=False)

    during(worker, test)
    assert sink.taken[1:] == [("1", "bad"), ("1", "c"), ("1", "d")]


def test_a_letter_that_is_refused_again_stays_with_one_more_attempt(bench: Bench) -> None:
    bench.source.change([(1, "bad"), (1, "c")])
    worker = bench.worker(RefusingSink("bad"))

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 2)
        [outcome] = await worker.deliver_letters(bench.kept("dead"), force=False)
        assert (outcome.what, outcome.reason) == ("refused", "the field 'note' cannot be 'bad'")

    during(worker, test)
    assert [(one.state, one.attempts) for one in bench.letters.select(Selection())] == [
        ("dead", 2),
        ("parked", 0),
    ]


def test_a_parked_change_that_is_refused_itself_is_dead_and_holds_up_the_rest(bench: Bench) -> None:
    sink = RefusingSink("bad", "worse")
    bench.source.change([(1, "bad"), (1, "c"), (1, "worse"), (1, "d")])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 4)
        sink.refused = {"worse"}
        await worker.deliver_letters(bench.kept("dead"), force=False)
        assert sink.taken == [("1", "bad"), ("1", "c")]
        assert (worker.report().dead, worker.report().parked) == (1, 1)

    during(worker, test)


def test_with_supersede_later_changes_go_out_and_a_retry_of_the_older_one_takes_force(bench: Bench) -> None:
    sink = RefusingSink("bad")
    bench.source.change([(1, "bad"), (1, "c"), (2, "b")])
    worker = bench.worker(sink, "supersede")

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 3)
        assert sorted(sink.taken) == [("1", "c"), ("2", "b")]
        [letter] = bench.letters.select(Selection())
        assert letter.newer is not None
        assert letter.newer > letter.position
        sink.refused.clear()
        [outcome] = await worker.deliver_letters([letter.number], force=False)
        assert outcome.what == "superseded"
        assert len(sink.taken) == 2
        [outcome] = await worker.deliver_letters([letter.number], force=True)
        assert outcome.what == "delivered"

    during(worker, test)
    assert sink.taken[-1] == ("1", "bad")


def test_with_supersede_a_letter_knows_of_newer_state_that_goes_out_after_a_restart(bench: Bench) -> None:
    bench.source.change([(1, "bad")])
    first = bench.worker(RefusingSink("bad"), "supersede")
    during(first, reached(first, 1))
    assert bench.letters.select(Selection())[0].newer is None
    bench.source.change([(1, "good")])
    second = bench.worker(RefusingSink("bad"), "supersede")
    during(second, reached(second, 2))
    assert bench.letters.select(Selection())[0].newer is not None


def test_with_stop_nothing_becomes_a_letter(bench: Bench) -> None:
    sink = RefusingSink("bad")
    bench.source.change([(1, "a"), (2, "bad"), (3, "c")])
    worker = bench.worker(sink, "stop")

    async def test() -> None:
        await until(lambda: worker.report().state == "needs attention")
        assert bench.kept() == []
        sink.refused.clear()
        worker.retry()
        await until(lambda: worker.report().checkpoint == 3)

    during(worker, test)
    # What was taken the first time did not go out again.
    assert sorted(sink.taken) == [("1", "a"), ("2", "bad"), ("3", "c")]


def test_a_mapping_that_fits_nothing_stops_the_flow_and_makes_no_letters(bench: Bench) -> None:
    bench.limits = Limits(1_000, 0.2)
    sink = RefusingSink("bad")
    bench.source.change([(i, "bad") for i in range(50)])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().state == "needs attention")
        assert "50 of the latest 50 changes" in worker.report().reason
        assert bench.kept() == []
        assert worker.report().checkpoint == 0
        sink.refused.clear()
        worker.retry()
        await until(lambda: worker.report().checkpoint == 50)

    during(worker, test)
    assert len(sink.taken) == 50


def test_a_mapping_that_becomes_wrong_while_changes_trickle_costs_few_letters(bench: Bench) -> None:
    bench.limits = Limits(1_000, 0.2)
    sink = RefusingSink("bad")
    worker = bench.worker(sink)

    async def test() -> None:
        bench.source.commit(range(300))
        await until(lambda: worker.report().checkpoint == 300)
        for i in range(300, 400):
            bench.source.change([(i, "bad")])
        await until(lambda: worker.report().state == "needs attention")

    during(worker, test)
    assert len(bench.kept()) <= 100


def test_the_flow_stops_at_its_limit_of_letters(bench: Bench) -> None:
    bench.limits = Limits(3, 1.0)
    bench.source.change([(1, "bad"), (1, "b"), (1, "c"), (2, "d")])
    bench.source.change([(1, "e"), (3, "f")])
    sink = RefusingSink("bad")
    worker = bench.worker(sink, most=4)

    async def test() -> None:
        await until(lambda: worker.report().state == "needs attention")
        assert "limit of 3" in worker.report().reason
        await until(lambda: worker.report().checkpoint == 4)

    during(worker, test)
    assert len(bench.kept()) == 3


def test_discarding_takes_a_reason_is_kept_in_the_audit_and_lets_out_what_was_parked(bench: Bench) -> None:
    sink = RefusingSink("bad")
    bench.source.change([(1, "bad"), (1, "c")])
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 2)
        [number] = bench.kept("dead")
        with pytest.raises(CdcflowError):
            await worker.discard_letters([number], " ", "ada")
        assert await worker.discard_letters([number], "test data", "ada") == 1
        await until(lambda: sink.taken == [("1", "c")])

    during(worker, test)
    assert bench.kept() == []
    [entry] = bench.letters.audit()
    assert (entry["who"], entry["why"], entry["relation"]) == ("ada", "test data", "public.orders")
    assert "bad" not in str(entry)


def test_a_worker_that_dies_behind_the_letter_and_before_the_checkpoint_loses_nothing(bench: Bench) -> None:
    bench.source.change([(1, "bad"), (1, "c"), (2, "b")])
    sink = RefusingSink("bad")
    first = bench.worker(sink)

    async def cut() -> None:
        task = asyncio.ensure_future(first.run())
        await until(lambda: len(bench.kept()) == 2)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    asyncio.run(cut())
    bench.store._db.execute("DELETE FROM checkpoint")  # as if it had not been written
    second = bench.worker(sink)
    during(second, reached(second, 3))
    assert sorted(set(sink.taken)) == [("2", "b")]
    assert [(one.state, one.attempts) for one in bench.letters.select(Selection())] == [
        ("dead", 2),
        ("parked", 0),
    ]


def test_a_change_that_goes_out_after_all_is_no_letter_any_more(bench: Bench) -> None:
    bench.source.change([(1, "bad"), (1, "c")])
    first = bench.worker(RefusingSink("bad"))
    during(first, reached(first, 2))
    assert len(bench.kept()) == 2
    bench.store._db.execute("DELETE FROM checkpoint")  # rewound
    sink = RefusingSink()
    second = bench.worker(sink)
    during(second, reached(second, 2))
    assert sink.taken == [("1", "bad"), ("1", "c")]
    assert bench.kept() == []


class PartlySink(ScriptedSink):
    """Fails in the middle, and says what it has written by then."""

    def __init__(self, failure: Callable[[frozenset[int], dict[int, str]], DeliveryError]) -> None:
        super().__init__()
        self._failure = failure
        self._failed = False

    async def write(self, batch: Batch) -> None:
        if not self._failed:
            self._failed = True
            changes = list(batch.changes())
            done = changes[: len(changes) // 2]
            self.batches.append([int(str(change.new["id"])) for change in done if change.new])
            raise self._failure(frozenset(change.index for change in done), {changes[-1].index: "never"})
        await super().write(batch)


@pytest.mark.parametrize(
    "failure",
    [
        lambda written, refused: Transient("busy", written=written, refused=refused),
        lambda written, refused: Permanent("mend it", written=written, refused=refused),
        lambda written, refused: Unauthorized("who are you", written=written, refused=refused),
    ],
    ids=["transient", "permanent", "unauthorized"],
)
def test_what_is_written_before_a_failure_does_not_go_out_again(
    bench: Bench, failure: Callable[[frozenset[int], dict[int, str]], DeliveryError]
) -> None:
    sink = PartlySink(failure)
    bench.source.commit(range(11))
    worker = bench.worker(sink)

    async def test() -> None:
        await until(lambda: sink.batches)
        await until(lambda: worker.report().reason or worker.report().checkpoint == 11)
        worker.retry()
        await until(lambda: worker.report().checkpoint == 11)

    during(worker, test)
    assert sink.ids == list(range(10))
    assert [one.offset for one in bench.letters.select(Selection())] == [10]


class SmallSink(ScriptedSink):
    """Takes only so many at once."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.tried: list[int] = []

    async def write(self, batch: Batch) -> None:
        self.tried.append(len(batch))
        if len(batch) > self.most:
            raise TooLarge("413")
        await super().write(batch)


def test_batches_become_smaller_until_they_fit_and_grow_again(bench: Bench) -> None:
    sink = SmallSink(most=30)
    bench.source.commit(range(1_000))
    worker = bench.worker(sink, most=1_000)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 1_000)
        sink.most = 1_000
        for i in range(1_000, 4_000, 500):
            bench.source.commit(range(i, i + 500))
        await until(lambda: worker.report().checkpoint == 4_000)

    during(worker, test)
    assert sink.ids == list(range(4_000))
    assert sink.tried[:6] == [1_000, 500, 250, 125, 62, 31]
    assert max(sink.tried[6:]) > 30


def test_a_change_that_is_too_large_all_by_itself_is_a_dead_letter(bench: Bench) -> None:
    bench.source.commit(range(2))
    worker = bench.worker(SmallSink(most=0))
    during(worker, reached(worker, 2))
    assert [one.reason for one in bench.letters.select(Selection())] == ["413", "413"]


def test_a_sink_that_keeps_its_checkpoint_gets_the_batch_again_without_what_it_refused(bench: Bench) -> None:
    class Keeping(KeepingSink):
        async def write(self, batch: Batch) -> None:
            refused = {c.index: "odd" for c in batch.changes() if c.new and int(str(c.new["id"])) == 3}
            if refused:
                raise Rejected(refused)
            await super().write(batch)

    sink = Keeping()
    bench.source.commit(range(6))
    worker = bench.worker(sink)
    during(worker, reached(worker, 6))
    assert (sink.ids, sink.kept) == ([0, 1, 2, 4, 5], 6)
    assert [one.offset for one in bench.letters.select(Selection())] == [3]


def test_a_sink_that_keeps_its_checkpoint_and_takes_no_letters_says_so(bench: Bench) -> None:
    class Keeping(KeepingSink):
        async def write(self, batch: Batch) -> None:
            refused = {change.index: "odd" for change in batch.changes()}
            if refused:
                raise Rejected(refused)
            await super().write(batch)

    bench.source.commit([1])
    worker = bench.worker(Keeping())

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 1)
        with pytest.raises(CdcflowError, match="takes nothing from before it") as caught:
            await worker.deliver_letters(bench.kept(), force=False)
        assert "export" in caught.value.hint

    during(worker, test)
    assert len(bench.kept("dead")) == 1


def test_a_wrong_token_makes_no_letters_and_the_flow_goes_on_when_its_file_is_replaced(
    bench: Bench, tmp_path: Path
) -> None:
    class WithToken(SinkSettings):
        token: Secret

    file = tmp_path / "token"
    file.write_text("old")
    settings = WithToken.model_validate({"type": "scripted", "token": f"file:{file}"})

    class Guarded(ScriptedSink):
        async def open(self) -> None:
            self.token = settings.token.get_secret_value()
            await super().open()

        async def write(self, batch: Batch) -> None:
            if self.token != "new":
                raise Unauthorized("401")
            await super().write(batch)

    sink = Guarded()
    bench.source.commit(range(50))
    worker = bench.worker(sink, settings=settings)

    async def test() -> None:
        await until(lambda: worker.report().state == "needs attention")
        file.write_text("new")
        await until(lambda: sink.ids == list(range(50)))
        await until(lambda: worker.report().state == "up to date")

    during(worker, test)
    assert bench.kept() == []


@pytest.mark.parametrize("processes", [1, 20])
def test_a_destination_that_is_down_is_tried_by_one_flow_for_all_on_the_connection(
    bench: Bench, tmp_path: Path, processes: int
) -> None:
    """Breakers of other processes, which share but the folder, are other objects."""
    wish = 0.5

    class Down(ScriptedSink):
        tries = 0
        down = True
        seconds = 0.0

        async def write(self, batch: Batch) -> None:
            if Down.down:
                Down.tries += 1
                raise Transient("connection refused", retry_after=wish)
            await super().write(batch)

    bench.source.commit(range(5))
    sinks = [Down() for _ in range(20)]

    async def run() -> None:
        breakers = [Breakers(tmp_path if processes > 1 else None) for _ in range(processes)]
        workers = [
            bench.worker(sink, breakers=breakers[i % processes], flow=f"hook{i}")
            for i, sink in enumerate(sinks)
        ]
        tasks = [asyncio.ensure_future(worker.run()) for worker in workers]
        await until(lambda: Down.tries >= 3)
        await until(lambda: {worker.report().reason for worker in workers} == {"connection refused"})
        Down.down = False
        Down.seconds = time.monotonic() - begun
        await until(lambda: all(sink.ids == [0, 1, 2, 3, 4] for sink in sinks))
        for worker in workers:
            worker.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT)

    begun = time.monotonic()
    asyncio.run(run())
    # Each of them may have been under way when the first one failed; later, one tries for all, at most as
    # often as it was asked to.
    assert Down.tries <= len(sinks) + 1 + Down.seconds / wish


def test_a_flow_that_waits_for_its_destination_stops_at_once(bench: Bench) -> None:
    class Down(ScriptedSink):
        async def write(self, batch: Batch) -> None:
            raise Transient("connection refused", retry_after=3_600.0)

    async def run() -> None:
        breakers = Breakers()
        workers = [bench.worker(Down(), breakers=breakers, flow=f"hook{i}") for i in range(2)]
        tasks = [asyncio.ensure_future(worker.run()) for worker in workers]
        bench.source.commit([1])
        await until(lambda: all(worker.report().reason for worker in workers))
        for worker in workers:
            worker.stop()
        await asyncio.wait_for(asyncio.gather(*tasks), TIMEOUT)

    asyncio.run(run())


def test_a_letter_that_hangs_is_given_up_after_the_deadline_and_holds_up_nothing(bench: Bench) -> None:
    class Hanging(RefusingSink):
        hangs = False

        async def write(self, batch: Batch) -> None:
            if self.hangs and any(change.key == ("1",) for change in batch.changes()):
                await asyncio.Event().wait()
            await super().write(batch)

    bench.source.change([(1, "bad"), (1, "c")])
    sink = Hanging("bad")
    worker = bench.worker(sink, deadline=0.2)

    async def test() -> None:
        await until(lambda: worker.report().checkpoint == 2)
        sink.refused.clear()
        sink.hangs = True
        with pytest.raises(CdcflowError, match="not written 1 change"):
            await worker.deliver_letters(bench.kept("dead"), force=False)
        bench.source.change([(2, "new")])
        await until(lambda: ("2", "new") in sink.taken)
        assert (worker.report().dead, worker.report().parked) == (1, 1)
        sink.hangs = False
        await worker.deliver_letters(bench.kept("dead"), force=False)
        await until(lambda: worker.report().parked == 0)

    during(worker, test)
    assert [note for key, note in sink.taken if key == "1"] == ["bad", "c"]


def test_a_write_that_hangs_is_given_up_after_its_deadline(bench: Bench) -> None:
    class Hanging(ScriptedSink):
        hung = False

        async def write(self, batch: Batch) -> None:
            if not self.hung:
                self.hung = True
                await asyncio.Event().wait()
            await super().write(batch)

    sink = Hanging()
    bench.source.commit(range(4))
    worker = bench.worker(sink, deadline=0.1)
    during(worker, reached(worker, 4))
    assert sink.ids == [0, 1, 2, 3]


def test_letters_of_a_flow_that_does_not_deliver_are_not_touched(bench: Bench) -> None:
    worker = bench.worker(RefusingSink())

    async def ask() -> None:
        with pytest.raises(CdcflowError, match="does not deliver now"):
            await worker.deliver_letters([1], force=False)

    asyncio.run(ask())


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_refused_and_killed_every_change_is_delivered_in_order_or_a_letter(
    bench: Bench, seed: int
) -> None:
    draw = random.Random(seed)
    bench.limits = Limits(10_000, 1.0)
    sink = RefusingSink()
    history: dict[str, list[str]] = {}
    total = 0

    async def run() -> None:
        nonlocal total
        for _ in range(12):
            sink.refused = {f"v{draw.randrange(40)}" for _ in range(6)}
            worker = bench.worker(sink, most=draw.choice([1, 7, 1_000]))
            task = asyncio.ensure_future(worker.run())
            for _ in range(4):
                rows = [
                    (draw.randrange(8), f"v{draw.randrange(40)} {total + i}")
                    for i in range(draw.randrange(9))
                ]
                rows = [(key, note if draw.random() < 0.8 else note.split()[0]) for key, note in rows]
                if rows:
                    bench.source.change(rows)
                for key, note in rows:
                    history.setdefault(str(key), []).append(note)
                total += len(rows)
                if draw.random() < 0.3 and worker.report().state == "up to date" and bench.kept():
                    try:
                        await worker.deliver_letters(draw.sample(bench.kept(), 1), force=False)
                    except CdcflowError:
                        pass
                await asyncio.sleep(0)
            if draw.random() < 0.5:
                await reached(worker, total)()
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        sink.refused = set()
        worker = bench.worker(sink)
        task = asyncio.ensure_future(worker.run())
        # A checkpoint is known before the flow delivers, which is when letters are taken.
        await until(lambda: (worker.report().state, worker.report().checkpoint) == ("up to date", total))
        while bench.kept("dead"):
            await worker.deliver_letters(bench.kept("dead"), force=False)
        worker.stop()
        await task

    asyncio.run(run())
    assert bench.kept() == []
    for key, notes in history.items():
        got = [note for taken, note in sink.taken if taken == key]
        assert _without_repeats(got, notes), f"key {key}: {got} is not {notes}"


def _without_repeats(got: list[str], wanted: list[str]) -> bool:
    """Whether `got` is `wanted`, but for stretches that came again (a crash before a checkpoint)."""
    place = 0
    for note in got:
        if place < len(wanted) and note == wanted[place]:
            place += 1
        elif note not in wanted[:place]:
            return False
    return place == len(wanted)
