"""One session of the stream, and its backfills: what capture has to do with them."""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cdcflow.journal import Chunk, Ledger
from cdcflow.model import Batch, Position
from cdcflow.source.appender import Marked
from cdcflow.source.online.board import Board
from cdcflow.source.online.coordinator import Coordinator
from cdcflow.source.online.placing import Placing
from cdcflow.source.online.readers import Readers
from cdcflow.source.online.tables import Tables
from cdcflow.source.requests import INITIAL, Requests

#: Seconds that the end of a session waits for what a thread of it is at.
STOP = 10.0


class Online:
    """The backfills of one session of the stream. All of it is for capture's thread; `wake` makes it call
    `place` soon."""

    def __init__(
        self,
        *,
        dsn: str,
        publication: str,
        slot: str,
        journal: Path,
        requests: Requests,
        readers: int,
        ledger: Ledger,
        tail: int,
        wake: Callable[[], None],
    ) -> None:
        self._board = board = Board(readers=readers, ledger=ledger, wake=wake)
        self._placing = Placing(board, tail)
        self._tables = Tables(board, dsn, publication, journal)
        self._readers = Readers(board, dsn, publication)
        self._coordinator = Coordinator(
            board,
            self._placing,
            self._tables,
            self._readers,
            requests,
            dsn=dsn,
            publication=publication,
            slot=slot,
        )
        self._coordinator.adopt()
        self._thread = threading.Thread(target=self._coordinator.run, name="backfill", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Ends everything soon. What has no place yet comes again in the next session."""
        board = self._board
        with board.lock:
            board.stopping = True
            board.lock.notify_all()
        self._readers.end()
        self._readers.join(STOP)
        self._thread.join(STOP)
        self._tables.close()

    def check(self) -> None:
        """Raises what has ended a thread of it: a defect of ours."""
        if self._board.defect is not None:
            raise self._board.defect

    @property
    def loading(self) -> bool:
        """The first load is under way: neither over and durable, nor paused, nor failed."""
        with self._board.lock:
            return any(
                task.request.name == INITIAL
                and task.state not in ("paused", "failed")
                and not (task.state == "ended" and task.durable)
                for task in self._board.tasks.values()
            )

    @property
    def outdated(self) -> bool:
        """Somebody paused, or let go on, what is under way: another session must be begun."""
        return self._board.outdated

    @property
    def halt_at(self) -> int:
        """LSN at which the stream is to stand; 0: it goes on."""
        return self._board.halt_at

    @property
    def frozen(self) -> bool:
        """The stream stands where it was to stand, and must not be read on."""
        return self._board.standing

    def freeze(self) -> None:
        """Everything before `halt_at` has come, and nothing behind it."""
        self._board.freeze()

    def wants(self, reached: int) -> bool:
        """Whether something could take its place at the next boundary between transactions."""
        return self._placing.wants(reached)

    def see(self, batch: Batch) -> None:
        """What the stream brings, in order."""
        self._placing.see(batch)

    def place(self, reached: int, last: Position) -> Chunk | Marked | None:
        """What is to be journaled next, where the stream is between two transactions, has brought everything
        before the LSN `reached`, and `last` is the journal's last position."""
        return self._placing.place(reached, last)

    def settled(self) -> None:
        """All that was given out by `place` is durable."""
        self._placing.settled()

    def figures(self) -> list[dict[str, Any]]:
        """For the status: every table that is not over."""
        with self._board.lock:
            return [
                {**task.figures(), "readers": self._readers.pids}
                for task in self._board.tasks.values()
                if task.state != "ended"
            ]
