"""Where requests may go. An address that somebody else's name resolves to is judged before anything connects
to it, and what is connected to is the address that was judged: a name that resolves to another one a moment
later gains nothing. So a URL that came from elsewhere reaches no service of the machine, of the network it
stands in, or of its cloud.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable
from typing import Any

import httpcore

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

#: What is not the public Internet (IANA's registries of special-purpose addresses, RFC 6890), in words.
#: Python knows most of it as `is_global`; what that says of some has changed between its versions.
_SPECIAL: tuple[tuple[str, str], ...] = (
    ("0.0.0.0/8", "this network"),
    ("10.0.0.0/8", "private"),
    ("100.64.0.0/10", "shared (CGNAT)"),
    ("127.0.0.0/8", "loopback"),
    ("169.254.0.0/16", "link-local"),
    ("172.16.0.0/12", "private"),
    ("192.0.0.0/24", "reserved"),
    ("192.0.2.0/24", "reserved"),
    ("192.88.99.0/24", "reserved"),
    ("192.168.0.0/16", "private"),
    ("198.18.0.0/15", "reserved"),
    ("198.51.100.0/24", "reserved"),
    ("203.0.113.0/24", "reserved"),
    ("224.0.0.0/4", "multicast"),
    ("240.0.0.0/4", "reserved"),
    ("::/128", "this network"),
    ("::1/128", "loopback"),
    ("100::/64", "reserved"),
    ("2001:db8::/32", "reserved"),
    ("fc00::/7", "private"),
    ("fe80::/10", "link-local"),
    ("fec0::/10", "private"),
    ("ff00::/8", "multicast"),
)
_NETWORKS = tuple((ipaddress.ip_network(network), word) for network, word in _SPECIAL)

#: Addresses in which an IPv4 address is written: IPv4-compatible, mapped (RFC 4291), NAT64 (RFC 6052 and
#: 8215), and the bits behind which it stands.
_EMBEDDING = (
    (ipaddress.IPv6Network("::/96"), 0),
    (ipaddress.IPv6Network("::ffff:0:0/96"), 0),
    (ipaddress.IPv6Network("::ffff:0:0:0/96"), 0),
    (ipaddress.IPv6Network("64:ff9b::/96"), 0),
    (ipaddress.IPv6Network("64:ff9b:1::/48"), 0),
    (ipaddress.IPv6Network("2002::/16"), 80),
)

#: What a name in the allow-list lets through. Metadata services are link-local: these take a network.
_BY_NAME = frozenset({"loopback", "private", "shared (CGNAT)"})


class Forbidden(Exception):
    """A host is where no requests go. The text says which kind of address it has."""


class AllowList:
    """Hosts, as they stand in the URL, and networks that may be reached although they are not public."""

    def __init__(self, entries: Iterable[str] = ()) -> None:
        self._hosts: set[str] = set()
        self._networks: list[Network] = []
        for entry in entries:
            try:
                self._networks.append(ipaddress.ip_network(entry))
            except ValueError:
                self._hosts.add(entry.lower().rstrip("."))

    def allows(self, host: str, address: Address, kind: str) -> bool:
        if any(address in network for network in self._networks if network.version == address.version):
            return True
        return kind in _BY_NAME and host.lower().rstrip(".") in self._hosts


def kind(address: Address) -> str:
    """What an address is, in a word; empty: public."""
    address = embedded(address)
    for network, word in _NETWORKS:
        if network.version == address.version and address in network:
            return word
    return "" if address.is_global else "reserved"


def embedded(address: Address) -> Address:
    """The IPv4 address that is written in an IPv6 one, or the address itself."""
    if isinstance(address, ipaddress.IPv4Address) or int(address) in (0, 1):
        return address
    if address.teredo is not None:
        return address.teredo[1]
    for network, behind in _EMBEDDING:
        if address in network:
            return ipaddress.IPv4Address(int(address) >> behind & 0xFFFFFFFF)
    return address


async def resolve(host: str, port: int, allowed: AllowList) -> list[str]:
    """The addresses of a host, in the resolver's order, if requests may go to every one of them.

    Raises Forbidden, and OSError when the name does not resolve. Odd notations of an address (`0x7f.1`,
    `2130706433`) are what the resolver makes of them.
    """
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP)
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for text in addresses:
        address = ipaddress.ip_address(text.partition("%")[0])
        what = kind(address)
        if (
            what
            and not allowed.allows(host, embedded(address), what)
            and not allowed.allows(host, address, what)
        ):
            raise Forbidden(f"has a {what} address, where webhooks do not go")
    if not addresses:
        raise socket.gaierror(socket.EAI_NONAME, "no address")
    return addresses


class CheckedBackend(httpcore.AsyncNetworkBackend):
    """Connects to addresses that were judged. TLS and the Host header go by the name, as ever."""

    def __init__(self, allowed: AllowList) -> None:
        self._allowed = allowed
        self._plain: httpcore.AsyncNetworkBackend = httpcore.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,  # noqa: ASYNC109 - httpcore names it so
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        for address in await resolve(host, port, self._allowed):
            try:
                return await self._plain.connect_tcp(
                    address, port, timeout=timeout, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout, OSError) as error:
                failure = error
        assert failure is not None
        raise failure

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
