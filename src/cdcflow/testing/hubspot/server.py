"""HubSpot's HTTP API, as far as a sink meets it. Pages below developers.hubspot.com/docs/api-reference unless
another place is named:

* `POST /crm/v3/objects/{type}/batch/upsert`: latest/crm/objects/contacts/batch/upsert-contacts.
* 207 with `errors` and `numErrors` where each input has an `objectWriteTraceId`: error-handling,
  "Multi-status errors". Without: all refused, github.com/rudderlabs/rudder-transformer/pull/3308.
* 409 for a whole batch (`conflicts_fail_batch`): github.com/airbytehq/airbyte/pull/76340.
* The same id twice refuses the whole batch, with trace ids too: "Duplicate IDs found in batch input".
* A body without `inputs` is COMPLETE, nothing written: github.com/rudderlabs/rudder-transformer/pull/5147.
* `POST …/batch/read` with `idProperty`: 207 where some are not found
  (github.com/HubSpot/hubspot-api-php/issues/619), 404 where none (github.com/bruin-data/ingestr/pull/1203).
* `POST …/batch/archive`, 204 and idempotent: latest/crm/objects/contacts/batch/archive-contacts.
* `/crm/v3/properties/{type}`, `/crm/v3/schemas/{type}`: crm-properties-v3/guide, crm-schemas-v3.
* `/crm/v4/associations/{from}/{to}/batch/…`: crm-associations-v4/guide.
* `POST /oauth/v1/token`: auth-oauth-v1/guide. `GET /account-info/v3/details`: account-account-info-v3.
* Limits and 429: developers.hubspot.com/docs/developer-tooling/platform/usage-guidelines.
* 401, and 403 with the missing scopes: error-handling, "Common error responses".
"""

import secrets
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cdcflow.testing.hubspot.account import Account, CrmObject, Invalid, ObjectType
from cdcflow.testing.hubspot.limits import Limits
from cdcflow.testing.service import Answer, Request, Service

#: "Up to 100 records" of every batch endpoint of objects.
MOST_INPUTS = 100
#: Of an association's batch (crm-associations-v4/guide, "Limitations").
MOST_ASSOCIATIONS = 2_000
#: The id of the default association's label between two types (crm-associations-v4/guide, "Association type
#: id values").
DEFAULT_ASSOCIATIONS = {
    ("contacts", "companies"): 279,
    ("companies", "contacts"): 280,
    ("deals", "contacts"): 3,
    ("contacts", "deals"): 4,
    ("deals", "companies"): 341,
    ("companies", "deals"): 342,
    ("tickets", "contacts"): 16,
    ("tickets", "companies"): 339,
}

TOKEN = "pat-na1-11111111-2222-3333-4444-555555555555"  # noqa: S105 - the test server's own
ALL_SCOPES = frozenset(
    {
        f"crm.{what}.{kind}.{how}"
        for what in ("objects", "schemas")
        for kind in ("contacts", "companies", "deals", "custom")
        for how in ("read", "write")
    }
    | {"tickets"}
)


