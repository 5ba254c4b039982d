import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from unittest import mock

import pytest

from cdcflow.delivery import feed as module
from cdcflow.delivery.feed import Feed, Piece, joined, pieces, position_at
from cdcflow.errors import JournalError
from cdcflow.journal import Reader
from cdcflow.model import Batch, Column, Position
from cdcflow.model.patterns import TablePatterns
from cdcflow.sink import Batching
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.scripted import ORDERS, JournalSource, ids, until
from cdcflow.transform import Pass, Select

AUDIT = make_relation("audit", oid=2)
ONLY_ORDERS = Select(TablePatterns(["orders"]))


def everything(batch: Batch) -> Batch:
    return batch


def run(
    source: JournalSource,
    test: Callable[[Feed], Awaitable[None]],
    *,
    offset: int = 0,
    step: Pass = everything,
    limits: Batching | None = None,
) -> None:
    async def inside() -> None:
        async with Feed(Reader(source.path), offset, step, limits or Batching()) as feed:
            await asyncio.wait_for(test(feed), 20)

    asyncio.run(inside())


async def taken(feed: Feed) -> Batch:
    batch = await feed.take()
    assert batch is not None
    return batch


def test_a_single_change_is_taken_at_once(source: JournalSource) -> None:
    async def test(feed: Feed) -> None:
        source.commit([1])
        assert ids(await taken(feed)) == [1]
        source.commit([2])
        assert ids(await taken(feed)) == [2]

    run(source, test)


def test_what_arrives_during_a_write_comes_as_one_batch(source: JournalSource) -> None:
    async def test(feed: Feed) -> None:
        source.commit([1])
        await taken(feed)
        for i in range(2, 200):
            source.commit([i])
        await until(lambda: feed.waiting == 198)
        batch = await taken(feed)
        assert ids(batch) == list(range(2, 200))
        assert (batch.base, batch.end) == (1, 199)

    run(source, test)


def test_batches_stay_within_the_limits_of_the_sink(source: JournalSource) -> None:
    for start in range(0, 5_000, 250):
        source.commit(range(start, start + 250))

    async def test(feed: Feed) -> None:
        seen: list[int] = []
        while len(seen) < 5_000:
            batch = await taken(feed)
            assert len(batch) <= 300
            assert batch.base == len(seen)
            seen += ids(batch)
        assert seen == list(range(5_000))

    run(source, test, limits=Batching(max_changes=300))


