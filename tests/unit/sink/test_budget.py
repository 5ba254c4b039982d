import asyncio
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from cdcflow.errors import Transient
from cdcflow.sink import Budget, Limit

FIVE = Limit("calls", 5, 0.5)


def most_in_a_window(times: Sequence[float], seconds: float) -> int:
    return max(sum(start <= other < start + seconds for other in times) for start in times)


async def call_times(budget: Budget, limit: Limit, calls: int) -> list[float]:
    times = []
    for _ in range(calls):
        async with budget.call(limit):
            times.append(time.time())
    return times


def test_no_window_holds_more_calls_than_the_limit() -> None:
    times = asyncio.run(call_times(Budget(), FIVE, 16))
    assert most_in_a_window(times, FIVE.seconds) <= FIVE.count


def _in_a_process(path: Path, calls: int, times: "multiprocessing.Queue[list[float]]") -> None:
    times.put(asyncio.run(call_times(Budget(path), FIVE, calls)))


def test_processes_share_what_is_allowed(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    queue: multiprocessing.Queue[list[float]] = context.Queue()
    path = tmp_path / "budget"
    processes = [context.Process(target=_in_a_process, args=(path, 8, queue)) for _ in range(2)]
    for process in processes:
        process.start()
    times = [moment for _ in processes for moment in queue.get(timeout=60)]
    for process in processes:
        process.join()
    assert len(times) == 16
    assert most_in_a_window(times, FIVE.seconds) <= FIVE.count
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_was_spent_is_known_after_a_restart(tmp_path: Path) -> None:
    day = Limit("day", 5, 86_400.0)
    asyncio.run(call_times(Budget(tmp_path / "budget"), day, 4))
    again = Budget(tmp_path / "budget")
    assert again.used(day) == 4
    again.spend(day, 5)  # somebody else has used the account as well
    assert again.used(day) == 5


def test_a_call_counts_until_a_window_after_its_end() -> None:
    budget = Budget()
    one = Limit("one", 1, 0.2)

    async def run() -> tuple[float, float]:
        async with budget.call(one):
            await asyncio.sleep(0.3)  # longer than the window: the destination may count it at its end
            ended = time.time()
        async with budget.call(one):
            return ended, time.time()

    ended, begun = asyncio.run(run())
    assert begun - ended >= one.seconds


def test_several_limits_hold_at_once() -> None:
    budget = Budget()
    wide = Limit("wide", 8, 1.0)

    async def run() -> list[float]:
        times = []
        for _ in range(12):
            async with budget.call(FIVE, wide):
                times.append(time.time())
        return times

    times = asyncio.run(run())
    assert most_in_a_window(times, FIVE.seconds) <= FIVE.count
    assert most_in_a_window(times, wide.seconds) <= wide.count


def test_a_destination_that_asks_for_peace_gets_it_from_everybody(tmp_path: Path) -> None:
    before = time.time()
    Budget(tmp_path / "budget").hold(0.3)
    [begun] = asyncio.run(call_times(Budget(tmp_path / "budget"), FIVE, 1))
    assert begun - before >= 0.3


def test_a_flow_that_stops_does_not_wait_for_its_turn() -> None:
    budget = Budget(stopping=lambda: True)
    day = Limit("day", 1, 86_400.0)

    async def run() -> None:
        await call_times(budget, day, 1)
        with pytest.raises(Transient):
            await call_times(budget, day, 1)

    asyncio.run(run())


def test_a_damaged_file_counts_as_an_empty_one(tmp_path: Path) -> None:
    path = tmp_path / "budget"
    path.write_bytes(b"\xc1\x00garbage")
    assert len(asyncio.run(call_times(Budget(path), FIVE, 3))) == 3
