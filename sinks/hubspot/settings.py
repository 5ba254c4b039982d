"""What can be said about a `hubspot` sink in `cdcflow.yaml`, and about a flow's mapping to it."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from cdcflow.sink import Secret, Settings, SinkSettings
from cdcflow.sink.quantities import Duration
from cdcflow.sink.records import RecordOptions


def _given(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("is empty")
    return secret


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
        raise ValueError("must begin with https://: a token is sent there")
    return text


GivenSecret = Annotated[Secret, AfterValidator(_given)]
Url = Annotated[str, AfterValidator(_url)]


class OAuthSettings(Settings):
    """An app with OAuth, once an account has installed it. Its access tokens are made anew by cdcflow before
    they expire (developers.hubspot.com/docs/api-reference/auth-oauth-v1/guide)."""

    client_id: str
    client_secret: GivenSecret
    refresh_token: GivenSecret


class HubSpotSettings(SinkSettings):
    """An account of HubSpot."""

    type: Literal["hubspot"] = "hubspot"
    #: The token of a private app.
    token: GivenSecret | None = None
    oauth: OAuthSettings | None = None
    url: Url = "https://api.hubapi.com"
    #: Seconds until a call without a whole answer has failed. Batches of a hundred take a few.
    timeout: Annotated[Duration, Field(gt=0)] = 30.0
    #: Calls at the same time. At half a second each, eight use up what an account allows.
    concurrency: Annotated[int, Field(ge=1, le=32)] = 8

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> Self:
        if (self.token is None) == (self.oauth is None):
            raise ValueError("give either `token` (of a private app) or `oauth`")
        return self

    @property
    def account(self) -> str:
        """What the budget of calls is shared by: it is counted per app and account."""
        if self.token is not None:
            return f"{self.url} {self.token.get_secret_value()}"
        assert self.oauth is not None
        return f"{self.url} {self.oauth.client_id} {self.oauth.refresh_token.get_secret_value()}"


class Association(Settings):
    """One association of each record: to the record of `to` whose unique property `match` has the value of
    `column`. `label` is the id of an association label; without it, the default association."""

    to: str
    match: str
    column: str
    label: int | None = None

    @property
    def field(self) -> str:
        """Its name among the fields of a record; no property is named so."""
        return f"@{self.to}:{self.label or 'default'}"


class HubSpotOptions(RecordOptions):
    """A flow's `with:`. `match` is a unique property, `fields` maps properties to columns."""

    #: What happens when a row disappears: by a delete, a truncate, or out of the flow's filter. `archive`:
    #: the record goes to the recycling bin. `clear`: the mapped properties become empty.
    deletes: Literal["ignore", "archive", "clear"] = "ignore"
    associate: tuple[Association, ...] = ()

    @model_validator(mode="after")
    def _associations_differ(self) -> Self:
        names = [one.field for one in self.associate]
        if len(set(names)) < len(names):
            raise ValueError("two entries of `associate` are for the same object and label: give it once")
        return self
