"""What was asked of backfills, and how they ended: files in a folder that survive everything.

A request (`<name>.json`) is written by the engine when somebody asks, and its outcome
(`<name>.outcome.json`) by capture alone, so that no two processes write one file. How far a backfill has
come is in neither: the journal says it.
"""

import json
import os
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from cdcflow.errors import ConfigurationError, EnvironmentFault

Wish = Literal["run", "pause", "cancel"]

#: A name is a file name and a word on the command line.
NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")

#: Name of the backfill that a journal begins with.
INITIAL = "initial"

#: Ended backfills that stay to be looked at.
KEPT = 100


@dataclass(frozen=True)
class Request:
    """A backfill as it was asked for. `wish` is what it should do now, and `resumed` how often somebody said
    that it should go on: what failed before is then tried again."""

    name: str
    tables: tuple[str, ...]
    where: str = ""
    columns: tuple[str, ...] = ()
    #: The only flows that get the rows; empty: all.
    flows: tuple[str, ...] = ()
    #: Rows per second of all its tables together; None: as fast as it goes.
    rate: float | None = None
    #: What a sink holds beyond the source's rows goes.
    replace: bool = False
    #: The stream may stand still while a table without a key is read.
    halt: bool = False
    created: float = 0.0
    wish: Wish = "run"
    resumed: int = 0


@dataclass(frozen=True)
class Ended:
    """How a table's backfill ended: `done`, `cancelled` or `failed`. A failed one goes on where it was when
    it is resumed."""

    state: Literal["done", "cancelled", "failed"]
    error: str = ""
    hint: str = ""
    rows: int = 0
    nbytes: int = 0
    chunks: int = 0
    ended: float = 0.0
    #: `Request.resumed` by then.
    resumed: int = 0


@dataclass(frozen=True)
class Kept:
    """A request with the outcomes of its tables."""

    request: Request
    outcomes: Mapping[str, Ended] = field(default_factory=dict)

    @property
    def open(self) -> list[str]:
        """Its tables that are under way, or have failed and may be resumed."""
        ended = {table for table, outcome in self.outcomes.items() if outcome.state != "failed"}
        return [table for table in self.request.tables if table not in ended]

    @property
    def state(self) -> str:
        """`running`, `paused`, `done`, `cancelled` or `failed`, as a whole."""
        states = {outcome.state for outcome in self.outcomes.values()}
        if len(self.outcomes) < len(self.request.tables):
            if self.request.wish == "run":
                return "running"
            return "paused" if self.request.wish == "pause" else "cancelling"
        for state in ("failed", "cancelled"):
            if state in states:
                return state
        return "done"


class Requests:
    """The folder. Made when the first request comes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def all(self) -> list[Kept]:
        """By age, the oldest first. Raises EnvironmentFault for a file that is none of ours."""
        if not self.folder.is_dir():
            return []
        found = []
        for file in sorted(self.folder.glob("*.json")):
            if file.name.endswith(".outcome.json") or file.name.startswith("."):
                continue
            state = _read(file)
            if state is None:
                continue
            request = Request(
                **{**state, **{key: tuple(state[key]) for key in ("tables", "columns", "flows")}}
            )
            found.append(Kept(request, self._outcomes(request.name)))
        return sorted(found, key=lambda kept: (kept.request.created, kept.request.name))

    def get(self, name: str) -> Kept:
        """Raises ConfigurationError where there is none."""
        for kept in self.all():
            if kept.request.name == name:
                return kept
        known = [kept.request.name for kept in self.all() if kept.state not in ("done", "cancelled")]
        raise ConfigurationError(
            f"there is no backfill {name!r}",
            hint="`cdcflow backfill status` lists them" if not known else f"there are: {', '.join(known)}",
        )

    def add(self, request: Request) -> Request:
        """Keeps a new request, with a name of its own where it has none."""
        now = time.time()
        name = request.name or time.strftime("%Y%m%d-%H%M%S-", time.gmtime(now)) + secrets.token_hex(2)
        request = replace(request, name=name, created=now)
        try:
            self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise _unwritable(self.folder, error) from error
        self._write(request.name, asdict(request))
        self._prune()
        return request

    def wish(self, name: str, wish: Wish) -> Request:
        """Says what a backfill should do from now on. Raises ConfigurationError where there is none, or it
        has ended."""
        kept = self.get(name)
        if kept.state in ("done", "cancelled"):
            raise ConfigurationError(
                f"the backfill {name!r} has ended: it is {kept.state}",
                hint="`cdcflow backfill start` begins another one",
            )
        request = kept.request
        resumed = request.resumed + (wish == "run")
        request = replace(request, wish=wish, resumed=resumed)
        self._write(name, asdict(request))
        return request

    def end(self, name: str, table: str, outcome: Ended) -> None:
        """Keeps how a table of it ended."""
        outcomes = dict(self._outcomes(name))
        outcomes[table] = replace(outcome, ended=time.time())
        self._write(f"{name}.outcome", {key: asdict(value) for key, value in outcomes.items()})

    def again(self, name: str, table: str) -> None:
        """Forgets how it ended: it goes on."""
        outcomes = dict(self._outcomes(name))
        outcomes.pop(table, None)
        self._write(f"{name}.outcome", {key: asdict(value) for key, value in outcomes.items()})

    def forget(self, name: str) -> None:
        """There was no such request."""
        for suffix in (".outcome.json", ".json"):
            (self.folder / f"{name}{suffix}").unlink(missing_ok=True)

    def _outcomes(self, name: str) -> dict[str, Ended]:
        state = _read(self.folder / f"{name}.outcome.json") or {}
        return {table: Ended(**values) for table, values in state.items()}

    def _prune(self) -> None:
        ended = [kept for kept in self.all() if kept.state in ("done", "cancelled")]
        for kept in ended[:-KEPT]:
            self.forget(kept.request.name)

    def _write(self, name: str, state: Mapping[str, Any]) -> None:
        file = self.folder / f"{name}.json"
        fresh = self.folder / f".{name}.{os.getpid()}"
        try:
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w", encoding="utf-8") as stream:
                json.dump(state, stream, indent=1)
                stream.flush()
                os.fsync(stream.fileno())
            fresh.replace(file)
        except OSError as error:
            fresh.unlink(missing_ok=True)
            raise _unwritable(file, error) from error


def from_state(state: Mapping[str, Any]) -> Request:
    """A request from plain values, as the control socket brings it. Raises ConfigurationError."""
    known = {field.name for field in fields(Request)}
    values: dict[str, Any] = {key: value for key, value in state.items() if key in known}
    for key in ("tables", "columns", "flows"):
        values[key] = _texts(values.get(key, ()))
    if not values["tables"]:
        raise ConfigurationError("a backfill needs a table")
    return Request(**{"name": "", **values})


def _texts(values: Any) -> Sequence[str]:
    if not isinstance(values, list | tuple) or not all(isinstance(value, str) for value in values):
        raise ConfigurationError("the request of a backfill is not one")
    return tuple(values)


def _read(file: Path) -> dict[str, Any] | None:
    try:
        state = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise EnvironmentFault(
            f"{file} cannot be read: {type(error).__name__}", hint="remove it, and start the backfill again"
        ) from error
    if not isinstance(state, dict):
        raise EnvironmentFault(f"{file} is not a backfill", hint="remove it, and start the backfill again")
    return state


def _unwritable(file: Path, error: OSError) -> EnvironmentFault:
    return EnvironmentFault(
        f"{file} cannot be written: {error.strerror}", hint="make the state folder writable for this user"
    )
