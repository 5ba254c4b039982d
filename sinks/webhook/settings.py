"""What can be said about a `webhook` sink in `cdcflow.yaml`."""

import ipaddress
import re
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, field_serializer, model_validator

from cdcflow.sink import ConfigPath, Secret, Settings, SinkSettings
from cdcflow.sink.quantities import Duration
from cdcflow.types import Numbers
from cdcflow_sinks.webhook.auth import AuthSettings
from cdcflow_sinks.webhook.shapes import ShapeName
from cdcflow_sinks.webhook.signature import signer
from cdcflow_sinks.webhook.templates import for_header
from cdcflow_sinks.webhook.urls import shown, url_with_fields

#: RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: RFC 9110, section 5.5, as far as it is ASCII.
_FIELD_VALUE = re.compile(r"[!-~](?:[ \t!-~]*[!-~])?")
#: What the request itself decides.
_OURS = frozenset({"host", "content-type", "content-length", "transfer-encoding", "connection"})


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str | SecretStr) else value


def _signing_secret(secret: SecretStr) -> SecretStr:
    signer(secret.get_secret_value())
    return secret


def _headers(headers: dict[str, SecretStr]) -> dict[str, SecretStr]:
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an HTTP header")
        if name.lower() in _OURS or name.lower().startswith("webhook-"):
            raise ValueError(f"the header {name} is set by cdcflow: remove it")
        if not _FIELD_VALUE.fullmatch(value.get_secret_value()):
            raise ValueError(f"the value of the header {name} is empty or holds more than printable ASCII")
    return headers


def _row_headers(headers: dict[str, str]) -> dict[str, str]:
    for name, text in headers.items():
        if not _TOKEN.fullmatch(name):
            raise ValueError(f"{name!r} is not the name of an HTTP header")
        if (
            name.lower() in _OURS
            or name.lower().startswith(("webhook-", "ce-"))
            or name.lower() == "authorization"
        ):
            raise ValueError(f"the header {name} is set by cdcflow: remove it")
        if not for_header(text):
            raise ValueError(f"the header {name} has no field of the row: set it under `headers`")
        if not _FIELD_VALUE.fullmatch(for_header(text).sample()):
            raise ValueError(f"the header {name} holds more than printable ASCII")
    return headers


def _allowed(entry: str) -> str:
    if "/" in entry:
        try:
            ipaddress.ip_network(entry)
        except ValueError as error:
            raise ValueError(f"{entry!r} is no network: {error}") from error
    elif not entry or (any(character in entry for character in "*:@ ") and not _is_address(entry)):
        raise ValueError(f"expected a host as in the URL, an address or a network, found {entry!r}")
    return entry


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class TlsSettings(Settings):
    """`tls:`, for endpoints with authorities of their own, or that want to know the client (mutual TLS)."""

    #: Trusted beside the system's authorities.
    ca: ConfigPath | None = None
    cert: ConfigPath | None = None
    key: ConfigPath | None = None

    @model_validator(mode="after")
    def _both(self) -> Self:
        if (self.cert is None) != (self.key is None):
            raise ValueError("`cert` and `key` go together")
        return self


class WebhookSettings(SinkSettings):
    """An endpoint that takes events by POST."""

    type: Literal["webhook"] = "webhook"
    #: Shown without its path: many services put the credential there.
    url: Annotated[str, AfterValidator(url_with_fields), Field(repr=False)]
    #: `whsec_` and the base64 of 24 to 64 bytes, or `whsk_` and that of an Ed25519 private key (32 bytes), so
    #: that a receiver needs the public key only. Several: each signs, so that a receiver can go over from one
    #: to the next. None: requests are not signed.
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
    #: What a body looks like: see `cdcflow_sinks.webhook.shapes`.
    shape: ShapeName = "native"
    #: Headers that come from the row, such as `{X-Tenant: "{row.tenant}"}`.
    row_headers: Annotated[dict[str, str], AfterValidator(_row_headers)] = Field(default_factory=dict)
    #: The signature is over what was compressed: that is what a receiver's framework hands on, and all that
    #: the specification's own libraries can verify.
    compress: Literal["gzip"] | None = None
    auth: AuthSettings | None = None
    tls: TlsSettings = TlsSettings()
    #: Hosts (as they stand in the URL) and networks that may be reached although they are not public: without
    #: an entry here no request goes to a loopback, private or link-local address, whatever name has it.
    allow: tuple[Annotated[str, AfterValidator(_allowed)], ...] = ()

    @field_serializer("url")
    def _shown(self, url: str) -> str:
        return shown(url)

    @model_validator(mode="after")
    def _options_have_an_effect(self) -> Self:
        given = self.model_fields_set
        if not self.batch and "max_batch" in given:
            raise ValueError("`max_batch` has no effect without `batch: true`")
        if self.batch and "concurrency" in given:
            raise ValueError(
                "`concurrency` has no effect with `batch: true`, which sends one request at a time"
            )
        if self.batch and self.shape == "cloudevents-binary":
            raise ValueError("several events in one request have no binary form: write `shape: cloudevents`")
        if self.auth is not None and any(name.lower() == "authorization" for name in self.headers):
            raise ValueError("`auth` and the header Authorization say the same thing twice: remove one")
        return self