class HubSpot(Service):
    """An account with one private app (`token`) and one OAuth app. See the module."""

    name = "hubspot"

    def __init__(
        self,
        account: Account | None = None,
        limits: Limits | None = None,
        *,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        super().__init__(host=host, port=port)
        self.account = account if account is not None else Account()
        self.limits = limits if limits is not None else Limits()
        #: Tokens of private apps; taking one away is what "rotate and expire now" does.
        self.tokens: set[str] = {TOKEN}
        self.scopes: set[str] = set(ALL_SCOPES)
        #: The OAuth app. `expires_in` is what its tokens are given, in seconds.
        self.client_id = "8f5e7ac2-7d70-4b52-8c8b-7c7a6a2c1e52"
        self.client_secret = "0a1b2c3d-client-secret"  # noqa: S105 - the test server's own
        self.refresh_token = "na1-refresh-token"  # noqa: S105 - the test server's own
        self.expires_in = 1_800
        self.refreshes = 0
        self._access: dict[str, float] = {}
        #: A conflict answers 409 for the whole batch instead of an entry in `errors`.
        self.conflicts_fail_batch = False
        #: Batches are refused as a whole although every input has its trace id.
        self.multi_status = True

    def expire_tokens(self) -> None:
        """Every access token of the OAuth app is over now, whatever its `expires_in` said."""
        with self.lock:
            self._access.clear()

    # Requests.

    def handle(self, request: Request) -> Answer:
        parts = request.path.strip("/").split("/")
        if (request.method, request.path) == ("POST", "/oauth/v1/token"):
            return self._token(request)
        oauth = request.bearer in self._access
        refusal = self._authenticate(request)
        if refusal is not None:
            return refusal
        policy = self.limits.take(request.at)
        headers = self.limits.headers(daily=not oauth)
        if policy is not None:
            return self._limited(policy, headers)
        answer = self._route(request, parts)
        return Answer(answer.status, answer.body, {**answer.headers, **headers})

    def _limited(self, policy: str, headers: Mapping[str, str]) -> Answer:
        said = "daily" if policy == "DAILY" else "ten_secondly_rolling"
        body = {
            "status": "error",
            "message": f"You have reached your {said} limit.",
            "errorType": "RATE_LIMIT",
            "correlationId": str(uuid.uuid4()),
            "policyName": policy,
            "groupName": "publicapi:private-apps:api-calls",
        }
        return Answer.json(body, 429, headers)

    def _authenticate(self, request: Request) -> Answer | None:
        token = request.bearer
        if token in self.tokens or self._access.get(token, 0.0) > time.monotonic():
            return None
        if token in self._access:
            return _error(
                401,
                "EXPIRED_AUTHENTICATION",
                "The OAuth token used to make this call expired 1 second(s) ago.",
            )
        return _error(
            401,
            "INVALID_AUTHENTICATION",
            "Authentication credentials not found. This API supports OAuth 2.0 authentication",
        )

    def _token(self, request: Request) -> Answer:
        form = request.form
        if form.get("grant_type") != "refresh_token":
            return _error(400, "BAD_GRANT_TYPE", "missing or unknown grant_type")
        if (form.get("client_id"), form.get("client_secret")) != (self.client_id, self.client_secret):
            return _error(400, "BAD_CLIENT_ID", "missing or invalid client id or client secret")
        if form.get("refresh_token") != self.refresh_token:
            return _error(400, "BAD_REFRESH_TOKEN", "missing or invalid refresh token")
        token = secrets.token_urlsafe(24)
        self._access[token] = time.monotonic() + self.expires_in
        self.refreshes += 1
        return Answer.json(
            {
                "access_token": token,
                "refresh_token": self.refresh_token,
                "expires_in": self.expires_in,
                "token_type": "bearer",
            }
        )

    def _route(self, request: Request, parts: Sequence[str]) -> Answer:
        try:
            match (request.method, *parts):
                case ("GET", "account-info", "v3", "details"):
                    account = self.account
                    return Answer.json({"portalId": account.portal, "timeZone": account.time_zone})
                case ("GET", "crm", "v3", "properties", name):
                    return self._with(name, "schemas", "read", self._properties)
                case ("GET", "crm", "v3", "schemas"):
                    found = [one.schema() for one in self.account.types.values() if one.custom]
                    return Answer.json({"results": found})
                case ("GET", "crm", "v3", "schemas", name):
                    return self._with(name, "schemas", "read", lambda kind: Answer.json(kind.schema()))
                case ("POST", "crm", "v3", "objects", name, "batch", "upsert"):
                    return self._with(
                        name, "objects", "write", lambda kind: self._upsert(kind, _inputs(request))
                    )
                case ("POST", "crm", "v3", "objects", name, "batch", "read"):
                    return self._with(name, "objects", "read", lambda kind: self._read(kind, request.json))
                case ("POST", "crm", "v3", "objects", name, "batch", "archive"):
                    return self._with(
                        name, "objects", "write", lambda kind: self._archive(kind, _inputs(request))
                    )
                case ("POST", "crm", "v4", "associations", one, other, "batch", what, *_):
                    return self._with(
                        one, "objects", "write", lambda kind: self._associate(kind, other, what, request)
                    )
                case _:
                    return _error(404, "OBJECT_NOT_FOUND", f"No resource at {request.path}")
        except (orjson.JSONDecodeError, KeyError, TypeError, AttributeError):
            return _error(400, "VALIDATION_ERROR", "Invalid input JSON: unable to read the request's body")

    def _with(self, name: str, what: str, how: str, then: Any) -> Answer:
        kind = self.account.type(name)
        if kind is None:
            return _error(400, "VALIDATION_ERROR", f"Unable to infer object type from: {name}")
        scope = f"crm.{what}.{'custom' if kind.custom else kind.name}.{how}"
        scope = "tickets" if kind.name == "tickets" else scope
        if scope not in self.scopes:
            context = {"requiredGranularScopes": [scope]}
            return _error(
                403,
                "MISSING_SCOPES",
                "This app hasn't been granted all required scopes to make this call.",
                errors=[{"message": "One or more of the following scopes are required.", "context": context}],
            )
        found: Answer = then(kind)
        return found

    def _properties(self, kind: ObjectType) -> Answer:
        return Answer.json({"results": [one.described() for one in kind.properties.values()]})

    # Batches.

    def _upsert(self, kind: ObjectType, inputs: Sequence[Mapping[str, Any]]) -> Answer:
        if len(inputs) > MOST_INPUTS:
            return _too_many(len(inputs), MOST_INPUTS)
        by = {str(one.get("idProperty", "hs_object_id")) for one in inputs}
        if len(by) > 1:
            return _error(400, "VALIDATION_ERROR", "Batch requests must use one idProperty")
        for name in by:
            found = kind.properties.get(name)
            if found is None or not found.unique:
                return _error(
                    400,
                    "VALIDATION_ERROR",
                    f"Unable to perform update/upsert by non-unique {kind.id} property {name} in portal ID"
                    f" {self.account.portal}",
                )
        name = next(iter(by), "")
        ids = [_identity(name, str(one["id"])) for one in inputs]
        duplicates = sorted({one for one in ids if ids.count(one) > 1}) if len(set(ids)) < len(ids) else []
        if duplicates:
            return _error(
                400,
                "VALIDATION_ERROR",
                f"Duplicate IDs found in batch input: [{', '.join(duplicates)}]. IDs must be unique",
                context={"ids": duplicates},
            )
        traced = bool(inputs) and all(one.get("objectWriteTraceId") for one in inputs)
        if not (traced and self.multi_status):
            failure = self._first_failure(kind, name, inputs)
            if failure is not None:
                return _invalid(failure)
        results, errors = [], []
        for one in inputs:
            trace = one.get("objectWriteTraceId")
            try:
                record, new = self.account.upsert(kind, name, str(one["id"]), _texts(one["properties"]))
            except Invalid as invalid:
                if invalid.category == "CONFLICT" and self.conflicts_fail_batch:
                    return _invalid(invalid)
                errors.append(_entry(invalid, trace))
            else:
                results.append({**_rendered(record), "new": new, "objectWriteTraceId": trace})
        return _batch(results, errors)

    def _first_failure(
        self, kind: ObjectType, by: str, inputs: Sequence[Mapping[str, Any]]
    ) -> Invalid | None:
        """What is wrong with the first input that would fail, with nothing written."""
        for one in inputs:
            try:
                self.account._validate(kind, {**_texts(one["properties"]), by: str(one["id"])})
            except Invalid as invalid:
                return invalid
        return None

    def _read(self, kind: ObjectType, body: Mapping[str, Any]) -> Answer:
        inputs = body["inputs"]
        if len(inputs) > MOST_INPUTS:
            return _too_many(len(inputs), MOST_INPUTS)
        by = body.get("idProperty")
        if by is not None and (by not in kind.properties or not kind.properties[by].unique):
            return _error(400, "VALIDATION_ERROR", f"{by} is not a unique property of {kind.name}")
        results, missing = [], []
        for one in inputs:
            identity = str(one["id"])
            record = kind.records.get(identity) if by is None else self.account.find(kind.name, by, identity)
            if record is None or record.archived:
                missing.append(identity)
                continue
            wanted = {*body.get("properties", ()), *((by,) if by else ())}
            shown = {name: record.properties.get(name) for name in sorted(wanted)}
            results.append({**_rendered(record), "properties": shown})
        errors = []
        if missing:
            said = f"Could not get some {kind.name} objects, they may be deleted or not exist."
            errors.append(
                {
                    "status": "error",
                    "category": "OBJECT_NOT_FOUND",
                    "message": said,
                    "context": {"ids": missing},
                }
            )
        if missing and not results:
            return Answer.json(_batch_body(results, errors), 404)
        return _batch(results, errors)

    def _archive(self, kind: ObjectType, inputs: Sequence[Mapping[str, Any]]) -> Answer:
        if len(inputs) > MOST_INPUTS:
            return _too_many(len(inputs), MOST_INPUTS)
        for one in inputs:
            self.account.archive(kind, str(one["id"]))
        return Answer(204)

    def _associate(self, kind: ObjectType, other: str, what: str, request: Request) -> Answer:
        to = self.account.type(other)
        if to is None:
            return _error(400, "VALIDATION_ERROR", f"Unable to infer object type from: {other}")
        inputs = _inputs(request)
        if what in ("archive", "labels"):
            return self._dissociate(kind, to, inputs)
        if len(inputs) > MOST_ASSOCIATIONS:
            return _too_many(len(inputs), MOST_ASSOCIATIONS)
        results, errors = [], []
        for one in inputs:
            source, target = str(one["from"]["id"]), str(one["to"]["id"])
            if not (_is_living(kind, source) and _is_living(to, target)):
                errors.append(
                    {
                        "status": "error",
                        "category": "VALIDATION_ERROR",
                        "message": "One or more objects do not exist",
                        "context": {"fromObjectId": [source], "toObjectId": [target]},
                    }
                )
                continue
            if what == "create":
                labels = {int(label["associationTypeId"]) for label in one["types"]}
            else:
                labels = {DEFAULT_ASSOCIATIONS.get((kind.name, to.name), 1_000)}
            key = (kind.name, source, to.name, target)
            self.account.associations.setdefault(key, set()).update(labels)
            results.append({"from": one["from"], "to": one["to"]})
        return _batch(results, errors)

    def _dissociate(self, kind: ObjectType, to: ObjectType, inputs: Sequence[Mapping[str, Any]]) -> Answer:
        """`batch/archive`: all that there is between two records, `to` a list
        (crm-associations-v4/batch/post-crm-v4-associations-fromObjectType-toObjectType-batch-archive).
        `batch/labels/archive`: the labels of `types`, `to` one record; "deleting an unlabeled association
        will also delete all labeled associations between those two objects" (…-batch-labels-archive). What is
        not there is no error."""
        if len(inputs) > MOST_ASSOCIATIONS:
            return _too_many(len(inputs), MOST_ASSOCIATIONS)
        for one in inputs:
            source, targets = str(one["from"]["id"]), one["to"]
            labels = {int(label["associationTypeId"]) for label in one.get("types", ())}
            for target in targets if isinstance(targets, list) else [targets]:
                key = (kind.name, source, to.name, str(target["id"]))
                left = self.account.associations.get(key, set()) - labels
                if not labels or DEFAULT_ASSOCIATIONS.get((kind.name, to.name), 1_000) in labels:
                    left = set()
                if left:
                    self.account.associations[key] = left
                else:
                    self.account.associations.pop(key, None)
        return Answer(204)


def _is_living(kind: ObjectType, identity: str) -> bool:
    record = kind.records.get(identity)
    return record is not None and not record.archived


def _inputs(request: Request) -> Sequence[Mapping[str, Any]]:
    """A body without `inputs` is an empty batch, and is answered as done."""
    found: Sequence[Mapping[str, Any]] = request.json.get("inputs", [])
    return found


def _identity(name: str, value: str) -> str:
    return value.lower() if name == "email" else value


def _texts(properties: Mapping[str, Any]) -> dict[str, str]:
    """Values as text. JSON null is as though the property were not there
    (github.com/rudderlabs/rudder-transformer/pull/5172)."""
    return {
        name: value if isinstance(value, str) else orjson.dumps(value).decode()
        for name, value in properties.items()
        if value is not None
    }


def _rendered(record: CrmObject) -> dict[str, Any]:
    return {
        "id": record.id,
        "properties": dict(record.properties),
        "createdAt": record.created,
        "updatedAt": record.updated,
        "archived": record.archived,
    }


def _batch_body(results: Sequence[object], errors: Sequence[object]) -> dict[str, Any]:
    stamp = "2026-01-01T00:00:00.000Z"
    body: dict[str, Any] = {
        "status": "COMPLETE",
        "results": results,
        "startedAt": stamp,
        "completedAt": stamp,
    }
    if errors:
        body["numErrors"] = len(errors)
        body["errors"] = errors
    return body


def _batch(results: Sequence[object], errors: Sequence[object]) -> Answer:
    return Answer.json(_batch_body(results, errors), 207 if errors else 200)


def _entry(invalid: Invalid, trace: object) -> dict[str, Any]:
    return {
        "status": "error",
        "category": invalid.category,
        "message": invalid.message,
        "context": {"objectWriteTraceId": [trace]} if trace else {},
    }


def _invalid(invalid: Invalid) -> Answer:
    status = 409 if invalid.category == "CONFLICT" else 400
    return _error(status, invalid.category, invalid.message, errors=invalid.errors)


def _too_many(found: int, most: int) -> Answer:
    return _error(
        400, "VALIDATION_ERROR", f"The maximum number of inputs is {most}, this request has {found}"
    )


def _error(
    status: int,
    category: str,
    message: str,
    *,
    errors: Sequence[Mapping[str, Any]] = (),
    context: Mapping[str, Any] | None = None,
) -> Answer:
    body: dict[str, Any] = {
        "status": "error",
        "message": message,
        "correlationId": str(uuid.uuid4()),
        "category": category,
    }
    if errors:
        body["errors"] = list(errors)
    if context:
        body["context"] = dict(context)
    return Answer.json(body, status)
