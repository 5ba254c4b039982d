"""Connections to one endpoint. The only place of this sink that talks.

httpcore's connections are used without the pool and the client of httpx above them. Measured on one core
against a server that costs nothing: `httpx.AsyncClient` 0.80 ms of CPU per request, its transport alone 0.50,
a connection 0.23. A client would also keep cookies, and a lane of deliveries has one connection anyway.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import certifi
import httpcore
import httpx

from cdcflow.errors import EnvironmentFault
from cdcflow_sinks.webhook.addresses import AllowList, CheckedBackend, Forbidden, resolve

Headers = list[tuple[bytes, bytes]]

#: Of an answer's body. A webhook's answer is short; what is longer ends the connection.
LONGEST_ANSWER = 64 << 10


@dataclass(frozen=True, slots=True)
class Answer:
    """`retry_after` is the header's text; `body` is cut at about `LONGEST_ANSWER` bytes."""

    status: int
    retry_after: str | None
    body: bytes


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """There was no answer, and why; what became of the request is unknown. `lasting`: only a person can
    change the cause. `everywhere`: other requests would fare the same now."""

    reason: str
    hint: str = ""
    lasting: bool = False
    everywhere: bool = True


class Endpoint:
    """Where requests go. `origin` is what people are shown of the URL, since paths can be credentials."""

    def __init__(
        self,
        url: str,
        timeout: float,
        allowed: Iterable[str] = (),
        *,
        ca: Path | None = None,
        cert: Path | None = None,
        key: Path | None = None,
    ) -> None:
        self._allowed = AllowList(allowed)
        self._ca, self._cert, self._key = ca, cert, key
        parsed = httpx.URL(url)
        self.timeout = timeout
        self.secure = parsed.scheme == "https"
        self.host = parsed.host
        self.port = parsed.port or (443 if self.secure else 80)
        self.origin = f"{parsed.scheme}://{parsed.netloc.decode('ascii')}"
        self.target = parsed.raw_path.decode("ascii")
        self._host_header = (b"Host", parsed.netloc)
        self._url = httpcore.URL(
            scheme=parsed.raw_scheme, host=parsed.raw_host, port=self.port, target=parsed.raw_path
        )

    def tls(self) -> ssl.SSLContext | None:
        """Trusts what the system trusts, so that a company's own authority can be added there, and what
        certifi lists, for systems that list nothing. Takes tens of milliseconds."""
        if not self.secure:
            return None
        context = ssl.create_default_context()
        context.load_verify_locations(cafile=certifi.where())
        try:
            if self._ca is not None:
                context.load_verify_locations(cafile=self._ca)
            if self._cert is not None:
                context.load_cert_chain(self._cert, self._key)
        except (OSError, ssl.SSLError) as error:
            raise EnvironmentFault(
                f"a file of the sink's `tls` cannot be used: {getattr(error, 'strerror', None) or error}",
                hint="give certificates and keys in PEM form that this user may read",
            ) from error
        context.set_alpn_protocols(["http/1.1"])
        return context

    def new_connection(self, tls: ssl.SSLContext | None) -> httpcore.AsyncHTTPConnection:
        backend = CheckedBackend(self._allowed)
        return httpcore.AsyncHTTPConnection(
            self._url.origin, ssl_context=tls, http1=True, http2=False, network_backend=backend
        )

    def request(self, headers: Headers, body: bytes, target: bytes | None) -> httpcore.Request:
        framing = (b"Content-Length", b"%d" % len(body))
        url = self._url
        if target is not None:
            url = httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=target)
        return httpcore.Request("POST", url, headers=[self._host_header, *headers, framing], content=body)

    async def reach(self) -> str | NoAnswer:
        """Connects, does the TLS handshake and hangs up; returns the address that answered."""
        try:
            tls = await asyncio.to_thread(self.tls)
            async with asyncio.timeout(self.timeout):
                writer = await self._connect(tls)
        except TimeoutError:
            return self.too_late()
        except (OSError, Forbidden) as error:
            return _no_answer(error)
        host, port, *_ = writer.get_extra_info("peername")
        # Without the farewell of TLS, which the other side may take its time for.
        writer.transport.abort()
        return f"{host}:{port}"

    async def _connect(self, tls: ssl.SSLContext | None) -> asyncio.StreamWriter:
        failure: OSError | None = None
        for address in await resolve(self.host, self.port, self._allowed):
            try:
                name = self.host if tls is not None else None
                _, writer = await asyncio.open_connection(address, self.port, ssl=tls, server_hostname=name)
            except OSError as error:
                failure = error
            else:
                return writer
        assert failure is not None
        raise failure

    def too_late(self) -> NoAnswer:
        return NoAnswer(f"did not answer within {self.timeout:g} s", everywhere=False)


