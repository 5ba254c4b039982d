"""What Salesforce's answers mean, and what of them may be repeated to people.

platform/api-rest/guide/errorcodes.html, and the status codes of a record's errors
(developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_calls_concepts_core_data_objects.htm):

| what                                                     | means                                        |
|----------------------------------------------------------|----------------------------------------------|
| a record's UNABLE_TO_LOCK_ROW, a limit, a timeout        | that record again                            |
| any other error of a record                              | that record is refused                       |
| 400 for the request, INVALID_FIELD: no such column       | the mapping is wrong: permanent              |
| 400 for the request, anything else                       | one record or more: halves of it are sent    |
| 401 INVALID_SESSION_ID                                   | a new session, once                          |
| 403 REQUEST_LIMIT_EXCEEDED                               | again, when the 24 hours have moved on       |
| 403                                                      | permanent: a permission is missing           |
| 429, 5xx, not JSON                                       | again, not before `Retry-After`              |
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from cdcflow.errors import DeliveryError, Permanent, Transient
from cdcflow.sink.records import Refusal, Reply
from cdcflow.sink.records.api import excerpt

#: Of a record: nothing is wrong with it, but the moment.
AGAIN = frozenset(
    {
        "UNABLE_TO_LOCK_ROW",
        "REQUEST_LIMIT_EXCEEDED",
        "REQUEST_RUNNING_TOO_LONG",
        "SERVER_UNAVAILABLE",
        "QUERY_TIMEOUT",
        "UNKNOWN_EXCEPTION",
        "TXN_SECURITY_METERING_ERROR",
        "ALL_OR_NONE_OPERATION_ROLLED_BACK",
    }
)

#: After REQUEST_LIMIT_EXCEEDED, seconds: the limit is of the last 24 hours, and falls hour by hour.
LIMIT_SECONDS = 900.0

_WORDS = {
    "REQUIRED_FIELD_MISSING": "is required, and the row has no value for it",
    "STRING_TOO_LONG": "takes no text as long as the row's",
    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST": "takes none but its values, and the row's is not one of them",
    "INVALID_EMAIL_ADDRESS": "does not take the row's value for an e-mail address",
    "NUMBER_OUTSIDE_VALID_RANGE": "takes no number as large as the row's",
    "DUPLICATE_VALUE": "must be unique, and another record has the row's value",
    "INVALID_TYPE_ON_FIELD_IN_RECORD": "does not take a value of the row's kind",
    "FIELD_INTEGRITY_EXCEPTION": "does not take the row's value",
}


def failure(reply: Reply) -> DeliveryError | None:
    """What ends the delivery for now; None: this request is refused, and another may not be. 401 is the
    client's."""
    errors = listed(reply)
    codes = {str(one.get("errorCode", "")) for one in errors}
    if "REQUEST_LIMIT_EXCEEDED" in codes:
        return Transient(
            "the org's limit of API calls in 24 hours is used up",
            retry_after=reply.retry_after if reply.retry_after is not None else LIMIT_SECONDS,
            hint="Setup, Company Information shows who uses it; bulk jobs need fewer calls",
        )
    if reply.status in (408, 420, 429) or reply.status >= 500:
        return Transient(f"Salesforce answered {reply.status}", retry_after=reply.retry_after)
    if 200 <= reply.status < 300:
        return Transient(f"Salesforce answered {reply.status} with something that cannot be read")
    if 300 <= reply.status < 400:
        return Permanent(
            f"Salesforce answered {reply.status}: redirects are not followed",
            hint="set the sink's `url` to the org's My Domain",
        )
    named = ", ".join(sorted(codes - {""})) or str(reply.status)
    if reply.status == 403:
        return Permanent(
            f"Salesforce refuses the call ({named})",
            hint="give the app's user access to the API, the object and its fields",
        )
    if reply.status == 404:
        return Permanent(
            f"Salesforce knows no such object or field ({named})",
            hint="check `object` and `match` in the flow's `with:`, and the user's access to them",
        )
    for one in errors:
        column = re.match(r"No such column '([^']+)'", str(one.get("message", "")))
        if column:
            return Permanent(
                f"the field {column[1]} does not exist in Salesforce, or its user may not write it",
                hint="correct `fields` in the flow's `with:`, or give the user access to the field",
            )
    return None


def listed(reply: Reply) -> list[Mapping[str, Any]]:
    """The errors of an answer, which is a list of them (and one object from the token's endpoint)."""
    data = reply.data
    if isinstance(data, Mapping):
        return [data]
    return [one for one in data if isinstance(one, Mapping)] if isinstance(data, list) else []


def transient(errors: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a record's errors are about the moment only."""
    return bool(errors) and all(str(one.get("statusCode", "")) in AGAIN for one in errors)


def refusal(errors: Sequence[Mapping[str, Any]]) -> Refusal:
    """Why a record is refused, in words without values, and Salesforce's own."""
    parts = []
    for one in errors:
        code = str(one.get("statusCode") or one.get("errorCode") or "no reason given")
        message = str(one.get("message", ""))
        names = [str(name) for name in one.get("fields") or ()]
        if not names:
            # "LastName: data value too large: …"; names of fields are no values.
            begins = re.match(r"([A-Za-z]\w*): ", message)
            names = [begins[1]] if begins else []
        if message.startswith("Foreign key external ID"):
            parts.append("the parent that it names by external ID is not there: retry when it is")
        elif names:
            parts.append(f"{', '.join(names)} {_WORDS.get(code, f'is the reason ({code})')}")
        else:
            parts.append(f"{_WORDS.get(code, 'it gives the reason')} ({code})" if code in _WORDS else code)
    said = excerpt("; ".join(str(one.get("message", "")) for one in errors))
    return Refusal(f"Salesforce refuses the record: {'; '.join(parts) or 'no reason given'}", said)


def bulk_errors(text: str) -> list[dict[str, Any]]:
    """`sf__Error` of a failed row, `CODE:message:Field1 Field2 --`, as a record's errors."""
    code, _, rest = text.partition(":")
    message, _, fields = rest.rpartition(":")
    names = [one for one in re.split(r"[,\s]+", fields) if re.fullmatch(r"[A-Za-z]\w*", one)]
    return [{"statusCode": code.strip(), "message": message or rest, "fields": names}]
