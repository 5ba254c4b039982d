"""A TCP proxy between cdcflow and Postgres that can be told to behave like a bad network.

It can cut connections with a reset, stall silently as a dropped route does (the peers see neither data
nor an end), pass bytes slowly, and refuse new connections.
"""

import selectors
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Self

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from cdcflow.errors import EnvironmentFault

CHUNK = 64 * 1024
#: Pieces of a throttled stream: small enough that the rate holds over a tenth of a second.
PIECES_PER_SECOND = 10
#: SO_LINGER with a time of zero: closing sends RST instead of FIN (socket(7)).
RESET = struct.pack("ii", 1, 0)


class _Link:
    """One proxied connection: two sockets and a thread for each direction."""

    def __init__(self, proxy: "Proxy", client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._sockets = (client, server)
        self.ended = threading.Event()
        self._pumping = 2
        self._lock = threading.Lock()
        self._threads = [
            threading.Thread(target=self._pump, args=pair, name="proxy pump", daemon=True)
            for pair in ((client, server), (server, client))
        ]
        for thread in self._threads:
            thread.start()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(self._proxy.piece):
                if not self._proxy.wait_for_turn(self, len(data)):
                    break
                target.sendall(data)
            # An orderly end on one side is passed on, and the other direction goes on.
            target.shutdown(socket.SHUT_WR)
        except OSError:
            self._interrupt()
        with self._lock:
            self._pumping -= 1
            last = self._pumping == 0
        if last:
            for end in self._sockets:
                end.close()
            self.ended.set()

    def _interrupt(self) -> None:
        """Makes the coming close a reset, and wakes the threads that wait in recv."""
        for end in self._sockets:
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                end.shutdown(socket.SHUT_RD)

    def reset(self) -> None:
        self.ended.set()
        self._interrupt()
        self._proxy.wake()
        for thread in self._threads:
            thread.join(10)


class Proxy:
    """Listens on a loopback port and passes every connection on to the host and port of `dsn`."""

    def __init__(self, dsn: str) -> None:
        """Raises EnvironmentFault when the DSN's host is a socket directory."""
        parts = conninfo_to_dict(dsn)
        host = str(parts.get("host", "127.0.0.1"))
        if host.startswith("/"):
            raise EnvironmentFault("the proxy needs a server on TCP", hint="give a host name in the DSN")
        self._target = (host, int(parts.get("port") or 5432))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=self.port)
        self._links: list[_Link] = []
        self._lock = threading.Lock()
        self._turn = threading.Condition()
        self._flowing = True
        self._closing = threading.Event()
        self._refusing = False
        self._rate: float | None = None
        self._wake, self._woken = socket.socketpair()
        self._thread = threading.Thread(target=self._accept, name="proxy accept", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def dsn_for(self, dsn: str) -> str:
        """`dsn` with its host and port replaced by the proxy's."""
        return make_conninfo(dsn, host="127.0.0.1", port=self.port)

    @property
    def connections(self) -> int:
        """How many are open now."""
        with self._lock:
            self._links = [link for link in self._links if not link.ended.is_set()]
            return len(self._links)

    def cut(self) -> None:
        """Resets every open connection, on both sides. New ones are taken."""
        with self._lock:
            links, self._links = self._links, []
        for link in links:
            link.reset()

    def stall(self) -> None:
        """Passes nothing more, in either direction, and says so to nobody."""
        self._flowing = False

    def resume(self) -> None:
        """Ends `stall`, `refuse` and `throttle`. Bytes held back meanwhile are passed on."""
        self._rate = None
        self._refusing = False
        self._flowing = True
        self.wake()

    def throttle(self, bytes_per_second: float) -> None:
        """Limits each direction of each connection."""
        self._rate = bytes_per_second

    def refuse(self) -> None:
        """Resets every new connection as soon as it is made; open ones go on."""
        self._refusing = True

    def close(self) -> None:
        """Ends every connection and the listener."""
        self._closing.set()
        self._wake.send(b"x")
        self._thread.join(10)
        self.cut()
        for end in (self._listener, self._wake, self._woken):
            end.close()

    @property
    def piece(self) -> int:
        """How many bytes to read at once at the present rate."""
        rate = self._rate
        return CHUNK if rate is None else max(1, min(CHUNK, int(rate / PIECES_PER_SECOND)))

    def wait_for_turn(self, link: _Link, size: int) -> bool:
        """Returns when `size` bytes may be passed on, or with False when the link has ended meanwhile."""
        rate = self._rate
        if rate is not None:
            link.ended.wait(size / rate)
        with self._turn:
            self._turn.wait_for(lambda: self._flowing or link.ended.is_set())
        return not link.ended.is_set()

    def wake(self) -> None:
        """Makes those who wait for their turn look again."""
        with self._turn:
            self._turn.notify_all()

    def _accept(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._listener, selectors.EVENT_READ, self._take)
            selector.register(self._woken, selectors.EVENT_READ, None)
            while not self._closing.is_set():
                for key, _ in selector.select():
                    take: Callable[[], None] | None = key.data
                    if take is not None:
                        take()

    def _take(self) -> None:
        try:
            client, _ = self._listener.accept()
        except OSError:  # It was gone before we looked.
            return
        client.setblocking(True)
        try:
            if self._refusing:
                raise ConnectionRefusedError
            server = socket.create_connection(self._target, timeout=10)
        except OSError:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            client.close()
            return
        server.settimeout(None)
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        link = _Link(self, client, server)
        with self._lock:
            self._links = [*(known for known in self._links if not known.ended.is_set()), link]
