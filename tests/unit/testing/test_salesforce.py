"""The Salesforce org that our tests deliver to behaves as the API reference says."""

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from cdcflow.testing.salesforce import Salesforce
from cdcflow.testing.salesforce.org import Field
from cdcflow.testing.waiting import TIMEOUT

DATA = "/services/data/v62.0"


@pytest.fixture
def salesforce() -> Iterator[Salesforce]:
    with Salesforce() as found:
        yield found


@pytest.fixture
def client(salesforce: Salesforce) -> Iterator[httpx.Client]:
    form = {
        "grant_type": "client_credentials",
        "client_id": salesforce.client_id,
        "client_secret": salesforce.client_secret,
    }
    token = httpx.post(f"{salesforce.url}/services/oauth2/token", data=form).json()
    headers = {"Authorization": f"Bearer {token['access_token']}"}
    with httpx.Client(
        base_url=token["instance_url"], headers=headers, trust_env=False, timeout=TIMEOUT
    ) as found:
        yield found


def contact(number: str, **values: Any) -> dict[str, Any]:
    return {"attributes": {"type": "Contact"}, "Number__c": number, "LastName": "Doe", **values}


def upsert(client: httpx.Client, *records: dict[str, Any], kind: str = "Contact") -> httpx.Response:
    body = {"allOrNone": False, "records": records}
    return client.patch(f"{DATA}/composite/sobjects/{kind}/Number__c", json=body)


def test_results_come_in_the_order_of_the_records_within_a_200(
    salesforce: Salesforce, client: httpx.Client
) -> None:
    answer = upsert(client, contact("1"), contact("2", LastName="x" * 81), contact("3"))
    assert answer.status_code == 200
    assert [one["success"] for one in answer.json()] == [True, False, True]
    error = answer.json()[1]["errors"][0]
    assert (error["statusCode"], error["fields"]) == ("STRING_TOO_LONG", ["LastName"])
    assert [one["created"] for one in upsert(client, contact("1"), contact("4")).json()] == [False, True]
    assert len(salesforce.org.living("Contact")) == 3


@pytest.mark.parametrize(
    ("values", "code"),
    [
        ({"LastName": None}, "REQUIRED_FIELD_MISSING"),
        ({"Likes__c": "books;chess"}, "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST"),
        ({"Email": "nobody"}, "INVALID_EMAIL_ADDRESS"),
        ({"CreatedDate": "2026-11-24T10:00:00Z"}, "INVALID_FIELD_FOR_INSERT_UPDATE"),
        ({"Vip__c": None}, "INVALID_TYPE_ON_FIELD_IN_RECORD"),
        ({"Account": {"Number__c": "nobody"}}, "INVALID_FIELD"),
    ],
)
def test_a_record_is_refused_with_a_status_code(
    client: httpx.Client, values: dict[str, Any], code: str
) -> None:
    assert upsert(client, contact("1", **values)).json()[0]["errors"][0]["statusCode"] == code


@pytest.mark.parametrize(
    ("values", "code"),
    [({"Nickname__c": "x"}, "INVALID_FIELD"), ({"Score__c": "many"}, "JSON_PARSER_ERROR")],
)
def test_what_cannot_be_read_refuses_the_whole_call(
    salesforce: Salesforce, client: httpx.Client, values: dict[str, Any], code: str
) -> None:
    answer = upsert(client, contact("1"), contact("2", **values))
    assert answer.status_code == 400
    assert answer.json()[0]["errorCode"] == code
    assert not salesforce.org.log


def test_the_same_external_id_twice_is_refused(client: httpx.Client) -> None:
    results = upsert(client, contact("a"), contact("A")).json()
    assert [one["success"] for one in results] == [True, False]
    assert results[1]["errors"][0]["statusCode"] == "DUPLICATE_VALUE"


def test_a_parent_is_named_by_its_external_id(salesforce: Salesforce, client: httpx.Client) -> None:
    account = {"attributes": {"type": "Account"}, "Number__c": "7", "Name": "Firm"}
    (made,) = upsert(client, account, kind="Account").json()
    upsert(client, contact("1", Account={"Number__c": "7"}))
    child = salesforce.org.find("Contact", "Number__c", "1")
    assert child is not None
    assert child.values["AccountId"] == made["id"]


def test_a_locked_record_is_an_error_of_that_record(salesforce: Salesforce, client: httpx.Client) -> None:
    salesforce.org.locked = {"2"}
    results = upsert(client, contact("1"), contact("2")).json()
    assert [one["success"] for one in results] == [True, False]
    assert results[1]["errors"][0]["statusCode"] == "UNABLE_TO_LOCK_ROW"


def test_more_than_200_records_are_too_many(client: httpx.Client) -> None:
    assert upsert(client, *(contact(str(i)) for i in range(201))).status_code == 400


