"""What becomes of the requests for backfills."""

from pathlib import Path

from cdcflow.journal import Ledger
from cdcflow.source.online.board import Board
from cdcflow.source.online.coordinator import Coordinator
from cdcflow.source.online.placing import Placing
from cdcflow.source.online.readers import Readers
from cdcflow.source.online.tables import Tables
from cdcflow.source.requests import Request, Requests


def session(requests: Requests, journal: Path) -> tuple[Board, Coordinator]:
    board = Board(readers=1, ledger=Ledger(), wake=lambda: None)
    placing, tables = Placing(board, 0), Tables(board, "", "publication", journal)
    readers = Readers(board, "", "publication")
    coordinator = Coordinator(
        board, placing, tables, readers, requests, dsn="", publication="publication", slot="slot"
    )
    coordinator.adopt()
    return board, coordinator


def test_one_that_is_resumed_before_its_failure_was_written_down_goes_on(tmp_path: Path) -> None:
    """It is shown as failed at once, and written down at the next look."""
    requests = Requests(tmp_path / "backfills")
    request = requests.add(Request("", ("public.t",)))
    board, coordinator = session(requests, tmp_path)
    board.fail(board.tasks[(request.name, "public.t")], "permission denied")
    requests.wish(request.name, "run")
    coordinator._look()
    assert board.outdated
    assert requests.get(request.name).outcomes["public.t"].error == "permission denied"
    board, _ = session(requests, tmp_path)
    assert board.tasks[(request.name, "public.t")].state == "waiting"
