"""Asking a running engine: Unix sockets in `<state>/run`, for the same user only, whatever the length of
the state folder's path.

A request is one line of JSON, `{"op": …}`. The answer is one line of JSON, `{"bytes": n}` followed by as
many bytes (JSON, or an Arrow IPC stream), or `{"error": …, "hint": …, "code": n}`; then the server closes.
"""

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa

from cdcflow.engine.places import Places
from cdcflow.errors import CdcflowError, ConfigurationError, EnvironmentFault

#: Answers a request with the bytes to send. A CdcflowError reaches the client with its message and hint.
Handler = Callable[[Mapping[str, Any]], Awaitable[bytes]]

#: A status is answered from memory.
STATUS_SECONDS = 5.0

#: SQL that people write, and the answers that fit their terminal.
REQUEST_BYTES = 1 << 20

#: struct sockaddr_un: 108 bytes on Linux, 104 on macOS and the BSDs, the last one NUL (unix(7)).
PATH_BYTES = 103


@contextlib.contextmanager
def _address(path: Path) -> Iterator[str]:
    """A name for the socket that fits into sun_path, valid in the block. Raises OSError where the folder
    is missing."""
    text = str(path)
    if len(os.fsencode(text)) <= PATH_BYTES:
        yield text
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        short = f"/proc/self/fd/{folder}/{path.name}"
        if not Path("/proc/self/fd").exists():
            raise OSError(errno.ENAMETOOLONG, "the path is too long for a Unix socket")
        yield short
    finally:
        os.close(folder)


class ControlServer:
    """Listens on a socket of mode 0600 until `close`. Use `start` to make one."""

    def __init__(self, path: Path, server: asyncio.Server) -> None:
        self._path = path
        self._server = server

    @classmethod
    async def start(cls, path: Path, handler: Handler) -> "ControlServer":
        """Who starts one holds the lock that goes with the path: what is left of a predecessor goes.

        Raises EnvironmentFault.
        """
        listener = listening(path)
        server = await asyncio.start_unix_server(
            lambda reader, writer: _answer(reader, writer, handler), sock=listener, limit=REQUEST_BYTES
        )
        return cls(path, server)

    async def close(self) -> None:
        self._path.unlink(missing_ok=True)
        self._server.close()
        await self._server.wait_closed()


def listening(path: Path) -> socket.socket:
    """A socket bound to the path. Raises EnvironmentFault."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        with _address(path) as address:
            listener.bind(address)
        path.chmod(0o600)
    except OSError as error:
        listener.close()
        raise EnvironmentFault(
            f"the socket {path} cannot be made: {error.strerror}",
            hint="make the state folder writable for this user, or name a shorter one at engine.state",
        ) from error
    return listener


async def _answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handler: Handler) -> None:
    try:
        try:
            request = orjson.loads(await reader.readuntil(b"\n"))
            body = await handler(request)
            head: dict[str, Any] = {"bytes": len(body)}
        except CdcflowError as error:
            head, body = {"error": str(error), "hint": error.hint, "code": error.exit_code}, b""
        except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, orjson.JSONDecodeError):
            head, body = {"error": "the request is not one line of JSON", "hint": "", "code": 1}, b""
        except Exception as error:  # noqa: BLE001 - one client's request never ends the engine
            head, body = {"error": f"a defect: {type(error).__name__}", "hint": "", "code": 1}, b""
        writer.write(orjson.dumps(head) + b"\n")
        writer.write(body)
        await writer.drain()
    except OSError:
        pass  # the client went away
    except asyncio.CancelledError:
        # The engine ends, and this task's end is the end of the cancellation: asyncio's own callback would
        # take it for a defect and print it.
        pass
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


def ipc_bytes(table: pa.Table) -> bytes:
    """A table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue().to_pybytes())


# The client's side.


def status(state: Path) -> dict[str, Any] | None:
    """The running engine's status document, or None when none runs on this state folder."""
    body = _ask(Places(state).engine_socket, {"op": "status"}, STATUS_SECONDS)
    return None if body is None else orjson.loads(body)


