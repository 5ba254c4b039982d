"""Salesforce's HTTP API, as far as a sink meets it. Pages of developer.salesforce.com/docs and
help.salesforce.com:

* `PATCH /composite/sobjects/{object}/{field}`: up to 200 records of one type, per-record results in input
  order within a 200, 400 where the request is not well formed:
  platform/api-rest/guide/resources-composite-sobjects-collections-upsert.html.
* `DELETE /composite/sobjects?ids=…`: resources-composite-sobjects-collections-delete.html.
* `GET /sobjects`, `/sobjects/{object}/describe`: resources-sobject-describe.html; `GET /query`:
  resources-query.html. `/jobs/ingest`: see `bulk`.
* JWT bearer (RS256; `iss`, `sub`, `aud`, `exp` within five minutes): remoteaccess_oauth_jwt_flow. Client
  credentials: remoteaccess_oauth_client_credentials_flow. Neither answers with a lifetime: a session that is
  over is 401 INVALID_SESSION_ID (platform/api-rest/guide/errorcodes.html).
* The limit of calls in 24 hours: `Sforce-Limit-Info` with every answer (headers_api_usage.htm), and beyond it
  403 REQUEST_LIMIT_EXCEEDED (errorcodes.html).
"""

import base64
import re
import secrets
import time
from collections.abc import Mapping, Sequence
from typing import Any

import orjson

from cdcflow.testing.salesforce.bulk import Bulk
from cdcflow.testing.salesforce.org import Malformed, Org, Refused, SObject, Type
from cdcflow.testing.service import Answer, Request, Service

MOST_RECORDS = 200
#: "An expiration time … must be within 5 minutes" (remoteaccess_oauth_jwt_flow).
LONGEST_ASSERTION = 300

JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
AUDIENCE = "https://login.salesforce.com"

_QUERY = re.compile(
    r"SELECT (?P<fields>[\w, ]+) FROM (?P<object>\w+) WHERE (?P<by>\w+) IN \((?P<values>.*)\)"
)
_LITERAL = re.compile(r"'((?:[^'\\]|\\.)*)'")