def test_records_are_found_and_deleted(salesforce: Salesforce, client: httpx.Client) -> None:
    upsert(client, contact("it's"), contact("2"))
    query = "SELECT Id, Number__c FROM Contact WHERE Number__c IN ('it\\'s','9')"
    (found,) = client.get(f"{DATA}/query", params={"q": query}).json()["records"]
    assert found["Number__c"] == "it's"
    for expected in (True, False):
        (result,) = client.delete(f"{DATA}/composite/sobjects?ids={found['Id']}").json()
        assert result["success"] is expected
    assert result["errors"][0]["statusCode"] == "ENTITY_IS_DELETED"
    assert len(salesforce.org.living("Contact")) == 1


def test_an_object_is_described(salesforce: Salesforce, client: httpx.Client) -> None:
    salesforce.org.add_object("Machine__c", Field("Serial__c", external_id=True, required=True))
    fields = client.get(f"{DATA}/sobjects/Machine__c/describe").json()["fields"]
    serial = next(one for one in fields if one["name"] == "Serial__c")
    assert (serial["externalId"], serial["nillable"], serial["createable"]) == (True, False, True)


def test_a_session_ends_and_the_limit_is_counted(salesforce: Salesforce, client: httpx.Client) -> None:
    answer = client.get(f"{DATA}/sobjects")
    assert answer.headers["Sforce-Limit-Info"] == "api-usage=1/100000"
    salesforce.daily = 1
    answer = client.get(f"{DATA}/sobjects")
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (403, "REQUEST_LIMIT_EXCEEDED")
    salesforce.end_sessions()
    answer = client.get(f"{DATA}/sobjects")
    assert (answer.status_code, answer.json()[0]["errorCode"]) == (401, "INVALID_SESSION_ID")


CONTACTS = {
    "object": "Contact",
    "operation": "upsert",
    "externalIdFieldName": "Number__c",
    "contentType": "CSV",
    "lineEnding": "LF",
}


def job(client: httpx.Client, data: str) -> str:
    made = client.post(f"{DATA}/jobs/ingest", json=CONTACTS).json()
    assert made["state"] == "Open"
    path = f"{DATA}/jobs/ingest/{made['id']}"
    assert client.put(f"{path}/batches", content=data.encode()).status_code == 201
    assert client.put(f"{path}/batches", content=data.encode()).status_code == 400
    assert client.patch(path, json={"state": "UploadComplete"}).json()["state"] == "UploadComplete"
    return path


def test_a_bulk_job_goes_through_its_states_and_lists_what_became_of_each_row(
    salesforce: Salesforce, client: httpx.Client
) -> None:
    salesforce.bulk.polls = 2
    path = job(client, 'Number__c,LastName,Score__c\n1,Doe,1.5\n2,#N/A,2\n3,"a, ""b""",#N/A\n3,Twice,1\n')
    assert client.get(path).json()["state"] == "InProgress"
    info = client.get(path).json()
    assert (info["state"], info["numberRecordsProcessed"], info["numberRecordsFailed"]) == (
        "JobComplete",
        4,
        2,
    )
    done = client.get(f"{path}/successfulResults").text.splitlines()
    assert done[0] == '"sf__Id","sf__Created","Number__c","LastName","Score__c"'
    assert len(done) == 3
    failed = client.get(f"{path}/failedResults").text
    assert "REQUIRED_FIELD_MISSING:" in failed
    assert "DUPLICATE_VALUE:" in failed
    assert client.get(f"{path}/unprocessedrecords").text.splitlines() == ['"Number__c","LastName","Score__c"']


def test_a_bulk_job_fails_or_is_aborted_with_unprocessed_rows(
    salesforce: Salesforce, client: httpx.Client
) -> None:
    salesforce.bulk.stops_after = 1
    path = job(client, "Number__c,LastName\n1,A\n2,B\n")
    assert client.get(path).json()["state"] == "Failed"
    assert client.get(f"{path}/unprocessedrecords").text.splitlines()[1:] == ['"2","B"']
    path = job(client, "Number__c,LastName\n3,A\n")
    assert client.patch(path, json={"state": "Aborted"}).json()["state"] == "Aborted"
    assert salesforce.org.find("Contact", "Number__c", "3") is None
    path = job(client, "Number__c,Nickname__c\n1,A\n")
    assert "Field name not found : Nickname__c" in client.get(path).json()["errorMessage"]
    # Nobody has given this one its data.
    made = client.post(f"{DATA}/jobs/ingest", json=CONTACTS).json()
    path = f"{DATA}/jobs/ingest/{made['id']}"
    assert client.patch(path, json={"state": "UploadComplete"}).status_code == 200
    assert client.get(path).json()["state"] == "Failed"
