"""The process that a user's function runs in. A script of its own, which imports nothing of ours: it starts
quickly and holds nothing that the function could break.

Speaks msgpack on stdin and on what was stdout; what the function prints goes to stderr. The first message
says what to load, each further one is a batch of changes. Ends where stdin ends.
"""

import contextlib
import json
import os
import resource
import signal
import struct
import sys
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import msgpack

#: How msgpack carries `UNCHANGED`.
UNCHANGED_CODE = 1


class _Unchanged:
    """A value that the update did not send. Neither None nor anything else."""

    def __repr__(self) -> str:
        return "UNCHANGED"

    def __bool__(self) -> bool:
        raise TypeError("UNCHANGED is neither true nor false: compare with `is UNCHANGED`")


UNCHANGED = _Unchanged()


class TooLong(BaseException):
    """Raised in the function by the clock. Not an Exception, so that `except Exception` lets it pass."""


class Wrong(Exception):
    """What came back from the function is not what may come back. The message holds no values."""


class Change:
    """One change, as the function gets it. `new` and `old` are dicts by column, or None."""

    __slots__ = ("_given", "_row", "commit_time", "new", "old", "op", "position", "schema", "table")

    def __init__(self, row: int, op: str, new: dict[str, Any] | None, old: dict[str, Any] | None) -> None:
        self._row = row
        self._given = None if new is None else dict(new)
        self.op = op
        self.new = new
        self.old = old
        self.schema = self.table = self.position = ""
        self.commit_time: datetime | None = None

    def copy(self) -> "Change":
        """Another change like it, for a function that gives several."""
        other = Change.__new__(Change)
        for name in self.__slots__:
            setattr(other, name, getattr(self, name))
        other.new = None if self.new is None else dict(self.new)
        return other

    def __repr__(self) -> str:
        return f"<Change {self.op} {self.schema}.{self.table} at {self.position}>"


def _bool(text: str) -> bool:
    return text == "t"


READERS: Mapping[str, Callable[[str], Any]] = {
    "int": int,
    "float": float,
    "numeric": Decimal,
    "bool": _bool,
    "json": json.loads,
    "text": str,
}


def written(value: Any, column: str) -> Any:
    """Postgres' text of a value. Raises Wrong for a type that has none."""
    if value is None or value is UNCHANGED or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "t" if value else "f"
    if isinstance(value, int | UUID):
        return str(value)
    if isinstance(value, float):
        if value != value:
            return "NaN"
        return repr(value) if abs(value) != float("inf") else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, Decimal):
        return format(value, "f") if value.is_finite() else str(value)
    if isinstance(value, datetime | date | time):
        return value.isoformat(sep=" ") if isinstance(value, datetime) else value.isoformat()
    if isinstance(value, bytes):
        return "\\x" + value.hex()
    if isinstance(value, dict | list | tuple):
        try:
            return json.dumps(value, ensure_ascii=False, default=str)
        except (TypeError, ValueError):
            pass
    raise Wrong(f"sets {column!r} to a {type(value).__name__}, which Postgres has no text for")


class Modules:
    """Finds and loads the modules of the configuration's directory: as they were given, not as they stand
    there now. `files`: by name the path, what it holds, and whether it is a package. Raises SyntaxError for
    one that is no Python, whether it is ever imported or not."""

    def __init__(self, files: Mapping[str, tuple[str, bytes, bool]]) -> None:
        self._files = files
        self._code = {name: compile(source, file, "exec") for name, (file, source, _) in files.items()}
        #: Folders without `__init__.py`.
        self._folders = {
            name.rpartition(".")[0] for name in files if "." in name and name.rpartition(".")[0] not in files
        }
        self._folders |= {outer for name in self._folders for outer in _outer(name) if outer not in files}

    def find_spec(self, name: str, _path: object = None, _target: object = None) -> ModuleSpec | None:
        if name in self._files:
            file, _, is_package = self._files[name]
            spec = ModuleSpec(name, self, origin=file, is_package=is_package)  # type: ignore[arg-type]
            spec.has_location = True
            return spec
        return ModuleSpec(name, None, is_package=True) if name in self._folders else None

    def create_module(self, _spec: ModuleSpec) -> None:
        """As Python makes it."""

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code[module.__name__], module.__dict__)  # noqa: S102 - meant to


