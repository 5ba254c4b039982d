"""Calls of HubSpot's API with a token, within the account's limits.

Limits (developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines): a number of calls in ten
seconds per app, and one per day. Every answer says the first in its headers, and what is left of it, others'
calls included; that is what counts here.

An app with OAuth gets a new access token before the old one expires, by its `expires_in`: "Unauthorized (401)
requests are not a valid indicator that a new access token must be retrieved".
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cdcflow.errors import Transient, Unauthorized
from cdcflow.sink import Budget, Limit
from cdcflow.sink.records import Api, Reply
from cdcflow_sinks.hubspot.answer import failure, policy
from cdcflow_sinks.hubspot.settings import HubSpotSettings, OAuthSettings

#: Where answers do not say what is allowed: what every account has.
_LEAST = Limit("calls", 100, 10.0)

#: A token is replaced so long before its end, in seconds: a call and a clock that is a little off fit in.
_EARLY = 60.0

#: After a 429 that says nothing of when, seconds; `_DAILY` where the account's time zone is not known yet.
_WINDOW = 10.0
_DAILY = 900.0


class Client:
    """See the module. `call` may run as often at the same time as the settings allow."""

    def __init__(self, settings: HubSpotSettings, budget: Budget) -> None:
        self._settings = settings
        self._budget = budget
        #: Known from the first answer on, which need not wait for what a smaller account would have to.
        self._limit: Limit | None = None
        self._zone: tzinfo | None = None
        self._api = Api("HubSpot", settings.url, timeout=settings.timeout, connections=settings.concurrency)
        self._oauth = _Tokens(self._api, settings.oauth) if settings.oauth is not None else None

    async def open(self) -> None:
        await self._api.open()

    async def close(self) -> None:
        await self._api.close()

    async def account(self) -> Any:
        """The id of the account ("portal"). From then on its time zone is known. Raises DeliveryError."""
        details = await self.get("/account-info/v3/details")
        if not isinstance(details, Mapping):
            return None
        self._zone = time_zone(details)
        return details.get("portalId")

    async def call(self, method: str, path: str, body: object = None) -> Reply:
        """Raises Transient (no answer, a limit), Unauthorized; every other answer is returned."""
        token = await self._token()
        reply = await self._once(method, path, body, token)
        if reply.status == 401:
            # It may have been replaced while the call was on its way, or was taken back.
            fresh = await self._token(instead_of=token)
            if fresh != token:
                reply = await self._once(method, path, body, fresh)
        if reply.status == 401:
            error = failure(reply)
            assert error is not None
            raise error
        if reply.status == 429:
            raise self._limited(reply)
        return reply

    async def get(self, path: str) -> Any:
        """The JSON of an answer that must be 200. Raises DeliveryError."""
        reply = await self.call("GET", path)
        if reply.status == 200 and reply.data is not None:
            return reply.data
        error = failure(reply)
        raise error if error is not None else Transient(f"HubSpot answered {reply.status} to a question")

    async def _once(self, method: str, path: str, body: object, token: str) -> Reply:
        async with self._budget.call(*(() if self._limit is None else (self._limit,))):
            reply = await self._api.call(
                method, path, headers={"Authorization": f"Bearer {token}"}, json=body
            )
        self._learn(reply.headers)
        return reply

    def _learn(self, headers: Mapping[str, str]) -> None:
        most = _number(headers, "x-hubspot-ratelimit-max")
        interval = _number(headers, "x-hubspot-ratelimit-interval-milliseconds")
        if not most or not interval:
            self._limit = self._limit or _LEAST
            return
        self._limit = Limit("calls", most, interval / 1000)
        left = _number(headers, "x-hubspot-ratelimit-remaining")
        if left is not None and left < most:
            self._budget.spend(self._limit, most - left)

    def _limited(self, reply: Reply) -> Transient:
        if policy(reply) == "DAILY":
            return self._limited_today(reply)
        interval = _number(reply.headers, "x-hubspot-ratelimit-interval-milliseconds")
        wish = reply.retry_after
        if wish is None:
            wish = interval / 1000 if interval else _WINDOW
        self._budget.hold(wish)
        return Transient("the account's limit of API calls in ten seconds is used up", retry_after=wish)

    def _limited_today(self, reply: Reply) -> Transient:
        """HubSpot counts from midnight to midnight in the account's time zone, and does not say when that is
        (developers.hubspot.com/docs/api-reference/account-account-info-v3/guide)."""
        what = "the account's daily limit of API calls is used up"
        if reply.retry_after is not None:
            return Transient(what, retry_after=reply.retry_after)
        if self._zone is None:
            hint = "it is counted anew from midnight on, in the account's time zone"
            return Transient(what, retry_after=_DAILY, hint=hint)
        now = datetime.now(UTC)
        then = midnight(now, self._zone)
        when = f"{then:%Y-%m-%d %H:%M} in the account's time zone ({then.astimezone(UTC):%H:%M} UTC)"
        return Transient(
            what, retry_after=(then - now).total_seconds(), hint=f"HubSpot counts anew from {when} on"
        )

    async def _token(self, instead_of: str = "") -> str:
        if self._oauth is not None:
            return await self._oauth.token(instead_of)
        assert self._settings.token is not None
        # Each time, since the file that it stands in may be another one by now.
        return self._settings.token.get_secret_value()


class _Tokens:
    """Access tokens of an app with OAuth; one refresh at a time, however many calls wait for it."""

    def __init__(self, api: Api, settings: OAuthSettings) -> None:
        self._api = api
        self._settings = settings
        self._lock = asyncio.Lock()
        self._token = ""
        self._until = 0.0

    async def token(self, instead_of: str = "") -> str:
        """One that is good for a call; another one than `instead_of`, which was refused."""
        async with self._lock:
            if not self._token or time.monotonic() >= self._until or self._token == instead_of:
                await self._refresh()
            return self._token

    async def _refresh(self) -> None:
        form = {
            "grant_type": "refresh_token",
            "client_id": self._settings.client_id,
            "client_secret": self._settings.client_secret.get_secret_value(),
            "refresh_token": self._settings.refresh_token.get_secret_value(),
        }
        reply = await self._api.call("POST", "/oauth/v1/token", headers={}, form=form)
        data = reply.data
        if reply.status == 200 and isinstance(data, Mapping) and isinstance(data.get("access_token"), str):
            self._token = data["access_token"]
            lasts = float(data.get("expires_in") or 0)
            self._until = time.monotonic() + max(lasts - _EARLY, lasts / 2)
            return
        self._token = ""
        if reply.status in (429,) or reply.status >= 500 or reply.status < 300:
            raise Transient(f"HubSpot answered {reply.status} to a refresh of the access token")
        body = data if isinstance(data, Mapping) else {}
        raise Unauthorized(
            f"HubSpot does not refresh the access token ({body.get('category') or reply.status})",
            hint="check `client_id`, `client_secret` and `refresh_token`: an account that has removed the app"
            " must install it again",
        )


def time_zone(details: Mapping[str, Any]) -> tzinfo | None:
    """The account's, by its name; where this system does not know that, by the offset that it has now."""
    try:
        return ZoneInfo(str(details.get("timeZone", "")))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        offset = details.get("utcOffsetMilliseconds")
        return timezone(timedelta(milliseconds=offset)) if isinstance(offset, int) else None


def midnight(now: datetime, zone: tzinfo) -> datetime:
    """When the next day begins there; a day may have 23 or 25 hours."""
    tomorrow = now.astimezone(zone).date() + timedelta(days=1)
    return datetime.combine(tomorrow, datetime.min.time(), zone)


def _number(headers: Mapping[str, str], name: str) -> int | None:
    text = headers.get(name, "")
    return int(text) if text.isdecimal() else None


def batches(items: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """`items` in runs of at most `size`."""
    return [items[start : start + size] for start in range(0, len(items), size)]
