"""What HubSpot's answers mean, and what of them may be repeated to people.

developers.hubspot.com/docs/api-reference/error-handling: "The fields in the example response should all be
treated as optional in any error parsing". A batch answers 200, 207 with `errors`, or one error for all of it:

| answer                                             | means                                               |
|----------------------------------------------------|-----------------------------------------------------|
| an entry of `results` with the input's trace id    | written                                             |
| an entry of `errors` that names the input          | that record is refused                              |
| an input that neither names                        | unknown: it is sent again, by itself in the end     |
| 400, 409, 413 for all of it                        | one record or more: halves of the batch are sent    |
| … with a property that does not exist, is read-only or not unique | the mapping is wrong: permanent      |
| 401                                                | the token; 403: its scopes                          |
| 429                                                | again, when the policy that it names allows         |
| 423, 5xx, 477, not JSON                            | again, not before `Retry-After`                     |
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from cdcflow.errors import DeliveryError, Permanent, Transient, Unauthorized
from cdcflow.sink.records import Refusal, Reply
from cdcflow.sink.records.api import excerpt

_INVALID = "Property values were not valid: "

#: What the codes of a property's validation say, as the end of a sentence about the property.
_WORDS = {
    "INVALID_OPTION": "takes none but its options, and the row's value is not one of them",
    "INVALID_EMAIL": "does not take the row's value for an e-mail address",
    "INVALID_LONG": "takes numbers, and the row's value is none",
    "INVALID_NUMBER": "takes numbers, and the row's value is none",
    "INVALID_INTEGER": "takes whole numbers, and the row's value is none",
    "INVALID_DATE": "does not take the row's value for a date",
    "INVALID_PHONE_NUMBER": "does not take the row's value for a phone number",
    "VALUE_TOO_LONG": "takes no text as long as the row's",
    "MISSING_REQUIRED_PROPERTY": "is required of new records, and the row has no value for it",
}

#: Not about a row: every row of the mapping would fare the same.
_MAPPING = frozenset({"PROPERTY_DOESNT_EXIST", "READ_ONLY_VALUE"})

_AGAIN = frozenset({408, 423, 425, 477})

#: HubSpot's words where it tells no seconds: "the request can be made again after a delay" of 423.
_LOCKED_SECONDS = 2.0


@dataclass
class Batch:
    """What an answer says of a batch's inputs, by trace id. `split`: it is refused as a whole, and not
    everything in it need be; `error` ends the delivery."""

    written: dict[str, str] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    split: Refusal | None = None
    error: DeliveryError | None = None


def read_batch(reply: Reply, traces: Mapping[str, str]) -> Batch:
    """`traces` are the trace ids of the inputs with their match values, by which an error may name them."""
    found = Batch()
    data = reply.data
    if reply.status in (200, 201, 207) and isinstance(data, dict):
        for one in _entries(data, "results"):
            trace = one.get("objectWriteTraceId")
            if isinstance(trace, str) and trace in traces:
                found.written[trace] = str(one.get("id", ""))
        by_match = {match: trace for trace, match in traces.items()}
        for one in _entries(data, "errors"):
            error = mapping_error(one)
            if error is not None:
                found.error = error
            for trace in _named(one, traces, by_match):
                if trace not in found.written:
                    found.refused[trace] = refusal(one)
        return found
    found.error = failure(reply)
    if found.error is None:
        found.split = refusal(data if isinstance(data, Mapping) else {})
    return found


def failure(reply: Reply) -> DeliveryError | None:
    """What ends the delivery for now; None: this request is refused, and another may not be.

    429 is judged by the client, which knows the limits.
    """
    data = reply.data
    body = data if isinstance(data, Mapping) else {}
    if reply.status == 401:
        return Unauthorized(
            f"HubSpot does not accept the token ({body.get('category') or 'no reason given'})",
            hint="renew `token` of the sink (HubSpot: Settings, Integrations, Private Apps), or `oauth`",
        )
    if reply.status == 403:
        scopes = ", ".join(sorted(set(_scopes(body))))
        return Permanent(
            f"HubSpot refuses the call: the app lacks the scope {scopes}"
            if scopes
            else "HubSpot refuses the call: the app has no permission for it",
            hint="give the app this scope in HubSpot, and take over its new token if there is one",
        )
    if reply.status >= 500 or reply.status in _AGAIN:
        wish = reply.retry_after
        if wish is None and reply.status == 423:
            wish = _LOCKED_SECONDS
        return Transient(f"HubSpot answered {reply.status}", retry_after=wish)
    if 200 <= reply.status < 300:
        return Transient(f"HubSpot answered {reply.status} with something that is not JSON")
    if 300 <= reply.status < 400:
        return Permanent(
            f"HubSpot answered {reply.status}: redirects are not followed", hint="check the sink's `url`"
        )
    if reply.status == 404:
        return Permanent("HubSpot answered 404", hint="check `object` and the sink's `url`")
    return mapping_error(body)


def mapping_error(body: Mapping[str, Any]) -> Permanent | None:
    """The error of a request that no row is to blame for, or None."""
    codes = dict(_codes(body))
    wrong = sorted(name for name, code in codes.items() if code in _MAPPING)
    if wrong:
        what = "do not exist" if len(wrong) > 1 else "does not exist"
        if any(codes[name] == "READ_ONLY_VALUE" for name in wrong):
            what = "cannot be set"
        return Permanent(
            f"the propert{'ies' if len(wrong) > 1 else 'y'} {', '.join(wrong)} {what} in HubSpot",
            hint="correct `fields` in the flow's `with:`, or make the property anew",
        )
    message = str(body.get("message", ""))
    if "non-unique" in message:
        return Permanent(
            "HubSpot does not match records by that property: it is not unique",
            hint="match by a unique property",
        )
    if "infer object type" in message:
        return Permanent("HubSpot knows no such object", hint="correct `object` in the flow's `with:`")
    return None


def refusal(body: Mapping[str, Any]) -> Refusal:
    """Why a record is refused, in words without values, and HubSpot's own."""
    codes = dict(_codes(body))
    category = str(body.get("category", ""))
    said = excerpt(body.get("message", ""))
    if codes:
        parts = [
            f"{name} {_WORDS.get(code, f'does not take the row’s value ({code})')}"
            for name, code in sorted(codes.items())
        ]
        return Refusal(f"HubSpot refuses the record: {'; '.join(parts)}", said)
    if category == "CONFLICT":
        return Refusal(
            "HubSpot refuses the record: another one has its value of a unique property already", said
        )
    return Refusal(f"HubSpot refuses the record ({category or 'no reason given'})", said)


