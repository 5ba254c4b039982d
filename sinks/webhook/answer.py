"""What an endpoint's answer means for delivery, and what of it may be repeated to people.

| answer                                    | means                                                        |
|-------------------------------------------|--------------------------------------------------------------|
| 2xx                                       | accepted                                                     |
| 3xx                                       | permanent: redirects are not followed (Standard Webhooks)    |
| 408, 425, 429, 5xx                        | again, not before `Retry-After`                              |
| 400, 413, 422                             | this request is refused; others may be accepted              |
| 401, 403, 407                             | the credentials are refused                                  |
| 410                                       | no more is wanted (Standard Webhooks): the flow stops        |
| any other 4xx (404, 405 …)                | permanent: a person must do something before any is accepted |
| none: a timeout, a connection that failed | again. The outcome is unknown, so the same id goes out again |
"""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from html import escape
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from cdcflow.errors import DeliveryError, Transient, Unauthorized
from cdcflow_sinks.webhook.shapes import header_value

#: Of an endpoint's own words, in characters.
EXCERPT = 200
#: Values up to this length are concealed as whole words only: "1" is in every other text.
SHORT = 3
#: A value is recognised by its beginning, since what repeats it may cut it off.
BEGINNING = 16

#: Under these names, events of every shape have values of rows.
_ROWS = frozenset({"key", "new", "old", "before", "after", "content", "bytes", "subject"})

_REFUSED = frozenset({400, 413, 422})
_AGAIN = frozenset({408, 425, 429})
#: Not about this request, so that others need not be tried.
_EVERYWHERE = frozenset({429, 503})

_HINTS = {
    401: "check the `secret`, the `auth` and the `headers` of the sink",
    403: "check the `secret`, the `auth` and the `headers` of the sink",
    404: "check the `url` of the sink",
    405: "check the `url` of the sink, which must take POST",
    410: "the receiver wants no more events: pause or remove the flow, or give the sink another `url`; it is"
    " tried again only when somebody says so",
}


class Outcome(Enum):
    """What follows from a request that was not accepted."""

    AGAIN = "again"
    PERMANENT = "permanent"
    UNAUTHORIZED = "unauthorized"
    DISABLED = "disabled"
    REFUSED = "refused"


_OUTCOMES = {
    401: Outcome.UNAUTHORIZED,
    403: Outcome.UNAUTHORIZED,
    407: Outcome.UNAUTHORIZED,
    410: Outcome.DISABLED,
}


@dataclass(frozen=True, slots=True)
class Failure:
    """A request that was not accepted. `everywhere`: other requests would fare the same now. `unanswered`:
    what became of it is unknown. `told`: the reason says itself who it is about."""

    outcome: Outcome
    reason: str
    hint: str = ""
    retry_after: float | None = None
    everywhere: bool = False
    too_large: bool = False
    unanswered: bool = False
    told: bool = False

    @classmethod
    def of(cls, error: DeliveryError) -> "Failure":
        """What has failed before the request was made."""
        outcome = Outcome.UNAUTHORIZED if isinstance(error, Unauthorized) else Outcome.AGAIN
        wish = error.retry_after if isinstance(error, Transient) else None
        return cls(outcome, str(error), error.hint, wish, everywhere=True, told=True)


def judge(status: int, retry_after: str | None, words: str) -> Failure | None:
    """What an answer means; None: accepted. `words` is what `excerpt` made of the answer's body."""
    if 200 <= status < 300:
        return None
    try:
        name = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        name = str(status)
    reason = f"answered {name}" + (f": {words}" if words else "")
    if status >= 500 or status in _AGAIN:
        return Failure(
            Outcome.AGAIN, reason, retry_after=seconds_from(retry_after), everywhere=status in _EVERYWHERE
        )
    if status in _REFUSED:
        return Failure(Outcome.REFUSED, reason, too_large=status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE)
    hint = _HINTS.get(status, "")
    if 300 <= status < 400:
        hint = "redirects are not followed: set `url` to where the endpoint is now"
    outcome = _OUTCOMES.get(status, Outcome.PERMANENT)
    return Failure(outcome, reason, hint=hint, everywhere=True)


def seconds_from(retry_after: str | None) -> float | None:
    """`seconds` from now."""
    return seconds(retry_after, datetime.now(UTC)) if retry_after else None


def seconds(retry_after: str, now: datetime) -> float | None:
    """`Retry-After` as seconds from `now` (RFC 9110, section 10.2.3: a number, or a date). None when it is
    neither."""
    text = retry_after.strip()
    if text.isdecimal():
        return float(text)
    try:
        moment = parsedate_to_datetime(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max((moment - now).total_seconds(), 0.0)


def excerpt(answer: bytes, sent: bytes, secrets: Iterable[str]) -> str:
    """The beginning of an answer's body on one line, without the secrets and without the values that were
    `sent`: endpoints like to repeat what they dislike."""
    text = " ".join(answer.decode(errors="replace").split())
    text = "".join(character if character.isprintable() else "�" for character in text)
    hidden = {text for value in (*secrets, *_values(sent)) for text in _spellings(value)}
    for value in sorted(hidden, key=len, reverse=True):
        text = _conceal(text, value)
    return text if len(text) <= EXCERPT else text[: EXCERPT - 1] + "…"


def _values(body: bytes) -> Iterator[str]:
    """The values of all rows in a request's body, whatever its shape."""
    # With the digits of numbers as they stand, and with whatever surrogates a json column holds.
    yield from _rows(json.loads(body, parse_int=str, parse_float=str))


def _rows(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for inner in value:
            yield from _rows(inner)
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner) if name in _ROWS else _rows(inner)


def _leaves(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        # As a list: names of columns are no secret, keys inside of a value are.
        for inner in value.values():
            yield from _leaves(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _leaves(inner)
    elif value is not None and not isinstance(value, bool):
        yield str(value)


def _spellings(value: str) -> set[str]:
    """The value as it is, and as JSON, a URL or a page may write it, with white space as in an excerpt."""
    found = {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1]}
    found |= {quote(value, safe="", errors="replace"), header_value(value), escape(value)}
    return {" ".join(text.split()) for text in found} - {""}


def _conceal(text: str, value: str) -> str:
    if len(value) <= SHORT:
        return re.sub(rf"(?<!\w){re.escape(value)}(?!\w)", "[…]", text)
    start = 0
    while (start := text.find(value[:BEGINNING], start)) >= 0:
        end = start + 1
        while end < len(text) and end - start < len(value) and text[end] == value[end - start]:
            end += 1
        text = f"{text[:start]}[…]{text[end:]}"
        start += len("[…]")
    return text
