"""Waiting readers are woken by the writer, and leave nothing behind."""

import asyncio
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from cdcflow.journal import Reader, Writer
from cdcflow.journal.wakeup import Bells, Doorbell
from cdcflow.testing.batches import inserts, make_relation
from cdcflow.testing.journals import IDENTITY

ORDERS = make_relation("orders")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def fifos(path: Path) -> list[str]:
    return sorted(fifo.name for fifo in (path / "readers").iterdir())


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        os.sched_yield()


def test_a_waiting_reader_is_rung_not_polled(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdcflow.journal.reader.RECHECK", 3600.0)
    woken: list[bool] = []
    with Writer.open(path, IDENTITY) as writer, Reader(path) as reader:
        for i in range(5):
            thread = threading.Thread(target=lambda at=i: woken.append(reader.wait(at, 60)))
            thread.start()
            until(lambda: len(fifos(path)) == 1)
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
            writer.sync()
            thread.join(20)
            assert woken == [True] * (i + 1)


def test_a_reader_in_an_event_loop_is_rung(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdcflow.journal.reader.RECHECK", 3600.0)

    async def follow(writer: Writer, reader: Reader) -> None:
        for i in range(5):
            waiting = asyncio.create_task(reader.wait_async(i, 60))
            await asyncio.sleep(0)
            assert not waiting.done()
            writer.append(inserts(ORDERS, [i], commit_lsn=8 + 8 * i))
            writer.sync()
            assert await asyncio.wait_for(waiting, 20)

    with Writer.open(path, IDENTITY) as writer, Reader(path) as reader:
        asyncio.run(follow(writer, reader))


def test_waiting_ends_when_its_time_is_over(path: Path) -> None:
    with Writer.open(path, IDENTITY), Reader(path) as reader:
        assert reader.wait(0, 0) is False
        assert reader.wait(0, 0.02) is False
        assert asyncio.run(reader.wait_async(0, 0.02)) is False


def test_a_cancelled_wait_leaves_the_loop_clean(path: Path) -> None:
    async def cancel(reader: Reader) -> None:
        for _ in range(2):
            waiting = asyncio.create_task(reader.wait_async(0, 60))
            await asyncio.sleep(0)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting

    with Writer.open(path, IDENTITY), Reader(path) as reader:
        asyncio.run(cancel(reader))


def test_without_a_fifo_a_reader_polls(path: Path) -> None:
    Writer.open(path, IDENTITY).close()
    with Writer.open(path, IDENTITY) as writer, Reader(path) as reader:
        (path / "readers").rmdir()
        assert not reader.wait(0, 0.02)
        assert not asyncio.run(reader.wait_async(0, 0.02))
        woken: list[bool] = []
        thread = threading.Thread(target=lambda: woken.append(reader.wait(0, 60)))
        thread.start()
        writer.append(inserts(ORDERS, [0]))
        writer.sync()  # does not mind that there is nothing to ring
        thread.join(20)
        assert woken == [True]
        assert asyncio.run(reader.wait_async(0, 60))


def test_many_readers_are_all_rung(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cdcflow.journal.reader.RECHECK", 3600.0)
    with Writer.open(path, IDENTITY) as writer:
        readers = [Reader(path) for _ in range(8)]
        woken: list[bool] = []
        threads = [threading.Thread(target=lambda r=r: woken.append(r.wait(0, 60))) for r in readers]
        for thread in threads:
            thread.start()
        until(lambda: len(fifos(path)) == 8)
        writer.append(inserts(ORDERS, [0]))
        writer.sync()
        for thread in threads:
            thread.join(20)
        assert woken == [True] * 8
        for reader in readers:
            reader.close()
        assert fifos(path) == []


def test_the_fifo_of_a_killed_reader_goes_with_the_next_ring(path: Path) -> None:
    program = (
        "import sys; from pathlib import Path; from cdcflow.journal import Reader\n"
        "reader = Reader(Path(sys.argv[1])); reader.wait(0, 0)\n"
        "print('ready', flush=True); reader.wait(1, 60)"
    )
    with Writer.open(path, IDENTITY) as writer:
        with subprocess.Popen([sys.executable, "-c", program, str(path)], stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            writer.append(inserts(ORDERS, [0], commit_lsn=8))
            writer.sync()
            assert len(fifos(path)) == 1
            process.send_signal(signal.SIGKILL)
        writer.append(inserts(ORDERS, [1], commit_lsn=16))
        writer.sync()
        assert fifos(path) == []


def test_a_reader_that_never_looks_does_not_hold_up_the_writer(path: Path) -> None:
    (path / "readers").mkdir(parents=True)
    bells, bell = Bells(path), Doorbell(path)
    for _ in range(70_000):  # a pipe holds 65,536 bytes
        bells.ring()
    assert bell.fd is not None
    assert select.select([bell.fd], [], [], 0)[0]
    bell.clear()
    assert not select.select([bell.fd], [], [], 0)[0]
    bell.close()
    bells.close()


def test_a_fifo_that_was_never_finished_is_removed_once_its_maker_is_dead(path: Path) -> None:
    (path / "readers").mkdir(parents=True)
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    os.mkfifo(path / "readers" / f".{gone.pid}-dead")
    os.mkfifo(path / "readers" / f".{os.getpid()}-alive")
    Bells(path).close()
    assert fifos(path) == [f".{os.getpid()}-alive"]