def _outer(name: str) -> Iterator[str]:
    while name := name.rpartition(".")[0]:
        yield name


class Host:
    """The function, loaded, and what it may do."""

    def __init__(self, order: Mapping[str, Any]) -> None:
        self.base = Path(order["base"])
        self.file = Path(order["file"])
        self.batch: bool = order["batch"]
        self.timeout: float = order["timeout"]
        limit(order["memory"])
        # Where the directory's place would be, were it the first of sys.path.
        sys.meta_path.insert(sys.meta_path.index(PathFinder), Modules(order["modules"]))
        module = ModuleType(self.file.stem)
        module.__file__ = str(self.file)
        sys.modules[module.__name__] = module  # where dataclasses look for their module
        with clock(self.timeout):
            exec(compile(order["source"], str(self.file), "exec"), module.__dict__)  # noqa: S102 - meant to
        found = getattr(module, order["function"], None)
        if not callable(found):
            raise Wrong(f"has no function {order['function']!r}")
        self.function: Callable[[Any], Any] = found
        code = getattr(found, "__code__", None)
        self.line: int = code.co_firstlineno if code is not None else 1

    def run(self, order: Mapping[str, Any]) -> dict[str, Any]:
        """What became of each change: lists of what the function set, or what went wrong with it."""
        columns, key, sets = order["columns"], order["key"], order["sets"]
        changes = [self._change(row, given, columns, key, order) for row, given in enumerate(order["rows"])]
        made: list[list[Any]] = [[] for _ in changes]
        errors: dict[int, str] = {}
        with clock(self.timeout):
            if self.batch:
                for row, values in self._batch(changes, sets):
                    made[row].append(values)
            else:
                for change in changes:
                    try:
                        made[change._row] = [self._values(one, sets) for one in self._called(change)]
                    except MemoryError:
                        raise
                    except Exception as error:  # noqa: BLE001 - anybody's code
                        errors[change._row] = self.told(error)
        return {"made": made, "errors": errors}

    def _change(
        self,
        row: int,
        given: list[Any],
        columns: list[tuple[str, str]],
        key: list[int],
        order: Mapping[str, Any],
    ) -> Change:
        op, position, microseconds, new, old = given
        readers = [READERS[kind] for _, kind in columns]
        row_new = None
        if new is not None:
            row_new = {
                name: value if value is None or value is UNCHANGED else read(value)
                for (name, _), read, value in zip(columns, readers, new, strict=True)
            }
        row_old = None
        if old is not None:
            row_old = {
                columns[i][0]: None if value is None else readers[i](value)
                for i, value in zip(key, old, strict=True)
            }
        change = Change(row, op, row_new, row_old)
        change.schema, change.table = order["schema"], order["table"]
        change.position = position
        change.commit_time = (
            datetime.fromtimestamp(0).astimezone() if microseconds is None else _moment(microseconds)
        )
        return change

    def _called(self, change: Change) -> list[Change]:
        found = self.function(change)
        if found is None:
            return []
        several = list(found) if isinstance(found, list | tuple) else [found]
        for one in several:
            if not isinstance(one, Change) or one._row != change._row:
                raise Wrong(f"gave back a {type(one).__name__}, not the change, None or a list of changes")
        return several

    def _batch(self, changes: list[Change], sets: list[str]) -> Iterator[tuple[int, list[Any]]]:
        found = self.function(changes)
        if not isinstance(found, list | tuple):
            raise Wrong(f"gave back a {type(found).__name__}, not a list of changes")
        last = 0
        for one in found:
            if not isinstance(one, Change):
                raise Wrong(f"gave back a list with a {type(one).__name__} in it, not only changes")
            if one._row < last:
                raise Wrong("gave the changes back in another order")
            last = one._row
            yield last, self._values(one, sets)

    def _values(self, change: Change, sets: list[str]) -> list[Any]:
        new, given = change.new, change._given
        if given is None:
            return []
        if not isinstance(new, dict):
            raise Wrong(f"set new to a {type(new).__name__}, not a dict")
        for name, value in new.items():
            if name not in sets and (name not in given or value is not given[name]):
                raise Wrong(f"sets {name!r}, which the step does not name under `sets`")
        return [written(new.get(name), name) for name in sets]

    def told(self, error: BaseException) -> str:
        """The error with the places that it went through in the user's files, and without its message, which
        may hold values."""
        if isinstance(error, Wrong):
            return f"{self.file.name}:{self.line}: the function {error}"
        return f"{self.way(error)}: {type(error).__name__}"

    def way(self, error: BaseException) -> str:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(self.base)]
        if not own:
            return f"{self.file.name}:{self.line}"
        places = [f"{self.short(frame.filename)}:{frame.lineno} in {frame.name}" for frame in own]
        return ", ".join(places[-5:])

    def short(self, file: str) -> str:
        return str(Path(file).relative_to(self.base))


