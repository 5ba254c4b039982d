"""What a step of a chain is: how it is found, made, bound to a table's shape and run. Knows no step by name.

A step is made once per flow from its options, and bound once per generation of a table, so that a mistake
is found before any row flows and the hot call looks nothing up. It works on whole groups of changes, and it
neither waits nor writes: what it needs from outside comes as a service of the context.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import SecretStr

from cdcflow.errors import ConfigurationError
from cdcflow.model import Batch, Column, Group, Relation

#: The way to a value within a step's options: keys of mappings and indexes of lists.
Way = tuple[str | int, ...]


class StepError(ConfigurationError):
    """A step's options do not fit the table that it is bound to.

    `way` leads to the wrong value within the options; `line` is the line within that value's text, from 1,
    where it has several. The chain says the file and its line. `also` is what else is wrong.
    """

    def __init__(self, message: str, *, hint: str = "", way: Way = (), line: int = 1) -> None:
        super().__init__(message, hint=hint)
        self.way = way
        self.line = line
        self.also: tuple[StepError, ...] = ()

    @property
    def all(self) -> tuple["StepError", ...]:
        return (self, *self.also)


class Noted:
    """Notes mistakes and goes on, so that all of them are found: each piece of work in a `with noted.one():`,
    and `raise_all` behind them."""

    def __init__(self) -> None:
        self._found: list[StepError] = []

    @contextmanager
    def one(self) -> Iterator[None]:
        try:
            yield
        except StepError as error:
            self._found += error.all

    def raise_all(self) -> None:
        """Raises the first of what was noted, with the others; nothing, where nothing was."""
        if self._found:
            first, *others = self._found
            first.also = tuple(others)
            raise first


#: Schema and name.
TableName = tuple[str, str]


class Tables(Protocol):
    """Reads rows of other tables as they are now, in few queries; for steps that look something up."""

    def columns(self, table: TableName) -> Sequence[Column]:
        """The columns of a table. Raises CdcflowError where there is none, or it cannot be read."""
        ...

    def fetch(
        self, table: TableName, by: Sequence[str], keys: Sequence[tuple[str, ...]], columns: Sequence[str]
    ) -> Mapping[tuple[str, ...], tuple[str | None, ...]]:
        """For each key that has a row, in one query: Postgres' text of `columns`.

        Where several rows have the key, the one of them that is smallest by these texts. Raises
        CdcflowError; `EnvironmentFault` where it may work later.
        """
        ...

    def interrupt(self) -> None:
        """Ends what is being asked, and all later questions, with an error. From any thread."""
        ...

    def close(self) -> None:
        """Gives back what is held. It may be asked again."""
        ...


@dataclass(frozen=True)
class StepContext:
    """What a step may know of where it stands."""

    flow: str
    #: The directory of the configuration file.
    base: Path
    #: The key that masks are made with where a step names none; None where the configuration has none.
    mask_key: SecretStr | None = None
    #: The source's tables, or those of the flow's warehouse that is named. Called when a step is bound.
    tables: Callable[[str | None], Tables] | None = None
    #: What the files hold that steps are made of (`StepPlugin.files`). A step's that are not here are read
    #: where they are.
    code: Mapping[Path, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Dropped:
    """Why a change is not in what a step gave: a sentence for people, without values."""

    step: int
    reason: str


class Run:
    """One batch on its way through a chain: where steps tell what they do not pass on.

    `notes` is None unless somebody wants to see: then `drop` keeps the reasons.
    """

    def __init__(self, batch: Batch, *, noting: bool = False) -> None:
        self.batch = batch
        #: Index in the batch → why the change is refused for good, and the step that refused it.
        self.refused: dict[int, Dropped] = {}
        self.notes: dict[int, Dropped] | None = {} if noting else None
        #: Number of the step that runs.
        self.step = 0
        #: A `toast: omit` came before: what cannot be known is left out.
        self.omits = False
        #: A step has made several changes of one: see `Chain`.
        self.multiplied = False

    def drop(self, group: Group, keep: pa.Array, reason: str) -> Group:
        """The rows that `keep` (of true and false) marks; the others are dropped for `reason`."""
        if self.notes is not None:
            for index in group.meta("index").filter(pc.invert(keep)).to_pylist():
                self.notes.setdefault(index, Dropped(self.step, reason))
        return group.take(keep)

    def refuse(self, group: Group, wrong: pa.Array, reason: str) -> Group:
        """The group without the rows that `wrong` marks, which are refused for good."""
        for index in group.meta("index").filter(wrong).to_pylist():
            self.refused.setdefault(index, Dropped(self.step, reason))
        return group.take(pc.invert(wrong))

    def refuse_rows(self, group: Group, reasons: Mapping[int, str]) -> Group:
        """The group without these rows (by their place in the group), which are refused for good."""
        index = group.meta("index")
        wrong = [False] * len(group)
        for row, reason in reasons.items():
            wrong[row] = True
            self.refused.setdefault(index[row].as_py(), Dropped(self.step, reason))
        return group.take(pc.invert(pa.array(wrong, pa.bool_())))


@dataclass(frozen=True)
class Bound:
    """A step bound to a relation. `relations` are the shapes that its output can have, so far as they are
    known before rows flow; `apply` gives the groups that come of one, each in order of `index`."""

    relations: tuple[Relation, ...]
    apply: Callable[[Group, Run], Sequence[Group]]


class Step(Protocol):
    """One step of one flow."""

    def bind(self, relation: Relation) -> Bound:
        """Raises StepError where the step does not fit the relation. May read a catalog through the
        context's services, and raises their errors."""
        ...


