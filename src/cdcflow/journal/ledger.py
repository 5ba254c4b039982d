"""The ledger: how far backfills have come, as the journal's own frames say it.

A frame that holds a chunk of a table says which span of it that was, in the same bytes and under the
same checksum. So a chunk and the knowledge of it are durable together or not at all, and after any
crash work goes on behind the last chunk that is really there. Each segment begins with the ledger as it
was by then, so that it can be read alone and retention may remove what lies before it. Pure.
"""

import bisect
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

#: So many ended works are remembered, for whoever asks for a work after a crash whether it has ended.
REMEMBERED = 256

#: A row's key as Postgres text, one per key column.
Key = tuple[str, ...]

#: `begun`: nothing of it counts as read, whatever was before; `read`: every row was read once, and what is
#: left are those of `again`.
Phase = Literal["", "begun", "read", "over", "cancelled"]


class Spans:
    """A set of integers as disjoint half-open spans, in order."""

    def __init__(self, spans: Iterable[Sequence[int]] = ()) -> None:
        self._starts: list[int] = []
        self._ends: list[int] = []
        for start, end in spans:
            self.add(start, end)

    def add(self, start: int, end: int) -> None:
        """Takes in [start, end); what touches becomes one."""
        if start >= end:
            return
        first = bisect.bisect_left(self._ends, start)
        last = bisect.bisect_right(self._starts, end)
        if first < last:
            start, end = min(start, self._starts[first]), max(end, self._ends[last - 1])
        self._starts[first:last] = [start]
        self._ends[first:last] = [end]

    def remove(self, start: int, end: int) -> None:
        """Takes [start, end) out."""
        if start >= end:
            return
        kept = [
            part
            for low, high in self
            for part in ((low, min(high, start)), (max(low, end), high))
            if part[0] < part[1]
        ]
        self._starts = [low for low, _ in kept]
        self._ends = [high for _, high in kept]

    def gaps(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """What of [start, end) is missing, in order."""
        for low, high in self:
            if high <= start:
                continue
            if low >= end:
                break
            if low > start:
                yield start, low
            start = max(start, high)
        if start < end:
            yield start, end

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(list(zip(self._starts, self._ends, strict=True)))

    def __len__(self) -> int:
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Spans) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Step:
    """What one frame adds to a work: the `span` of its `part` that the frame holds, and keys of rows that
    must be read once more (`again`), or no longer (`settled`)."""

    work: str
    phase: Phase = ""
    part: str = ""
    span: tuple[int, int] | None = None
    again: tuple[Key, ...] = ()
    settled: tuple[Key, ...] = ()
    rows: int = 0
    nbytes: int = 0

    def to_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"work": self.work}
        if self.phase:
            state["phase"] = self.phase
        if self.span is not None:
            state |= {"part": self.part, "span": list(self.span)}
        if self.again:
            state["again"] = [list(key) for key in self.again]
        if self.settled:
            state["settled"] = [list(key) for key in self.settled]
        if self.rows or self.nbytes:
            state |= {"rows": self.rows, "bytes": self.nbytes}
        return state

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Step":
        span = state.get("span")
        return cls(
            work=state["work"],
            phase=state.get("phase", ""),
            part=state.get("part", ""),
            span=None if span is None else (span[0], span[1]),
            again=tuple(tuple(key) for key in state.get("again", ())),
            settled=tuple(tuple(key) for key in state.get("settled", ())),
            rows=state.get("rows", 0),
            nbytes=state.get("bytes", 0),
        )


@dataclass
class Work:
    """One table of one backfill. `offset` is the one behind the last frame that said something of it:
    what the stream has brought since is in the journal, but not yet in `again`."""

    parts: dict[str, Spans] = field(default_factory=dict)
    again: dict[Key, None] = field(default_factory=dict)
    rows: int = 0
    nbytes: int = 0
    chunks: int = 0
    offset: int = 0
    #: Every row was read once.
    read: bool = False

    def to_state(self) -> dict[str, Any]:
        return {
            "parts": {name: [list(span) for span in spans] for name, spans in self.parts.items()},
            "again": [list(key) for key in self.again],
            "rows": self.rows,
            "bytes": self.nbytes,
            "chunks": self.chunks,
            "offset": self.offset,
            "read": self.read,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Work":
        return cls(
            parts={name: Spans(spans) for name, spans in state["parts"].items()},
            again=dict.fromkeys(tuple(key) for key in state["again"]),
            rows=state["rows"],
            nbytes=state["bytes"],
            chunks=state["chunks"],
            offset=state["offset"],
            read=state["read"],
        )


class Ledger:
    """Works by name: those that are open, and how the last ones ended."""

    def __init__(self) -> None:
        self.open: dict[str, Work] = {}
        self.ended: dict[str, Phase] = {}

    def take(self, step: Step, offset: int) -> None:
        """Takes in what a frame says; `offset` is the one behind the frame."""
        if step.phase in ("over", "cancelled"):
            self.open.pop(step.work, None)
            self.ended[step.work] = step.phase
            while len(self.ended) > REMEMBERED:
                del self.ended[next(iter(self.ended))]
            return
        if step.phase == "begun":
            self.open[step.work] = Work()
        work = self.open.setdefault(step.work, Work())
        work.offset = offset
        work.read = work.read or step.phase == "read"
        for key in step.settled:
            work.again.pop(key, None)
        work.again.update(dict.fromkeys(step.again))
        if step.span is not None:
            work.parts.setdefault(step.part, Spans()).add(*step.span)
            work.chunks += 1
        work.rows += step.rows
        work.nbytes += step.nbytes

    @property
    def needed_from(self) -> int | None:
        """The first offset that an open work still needs the journal for; None where there is none."""
        return min((work.offset for work in self.open.values()), default=None)

    def to_state(self) -> dict[str, Any]:
        return {
            "open": {name: work.to_state() for name, work in self.open.items()},
            "ended": dict(self.ended),
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> "Ledger":
        ledger = cls()
        ledger.open = {name: Work.from_state(work) for name, work in state["open"].items()}
        ledger.ended = dict(state["ended"])
        return ledger