class Salesforce(Service):
    """An org with one connected app and one user. See the module."""

    name = "salesforce"

    def __init__(
        self, org: Org | None = None, *, certificate: str = "", host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """`certificate`: the PEM of the public key that the connected app was given for JWT bearer."""
        super().__init__(host=host, port=port)
        self.org = org if org is not None else Org()
        self.bulk = Bulk(self.org, _error)
        self.client_id = "3MVG9consumerkey"
        self.client_secret = "E0A1consumersecret"  # noqa: S105 - the test server's own
        self.user = "sync@example.org"
        self.certificate = certificate
        #: Sessions of the user; they end when the org says so.
        self.sessions: set[str] = set()
        self.logins = 0
        #: Calls in 24 hours, and how many there were.
        self.daily = 100_000
        self.used = 0

    def end_sessions(self) -> None:
        """Every session is over now: the org's timeout, or an administrator."""
        with self.lock:
            self.sessions.clear()

    def handle(self, request: Request) -> Answer:
        if (request.method, request.path) == ("POST", "/services/oauth2/token"):
            return self._token(request)
        if request.bearer not in self.sessions:
            return _error(401, "INVALID_SESSION_ID", "Session expired or invalid")
        if self.used >= self.daily:
            return _error(403, "REQUEST_LIMIT_EXCEEDED", "TotalRequests Limit exceeded.")
        self.used += 1
        parts = request.path.strip("/").split("/")
        if parts[:2] != ["services", "data"] or not re.fullmatch(r"v\d\d\.0", parts[2]):
            return _error(404, "NOT_FOUND", "The requested resource does not exist")
        try:
            answer = self._route(request, parts[3:])
        except Malformed as malformed:
            answer = _error(400, malformed.code, malformed.message)
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
            answer = _error(400, "JSON_PARSER_ERROR", "The request's body cannot be read")
        usage = {"Sforce-Limit-Info": f"api-usage={self.used}/{self.daily}"}
        return Answer(answer.status, answer.body, {**answer.headers, **usage})

    def _route(self, request: Request, parts: Sequence[str]) -> Answer:
        match (request.method, *parts):
            case ("GET", "sobjects"):
                return Answer.json({"sobjects": [{"name": name} for name in self.org.types]})
            case ("GET", "sobjects", name, "describe"):
                kind = self._type(name)
                fields = [one.described() for one in kind.fields.values()]
                return Answer.json({"name": name, "createable": True, "fields": fields})
            case ("PATCH", "composite", "sobjects", name, by):
                return self._upsert(self._type(name), by, request.json)
            case ("DELETE", "composite", "sobjects"):
                return self._delete(request.query["ids"].split(","))
            case ("GET", "query"):
                return self._query(request.query["q"])
            case (_, "jobs", "ingest", *rest):
                return self.bulk.handle(request, rest)
            case _:
                return _error(404, "NOT_FOUND", "The requested resource does not exist")

    def _type(self, name: str) -> Type:
        found = self.org.types.get(name)
        if found is None:
            raise Malformed("NOT_FOUND", f"sObject type '{name}' is not supported.")
        return found

    def _upsert(self, kind: Type, by: str, body: Mapping[str, Any]) -> Answer:
        records = body["records"]
        if len(records) > MOST_RECORDS:
            raise Malformed("INVALID_INPUT", f"record limit reached. cannot submit more than {MOST_RECORDS}")
        if by not in kind.fields:
            raise Malformed("NOT_FOUND", f"Provided external ID field does not exist: {by}")
        for record in records:
            if record.get("attributes", {}).get("type") != kind.name:
                raise Malformed("INVALID_TYPE", "The attributes of a record must name the type of the URI")
            self.org.check(kind, by, record)
            for name, value in record.items():
                if name in kind.fields and value is not None:
                    self.org._wrong(kind.fields[name], value)
        results: list[dict[str, Any]] = []
        seen: set[str] = set()
        for record in records:
            key = str(record.get(by, "")).casefold()
            try:
                if key in seen:
                    raise Refused("DUPLICATE_VALUE", f"Duplicate external id specified: {record.get(by)}")
                seen.add(key)
                found, new = self.org.upsert(kind, by, record)
            except Refused as refused:
                results.append({"success": False, "errors": [refused.entry()]})
            else:
                results.append({"id": found.id, "success": True, "errors": [], "created": new})
        return Answer.json(results)

    def _delete(self, ids: Sequence[str]) -> Answer:
        if len(ids) > MOST_RECORDS:
            raise Malformed("INVALID_INPUT", f"record limit reached. cannot submit more than {MOST_RECORDS}")
        results: list[dict[str, Any]] = []
        for identity in ids:
            try:
                self.org.delete(identity)
            except Refused as refused:
                results.append({"id": identity, "success": False, "errors": [refused.entry()]})
            else:
                results.append({"id": identity, "success": True, "errors": []})
        return Answer.json(results)

    def _query(self, text: str) -> Answer:
        match = _QUERY.fullmatch(text)
        if match is None:
            raise Malformed("MALFORMED_QUERY", "unexpected token")
        kind, by = self._type(match["object"]), match["by"]
        names = [name.strip() for name in match["fields"].split(",")]
        unknown = [name for name in (by, *names) if name not in kind.fields]
        if unknown:
            raise Malformed("INVALID_FIELD", f"No such column '{unknown[0]}' on entity '{kind.name}'")
        found: list[SObject] = []
        for literal in _LITERAL.findall(match["values"]):
            one = self.org.find(kind.name, by, re.sub(r"\\(.)", r"\1", literal))
            if one is not None:
                found.append(one)
        records = [
            {
                "attributes": {"type": kind.name},
                **{name: one.id if name == "Id" else one.values.get(name) for name in names},
            }
            for one in found
        ]
        return Answer.json({"totalSize": len(records), "done": True, "records": records})

    # Sessions.

    def _token(self, request: Request) -> Answer:
        form = request.form
        grant = form.get("grant_type")
        if grant == JWT_BEARER:
            wrong = self._assertion_fails(form.get("assertion", ""))
        elif grant == "client_credentials":
            given = (form.get("client_id"), form.get("client_secret"))
            wrong = "" if given == (self.client_id, self.client_secret) else "invalid client credentials"
        else:
            return _refused("unsupported_grant_type", "grant type not supported")
        if wrong:
            return _refused("invalid_client" if grant != JWT_BEARER else "invalid_grant", wrong)
        token = f"{self.org.id}!{secrets.token_urlsafe(24)}"
        self.sessions.add(token)
        self.logins += 1
        return Answer.json(
            {
                "access_token": token,
                "scope": "api",
                "instance_url": self.url,
                "id": f"{AUDIENCE}/id/{self.org.id}/005KX000000USERAAA",
                "token_type": "Bearer",
            }
        )

    def _assertion_fails(self, assertion: str) -> str:
        """What is wrong with a JWT, or an empty string."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import padding, rsa

        try:
            head, claims, signature = assertion.split(".")
            header, said = orjson.loads(_decoded(head)), orjson.loads(_decoded(claims))
            key = serialization.load_pem_public_key(self.certificate.encode())
            assert isinstance(key, rsa.RSAPublicKey)
            key.verify(_decoded(signature), f"{head}.{claims}".encode(), padding.PKCS1v15(), hashes.SHA256())
        except (ValueError, InvalidSignature):
            return "invalid assertion"
        if header.get("alg") != "RS256":
            return "algorithm not supported"
        if said.get("iss") != self.client_id:
            return "client identifier invalid"
        if said.get("sub") != self.user:
            return "user hasn't approved this consumer"
        if said.get("aud") not in (AUDIENCE, self.url):
            return "audience is invalid"
        if not time.time() - 1 <= float(said.get("exp", 0)) <= time.time() + LONGEST_ASSERTION:
            return "expired authorization code"
        return ""


def _decoded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _refused(error: str, description: str) -> Answer:
    return Answer.json({"error": error, "error_description": description}, 400)


def _error(status: int, code: str, message: str) -> Answer:
    return Answer.json([{"message": message, "errorCode": code}], status)
