import asyncio
import sys
from collections.abc import Awaitable, Callable
from unittest import mock

import pytest

from cdcflow.engine import process
from cdcflow.engine.process import Child, ending
from cdcflow.engine.reports import Failed, Live, Report
from cdcflow.testing.scripted import until
from cdcflow.testing.waiting import TIMEOUT


def script(text: str) -> list[str]:
    return [sys.executable, "-c", text]


def run(
    command: list[str],
    test: Callable[[Child, list[Report]], Awaitable[None]],
    fatal: frozenset[int] = frozenset(),
) -> int | None:
    """Runs the test beside the child, then stops the child; gives what its `run` gave."""

    async def inside() -> int | None:
        heard: list[Report] = []
        child = Child("probe", command, heard=heard.append, changed=lambda: None, fatal=fatal)
        running = asyncio.ensure_future(child.run())
        try:
            await asyncio.wait_for(test(child, heard), TIMEOUT)
        finally:
            child.kill()
            result = await asyncio.wait_for(running, TIMEOUT)
        return result

    return asyncio.run(inside())


def test_a_process_that_ends_is_started_again_with_growing_pauses() -> None:
    async def test(child: Child, _: list[Report]) -> None:
        await until(lambda: child.restarts >= 2)
        assert child.crashes >= 2
        assert child.code == 7

    with mock.patch.object(process, "FIRST_PAUSE", 0.01):
        assert run(script("raise SystemExit(7)"), test) is None


def test_who_was_healthy_for_long_starts_again_without_a_past() -> None:
    async def test(child: Child, _: list[Report]) -> None:
        await until(lambda: child.restarts >= 3)
        assert child.crashes == 1

    with mock.patch.multiple(process, FIRST_PAUSE=0.01, HEALTHY_SECONDS=0.0):
        run(script("pass"), test)


def test_a_fatal_code_ends_it_with_its_last_word() -> None:
    text = 'print(\'{"kind":"failed","message":"the slot is lost","hint":"","code":3}\', flush=True); exit(3)'

    async def test(child: Child, heard: list[Report]) -> None:
        await until(lambda: child.code == 3)
        assert heard == [Failed("the slot is lost", "", 3)]
        assert child.failed == heard[0]
        assert child.restarts == 0

    assert run(script(text), test, frozenset({3})) == 3


def test_orders_reach_a_process_and_each_successor() -> None:
    text = (
        "import json, sys\n"
        "kind = json.loads(sys.stdin.readline())['kind']\n"
        "print(json.dumps({'kind': 'failed', 'message': kind}), flush=True)"
    )

    async def test(child: Child, heard: list[Report]) -> None:
        child.order(Live())
        await until(lambda: heard[:2] == [Failed("live"), Failed("live")])

    with mock.patch.object(process, "FIRST_PAUSE", 0.01):
        run(script(text), test)


def test_a_line_that_is_no_report_is_passed_over() -> None:
    text = 'print("hello"); print(\'{"kind":"failed","message":"x"}\', flush=True); input()'

    async def test(_: Child, heard: list[Report]) -> None:
        await until(lambda: heard == [Failed("x")])

    run(script(text), test)


@pytest.mark.parametrize(
    ("code", "words"),
    [(1, "ended with code 1"), (-9, "was ended by SIGKILL"), (-250, "was ended by signal 250")],
)
def test_an_ending_is_said_in_words(code: int, words: str) -> None:
    assert ending(code) == words
