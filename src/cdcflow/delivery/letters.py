"""Dead letters: changes that a sink refused for good, and the later ones parked behind them, kept in the
state database until a person has them delivered or discards them. What `add` has returned from survives a
power cut; a flow's checkpoint moves past a change only behind it, so that no change is ever in neither
place."""

import getpass
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

import msgpack
import orjson

from cdcflow import sql
from cdcflow.delivery.causes import cause
from cdcflow.delivery.database import Database
from cdcflow.delivery.lanes import Stand, Stands
from cdcflow.delivery.payload import pack
from cdcflow.errors import CdcflowError
from cdcflow.model import Batch, Position, Unchanged

State = Literal["dead", "parked"]

#: Of what a destination said: enough for a person, not a copy of the row.
ANSWER = 2_000

#: SQLite's default limit of variables of a statement is far above (sqlite.org/limits.html, 9).
_AT_ONCE = 500


@dataclass(frozen=True, slots=True)
class Letter:
    """A change as it is kept. `key` is JSON of the key's values, by column, and empty where it has none;
    `cause` the reason without what differs from row to row; `newer` the position of a later change of the
    key that has gone out since, None where there is none. Times are in seconds since 1970."""

    number: int
    flow: str
    offset: int
    position: Position
    state: State
    relation: str
    key: str
    op: str
    cause: str
    #: Not in the repr, like `answer` and `key`'s values elsewhere: a destination may repeat what it got.
    reason: str = field(repr=False)
    answer: str = field(repr=False)
    attempts: int
    revision: str
    first: float
    latest: float
    newer: Position | None


@dataclass(frozen=True, slots=True)
class Arrival:
    """A change that is to be kept: `change` as the journal has it, and where it stands."""

    change: Batch
    stands: Stands
    state: State
    reason: str = ""
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Placed:
    """What a worker remembers of a letter."""

    number: int
    offset: int
    state: State
    stands: Stands
    newer: bool

    @property
    def moves(self) -> bool:
        """Whether it changes its row's key, so that no later change says all that it does."""
        return any(len(stand.lanes) > 1 for stand in self.stands)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant; None: any. `key` is the JSON of a letter's key, times are its latest try."""

    flow: str | None = None
    state: State | None = None
    cause: str | None = None
    relation: str | None = None
    key: str | None = None
    since: float | None = None
    until: float | None = None


