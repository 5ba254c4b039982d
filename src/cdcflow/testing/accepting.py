"""Takes connections in asyncio's loop, and loses none of them at the end.

asyncio's own server, when it is closed, drops what it has accepted and not yet handed over: the transport
that is made for it then insists that its server is open, and nobody closes the socket.
"""

import asyncio
import socket
from collections.abc import Callable

Factory = Callable[[], asyncio.BaseProtocol]


class Acceptor:
    """Gives every connection of a listening socket, which it owns, a protocol."""

    def __init__(self, listener: socket.socket, factory: Factory) -> None:
        """Begins at once. Called in the loop."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._factory = factory
        self._making: set[asyncio.Task[object]] = set()
        listener.setblocking(False)
        self._loop.add_reader(listener, self._accept)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:  # it was gone before we looked
            return
        connection.setblocking(False)
        making = self._loop.create_task(self._loop.connect_accepted_socket(self._factory, connection))
        self._making.add(making)
        making.add_done_callback(self._making.discard)

    async def close(self) -> None:
        """Takes no more; returns when the protocol of each that was taken knows its connection."""
        self._loop.remove_reader(self._listener)
        self._listener.close()
        await asyncio.gather(*self._making, return_exceptions=True)


def streams(
    connected: Callable[[asyncio.StreamReader, asyncio.StreamWriter], None], *, limit: int = 1 << 16
) -> Factory:
    """For an `Acceptor` that calls `connected` for each connection, as `asyncio.start_server` does."""

    def make() -> asyncio.StreamReaderProtocol:
        return asyncio.StreamReaderProtocol(asyncio.StreamReader(limit=limit), connected)

    return make
