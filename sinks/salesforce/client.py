"""Calls of an org's API in a session.

JWT bearer (help.salesforce.com, remoteaccess_oauth_jwt_flow): a token signed with the app's key is exchanged
for a session. Client credentials (remoteaccess_oauth_client_credentials_flow): the app's secret is. Neither
answer says how long the session lasts, since the org decides: a call that is answered 401 is repeated in a
new one, once.
"""

import asyncio
import base64
import re
import time
from collections.abc import Mapping
from typing import Any

import orjson

from cdcflow.errors import Permanent, Transient, Unauthorized
from cdcflow.sink import Budget
from cdcflow.sink.records import Api, Reply
from cdcflow_sinks.salesforce.answer import failure
from cdcflow_sinks.salesforce.settings import SalesforceSettings

#: Seconds that a signed token is good for; Salesforce takes up to five minutes, clocks differ.
_ASSERTION_SECONDS = 180


class Client:
    """See the module. Paths count from `/services/data/vXX.0`."""

    def __init__(self, settings: SalesforceSettings, budget: Budget) -> None:
        self._settings = settings
        self._budget = budget
        self._api = Api(
            "Salesforce", settings.url, timeout=settings.timeout, connections=settings.concurrency
        )
        self._lock = asyncio.Lock()
        self._session = ""
        self._instance = ""
        #: The org's id, known from the first session on.
        self.org = ""

    async def open(self) -> None:
        await self._api.open()

    async def close(self) -> None:
        await self._api.close()

    async def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        csv: bytes | None = None,
        accept: str = "application/json",
    ) -> Reply:
        """Raises Transient (no answer), Unauthorized; every other answer is returned."""
        session = await self.session()
        reply = await self._once(method, path, body, csv, accept, session)
        if reply.status == 401:
            session = await self.session(instead_of=session)
            reply = await self._once(method, path, body, csv, accept, session)
        if reply.status == 401:
            raise Unauthorized(
                "Salesforce ends every session at once",
                hint="check the user's login restrictions (IP ranges, login hours) and the app's policies",
            )
        return reply

    async def get(self, path: str) -> Any:
        """The JSON of an answer that must be 200. Raises DeliveryError."""
        reply = await self.call("GET", path)
        if reply.status == 200 and reply.data is not None:
            return reply.data
        error = failure(reply)
        raise error if error is not None else Permanent(f"Salesforce answered {reply.status} to a question")

    async def session(self, instead_of: str = "") -> str:
        """One that is good for a call; another one than `instead_of`, which is over."""
        async with self._lock:
            if not self._session or self._session == instead_of:
                await self._log_in()
            return self._session

    async def _once(
        self, method: str, path: str, body: object, csv: bytes | None, accept: str, session: str
    ) -> Reply:
        headers = {"Authorization": f"Bearer {session}", "Accept": accept}
        if csv is not None:
            headers["Content-Type"] = "text/csv"
        target = f"{self._instance}/services/data/v{self._settings.api_version}{path}"
        # No limit in a short time is known of; `hold` is heeded.
        async with self._budget.call():
            return await self._api.call(method, target, headers=headers, json=body, content=csv)

    async def _log_in(self) -> None:
        settings = self._settings
        if settings.private_key is not None:
            form = {
                "grant_type": "urn:ietf:params:oauth:grant-type:jwt-bearer",
                "assertion": await asyncio.to_thread(self._assertion),
            }
        else:
            assert settings.client_secret is not None
            form = {
                "grant_type": "client_credentials",
                "client_id": settings.client_id,
                "client_secret": settings.client_secret.get_secret_value(),
            }
        self._session = ""
        reply = await self._api.call("POST", "/services/oauth2/token", headers={}, form=form)
        data = reply.data
        if reply.status == 200 and isinstance(data, Mapping) and isinstance(data.get("access_token"), str):
            self._instance = str(data.get("instance_url") or settings.url).rstrip("/")
            if not self._instance.startswith(("https://", settings.url)):
                raise Permanent("Salesforce names an instance without TLS", hint="check the sink's `url`")
            org = re.search(r"/id/(\w+)/", str(data.get("id", "")))
            self.org = org[1] if org else ""
            self._session = data["access_token"]
            return
        if reply.status == 429 or reply.status >= 500 or not isinstance(data, Mapping):
            raise Transient(f"Salesforce answered {reply.status} to a login")
        raise Unauthorized(
            f"Salesforce refuses the login ({data.get('error', reply.status)}:"
            f" {data.get('error_description', 'no reason given')})",
            hint="check `url`, `client_id` and the credentials, and that the connected app allows this flow"
            " and its user",
        )

    def _assertion(self) -> str:
        """A JWT (RFC 7523) signed with RS256. Takes a millisecond."""
        # A tenth of a second that nobody else need wait for.
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        settings = self._settings
        assert settings.private_key is not None
        try:
            pem = settings.private_key.get_secret_value().encode()
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError):
            key = None
        if not isinstance(key, rsa.RSAPrivateKey):
            # Without a cause, which may show what it could not read.
            raise Unauthorized(
                "`private_key` of the sink is no RSA key in PEM",
                hint="give the key (BEGIN PRIVATE KEY), not the certificate, and without a passphrase",
            ) from None
        claims = {
            "iss": settings.client_id,
            "sub": settings.user,
            "aud": settings.audience,
            "exp": int(time.time()) + _ASSERTION_SECONDS,
        }
        signed = f"{_encoded({'alg': 'RS256'})}.{_encoded(claims)}"
        signature = key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256())
        return f"{signed}.{_base64(signature)}"


def _encoded(value: object) -> str:
    return _base64(orjson.dumps(value))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