def policy(reply: Reply) -> str:
    """The limit that a 429 names."""
    data = reply.data
    return str(data.get("policyName", "")) if isinstance(data, Mapping) else ""


def _entries(data: Mapping[str, Any], name: str) -> Iterator[Mapping[str, Any]]:
    found = data.get(name)
    for one in found if isinstance(found, list) else ():
        if isinstance(one, Mapping):
            yield one


def _named(entry: Mapping[str, Any], traces: Mapping[str, str], by_match: Mapping[str, str]) -> Iterator[str]:
    """The inputs that an entry of `errors` is about: by trace id, else by the ids in its context."""
    context = entry.get("context")
    context = context if isinstance(context, Mapping) else {}
    named = context.get("objectWriteTraceId", entry.get("objectWriteTraceId", ()))
    for one in [named] if isinstance(named, str) else named or ():
        if one in traces:
            yield one
    for one in context.get("ids") or ():
        if one in by_match:
            yield by_match[one]


def _codes(body: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Property and code of every validation error: they are JSON inside of the message, or under `errors`."""
    message = str(body.get("message", ""))
    if message.startswith(_INVALID):
        try:
            listed = orjson.loads(message.removeprefix(_INVALID))
        except orjson.JSONDecodeError:
            # Cut short. The first one is there.
            listed = [
                {"name": name, "error": code}
                for code, name in re.findall(r'"error":"([A-Z_]+)","name":"([^"]+)"', message)
            ]
        for one in listed if isinstance(listed, list) else ():
            if isinstance(one, Mapping) and one.get("name") and one.get("error"):
                yield str(one["name"]), str(one["error"])
    for one in _entries(body, "errors"):
        context = one.get("context")
        names = context.get("propertyName", ()) if isinstance(context, Mapping) else ()
        names = names or ([one["in"]] if isinstance(one.get("in"), str) else ())
        for name in names:
            if one.get("code"):
                yield str(name), str(one["code"])


def _scopes(body: Mapping[str, Any]) -> Iterator[str]:
    for one in _entries(body, "errors"):
        context = one.get("context")
        if isinstance(context, Mapping):
            for name in ("requiredGranularScopes", "requiredScopes", "missingScopes"):
                yield from (str(scope) for scope in context.get(name) or ())
