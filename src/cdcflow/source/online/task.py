"""One table of one request, and how far it is."""

import time
from dataclasses import dataclass, field
from typing import Any

from cdcflow.model import Relation
from cdcflow.source.plan import Plan
from cdcflow.source.requests import Request
from cdcflow.source.visible import Changed, key_of

#: Seconds that the stream may stand at first, where other transactions hold up a table's snapshot.
PATIENCE = 5.0


def work_name(request: str, oid: int, table: str) -> str:
    """What the ledger calls a table of a request."""
    return f"{request}/{oid}/{table}"


def request_and_table(work: str) -> tuple[str, str]:
    """The request and the table that a work of the ledger is of."""
    request, _, table = work.split("/", 2)
    return request, table


def key_names(relation: Relation) -> list[str]:
    return [relation.names[i] for i in relation.key]


@dataclass
class Task:
    """One table of one request."""

    request: Request
    table: str
    state: str = "waiting"
    oid: int = 0
    relation: Relation | None = None
    partitioned: bool = False
    plan: Plan | None = None
    #: Per part, what a reader must know of its table.
    parts: dict[str, dict[str, Any]] = field(default_factory=dict)
    changed: Changed = field(default_factory=lambda: Changed(collecting=False))
    #: Keys that are being read again.
    claimed: set[str] = field(default_factory=set)
    rows: int = 0
    nbytes: int = 0
    chunks: int = 0
    #: Readers that have ended in the middle of it since so many chunks had come.
    deaths: int = 0
    chunks_at_death: int = 0
    estimated_rows: int = -1
    table_bytes: int = 0
    pages: int = 0
    error: str = ""
    hint: str = ""
    #: When this session began to read it, and how many rows it had then.
    since: float = 0.0
    rows_before: int = 0
    #: Offset behind the last that the journal says of it; -1: it has not begun.
    began_at: int = -1
    #: Offset from which on the changes of the stream are kept beside its chunks.
    watched_at: int = 0
    #: What of the journal before that holds changes that must be looked at, from and to these offsets.
    look_at: list[tuple[int, int]] = field(default_factory=list)
    noted: float = 0.0
    durable: bool = False
    final: str = ""
    #: It has no key, and is read as a whole while the stream stands.
    whole: bool = False
    #: Seconds that the stream may stand for its snapshot, where other transactions hold that up.
    patience: float = field(default_factory=lambda: PATIENCE)
    #: Nothing of it is in the journal, so that there is nothing to empty before it is copied as a whole.
    fresh: bool = False

    @property
    def work(self) -> str:
        return work_name(self.request.name, self.oid, self.table)

    def rekeyed(self, before: Relation | None) -> bool:
        """Whether the table has another key by now, so that the keys of rows that are to be read again, and
        what sinks know its rows by, are those of another one."""
        assert self.relation is not None
        key = key_names(self.relation)
        if before is not None and not before.full and key != key_names(before):
            return True
        return any(len(key_of(text)) != len(key) for text in list(self.changed.again))

    def figures(self) -> dict[str, Any]:
        # A second at least: what the first moment alone would promise is no rate.
        seconds = max(time.monotonic() - self.since, 1.0)
        rate = (self.rows - self.rows_before) / seconds if self.since else 0.0
        share = self.plan.share if self.plan is not None else 0.0
        # Known only by the pages: how many rows are in those that are left.
        left = self.rows / share - self.rows if share > 0 else None
        return {
            "backfill": self.request.name,
            "table": self.table,
            "state": self.state,
            "rows": self.rows,
            "bytes": self.nbytes,
            "chunks": self.chunks,
            "estimated_rows": self.estimated_rows if self.estimated_rows >= 0 else None,
            "table_bytes": self.table_bytes or None,
            "share": round(share, 4),
            "rate": round(rate, 1),
            "remaining_seconds": round(left / rate, 1) if rate and left is not None else None,
            "again": len(self.changed.again),
            "error": self.error or None,
            "hint": self.hint or None,
        }
