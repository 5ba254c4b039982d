"""The threads that give readers their work, and what becomes of it where the processes end."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from cdcflow.journal import Ledger
from cdcflow.source.online import readers
from cdcflow.source.online.board import Board
from cdcflow.source.online.readers import Readers
from cdcflow.source.online.task import Task
from cdcflow.source.plan import Plan
from cdcflow.source.requests import Request
from cdcflow.testing.waiting import eventually

OID = 1


class Dying:
    """A reader that ends over every job."""

    pid = 0

    def __init__(self, _dsn: str, _publication: str) -> None:
        pass

    def send(self, _job: Mapping[str, Any]) -> None:
        pass

    def receive(self) -> tuple[dict[str, Any], bytes, bytes]:
        raise EOFError

    def end(self) -> int:
        return -9


def test_what_no_reader_survives_fails_and_is_not_tried_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readers, "Process", Dying)
    monkeypatch.setattr(readers, "RETRY", 0.001)
    board = Board(readers=2, ledger=Ledger(), wake=lambda: None)
    task = Task(Request("r", ("public.goods",)), "public.goods", "reading", OID)
    task.plan = Plan({"1:1": 10}, {}, 2)
    task.parts = {"1:1": {"file": 1}}
    board.tasks["r", "public.goods"] = task
    pool = Readers(board, "", "")
    pool.start()
    try:
        eventually(lambda: task.state == "failed")
    finally:
        with board.lock:
            board.stopping = True
            board.lock.notify_all()
        pool.join(10)
    assert (
        "the processes that read public.goods ended 20 times without a chunk, the last by SIGKILL"
        in task.error
    )
    assert not any(thread.name == "backfill reader" for thread in threading.enumerate())


def test_readers_that_are_killed_now_and_then_do_not_fail_it() -> None:
    board = Board(readers=1, ledger=Ledger(), wake=lambda: None)
    task = Task(Request("r", ("public.goods",)), "public.goods", "reading", OID)
    pool = Readers(board, "", "")
    for _ in range(3 * readers.DEATHS):
        pool._died(task, -9)
        task.chunks += 1
    assert task.state == "reading"