class Line:
    """One connection that is kept alive and made anew when it was closed. One request at a time."""

    def __init__(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> None:
        self._endpoint = endpoint
        self._tls = tls
        self._connection: httpcore.AsyncHTTPConnection | None = None

    async def post(self, headers: Headers, body: bytes, target: bytes | None = None) -> Answer | NoAnswer:
        """Sends a request and returns the answer, or why there was none in time. `target` is the path and
        the query where they are not the endpoint's own."""
        endpoint = self._endpoint
        whole = False
        try:
            # Over the whole exchange: a receiver that sends a byte now and then is not alive.
            async with asyncio.timeout(endpoint.timeout):
                connection = await self._connected()
                response = await connection.handle_async_request(endpoint.request(headers, body, target))
                answer = Answer(response.status, _retry_after(response.headers), await _beginning(response))
            whole = True
        except TimeoutError:
            return endpoint.too_late()
        except (
            httpcore.NetworkError,
            httpcore.TimeoutException,
            httpcore.ProtocolError,
            OSError,
            Forbidden,
        ) as error:
            return _no_answer(error)
        finally:
            # Also when cancelled: what is left of this exchange must not meet the next one.
            if not whole:
                await self.close()
        return answer

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.aclose()

    async def _connected(self) -> httpcore.AsyncHTTPConnection:
        connection = self._connection
        # "Expired" is also what the server has closed meanwhile.
        if connection is None or connection.is_closed() or connection.has_expired():
            await self.close()
            connection = self._connection = self._endpoint.new_connection(self._tls)
        return connection


async def _beginning(response: httpcore.Response) -> bytes:
    parts, size = [], 0
    try:
        async for part in response.aiter_stream():
            parts.append(part)
            size += len(part)
            if size > LONGEST_ANSWER:
                break
    finally:
        await response.aclose()
    return b"".join(parts)


def _retry_after(headers: Sequence[tuple[bytes, bytes]]) -> str | None:
    for name, value in headers:
        if name.lower() == b"retry-after":
            return value.decode("latin-1")
    return None


def _no_answer(error: BaseException) -> NoAnswer:
    """The reason in words that name neither the request nor the URL."""
    for cause in _causes(error):
        if isinstance(cause, Forbidden):
            return NoAnswer(
                str(cause),
                hint="check the `url`; if it is meant, name its host under `allow` of the sink",
                lasting=True,
            )
        if isinstance(cause, ssl.SSLCertVerificationError):
            return NoAnswer(
                f"has a certificate that cannot be trusted: {cause.verify_message}",
                hint="mend the receiver's certificate, or add its authority to those of this system",
                lasting=True,
            )
        if isinstance(cause, ssl.SSLError):
            return NoAnswer(f"cannot be reached over TLS: {cause.reason or 'the handshake failed'}")
        if isinstance(cause, socket.gaierror):
            return NoAnswer("has a name that does not resolve", hint="check the host in the sink's `url`")
        if isinstance(cause, OSError) and cause.errno:
            return NoAnswer(f"cannot be reached: {os.strerror(cause.errno)}")
    if isinstance(error, httpcore.RemoteProtocolError):
        # It may be this request that the receiver dies of.
        return NoAnswer("closed the connection without an answer, or did not speak HTTP", everywhere=False)
    return NoAnswer(f"cannot be reached ({type(error).__name__})")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The error and what it came from; of several attempts (one per address) the last first."""
    found: BaseException | None = error
    while found is not None:
        yield found
        if isinstance(found, BaseExceptionGroup):
            for one in reversed(found.exceptions):
                yield from _causes(one)
        found = found.__cause__ or found.__context__