@runtime_checkable
class Interruptible(Protocol):
    """A step that may be waiting for something: `interrupt` ends the wait with an error, from any thread
    and for good; `close` gives back what the step holds."""

    def interrupt(self) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class StepPlugin:
    """What the entry point group `cdcflow.transforms` holds under a step's name.

    `options` models what stands behind the name in a flow file. `create` does no I/O and may raise
    StepError. `window`: None for a step that takes one group as well as another; for one that is to see as
    much as possible at once, the seconds that it wants changes to gather.
    """

    name: str
    options: type[Any]
    create: Callable[[Any, StepContext], Step]
    window: Callable[[Any], float | None] = lambda _options: None
    #: Whether it sends rows to other tables than the one they came from.
    moves: bool = False
    #: Columns that it makes, or makes anew, by its options; None: that shows with a table only. So that
    #: behind a step that does not fit, the steps which do not need those columns are judged, too.
    makes: Callable[[Any], Iterable[str] | None] = lambda _options: None
    #: The files of the configuration's directory that it is made of, and what they hold: they are part of the
    #: flow's revision. Asked with the options, that directory, and what reads a file (None: there is none).
    files: Callable[[Any, Path, Callable[[Path], bytes | None]], Mapping[Path, bytes]] = (
        lambda _options, _base, _read: {}
    )
    #: For the reference: what it does, in Markdown, and a piece of a flow file.
    about: str = ""
    example: str = ""


@dataclass(frozen=True)
class Site:
    """Where a step is written. `lines` are those of the values within its options."""

    file: Path
    line: int
    key: str
    lines: Mapping[Way, int] = field(default_factory=dict)

    def at(self, way: Way, line: int = 1) -> "Site":
        """The place of a value within the options, or of the nearest thing around it."""
        key = self.key + "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in way)
        found = way
        while found and found not in self.lines:
            found = found[:-1]
        return replace(self, line=self.lines.get(found, self.line) + line - 1, key=key)

    def __str__(self) -> str:
        here = Path.cwd()
        file = self.file.relative_to(here) if self.file.is_relative_to(here) else self.file
        return f"{file}:{self.line}: {self.key}"


def each(groups: Iterable[Group]) -> list[Group]:
    """The groups that hold any rows."""
    return [group for group in groups if len(group)]
