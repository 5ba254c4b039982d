"""What flows in several processes know of a destination that is down."""

import asyncio
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cdcflow.delivery import policy
from cdcflow.delivery.breaker import Breaker, Breakers
from cdcflow.delivery.down import Down, Everywhere
from cdcflow.errors import Permanent, Transient
from cdcflow.testing.waiting import TIMEOUT

HOLDER = """
import sys, time
from pathlib import Path
from cdcflow.delivery.down import Everywhere
assert Everywhere(Path(sys.argv[1])).claim()
print("held", flush=True)
time.sleep(60)
"""


async def fails(breaker: Breaker, error: Exception) -> None:
    with pytest.raises(type(error)):
        async with breaker.attempt(lambda: False):
            raise error


def test_what_one_process_finds_all_know(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = (Breakers(tmp_path).of("shop") for _ in range(2))
        await fails(one, Transient("refused", retry_after=100.0))
        waiting = asyncio.ensure_future(passes(other))
        await asyncio.sleep(0.05)
        assert not waiting.done()
        assert other.reason == "refused"
        one.hurry()
        await passes(one)
        await asyncio.wait_for(waiting, TIMEOUT)
        assert (one.reason, other.reason) == ("", "")
        assert not (tmp_path / "down-shop").exists()

    async def passes(breaker: Breaker) -> None:
        async with breaker.attempt(lambda: False):
            pass

    asyncio.run(run())


def test_an_answer_of_any_kind_means_that_it_is_up(tmp_path: Path) -> None:
    async def run() -> None:
        one, other = (Breakers(tmp_path).of("shop") for _ in range(2))
        await fails(one, Transient("refused"))
        one.hurry()
        await fails(other, Permanent("no such path"))
        assert not (tmp_path / "down-shop").exists()

    asyncio.run(run())


def test_connections_have_nothing_to_do_with_each_other(tmp_path: Path) -> None:
    async def run() -> None:
        breakers = Breakers(tmp_path)
        await fails(breakers.of("shop"), Transient("refused", retry_after=100.0))
        async with asyncio.timeout(5), breakers.of("crm").attempt(lambda: False):
            pass

    asyncio.run(run())


def test_who_dies_while_trying_leaves_it_to_the_others(tmp_path: Path) -> None:
    path = tmp_path / "down-shop"
    holder = subprocess.Popen([sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    with holder.stdout:
        assert holder.stdout.readline() == "held\n"
        known = Everywhere(path)
        assert not known.claim()
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    assert known.claim()
    assert not known.claim(), "one at a time, also within a process"
    known.release()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"failures": 1}'])
def test_a_file_that_cannot_be_read_means_that_it_is_up(tmp_path: Path, text: str) -> None:
    path = tmp_path / "down-shop"
    path.write_text(text)
    known = Everywhere(path)
    assert known.read() is None
    assert not path.exists()


def test_a_clock_that_was_put_back_holds_nobody_up(tmp_path: Path) -> None:
    known = Everywhere(tmp_path / "down-shop")
    known.write(Down(3, time.time() + policy.LONGEST_WISH + 60, "refused"))

    async def run() -> None:
        async with asyncio.timeout(5), Breaker(known).attempt(lambda: False):
            pass

    asyncio.run(run())
    assert known.read() is None


def test_what_is_known_is_for_this_user_only(tmp_path: Path) -> None:
    known = Everywhere(tmp_path / "down-shop")
    known.write(Down(1, time.time(), "refused"))
    assert known.claim()
    known.release()
    assert {oct(file.stat().st_mode & 0o777) for file in tmp_path.iterdir()} == {"0o600"}