def query(state: Path, flow: str, sql: str) -> pa.Table:
    """What the flow's sink answers, asked through the process that writes it.

    Raises EnvironmentFault when the flow does not run, and what the sink says against the SQL.
    """
    body = _ask(Places(state).flow_socket(flow), {"op": "query", "flow": flow, "sql": sql}, None)
    if body is None:
        raise EnvironmentFault(f"flow {flow!r} does not run", hint="start it with `cdcflow run`")
    with pa.ipc.open_stream(body) as stream:
        return stream.read_all()


def retry(state: Path, flow: str) -> None:
    """Tells a flow that needs attention that its cause is mended. Raises EnvironmentFault when the flow
    does not run."""
    if _ask(Places(state).flow_socket(flow), {"op": "retry", "flow": flow}, STATUS_SECONDS) is None:
        raise EnvironmentFault(f"flow {flow!r} does not run", hint="start it with `cdcflow run`")


def obey(state: Path, flow: str) -> bool:
    """Tells a running engine that the state database holds a new wish for a flow; whether one runs."""
    return _ask(Places(state).engine_socket, {"op": "obey", "flow": flow}, STATUS_SECONDS) is not None


def reload(state: Path) -> bool:
    """Tells a running engine to read its files now; whether one runs."""
    return _ask(Places(state).engine_socket, {"op": "reload"}, STATUS_SECONDS) is not None


def backfill(state: Path, asked: Mapping[str, Any]) -> dict[str, Any]:
    """Asks the engine to start, pause, resume or cancel a backfill; the request as it keeps it. Raises
    EnvironmentFault when none runs."""
    body = _ask(Places(state).engine_socket, {"op": "backfill", **asked}, STATUS_SECONDS)
    if body is None:
        raise EnvironmentFault("the engine is not running", hint="start it with `cdcflow run`")
    found: dict[str, Any] = orjson.loads(body)
    return found


def deliver_letters(
    state: Path, flow: str, numbers: Sequence[int], *, force: bool, rate: float | None = None
) -> list[dict[str, Any]]:
    """Has a flow deliver dead letters between its own batches, at most `rate` a second together with what is
    parked behind them; what became of each, as `cdcflow.delivery.Outcome` says it. Raises EnvironmentFault
    when the flow does not run."""
    request = {"op": "deliver letters", "flow": flow, "numbers": list(numbers), "force": force, "rate": rate}
    body = _ask(Places(state).flow_socket(flow), request, None)
    if body is None:
        raise EnvironmentFault(
            f"flow {flow!r} does not run, and only its own worker can deliver in order",
            hint="nothing was sent; start it with `cdcflow run`, and try again",
        )
    found: list[dict[str, Any]] = orjson.loads(body)
    return found


def discard_letters(state: Path, flow: str, numbers: Sequence[int], why: str, who: str) -> int | None:
    """Has a flow discard letters; returns how many there were, or None when the flow does not run."""
    request = {"op": "discard letters", "flow": flow, "numbers": list(numbers), "why": why, "who": who}
    body = _ask(Places(state).flow_socket(flow), request, None)
    return None if body is None else int(orjson.loads(body))


def connection(path: Path, timeout: float | None = None) -> socket.socket:
    """A socket connected to the path. Raises OSError."""
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        made.settimeout(timeout)
        with _address(path) as address:
            made.connect(address)
    except BaseException:
        made.close()
        raise
    return made


def _ask(path: Path, request: Mapping[str, Any], timeout: float | None) -> bytes | None:
    """The answer's bytes; None where nobody listens. Raises the server's error."""
    try:
        with connection(path, timeout) as server:
            server.sendall(orjson.dumps(request) + b"\n")
            with server.makefile("rb") as stream:
                line = stream.readline()
                head = orjson.loads(line) if line else {}
                body = stream.read(head.get("bytes", 0))
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    except OSError as error:
        raise EnvironmentFault(
            f"the engine does not answer on {path}: {error.strerror or error}",
            hint="see its log, and restart it if it stays silent",
        ) from error
    if "error" in head:
        raise _error(head)
    if len(body) != head.get("bytes"):
        raise EnvironmentFault(
            f"the engine broke off its answer on {path}", hint="see its log, and ask again"
        )
    return body


def _error(head: Mapping[str, Any]) -> CdcflowError:
    kinds = {2: ConfigurationError, 3: EnvironmentFault}
    return kinds.get(head.get("code", 1), CdcflowError)(head["error"], hint=head.get("hint", ""))
