"""Calls of a JSON API over HTTPS: an answer that came whole, or a `Transient` that says why there was none.

Redirects are not followed and the environment's proxies are not used: a credential goes where the
configuration says and nowhere else.
"""

import asyncio
import logging
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import cached_property
from typing import Any

import httpx
import orjson

from cdcflow.errors import Permanent, Transient

# One line per call, at a level that the engine shows.
logging.getLogger("httpx").setLevel(logging.WARNING)

#: Of a destination's own words, in characters.
EXCERPT = 300


@dataclass(frozen=True)
class Reply:
    """A whole answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @cached_property
    def data(self) -> Any:
        """The body as JSON; None where it is not JSON (or is JSON's null)."""
        try:
            return orjson.loads(self.body)
        except orjson.JSONDecodeError:
            return None

    @property
    def retry_after(self) -> float | None:
        """`Retry-After` in seconds from now (RFC 9110, section 10.2.3), or None."""
        text = self.headers.get("retry-after", "").strip()
        if text.isdecimal():
            return float(text)
        try:
            moment = parsedate_to_datetime(text)
        except ValueError:
            return None
        if moment.tzinfo is None:
            moment = moment.replace(tzinfo=UTC)
        return max((moment - datetime.now(UTC)).total_seconds(), 0.0)


class Api:
    """One service. `name` is what people know it by; `timeout` is for a whole call, in seconds."""

    def __init__(self, name: str, url: str, *, timeout: float, connections: int) -> None:
        self._name = name
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._connections = connections
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        """Makes no connection."""
        if self._client is None:
            self._client = await asyncio.to_thread(self._new_client)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def call(
        self,
        method: str,
        target: str,
        *,
        headers: Mapping[str, str],
        json: object = None,
        content: bytes | None = None,
        form: Mapping[str, str] | None = None,
    ) -> Reply:
        """`target` is a path, or a whole URL. Raises Transient when there is no whole answer in time."""
        assert self._client is not None, "the API is not open"
        sent = dict(headers)
        if json is not None:
            content = orjson.dumps(json)
            sent["Content-Type"] = "application/json"
        url = target if target.startswith(("http://", "https://")) else self._url + target
        try:
            # Over the whole exchange: a server that sends a byte now and then is not alive.
            async with asyncio.timeout(self._timeout):
                answer = await self._client.request(method, url, headers=sent, content=content, data=form)
        except TimeoutError:
            raise Transient(f"{self._name} did not answer within {self._timeout:g} s") from None
        except (httpx.HTTPError, OSError, ssl.SSLError) as error:
            # Without a cause: the library's words may repeat the request.
            raise self._no_answer(error) from None
        return Reply(answer.status_code, answer.headers, answer.content)

    def _new_client(self) -> httpx.AsyncClient:
        limits = httpx.Limits(
            max_connections=self._connections,
            max_keepalive_connections=self._connections,
            keepalive_expiry=30,
        )
        return httpx.AsyncClient(
            timeout=self._timeout, limits=limits, trust_env=False, follow_redirects=False, verify=self._tls()
        )

    def _tls(self) -> ssl.SSLContext | bool:
        if not self._url.startswith("https:"):
            return False
        # What the system trusts, so that a company's own authority can be added there.
        context = ssl.create_default_context()
        import certifi

        context.load_verify_locations(cafile=certifi.where())
        return context

    def _no_answer(self, error: BaseException) -> Transient | Permanent:
        for cause in _causes(error):
            if isinstance(cause, ssl.SSLCertVerificationError):
                return Permanent(
                    f"{self._name} has a certificate that cannot be trusted: {cause.verify_message}",
                    hint="check the sink's `url`; a proxy that reads TLS needs its authority in this system",
                )
        if isinstance(error, httpx.ConnectError):
            return Transient(f"{self._name} cannot be reached")
        return Transient(f"{self._name} closed the connection without a whole answer")


def excerpt(words: object, secrets: tuple[str, ...] = ()) -> str:
    """A destination's own words on one line, cut short, without secrets; they may hold values."""
    text = " ".join(str(words).split())
    for secret in secrets:
        if secret:
            text = text.replace(secret, "[…]")
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def _causes(error: BaseException) -> Iterator[BaseException]:
    found: BaseException | None = error
    while found is not None:
        yield found
        found = found.__cause__ or found.__context__
