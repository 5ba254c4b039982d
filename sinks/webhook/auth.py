"""How a request says who sends it, beside its signature: bearer, basic, and OAuth 2.0 client credentials.

A token is fetched before it is needed and again before it expires, by `expires_in` (RFC 6749, 4.4 and 5.1):
no request has to fail first. Several requests share one fetch.
"""

import asyncio
import base64
import time
from collections.abc import Iterator
from typing import Annotated, Literal, Protocol
from urllib.parse import quote, urlencode

import orjson
from pydantic import AfterValidator, Field

from cdcflow.errors import Transient, Unauthorized
from cdcflow.sink import Secret, Settings
from cdcflow_sinks.webhook.answer import seconds_from
from cdcflow_sinks.webhook.connection import Endpoint, Line, NoAnswer
from cdcflow_sinks.webhook.urls import plain_url

#: A token is replaced this long before it expires, or at half of its life where that is short: a request that
#: was signed with it must still arrive.
EARLY = 60.0

#: RFC 6749, 5.1: `expires_in` is only recommended. An hour is what most servers give.
USUAL_LIFE = 3_600.0


class BearerAuth(Settings):
    type: Literal["bearer"]
    token: Secret


class BasicAuth(Settings):
    type: Literal["basic"]
    user: str
    password: Secret


class OAuth2Auth(Settings):
    """Client credentials."""

    type: Literal["oauth2"]
    token_url: Annotated[str, AfterValidator(plain_url)]
    client_id: str
    client_secret: Secret
    scope: str | None = None
    audience: str | None = None
    #: Where the client's name and secret stand: most servers take both (RFC 6749, 2.3.1).
    client: Literal["header", "body"] = "header"


AuthSettings = Annotated[BearerAuth | BasicAuth | OAuth2Auth, Field(discriminator="type")]


class Authorization(Protocol):
    """Gives the value of the Authorization header. Raises Unauthorized and Transient."""

    async def value(self) -> bytes: ...

    def secrets(self) -> Iterator[str]:
        """What must not show anywhere."""
        ...

    async def close(self) -> None: ...


class Fixed:
    """The same value for as long as the sink is open."""

    def __init__(self, value: str, secret: str) -> None:
        self._value = value.encode("utf-8")
        self._secret = secret

    async def value(self) -> bytes:
        return self._value

    def secrets(self) -> Iterator[str]:
        yield self._secret
        yield self._value.decode().partition(" ")[2]

    async def close(self) -> None:
        pass


class ClientCredentials:
    """A token of an authorization server."""

    def __init__(self, settings: OAuth2Auth, endpoint: Endpoint) -> None:
        self._settings = settings
        self._endpoint = endpoint
        self._secret = settings.client_secret.get_secret_value()
        self._line: Line | None = None
        self._token = ""
        self._until = 0.0
        self._lock = asyncio.Lock()

    async def value(self) -> bytes:
        if time.monotonic() >= self._until:
            async with self._lock:
                if time.monotonic() >= self._until:
                    await self._fetch()
        return f"Bearer {self._token}".encode()

    def secrets(self) -> Iterator[str]:
        yield self._secret
        if self._token:
            yield self._token

    async def close(self) -> None:
        if self._line is not None:
            await self._line.close()

    async def _fetch(self) -> None:
        if self._line is None:
            self._line = Line(self._endpoint, await asyncio.to_thread(self._endpoint.tls))
        settings = self._settings
        form = {"grant_type": "client_credentials", "scope": settings.scope, "audience": settings.audience}
        headers = [(b"Content-Type", b"application/x-www-form-urlencoded"), (b"Accept", b"application/json")]
        if settings.client == "header":
            # Both parts are form-encoded first (RFC 6749, 2.3.1).
            pair = f"{quote(settings.client_id, safe='')}:{quote(self._secret, safe='')}"
            headers.append((b"Authorization", b"Basic " + base64.b64encode(pair.encode())))
        else:
            form |= {"client_id": settings.client_id, "client_secret": self._secret}
        body = urlencode({name: text for name, text in form.items() if text}).encode()
        answer = await self._line.post(headers, body)
        where = self._endpoint.origin
        if isinstance(answer, NoAnswer):
            if answer.lasting:
                raise Unauthorized(f"{where} {answer.reason}", hint=answer.hint)
            raise Transient(f"{where}, which gives the token, {answer.reason}", hint=answer.hint)
        if answer.status == 429 or answer.status >= 500:
            wish = seconds_from(answer.retry_after)
            raise Transient(f"{where} answered {answer.status} and gave no token", retry_after=wish)
        found = _parsed(answer.body)
        token = found.get("access_token")
        if (
            answer.status != 200
            or not isinstance(token, str)
            or not token.isascii()
            or not token.isprintable()
        ):
            code = found.get("error")
            why = f" ({code})" if isinstance(code, str) and code.replace("_", "").isalpha() else ""
            raise Unauthorized(
                f"{where} gave no token: it answered {answer.status}{why}",
                hint="check client_id, client_secret and scope of the sink's `auth`",
            )
        life = found.get("expires_in", USUAL_LIFE)
        life = float(life) if isinstance(life, int | float | str) and str(life).isdigit() else USUAL_LIFE
        self._token = token
        self._until = time.monotonic() + life - min(EARLY, life / 2)


def authorization(settings: AuthSettings, token_endpoint: "Endpoint | None") -> Authorization:
    if isinstance(settings, BearerAuth):
        secret = settings.token.get_secret_value()
        return Fixed(f"Bearer {secret}", secret)
    if isinstance(settings, BasicAuth):
        secret = settings.password.get_secret_value()
        pair = base64.b64encode(f"{settings.user}:{secret}".encode()).decode()
        return Fixed(f"Basic {pair}", secret)
    assert token_endpoint is not None
    return ClientCredentials(settings, token_endpoint)


def _parsed(body: bytes) -> dict[str, object]:
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    return found if isinstance(found, dict) else {}
