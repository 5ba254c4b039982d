"""What a sink is. The engine owns batching, waiting, retrying, dead-lettering and checkpoints; a sink
only writes, and says plainly how it failed."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import pyarrow as pa

from cdcflow.model import Batch, Position, Relation
from cdcflow.model.finding import Finding as Finding
from cdcflow.sink.budget import Budget
from cdcflow.sink.formulas import Formula
from cdcflow.sink.settings import SinkOptions, SinkSettings


@runtime_checkable
class Sink(Protocol):
    """A destination, bound to one flow.

    `write` may be given the same batch again after any failure, and must converge: a sink is told
    everything at least once. It returns when the whole batch is durable at the destination. It raises a
    `DeliveryError` (see `cdcflow.errors`) and nothing else on purpose; any other exception is a defect and
    is treated as `Permanent`.

    All calls come from one task, one at a time; `close` also comes after a failed `open`.
    """

    async def open(self) -> None: ...

    async def write(self, batch: Batch) -> None: ...

    async def close(self) -> None: ...


@runtime_checkable
class TransactionalSink(Sink, Protocol):
    """Keeps the checkpoint with the data, in one transaction, so that a replay changes nothing.

    A `write` that returns has stored `batch.end` with the batch; one that raises has stored nothing, also
    where it refuses single rows. The engine asks for `checkpoint` once
    after `open`, and what it says wins over the engine's own; None means that nothing was ever written.
    """

    async def checkpoint(self) -> int | None: ...


@runtime_checkable
class PositionedSink(TransactionalSink, Protocol):
    """Keeps with its checkpoint the `last` of the batch that made it, which tells a journal from another
    one even where everything of the engine's own is gone. None where none is known."""

    async def position(self) -> Position | None: ...


@runtime_checkable
class RewindableSink(TransactionalSink, Protocol):
    """Can be told to go on elsewhere in the journal: what it holds and its checkpoint move together, so that
    what comes from there on leaves it as if it had come once.

    `move` is called after `open` and before any `write`; it may be repeated after a crash within it. The next
    change to come is that at `offset`, which lies before or behind the present checkpoint, and `position` is
    that of the change before it (`ORIGIN`: not known). `whole`: everything that the flow was ever to get
    comes from there on. Raises `Permanent` where the result would not be right, having changed nothing.
    """

    async def move(self, offset: int, position: Position, *, whole: bool) -> None: ...


@runtime_checkable
class Converges(RewindableSink, Protocol):
    """Holds what changes lead to. Going back, it gets changes that it has had, over what later ones made of
    it, and not every run of changes leads there again.

    `unrepeatable` says in a sentence why those of `batches` would not, from the place to go back to up to
    the sink's checkpoint, as `write` gets them; empty where they would. Called without `open`, before `move`,
    and not where everything comes anew (`whole`).
    """

    def unrepeatable(self, batches: Iterable[Batch]) -> str: ...


@runtime_checkable
class Redelivers(TransactionalSink, Protocol):
    """Takes single changes from before its checkpoint, and leaves that where it is: dead letters whose cause
    was mended. What the sink has in its place counts: a change may be older than the row that is there, but
    none is given for a key of which a later change has been written since.

    The batch's own offsets mean nothing; `offsets` has for each index of the batch that of the change in the
    journal. A change may come again after a crash, and must not count twice. A change of a table whose shape
    is another one by now is `Rejected`, where it cannot be brought into that. Else it fails as `write` does.
    """

    async def redeliver(self, batch: Batch, offsets: Sequence[int]) -> None: ...


@runtime_checkable
class SchemaSink(Sink, Protocol):
    """Gets each new generation of a relation before the first of its rows; `MESSAGES` is among them in a
    flow that reads logical messages."""

    async def prepare(self, relations: Sequence[Relation]) -> None: ...


