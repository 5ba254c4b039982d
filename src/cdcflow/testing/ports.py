"""Ports of the loopback for servers that come and go and keep their port."""

import random
import socket
from collections.abc import Iterator

#: Below the range that the kernel gives to outgoing connections (Linux: 32768-60999). From within it, a
#: client could take the port of a server that is being restarted, or connect to itself.
PORTS = range(15_000, 32_000)
ATTEMPTS = 20


def free_ports() -> Iterator[int]:
    """Some that nobody listens on now."""
    # Not the seeded generator: two test runs with one seed must not fight over the same ports.
    for port in random.SystemRandom().sample(PORTS, ATTEMPTS):
        try:
            listening("127.0.0.1", port).close()
        except OSError:
            continue
        yield port


def listening(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 means any of `PORTS`. Raises OSError where the port is taken."""
    backlog = 1_024
    if port:
        return socket.create_server((host, port), backlog=backlog)
    failure: OSError | None = None
    for one in free_ports():
        try:
            return socket.create_server((host, one), backlog=backlog)
        except OSError as error:
            failure = error
    raise failure or OSError("no port is free")
