"""What people tell a flow beside its file: to pause, and to go on elsewhere in the journal. Kept in the state
database, so that it holds whether or not an engine runs, and over restarts.

A move is a wish until the flow's worker carries it out, at its next start and before it reads anything: first
the sink, then the flow's checkpoint together with the wish. A crash between the two repeats the first.
"""

import time
from dataclasses import dataclass

from cdcflow import sql
from cdcflow.delivery.checkpoints import CheckpointStore
from cdcflow.model import Position


@dataclass(frozen=True, slots=True)
class Pause:
    """`since` is in seconds since 1970; `reached` the journal offset at which the flow stands, None where
    that is known to its sink only."""

    since: float
    who: str
    why: str
    reached: int | None = None


@dataclass(frozen=True, slots=True)
class Move:
    """To journal offset `offset`. `number` tells a wish from the one that it replaces; `refused` is why the
    sink would not, empty while it has not been asked."""

    number: int
    offset: int
    asked: float
    who: str
    why: str
    refused: str = ""


class Wishes:
    """Pauses and moves by flow. Raises EnvironmentFault when the state database cannot be used."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        for table in ("pause_table", "move_table"):
            store.write(sql.load(table))

    def pause(self, flow: str, who: str, why: str) -> Pause:
        """A flow that is paused stays so as it was told first."""
        statement = "INSERT OR IGNORE INTO pause (flow, since, who, why) VALUES (?, ?, ?, ?)"
        self._store.write(statement, flow, time.time(), who, why)
        found = self.paused(flow)
        assert found is not None
        return found

    def resume(self, flow: str) -> bool:
        """Whether it was paused."""
        was = self.paused(flow) is not None
        self._store.write("DELETE FROM pause WHERE flow = ?", flow)
        return was

    def paused(self, flow: str) -> Pause | None:
        row = self._store.one("SELECT since, who, why, reached FROM pause WHERE flow = ?", flow)
        return None if row is None else Pause(*row)

    def stands(self, flow: str, reached: int) -> None:
        """Where a paused flow has stopped."""
        self._store.write("UPDATE pause SET reached = ? WHERE flow = ?", reached, flow)

    def order(self, flow: str, offset: int, who: str, why: str) -> Move:
        self._store.write(sql.load("move_order"), flow, offset, time.time(), who, why)
        found = self.move(flow)
        assert found is not None
        return found

    def move(self, flow: str) -> Move | None:
        """What is still to be done, or was refused."""
        row = self._store.one(
            "SELECT number, journal_offset, asked, who, why, refused FROM move WHERE flow = ?", flow
        )
        if row is None:
            return None
        number, offset, asked, who, why, refused = row
        return Move(number, offset, asked, who, why, refused or "")

    def carried_out(self, flow: str, move: Move, position: Position) -> None:
        """The sink has moved: so does the checkpoint."""
        with self._store.transaction():
            self._store.write(sql.load("checkpoint_move"), flow, move.offset, str(position), time.time())
            self._forget(flow, move)

    def refused(self, flow: str, move: Move, reason: str) -> None:
        self._store.write(
            "UPDATE move SET refused = ? WHERE flow = ? AND number = ?", reason, flow, move.number
        )

    def forget(self, flow: str) -> bool:
        """Takes a wish back; whether there was one."""
        was = self.move(flow) is not None
        self._store.write("DELETE FROM move WHERE flow = ?", flow)
        return was

    def _forget(self, flow: str, move: Move) -> None:
        self._store.write("DELETE FROM move WHERE flow = ? AND number = ?", flow, move.number)
