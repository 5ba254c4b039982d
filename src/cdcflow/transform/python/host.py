"""Runs a user's function in a process of its own, with limits on its time and its memory.

Whatever the function does, the caller goes on: it gets an answer, or an error that names the function's
place, within the limit; `interrupt` ends the process at once. What runs is the source that it was given, the
modules' of the configuration's directory too, whatever becomes of the files.
"""

import os
import select
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack

from cdcflow.errors import Permanent
from cdcflow.model import UNCHANGED
from cdcflow.transform.python.modules import named

#: The script, which is run by its path so that nothing of ours is imported.
SCRIPT = Path(__file__).with_name("child.py")

#: How msgpack carries UNCHANGED; the script has the same.
UNCHANGED_CODE = 1

#: Beyond the function's own limit: what a process that does not hear its alarm, in C code, gets before it is
#: killed.
GRACE = 2.0
#: What a process may need to start, on a machine that is busy.
START = 30.0


@dataclass(frozen=True)
class Function:
    """Where it is, what stands there, and what it may use: seconds per batch, bytes of memory."""

    base: Path
    file: Path
    source: bytes = field(repr=False)
    #: What it imports from `base`.
    modules: Mapping[Path, bytes] = field(repr=False)
    name: str
    batch: bool
    timeout: float
    memory: int

    @property
    def shown(self) -> str:
        return str(self.file.relative_to(self.base))


class Failed(Permanent):
    """The function, or its file, failed as a whole."""


class Host:
    """One function and its process, which is started when it is needed."""

    def __init__(self, function: Function) -> None:
        self._function = function
        self._process: subprocess.Popen[bytes] | None = None
        self._line = 1
        self._ended = False
        self._lock = threading.Lock()

    @property
    def place(self) -> str:
        """`enrich.py:12`, where the function begins."""
        return f"{self._function.shown}:{self._line}"

    def load(self) -> None:
        """Starts the process and loads the function, unless that is done. Raises Failed."""
        if self._process is not None and self._process.poll() is None:
            return
        self.close()
        with self._lock:
            if self._ended:
                raise Failed("the flow is being stopped")
            # -I: nothing from the environment or the working directory gets in (python(1)).
            self._process = subprocess.Popen(
                [sys.executable, "-I", str(SCRIPT)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            )
        function = self._function
        answer = self._ask(
            {
                "base": str(function.base),
                "file": str(function.file),
                "source": function.source,
                "modules": named(function.base, function.modules),
                "function": function.name,
                "batch": function.batch,
                "timeout": function.timeout,
                "memory": function.memory,
            },
            function.timeout + START,
        )
        self._line = answer["line"]

    def run(self, order: Mapping[str, Any]) -> Mapping[str, Any]:
        """The function's answer to a batch. Raises Failed."""
        self.load()
        return self._ask(order, self._function.timeout + GRACE)

    def interrupt(self) -> None:
        """Ends the process, and whoever waits for it, for good. From any thread."""
        with self._lock:
            self._ended = True
            if self._process is not None:
                self._process.kill()

    def close(self) -> None:
        """Ends the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    try:
                        pipe.close()
                    except BrokenPipeError:
                        pass

    def _ask(self, order: Mapping[str, Any], seconds: float) -> Mapping[str, Any]:
        process = self._process
        assert process is not None
        assert process.stdin is not None
        assert process.stdout is not None
        body = msgpack.packb(order, default=_packed)
        deadline = time.monotonic() + seconds
        try:
            _write(process.stdin.fileno(), struct.pack(">I", len(body)) + body, deadline)
            (size,) = struct.unpack(">I", _read(process.stdout.fileno(), 4, deadline))
            answer = msgpack.unpackb(
                _read(process.stdout.fileno(), size, deadline), ext_hook=_unpacked, strict_map_key=False
            )
        except TimeoutError:
            self.close()
            raise self._late() from None
        except (EOFError, OSError):
            code = process.wait()
            self.close()
            if self._ended:
                raise Failed("the flow is being stopped") from None
            how = f"by signal {-code}" if code < 0 else f"with exit code {code}"
            raise Failed(
                f"{self.place}: the function {self._function.name} ended its process {how}",
                hint="mend it, or give it more `memory`",
            ) from None
        if "failed" in answer:
            self.close()
            raise self._failure(answer)
        found: Mapping[str, Any] = answer
        return found

    def _late(self) -> Failed:
        function = self._function
        return Failed(
            f"{self.place}: the function {function.name} did not return within {function.timeout:g} s",
            hint="mend it, or give it a longer `timeout`",
        )

    def _failure(self, answer: Mapping[str, Any]) -> Failed:
        function, where = self._function, answer["where"]
        if answer["failed"] == "timeout":
            return Failed(
                f"{where}: the function {function.name} did not return within {function.timeout:g} s",
                hint="mend it, or give it a longer `timeout`",
            )
        if answer["failed"] == "memory":
            return Failed(
                f"{where}: the function {function.name} needs more memory than {function.memory // 10**6} MB",
                hint="mend it, or give it more `memory`",
            )
        return Failed(str(answer["said"]), hint="mend the function; the flow then goes on by itself")


def _packed(value: Any) -> Any:
    if value is UNCHANGED:
        return msgpack.ExtType(UNCHANGED_CODE, b"")
    raise TypeError


def _unpacked(code: int, data: bytes) -> Any:
    return UNCHANGED if code == UNCHANGED_CODE else msgpack.ExtType(code, data)


def _write(descriptor: int, data: bytes, deadline: float) -> None:
    os.set_blocking(descriptor, False)
    view = memoryview(data)
    while view:
        _wait(descriptor, select.POLLOUT, deadline)
        view = view[os.write(descriptor, view) :]


def _read(descriptor: int, size: int, deadline: float) -> bytes:
    found = bytearray()
    while len(found) < size:
        _wait(descriptor, select.POLLIN, deadline)
        part = os.read(descriptor, size - len(found))
        if not part:
            raise EOFError
        found += part
    return bytes(found)


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    left = deadline - time.monotonic()
    if left <= 0 or not poll.poll(left * 1000):
        raise TimeoutError
