"""The `slack` sink: a message per change, one after the other, so that order is kept.

| Slack's answer                                       | means for delivery                                 |
|------------------------------------------------------|----------------------------------------------------|
| 200 `ok`                                             | written                                            |
| 400 (`invalid_payload`, `no_text`, `user_not_found`) | this message is refused                            |
| 403, 404 (`action_prohibited`, `channel_not_found`)  | a person must do something before any is taken     |
| 410 (`channel_is_archived`)                          | no more is wanted                                  |
| 429                                                  | again, not before `Retry-After`; nobody else either |
| 5xx, or no answer                                    | again                                              |

https://api.slack.com/changelog/2016-05-17-changes-to-errors-for-incoming-webhooks and, for the limit of one
message per second, https://docs.slack.dev/apis/web-api/rate-limits
"""

import re
from typing import Annotated, Any

import httpx
from pydantic import Field

from cdcflow.errors import DeliveryError, Disabled, Permanent, Rejected, Transient, Unauthorized
from cdcflow.model import Batch
from cdcflow.sink import FlowContext, Limit, Secret, SinkOptions, SinkSettings
from cdcflow.sink.event import Event, encode, events

_FIELD = re.compile(r"\{([^{}]+)\}")
_REFUSED = frozenset({400, 413})


class SlackSettings(SinkSettings):
    """A channel, by its incoming webhook."""

    #: Whoever knows the URL can post, so it is a secret.
    url: Secret
    #: Messages per second. Slack takes one, and short bursts of more.
    rate: Annotated[int, Field(ge=1)] = 1
    timeout: Annotated[float, Field(gt=0)] = 15.0


class SlackOptions(SinkOptions):
    """What a flow's messages say: `{op}`, `{table}`, `{key.COLUMN}`, `{row.COLUMN}`, or `{event}` for all."""

    text: str = "{op} {table} {event}"


class SlackSink:
    """See the module."""

    def __init__(self, settings: SlackSettings, options: SlackOptions, context: FlowContext) -> None:
        self._settings = settings
        self._text = options.text
        self._budget = context.budget
        self._limit = Limit("messages", settings.rate, 1.0)
        self._url = ""
        self._client: httpx.AsyncClient | None = None

    async def open(self) -> None:
        # Here and not before: the file of a secret may have been replaced since.
        self._url = self._settings.url.get_secret_value()
        if not self._url.startswith(("https://", "http://")):
            raise Unauthorized(
                "the url of the Slack webhook is not a URL", hint="set `url` to the one Slack gave"
            )
        self._client = httpx.AsyncClient(timeout=self._settings.timeout, trust_env=False)

    async def write(self, batch: Batch) -> None:
        written: list[int] = []
        refused: dict[int, str] = {}
        for index, event in events(batch):
            try:
                await self._post(message(self._text, event))
            except Rejected as error:
                refused[index] = error.refused[0]
            except DeliveryError as error:
                # What has had its end does not come again.
                error.written, error.refused = frozenset(written), refused
                raise
            else:
                written.append(index)
        if refused:
            raise Rejected(refused)

    async def close(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await client.aclose()

    async def _post(self, text: str) -> None:
        if self._client is None:
            raise Permanent("the sink is not open")
        try:
            async with self._budget.call(self._limit):
                answer = await self._client.post(self._url, json={"text": text})
        except httpx.TransportError as error:
            raise Transient(f"Slack cannot be reached: {type(error).__name__}") from error
        if answer.status_code == 200:
            return
        word = answer.text.strip()
        said = f"Slack answered {answer.status_code}" + (
            f" {word}" if re.fullmatch(r"[a-z_]{1,40}", word) else ""
        )
        match answer.status_code:
            case status if status in _REFUSED:
                raise Rejected({0: said})
            case 429:
                wish = float(answer.headers.get("Retry-After", "1"))
                self._budget.hold(wish)
                raise Transient(said, retry_after=wish)
            case 410:
                raise Disabled(said, hint="give the sink the webhook of a channel that is not archived")
            case status if status >= 500:
                raise Transient(said)
            case _:
                raise Permanent(said, hint="check the webhook in Slack, and `url`")


def message(template: str, event: Event) -> str:
    """The text of a change, with what Slack would take for markup escaped.

    https://docs.slack.dev/messaging/formatting-message-text (Escaping text)
    """
    found = _FIELD.sub(lambda match: _value(event, match[1]), template)
    return found.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _value(event: Event, name: str) -> str:
    if name == "event":
        return encode(event).decode()
    kind, _, column = name.partition(".")
    found: Any = event.get(name)
    if column:
        row = event.get("key") if kind == "key" else event.get("new") or event.get("old") or event.get("key")
        found = (row or {}).get(column)
    return "–" if found is None else str(found)