class LetterStore:
    """The letters of all flows. Usable from any thread; raises EnvironmentFault when the state database
    cannot be used."""

    def __init__(self, path: Path) -> None:
        self._db = Database(path, "letter_table", "letter_audit_table")

    def add(self, flow: str, arrivals: Sequence[Arrival], revision: str) -> list[Placed]:
        """Keeps them all or none; durable on return. What is kept has not gone out, so it supersedes none."""
        now = time.time()
        statement = sql.load("letter_add")
        with self._db.transaction():
            for arrival in arrivals:
                self._db.write(statement, *_values(flow, arrival, revision, now))
            self._db.write(sql.load("letter_unmark"), flow)
        offsets = [arrival.change.base for arrival in arrivals]
        return self._placed(flow, offsets)

    def placed(self, flow: str) -> list[Placed]:
        """Every letter of a flow, in the order of the journal."""
        return self._placed(flow, None)

    def _placed(self, flow: str, offsets: Sequence[int] | None) -> list[Placed]:
        columns = "SELECT number, journal_offset, state, stands, newer FROM letter WHERE flow = ?"
        if offsets is None:
            rows = self._db.all(f"{columns} ORDER BY journal_offset", flow)
        else:
            rows = []
            for start in range(0, len(offsets), _AT_ONCE):
                part = offsets[start : start + _AT_ONCE]
                marks = ", ".join("?" * len(part))
                rows += self._db.all(f"{columns} AND journal_offset IN ({marks})", flow, *part)
        return [
            Placed(number, offset, state, _unpacked(stands), newer is not None)
            for number, offset, state, stands, newer in rows
        ]

    def select(self, which: Selection, most: int = -1) -> list[Letter]:
        """In the order of the journal, at most so many; a negative number: all."""
        given = (which.flow, which.state, which.cause, which.relation, which.key, which.since, which.until)
        return [_letter(row) for row in self._db.all(sql.load("letter_select"), *given, most)]

    def payload(self, number: int) -> bytes | None:
        row = self._db.one("SELECT payload FROM letter WHERE number = ?", number)
        return None if row is None else row[0]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Dead and parked letters of each flow that has any."""
        rows = self._db.all(
            "SELECT flow, sum(state = 'dead'), sum(state = 'parked') FROM letter GROUP BY flow"
        )
        return {flow: (dead, parked) for flow, dead, parked in rows}

    def remove(self, numbers: Iterable[int]) -> None:
        """They have been delivered."""
        with self._db.transaction():
            for number in numbers:
                self._db.write("DELETE FROM letter WHERE number = ?", number)

    def refuse(self, number: int, reason: str, answer: str, revision: str) -> None:
        """It was tried again, and refused again."""
        self._db.write(
            "UPDATE letter SET state = 'dead', cause = ?, reason = ?, answer = ?, attempts = attempts + 1,"
            " latest = ?, revision = ? WHERE number = ?",
            *(cause(reason), reason, answer[:ANSWER], time.time(), revision, number),
        )

    def mark_newer(self, marks: Iterable[tuple[int, Position]]) -> None:
        """A later change of the letter's key has gone out, or is about to. The first one counts."""
        with self._db.transaction():
            for number, position in marks:
                self._db.write(
                    "UPDATE letter SET newer = ? WHERE number = ? AND newer IS NULL",
                    *(str(position.whole), number),
                )

    def outrun(self, older: Mapping[int, int]) -> None:
        """Letters, by number, of which a later one of the same row has gone out first: its number."""
        with self._db.transaction():
            for number, by in older.items():
                self._db.write(
                    "UPDATE letter SET newer = (SELECT position FROM letter WHERE number = ?)"
                    " WHERE number = ? AND newer IS NULL",
                    *(by, number),
                )

    def discard(self, numbers: Sequence[int], why: str, who: str = "") -> int:
        """Removes them, and keeps in the audit that it was done; returns how many there were.

        Raises CdcflowError without a reason.
        """
        if not why.strip():
            raise CdcflowError("a dead letter is discarded for a reason", hint="say it with --reason")
        gone = 0
        now, who = time.time(), who or getpass.getuser()
        with self._db.transaction():
            for number in numbers:
                self._db.write(sql.load("letter_discard"), now, who, why, number)
                gone += len(self._db.all("DELETE FROM letter WHERE number = ? RETURNING number", number))
        return gone

    def audit(self) -> list[dict[str, Any]]:
        """What was discarded, the latest first."""
        names = ("number", "at", "who", "why", "flow", "position", "relation", "op", "cause")
        rows = self._db.all(f"SELECT {', '.join(names)} FROM letter_audit ORDER BY at DESC, number")  # noqa: S608
        return [dict(zip(names, row, strict=True)) for row in rows]

    def close(self) -> None:
        self._db.close()

    def __enter__(self) -> "LetterStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def key_text(change: Batch) -> str:
    """The key's values as JSON by column; empty where the change has none."""
    [one] = change.changes()
    names = [one.relation.columns[i].name for i in one.relation.key]
    if not one.key:
        return ""
    values = [None if isinstance(value, Unchanged) else value for value in one.key]
    return orjson.dumps(dict(zip(names, values, strict=True))).decode()


def _values(flow: str, arrival: Arrival, revision: str, now: float) -> tuple[Any, ...]:
    """In the order of `letter_add`."""
    [change] = arrival.change.changes()
    return (
        flow,
        change.offset,
        str(change.position),
        arrival.state,
        change.relation.qualified,
        key_text(arrival.change),
        change.op.word,
        cause(arrival.reason),
        arrival.reason,
        arrival.answer[:ANSWER],
        1 if arrival.state == "dead" else 0,
        revision,
        now,
        msgpack.packb(arrival.stands),
        pack(arrival.change),
    )


def _unpacked(stands: bytes) -> Stands:
    return tuple(Stand(table, tuple(lanes)) for table, lanes in msgpack.unpackb(stands))


def _letter(row: Sequence[Any]) -> Letter:
    names = [one.name for one in fields(Letter)]
    values = dict(zip(names, row, strict=True))
    values["position"] = Position.parse(values["position"])
    values["newer"] = Position.parse(values["newer"]) if values["newer"] else None
    return Letter(**values)
