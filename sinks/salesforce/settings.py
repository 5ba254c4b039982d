"""What can be said about a `salesforce` sink in `cdcflow.yaml`, and about a flow's mapping to it."""

from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, SecretStr, model_validator

from cdcflow.sink import Secret, SinkSettings
from cdcflow.sink.quantities import Duration
from cdcflow.sink.records import RecordOptions


def _given(secret: SecretStr) -> SecretStr:
    if not secret.get_secret_value().strip():
        raise ValueError("is empty")
    return secret


def _url(text: str) -> str:
    if not text.startswith(("https://", "http://127.0.0.1", "http://localhost", "http://[::1]")):
        raise ValueError("must begin with https://: credentials are sent there")
    return text.rstrip("/")


GivenSecret = Annotated[Secret, AfterValidator(_given)]
Url = Annotated[str, AfterValidator(_url)]


class SalesforceSettings(SinkSettings):
    """An org, through a connected app. With `private_key` and `user` by JWT bearer, with `client_secret` by
    client credentials."""

    type: Literal["salesforce"] = "salesforce"
    #: My Domain, `https://acme.my.salesforce.com`. For JWT bearer also https://login.salesforce.com.
    url: Url
    #: The connected app's consumer key.
    client_id: str
    client_secret: GivenSecret | None = None
    #: PEM of the key whose certificate the connected app has.
    private_key: GivenSecret | None = None
    #: The user whom the app acts as.
    user: str | None = None
    #: Who a JWT is for: `https://test.salesforce.com` for sandboxes behind it.
    audience: Literal["https://login.salesforce.com", "https://test.salesforce.com"] = (
        "https://login.salesforce.com"
    )
    api_version: Annotated[str, Field(pattern=r"^\d\d\.0$")] = "62.0"
    #: Seconds until a call without a whole answer has failed. Triggers and flows of an org may take long.
    timeout: Annotated[Duration, Field(gt=0)] = 120.0
    #: Calls at the same time. Of calls that run longer than 20 s an org allows 25 at once, others' included.
    concurrency: Annotated[int, Field(ge=1, le=16)] = 4

    @model_validator(mode="after")
    def _one_way_to_authenticate(self) -> Self:
        if (self.private_key is None) == (self.client_secret is None):
            raise ValueError("give either `private_key` and `user` (JWT bearer) or `client_secret`")
        if self.private_key is not None and not self.user:
            raise ValueError("JWT bearer needs `user`, whom the app acts as")
        if self.private_key is None and self.user:
            raise ValueError("`user` has no effect without `private_key`: the app says whom it acts as")
        return self

    @property
    def account(self) -> str:
        return f"{self.url} {self.client_id}"


class SalesforceOptions(RecordOptions):
    """A flow's `with:`. `match` is an external ID field, `fields` maps fields to columns. A parent is named
    by its external ID with a path: `Account.Number__c: customer`."""

    #: What happens when a row disappears: by a delete, a truncate, or out of the flow's filter. `delete`:
    #: the record goes to the recycle bin. `clear`: the mapped fields become empty.
    deletes: Literal["ignore", "delete", "clear"] = "ignore"
    #: So many records at once go by a bulk job. None: never. Salesforce: "2,000 records or more".
    bulk: Annotated[int, Field(ge=1)] | None = 2_000