def _moment(microseconds: int) -> datetime:
    from datetime import UTC, timedelta

    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


@contextlib.contextmanager
def clock(seconds: float) -> Iterator[None]:
    """Raises TooLong in the block when it takes longer."""
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def limit(memory: int) -> None:
    """At most so many bytes more than now (setrlimit(2), RLIMIT_AS)."""
    with contextlib.suppress(OSError, ValueError):
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + memory
        resource.setrlimit(resource.RLIMIT_AS, (most, resource.getrlimit(resource.RLIMIT_AS)[1]))


def failed(host: Host | None, order: Mapping[str, Any], error: BaseException) -> dict[str, Any]:
    """What the parent is told of an error that is not about a single change."""
    kind = "error"
    if isinstance(error, TooLong):
        kind = "timeout"
    elif isinstance(error, MemoryError):
        kind = "memory"
    if host is not None:
        return {"failed": kind, "said": host.told(error), "where": host.way(error)}
    base, file = Path(order["base"]), Path(order["file"])
    line = 1
    if isinstance(error, SyntaxError) and Path(error.filename or "").is_relative_to(base):
        file, line = Path(str(error.filename)), error.lineno or 1
    else:
        for frame in traceback.extract_tb(error.__traceback__):
            if Path(frame.filename).is_relative_to(base):
                file, line = Path(frame.filename), frame.lineno or 1
    where = f"{file.relative_to(base)}:{line}"
    # Of a module that cannot be found, the name is the reason; no row has come yet.
    why = str(error) if isinstance(error, Wrong | ImportError | SyntaxError | NameError) else ""
    said = f"{where}: {type(error).__name__}" + (f": {why}" if why else "")
    return {"failed": kind, "said": f"{where}: {why}" if isinstance(error, Wrong) else said, "where": where}


def _late(_signal: int, _frame: Any) -> None:
    raise TooLong


def _unpacked(code: int, data: bytes) -> Any:
    return UNCHANGED if code == UNCHANGED_CODE else msgpack.ExtType(code, data)


def _packed(value: Any) -> Any:
    if value is UNCHANGED:
        return msgpack.ExtType(UNCHANGED_CODE, b"")
    raise TypeError


def messages(stream: Any) -> Iterable[Mapping[str, Any]]:
    """The parent's messages, each behind its length."""
    while len(head := stream.read(4)) == 4:
        (size,) = struct.unpack(">I", head)
        yield msgpack.unpackb(stream.read(size), ext_hook=_unpacked, strict_map_key=False)


def main() -> None:
    """Serves until stdin ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    orders = os.fdopen(os.dup(0), "rb")
    os.close(0)
    signal.signal(signal.SIGALRM, _late)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.modules["cdcflow_change"] = sys.modules[__name__]
    host: Host | None = None
    for order in messages(orders):
        try:
            if host is None:
                host = Host(order)
                answer: dict[str, Any] = {"line": host.line}
            else:
                answer = host.run(order)
        except BaseException as error:  # noqa: BLE001 - anybody's code
            answer = failed(host, order, error)
        body = msgpack.packb(answer, default=_packed)
        answers.write(struct.pack(">I", len(body)) + body)
        answers.flush()


if __name__ == "__main__":
    main()
