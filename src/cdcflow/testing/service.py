"""A real HTTP server on loopback that plays somebody's JSON API, for tests, the demo and the bench.

A subclass says in `handle` what its API does with a request. Around that this module does what networks and
servers do when they fail: `fault` lets the next requests (of a path, so many) meet a `Fault`. What was asked
and answered is in `calls`, with the time at which a request was complete here, so that a test can hold a
client to a limit.
"""

import asyncio
import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, ClassVar, Literal
from urllib.parse import parse_qs, unquote, urlsplit

import orjson

from cdcflow.testing.accepting import Acceptor, streams
from cdcflow.testing.http import END, read_head, rendered
from cdcflow.testing.threaded import Threaded
from cdcflow.testing.waiting import TIMEOUT

#: What one request may bring: a Bulk API job takes 150 MB, tests take a hundredth of it.
LARGEST = 64 << 20

#: `refuse`: answered with the fault's `status` and `body`, nothing done. `fail_after`: done, and answered so
#: all the same. `reset`: the connection is cut before anything is done, `reset_after`: when all is done.
#: `hang`: never answered. `slow`: answered after `seconds`. `garbage`: an answer that is not JSON, nothing
#: done; `cut`: done, and the connection is cut in the middle of the answer.
FaultKind = Literal["refuse", "fail_after", "reset", "reset_after", "hang", "slow", "garbage", "cut"]


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def json(cls, value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> "Answer":
        found = {"Content-Type": "application/json;charset=utf-8", **(headers or {})}
        return cls(status, orjson.dumps(value, default=_plain), found)


@dataclass(frozen=True, slots=True)
class Fault:
    """What goes wrong with some requests; see `FaultKind`."""

    kind: FaultKind
    answer: Answer = Answer(500, b'{"status":"error","message":"internal error"}')
    seconds: float = 0.0


@dataclass(frozen=True)
class Request:
    """A request, and when (`time.monotonic()`) its last byte came."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    at: float

    @cached_property
    def json(self) -> Any:
        """Raises orjson.JSONDecodeError."""
        return orjson.loads(self.body)

    @cached_property
    def form(self) -> Mapping[str, str]:
        return {name: values[-1] for name, values in parse_qs(self.body.decode()).items()}

    @property
    def bearer(self) -> str:
        scheme, _, token = self.headers.get("authorization", "").partition(" ")
        return token if scheme.lower() == "bearer" else ""


@dataclass(frozen=True, slots=True)
class Call:
    """A request and the status it was answered with; 0: it was not answered."""

    request: Request
    status: int
    fault: FaultKind | None = None


@dataclass
class _Switched:
    fault: Fault
    left: int
    path: re.Pattern[str]


def _plain(value: object) -> object:
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError


class Service(Threaded):
    """A server in a thread; what it holds stays when it is started again."""

    #: Of the thread, and of the program in `--help`.
    name: ClassVar[str] = "service"

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0) -> None:
        super().__init__(host, port)
        self.calls: list[Call] = []
        #: Guards what the service holds: `handle` runs under it, and so may a test's look.
        self.lock = threading.RLock()
        self._changed = threading.Condition(self.lock)
        self._faults: list[_Switched] = []
        #: What is to go wrong with a request, where no `fault` hits it: for faults that come by chance.
        self.meddle: Callable[[Request], Fault | None] = lambda _request: None
        self._open: set[asyncio.StreamWriter] = set()

    # What a subclass says.

    def handle(self, request: Request) -> Answer:
        """Does what the API does. Runs in the server's thread, one request at a time."""
        raise NotImplementedError

    # For tests.

    @property
    def url(self) -> str:
        return f"http://{self._host}:{self._port}"

    def fault(self, fault: Fault | FaultKind, times: int = 1, path: str = "") -> None:
        """The next `times` requests whose path the pattern `path` is found in meet the fault."""
        found = fault if isinstance(fault, Fault) else Fault(fault)
        with self.lock:
            self._faults.append(_Switched(found, times, re.compile(path)))

    def no_faults(self) -> None:
        with self.lock:
            self._faults.clear()

    def called(self, path: str = "", method: str = "") -> list[Call]:
        """The calls so far whose path the pattern is found in."""
        with self.lock:
            return [
                call
                for call in self.calls
                if re.search(path, call.request.path) and method in ("", call.request.method)
            ]

    def wait(self, true: Callable[[], bool], timeout: float = TIMEOUT) -> None:
        """Returns when `true()`, asked after every call, says so. Raises TimeoutError."""
        with self._changed:
            if not self._changed.wait_for(true, timeout):
                raise TimeoutError(f"{self.name}: not within {timeout:g} s")

    # Its life.

    def run_as_process(self) -> int:
        """Serves until SIGTERM or SIGINT; prints the URL on the first line of stdout."""

        async def run() -> None:
            serving = asyncio.ensure_future(self.serve(lambda: print(self.url, flush=True)))
            for number in (signal.SIGTERM, signal.SIGINT):
                asyncio.get_running_loop().add_signal_handler(number, serving.cancel)
            with contextlib.suppress(asyncio.CancelledError):
                await serving

        asyncio.run(run())
        return 0

    async def serve(self, ready: Callable[[], None]) -> None:
        self._begin()
        tasks: set[asyncio.Task[None]] = set()

        def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            # Here, and not in the task: one that is cancelled before it first runs would leave it open.
            self._open.add(writer)
            task = asyncio.ensure_future(self._converse(reader, writer))
            tasks.add(task)
            task.add_done_callback(tasks.discard)

        acceptor = Acceptor(self._listen(), streams(connected, limit=1 << 20))
        ready()
        try:
            await self._stopping.wait()
        finally:
            await acceptor.close()
            for writer in list(self._open):
                writer.transport.abort()
            for task in list(tasks):
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection: requests, one at a time."""
        try:
            while (request := await _read(reader)) is not None:
                if not await self._answer(request, writer):
                    return
        except (ConnectionError, asyncio.IncompleteReadError, ValueError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _answer(self, request: Request, writer: asyncio.StreamWriter) -> bool:
        """False when the connection is over."""
        with self.lock:
            fault = self._take_fault(request.path) or self.meddle(request)
        kind = fault.kind if fault is not None else None
        answer: Answer | None = None
        if fault is None or kind in ("fail_after", "reset_after", "slow", "cut"):
            with self.lock:
                answer = self.handle(request)
        if fault is not None:
            if kind in ("refuse", "fail_after"):
                answer = fault.answer
            elif kind == "garbage":
                answer = Answer(200, b"<html><body>maintenance</body></html>", {"Content-Type": "text/html"})
        if kind == "hang":
            self._note(Call(request, 0, kind))
            # For ever: until the client or the server closes.
            await asyncio.Event().wait()
        if answer is None or kind in ("reset", "reset_after"):
            self._note(Call(request, 0, kind))
            return False
        if fault is not None and kind == "slow":
            await asyncio.sleep(fault.seconds)
        data = rendered(answer.status, answer.headers, answer.body)
        if kind == "cut":
            writer.write(data[: len(data) - max(len(answer.body) // 2, 1)])
            with contextlib.suppress(ConnectionError):
                await writer.drain()
            writer.close()
            self._note(Call(request, 0, kind))
            return False
        self._note(Call(request, answer.status, kind))
        writer.write(data)
        await writer.drain()
        return True

    def _take_fault(self, path: str) -> Fault | None:
        for switched in self._faults:
            if switched.left and switched.path.search(path):
                switched.left -= 1
                return switched.fault
        return None

    def _note(self, call: Call) -> None:
        with self._changed:
            # The authorisation is no test's business, and a body of 50,000 rows would be kept for ever.
            kept = {name: text for name, text in call.request.headers.items() if name != "authorization"}
            self.calls.append(replace(call, request=replace(call.request, headers=kept)))
            self._changed.notify_all()


async def _read(reader: asyncio.StreamReader) -> Request | None:
    """The next request, or None where the client hung up between two."""
    try:
        head = read_head((await reader.readuntil(END))[: -len(END)], LARGEST)
    except asyncio.IncompleteReadError:
        return None
    body = await reader.readexactly(head.length)
    parts = urlsplit(head.target)
    query = {name: values[-1] for name, values in parse_qs(parts.query).items()}
    return Request(head.method, unquote(parts.path), query, head.headers, body, time.monotonic())