def test_a_large_frame_is_cut_to_the_limits_and_each_part_knows_its_last_position() -> None:
    frame = inserts(ORDERS, range(1_000), base=50, commit_lsn=80)
    by_rows = list(pieces(frame, everything, Batching(max_changes=300)))
    assert [len(piece.batch) for piece in by_rows] == [300, 300, 300, 100]
    assert [piece.batch.base for piece in by_rows] == [50, 350, 650, 950]
    assert [piece.batch.last for piece in by_rows] == [Position(80, n) for n in (300, 600, 900, 1_000)]
    by_bytes = list(pieces(frame, everything, Batching(max_changes=5_000, max_bytes=frame.nbytes // 4)))
    assert 4 <= len(by_bytes) <= 6
    assert [i for piece in by_bytes for i in ids(piece.batch)] == list(range(1_000))


def test_a_change_larger_than_the_limit_is_still_delivered() -> None:
    frame = inserts(ORDERS, [1, 2])
    assert [len(p.batch) for p in pieces(frame, everything, Batching(max_bytes=1))] == [1, 1]


def test_memory_stays_bounded_while_the_sink_is_stuck(source: JournalSource) -> None:
    for i in range(1_500):
        source.commit([i])

    async def test(feed: Feed) -> None:
        await until(lambda: feed.waiting >= 1_000)
        assert feed.waiting == 1_000
        # Small frames were joined meanwhile: otherwise each would cost kilobytes.
        assert feed.pieces < 2 * module.SMALL_RUN
        seen: list[int] = []
        while len(seen) < 1_500:
            seen += ids(await taken(feed))
        assert seen == list(range(1_500))

    run(source, test, limits=Batching(max_changes=1_000))


def test_dropped_changes_still_move_the_end_of_the_batch(source: JournalSource) -> None:
    source.commit([1, 2], AUDIT)
    source.commit([3])
    source.commit([4], AUDIT)

    async def test(feed: Feed) -> None:
        batch = await taken(feed)
        while batch.end < 4:
            following = await taken(feed)
            assert following.base == batch.end
            batch = following
        assert feed.reached == 4

    run(source, test, step=ONLY_ORDERS)


def test_a_run_of_dropped_changes_moves_the_checkpoint_once_a_second(source: JournalSource) -> None:
    async def test(feed: Feed) -> None:
        source.commit([1], AUDIT)
        first = await taken(feed)
        assert (len(first), first.end) == (0, 1)
        before = time.monotonic()
        for i in range(500):
            source.commit([i], AUDIT)
        await until(lambda: feed.reached == 501)
        assert feed.pieces == 1
        second = await taken(feed)
        assert time.monotonic() - before >= 0.9 * module.EMPTY_EVERY
        assert (len(second), second.base, second.end) == (0, 1, 501)

    run(source, test, step=ONLY_ORDERS)


def test_a_change_does_not_wait_behind_dropped_ones(source: JournalSource) -> None:
    async def test(feed: Feed) -> None:
        source.commit([1])
        await taken(feed)
        source.commit([2], AUDIT)
        await until(lambda: feed.reached == 2)
        source.commit([3])
        with mock.patch.object(module, "EMPTY_EVERY", 3_600.0):
            batch = await taken(feed)
        assert (ids(batch), batch.base, batch.end) == ([3], 1, 3)

    run(source, test, step=ONLY_ORDERS)


def test_two_generations_of_a_table_never_share_a_batch(source: JournalSource) -> None:
    wider = make_relation("orders", ["id", "status", "note", Column("more", 25)], oid=1)

    async def test(feed: Feed) -> None:
        source.commit([0])
        await taken(feed)
        source.commit([1, 2])
        source.commit([3], wider)
        source.commit([4], wider)
        await until(lambda: feed.waiting == 4)
        assert ids(await taken(feed)) == [1, 2]
        assert feed.reached == 3
        assert ids(await taken(feed)) == [3, 4]

    run(source, test)


def test_a_table_that_changes_its_shape_again_and_again_is_not_joined_again_and_again(
    source: JournalSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    wider = make_relation("orders", ["id", "status", "note", Column("more", 25)], oid=1)
    shapes = [ORDERS, ORDERS, wider]
    for i in range(900):
        source.commit([i], shapes[i % 3])
    parts: list[int] = []

    def counted(given: Sequence[Piece]) -> list[Piece]:
        parts.append(len(given))
        return joined(given)

    monkeypatch.setattr(module, "joined", counted)

    async def test(feed: Feed) -> None:
        await until(lambda: feed.waiting == 900)
        seen: list[int] = []
        while len(seen) < 900:
            found = ids(await taken(feed))
            assert len(found) <= 2
            seen += found
        assert seen == list(range(900))

    run(source, test)
    # Each piece once while it waits, and once when it is taken.
    assert sum(parts) <= 2 * 900


def test_stop_ends_a_waiting_take(source: JournalSource) -> None:
    async def test(feed: Feed) -> None:
        waiting = asyncio.ensure_future(feed.take())
        await asyncio.sleep(0)
        feed.stop()
        assert await waiting is None
        source.commit([1])
        assert await feed.take() is None

    run(source, test)


def test_a_journal_that_cannot_be_read_is_raised_by_take(source: JournalSource) -> None:
    async def test(feed: Feed) -> None:
        with pytest.raises(JournalError):
            await feed.take()

    run(source, test, offset=77)


def test_the_age_of_what_waits_is_that_of_its_first_change(source: JournalSource) -> None:
    async def test(feed: Feed) -> None:
        assert feed.oldest is None
        first = source.commit([1])
        source.commit([2])
        await until(lambda: feed.waiting == 2)
        assert feed.oldest == first.last_commit_time
        await taken(feed)
        assert feed.oldest is None

    run(source, test)


def test_reading_starts_within_a_frame(source: JournalSource) -> None:
    source.commit(range(10))

    async def test(feed: Feed) -> None:
        batch = await taken(feed)
        assert (ids(batch), batch.base) == ([7, 8, 9], 7)

    run(source, test, offset=7)


def test_the_position_of_a_change_is_found_by_its_index() -> None:
    batch = inserts(ORDERS, range(5), commit_lsn=64, ordinal=10)
    assert position_at(batch, 3) == Position(64, 13)
    assert position_at(ONLY_ORDERS(inserts(AUDIT, [1])), 0) is None


def test_joined_pieces_are_as_old_as_their_first_change(tmp_path: Path) -> None:
    a = Piece(inserts(ORDERS, [1], base=0, commit_lsn=8), 10, 500)
    b = Piece(inserts(ORDERS, [2], base=1, commit_lsn=16), 10, 700)
    (both,) = joined([a, b])
    assert (both.oldest, ids(both.batch)) == (500, [1, 2])