@runtime_checkable
class QuerySink(Sink, Protocol):
    """Answers SQL about what it holds, while it goes on writing. Read-only: raises `Permanent` for
    anything that would write and for SQL that is wrong. Called without `open` where no engine runs; then
    it makes and changes nothing at the destination."""

    async def query(self, sql: str) -> pa.Table: ...


@runtime_checkable
class Probe(Sink, Protocol):
    """Checks credentials and reachability for `cdcflow check`, writing nothing. Called without `open`."""

    async def probe(self) -> Sequence[Finding]: ...


@runtime_checkable
class Remembers(Sink, Protocol):
    """Keeps in its state folder what the destination holds, and sends only what differs. `forget` ends that:
    every row is sent the next time it comes. Called without `open`, also beside a worker that writes."""

    def forget(self) -> int:
        """How many rows are no longer taken for delivered."""
        ...


@dataclass(frozen=True, slots=True)
class Rendered:
    """What a sink would send, or store, for the changes with these indexes: where to, and the text of it,
    with stars for secrets."""

    indexes: tuple[int, ...]
    target: str
    text: str


@runtime_checkable
class Previews(Sink, Protocol):
    """Shows what `write` would do with a batch, and does none of it: no call, no file, no state. Called
    without `open`. Raises as `write` does for changes that it could not take."""

    def preview(self, batch: Batch) -> Sequence[Rendered]: ...


@dataclass(frozen=True, slots=True)
class Batching:
    """How large a batch the sink likes. The engine fills batches up to these limits when there is a
    backlog and never waits for one to fill when there is none."""

    max_changes: int = 1_000
    max_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class FlowContext:
    """What a sink may know of the flow it is bound to."""

    flow: str
    #: A directory of the sink's own for this flow; it exists, with mode 0700.
    state: Path
    #: What the destination allows, shared with every other flow on the same connection.
    budget: Budget = field(default_factory=Budget)


@dataclass(frozen=True)
class SinkPlugin:
    """What the entry point group `cdcflow.sinks` holds under a sink's type name.

    `settings` models the sink's entry in `cdcflow.yaml`, `options` a flow's `with:` block. `create`
    must not do I/O: that is for `open`.
    """

    name: str
    settings: type[SinkSettings]
    create: Callable[[Any, Any, FlowContext], Sink]
    options: type[SinkOptions] = SinkOptions
    batching: Batching = field(default_factory=Batching)
    #: For destinations that one process alone can write (a DuckDB file): flows whose sinks give the
    #: same text run in one process. None: no such limit.
    exclusive: Callable[[Any], str | None] = lambda _settings: None
    #: `states`: the last state of a key is all that counts, so that later changes of a key supersede one
    #: that was refused. `events`: each change counts, so that they wait behind it. A flow may say otherwise
    #: (`on_reject`).
    writes: Literal["states", "events"] = "events"
    #: Sinks that give the same text use the same account: they share its budget, and one of them tries
    #: whether it is up again. None: each entry of `sinks:` is an account of its own. The text may hold a
    #: secret; it is only ever hashed.
    account: Callable[[Any], str | None] = lambda _settings: None
    #: Whether the batch that was being written when the process ended is to come again exactly as it was: for
    #: a destination that knows requests for several changes by an id of their own. Costs an fsync per batch.
    repeats: Callable[[Any], bool] = lambda _settings: False
    #: The expressions in a flow's `with:`: the engine makes the columns, by a last step of the flow's.
    formulas: Callable[[Any], Sequence[Formula]] = lambda _options: ()
    #: Seconds after which a `write` that has not ended is cancelled and counts as `Transient`: a driver
    #: hangs. None: it may take as long as it likes, and must not be cancelled.
    deadline: float | None = 600.0
    #: Its batches hold the marks of backfills too (`cdcflow.model.BACKFILLS`): where a table's rows begin to
    #: come anew, and end. Between them an update may leave a value unchanged in a row that the sink never
    #: got: that row comes whole later, and there is nothing to refuse.
    marked: bool = False
