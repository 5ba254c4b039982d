"""A server of asyncio's in a thread of its own, so that tests can talk to it with whatever they like."""

import asyncio
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import ClassVar, Self

from cdcflow.testing.ports import listening


class Threaded:
    """Use it as a context manager, or call `start` and `stop`; it can be started again on the same port, as a
    service that comes back. A subclass says what `serve` does."""

    #: Of the thread.
    name: ClassVar[str]

    def __init__(self, host: str, port: int) -> None:
        self._host, self._port = host, port
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Event

    async def serve(self, ready: Callable[[], None]) -> None:
        """Serves in the running loop until `stop` or a cancellation; calls `ready` when `url` is true."""
        raise NotImplementedError

    def _begin(self) -> None:
        """The first that `serve` does."""
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()

    def _listen(self) -> socket.socket:
        """On the port that it was given, or had before. Raises OSError."""
        listener = listening(self._host, self._port)
        self._port = listener.getsockname()[1]
        return listener

    def start(self) -> None:
        """Returns when the port takes connections. Raises OSError when it is taken."""
        ready = threading.Event()
        failures: list[OSError] = []

        def run() -> None:
            try:
                asyncio.run(self.serve(ready.set))
            except OSError as error:
                failures.append(error)
                ready.set()

        self._thread = threading.Thread(target=run, name=self.name, daemon=True)
        self._thread.start()
        ready.wait()
        if failures:
            self._thread.join()
            self._thread = None
            raise failures[0]

    def stop(self) -> None:
        """Cuts every connection and closes the port; nothing happens when it does not run."""
        if self._thread is None or self._loop is None:
            return
        self._loop.call_soon_threadsafe(self._stopping.set)
        self._thread.join()
        self._thread = self._loop = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
