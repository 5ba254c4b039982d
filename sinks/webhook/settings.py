"""What can be said about a `webhook` sink in `cdcflow.yaml`."""

import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from cdcflow.sink import Secret, SinkSettings
from cdcflow.sink.quantities import Duration
from cdcflow.types import Numbers
from cdcflow_sinks.webhook.signature import signing_key

#: RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: RFC 9110, section 5.5, as far as it is ASCII.
_FIELD_VALUE = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")
#: What the request itself decides.
_OURS = frozenset({"host", "content-type", "content-length", "transfer-encoding", "connection"})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | SecretStr) else value


def _signing_secret(secret: SecretStr) -> SecretStr:
    signing_key(secret.get_secret_value())
    return secret


def _url(text: str) -> str:
    # A hundred milliseconds that a command which reads no webhook's settings need not spend.
    import httpx

    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        # Without the library's words, which repeat parts of the URL.
        raise ValueError("is not a URL: write one such as https://example.com/hook") from error
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError("is not an http URL: write one such as https://example.com/hook")
    if url.userinfo:
        raise ValueError("holds a user or a password: set `headers: {Authorization: …}` instead")
    if url.fragment:
        raise ValueError("holds a fragment (#…), which is never sent: remove it")
    return text


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an HTTP header")
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            raise ValueError(f"the header {name} is set by cdcflow: remove it")
        if not _FIELD_VALUE.fullmatch(value.get_secret_value()):
            raise ValueError(f"the value of the header {name} is empty or holds more than printable ASCII")
    return headers


class WebhookSettings(SinkSettings):
    """An endpoint that takes events by POST."""

    type: Literal["webhook"] = "webhook"
    #: Not shown: many services put the credential into the path.
    url: Annotated[str, AfterValidator(_url), Field(repr=False)]
    #: `whsec_` and the base64 of 24 to 64 bytes. Several: each signs, so that a receiver can go over from
    #: one to the next. None: requests are not signed.
    secret: Annotated[
        tuple[Annotated[Secret, AfterValidator(_signing_secret)], ...], BeforeValidator(_as_list)
    ] = ()
    #: One request for several events, `{"id": …, "events": […]}`, instead of one for each.
    batch: bool = False
    #: Most events of a request, with `batch`.
    max_batch: Annotated[int, Field(ge=1, le=1_000)] = 100
    #: Requests at the same time, without `batch`. Eight keep a receiver busy that takes 10 ms for each while
    #: they stay below what most servers allow one client.
    concurrency: Annotated[int, Field(ge=1, le=64)] = 8
    #: Seconds until a request without a whole answer has failed. Standard Webhooks: 15 to 30 s.
    timeout: Annotated[Duration, Field(gt=0)] = 15.0
    headers: Annotated[dict[str, Secret], AfterValidator(_headers)] = Field(default_factory=dict)
    #: `safe`: what JavaScript would change (integers beyond 2^53, numeric) is a string. `exact`: every number
    #: is a JSON number with all its digits, for receivers that have exact numbers.
    numbers: Numbers = "safe"

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        given = self.model_fields_set
        if not self.batch and "max_batch" in given:
            raise ValueError("`max_batch` has no effect without `batch: true`")
        if self.batch and "concurrency" in given:
            raise ValueError(
                "`concurrency` has no effect with `batch: true`, which sends one request at a time"
            )
        return self
