"""The HubSpot account that our tests deliver to behaves as the API reference says."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cdcflow.testing.hubspot import HubSpot, Limits, Property
from cdcflow.testing.hubspot.server import TOKEN
from cdcflow.testing.service import Answer, Fault
from cdcflow.testing.waiting import TIMEOUT

CONTACTS = "/crm/v3/objects/contacts/batch"


@pytest.fixture
def hubspot() -> Iterator[HubSpot]:
    with HubSpot() as found:
        yield found


@pytest.fixture
def client(hubspot: HubSpot) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {TOKEN}"}
    with httpx.Client(base_url=hubspot.url, headers=headers, trust_env=False, timeout=TIMEOUT) as found:
        yield found


def contact(number: str, *, trace: str | None = None, **properties: Any) -> dict[str, Any]:
    found: dict[str, Any] = {"id": number, "idProperty": "customer_number", "properties": properties}
    return found if trace is None else {**found, "objectWriteTraceId": trace}


def upsert(client: httpx.Client, *inputs: dict[str, Any], kind: str = "contacts") -> httpx.Response:
    return client.post(f"/crm/v3/objects/{kind}/batch/upsert", json={"inputs": inputs})


def test_an_upsert_creates_and_then_updates_the_same_record(hubspot: HubSpot, client: httpx.Client) -> None:
    first = upsert(client, contact("1", trace="a", firstname="Ada"))
    assert first.status_code == 200
    assert [(one["new"], one["objectWriteTraceId"]) for one in first.json()["results"]] == [(True, "a")]
    second = upsert(client, contact("1", firstname="Grace"))
    assert second.json()["results"][0]["new"] is False
    assert [record.properties["firstname"] for record in hubspot.account.living("contacts")] == ["Grace"]


@pytest.mark.parametrize("name", ["0-1", "contact", "contacts"])
def test_an_object_has_several_names(client: httpx.Client, name: str) -> None:
    assert upsert(client, contact("1"), kind=name).status_code == 200


def test_what_no_record_is_to_blame_for_refuses_the_batch(hubspot: HubSpot, client: httpx.Client) -> None:
    for inputs, said in [
        ([{"id": "Ada", "idProperty": "firstname", "properties": {}}], "non-unique"),
        ([contact("1"), contact("1")], "Duplicate IDs found in batch input: [1]"),
        ([contact(str(i)) for i in range(101)], "maximum number of inputs is 100"),
    ]:
        answer = upsert(client, *inputs)
        assert answer.status_code == 400
        assert said in answer.json()["message"]
    assert not hubspot.account.log


def test_with_trace_ids_one_bad_record_is_named_and_the_others_are_written(
    hubspot: HubSpot, client: httpx.Client
) -> None:
    answer = upsert(
        client, contact("1", trace="a", firstname="Ada"), contact("2", trace="b", revenue="a lot")
    )
    assert answer.status_code == 207
    body = answer.json()
    assert [one["objectWriteTraceId"] for one in body["results"]] == ["a"]
    assert body["numErrors"] == 1
    assert body["errors"][0]["context"] == {"objectWriteTraceId": ["b"]}
    assert '"error":"INVALID_LONG","name":"revenue"' in body["errors"][0]["message"]
    assert [match for _, match, _ in hubspot.account.log] == ["1"]


def test_without_trace_ids_one_bad_record_refuses_the_batch(hubspot: HubSpot, client: httpx.Client) -> None:
    answer = upsert(client, contact("1", firstname="Ada"), contact("2", revenue="a lot"))
    assert answer.status_code == 400
    assert not hubspot.account.log


def test_a_body_without_inputs_is_complete_and_writes_nothing(client: httpx.Client) -> None:
    answer = client.post(f"{CONTACTS}/upsert", json=contact("1", firstname="Ada"))
    assert answer.status_code == 200
    assert (answer.json()["status"], answer.json()["results"]) == ("COMPLETE", [])


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("revenue", "12.5", None),
        ("revenue", "12,5", "INVALID_LONG"),
        ("newsletter", "true", None),
        ("newsletter", "t", "INVALID_OPTION"),
        ("birthday", "2026-11-24", None),
        ("birthday", "1763942400000", None),
        ("birthday", "1763942400001", "INVALID_DATE"),
        ("last_seen", "2026-11-24T10:00:00.000Z", None),
        ("last_seen", "2026-11-24 10:00:00", "INVALID_DATE"),
        ("lifecyclestage", "lead", None),
        ("lifecyclestage", "Lead", "INVALID_OPTION"),
        ("interests", "books;music", None),
        ("interests", "books;chess", "INVALID_OPTION"),
        ("email", "ada@example.org", None),
        ("email", "ada@example", "INVALID_EMAIL"),
        ("firstname", "x" * 65_537, "VALUE_TOO_LONG"),
        ("createdate", "2026-11-24T10:00:00Z", "READ_ONLY_VALUE"),
        ("nickname", "Ada", "PROPERTY_DOESNT_EXIST"),
    ],
)
def test_a_property_takes_values_of_its_type(
    client: httpx.Client, name: str, value: str, code: str | None
) -> None:
    answer = upsert(client, contact("1", trace="a", **{name: value}))
    assert answer.status_code == (200 if code is None else 207)
    if code is not None:
        assert f'"error":"{code}","name":"{name}"' in answer.json()["errors"][0]["message"]


def test_an_empty_string_clears_and_null_does_not(hubspot: HubSpot, client: httpx.Client) -> None:
    upsert(client, contact("1", firstname="Ada", lastname="L", interests="books"))
    upsert(client, contact("1", firstname="", lastname=None, interests=";music"))
    record = hubspot.account.find("contacts", "customer_number", "1")
    assert record is not None
    assert record.properties == {"customer_number": "1", "lastname": "L", "interests": "books;music"}


def test_a_new_record_needs_its_required_properties(client: httpx.Client) -> None:
    deal = {"id": "7", "idProperty": "order_id", "objectWriteTraceId": "a", "properties": {"amount": "1"}}
    assert "required properties were not set" in upsert(client, deal, kind="deals").text
    deal["properties"] = {"dealname": "x", "dealstage": "closedwon"}
    assert upsert(client, deal, kind="deals").status_code == 200
    deal["properties"] = {"amount": "2"}
    assert upsert(client, deal, kind="deals").status_code == 200


def test_a_conflict_is_an_entry_or_refuses_the_batch(hubspot: HubSpot, client: httpx.Client) -> None:
    upsert(client, contact("1", email="Ada@example.org"))
    inputs = [contact("2", trace="a", email="ada@example.org"), contact("3", trace="b")]
    answer = upsert(client, *inputs)
    assert answer.status_code == 207
    assert answer.json()["errors"][0]["category"] == "CONFLICT"
    hubspot.conflicts_fail_batch = True
    assert upsert(client, *inputs).status_code == 409


def test_records_are_read_by_a_unique_property(client: httpx.Client) -> None:
    upsert(client, contact("1"), contact("2"))
    body = {"idProperty": "customer_number", "properties": [], "inputs": [{"id": "1"}, {"id": "9"}]}
    some = client.post(f"{CONTACTS}/read", json=body)
    assert some.status_code == 207
    assert [one["properties"]["customer_number"] for one in some.json()["results"]] == ["1"]
    assert some.json()["errors"][0]["context"] == {"ids": ["9"]}
    body["inputs"] = [{"id": "9"}]
    assert client.post(f"{CONTACTS}/read", json=body).status_code == 404


def test_archiving_frees_the_unique_value_and_may_be_repeated(hubspot: HubSpot, client: httpx.Client) -> None:
    identity = upsert(client, contact("1")).json()["results"][0]["id"]
    for _ in range(2):
        assert client.post(f"{CONTACTS}/archive", json={"inputs": [{"id": identity}]}).status_code == 204
    assert not hubspot.account.living("contacts")
    assert upsert(client, contact("1")).json()["results"][0]["new"] is True


def test_records_are_associated(hubspot: HubSpot, client: httpx.Client) -> None:
    person = upsert(client, contact("1")).json()["results"][0]["id"]
    firm = {"id": "DE1", "idProperty": "vat_id", "properties": {"name": "Firm"}}
    company = upsert(client, firm, kind="companies").json()["results"][0]["id"]
    inputs = [
        {"from": {"id": person}, "to": {"id": company}},
        {"from": {"id": person}, "to": {"id": "999"}},
    ]
    answer = client.post(
        "/crm/v4/associations/contacts/companies/batch/associate/default", json={"inputs": inputs}
    )
    assert answer.status_code == 207
    assert hubspot.account.associations == {("contacts", person, "companies", company): {279}}


def test_properties_and_schemas_describe_an_object(hubspot: HubSpot, client: httpx.Client) -> None:
    hubspot.account.add_type("machines", Property("serial", unique=True), required=["serial"])
    found = {one["name"]: one for one in client.get("/crm/v3/properties/machines").json()["results"]}
    assert found["serial"]["hasUniqueValue"] is True
    assert found["createdate"]["modificationMetadata"]["readOnlyValue"] is True
    assert client.get("/crm/v3/schemas/machines").json()["requiredProperties"] == ["serial"]


def test_a_window_allows_so_many_calls_and_says_so() -> None:
    with (
        HubSpot(limits=Limits(calls=3, window=60.0)) as hubspot,
        httpx.Client(base_url=hubspot.url, headers={"Authorization": f"Bearer {TOKEN}"}) as client,
    ):
        answers = [client.get("/account-info/v3/details") for _ in range(4)]
        assert [one.status_code for one in answers] == [200, 200, 200, 429]
        assert answers[0].headers["X-HubSpot-RateLimit-Max"] == "3"
        assert answers[0].headers["X-HubSpot-RateLimit-Remaining"] == "2"
        assert answers[0].headers["X-HubSpot-RateLimit-Interval-Milliseconds"] == "60000"
        assert answers[3].json()["policyName"] == "TEN_SECONDLY_ROLLING"
        assert (hubspot.limits.most, hubspot.limits.refused) == (4, 1)


def test_the_daily_limit_has_a_policy_of_its_own(hubspot: HubSpot, client: httpx.Client) -> None:
    hubspot.limits.daily = 1
    assert client.get("/account-info/v3/details").headers["X-HubSpot-RateLimit-Daily-Remaining"] == "0"
    assert client.get("/account-info/v3/details").json()["policyName"] == "DAILY"


def test_an_oauth_token_is_refreshed_and_expires(hubspot: HubSpot, client: httpx.Client) -> None:
    form = {
        "grant_type": "refresh_token",
        "client_id": hubspot.client_id,
        "client_secret": hubspot.client_secret,
        "refresh_token": hubspot.refresh_token,
    }
    token = client.post("/oauth/v1/token", data=form).json()
    assert token["expires_in"] == 1_800
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    answer = client.get("/account-info/v3/details", headers=headers)
    assert answer.status_code == 200
    assert "X-HubSpot-RateLimit-Daily" not in answer.headers
    hubspot.expire_tokens()
    assert client.get("/account-info/v3/details", headers=headers).status_code == 401
    assert client.post("/oauth/v1/token", data={**form, "refresh_token": "x"}).status_code == 400


def test_a_scope_that_is_missing_is_named(hubspot: HubSpot, client: httpx.Client) -> None:
    hubspot.scopes.discard("crm.objects.contacts.write")
    answer = upsert(client, contact("1"))
    assert answer.status_code == 403
    assert answer.json()["category"] == "MISSING_SCOPES"
    assert "crm.objects.contacts.write" in answer.text


@pytest.mark.parametrize(
    ("kind", "written"),
    [("refuse", 0), ("fail_after", 1), ("reset", 0), ("reset_after", 1), ("garbage", 0), ("cut", 1)],
)
def test_a_fault_meets_the_next_call(hubspot: HubSpot, client: httpx.Client, kind: Any, written: int) -> None:
    hubspot.fault(Fault(kind, Answer(503)), path="upsert")
    try:
        answer = upsert(client, contact("1"))
    except httpx.TransportError:
        assert kind in ("reset", "reset_after", "cut")
    else:
        assert answer.status_code == (200 if kind == "garbage" else 503)
    assert len(hubspot.account.log) == written
    assert upsert(client, contact("1")).status_code == 200


def test_a_call_that_hangs_is_never_answered(hubspot: HubSpot, client: httpx.Client) -> None:
    hubspot.fault("hang", path="upsert")
    with pytest.raises(httpx.ReadTimeout):
        client.post(f"{CONTACTS}/upsert", json={"inputs": [contact("1")]}, timeout=0.2)
    assert not hubspot.account.log
