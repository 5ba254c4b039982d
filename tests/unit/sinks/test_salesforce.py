"""What the `salesforce` sink does with rows, against an org behind real HTTP."""

import asyncio
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from pydantic import SecretStr, ValidationError

from cdcflow.errors import DeliveryError, Permanent, Rejected, Transient, Unauthorized
from cdcflow.model import Batch, Column
from cdcflow.sink import ExpectedTable, FlowContext
from cdcflow.testing.batches import make_relation
from cdcflow.testing.history import AnyChange, History, delete, insert, update
from cdcflow.testing.salesforce import Salesforce, SObject
from cdcflow.testing.service import Answer, Fault
from cdcflow_sinks.salesforce import SalesforceOptions, SalesforceSettings, SalesforceSink

PEOPLE = make_relation(
    "people",
    [
        Column("id", 23, key=True),
        "name",
        "email",
        Column("born", 1082),
        Column("seen", 1184),
        Column("wakes", 1083),
        Column("score", 1700),
        Column("vip", 16),
        Column("likes", 1009),
        "firm",
    ],
    oid=18_001,
)
FIELDS = {
    "LastName": "name",
    "Birthdate": "born",
    "Seen__c": "seen",
    "Wakes__c": "wakes",
    "Score__c": "score",
    "Vip__c": "vip",
    "Likes__c": "likes",
    "Account.Number__c": "firm",
}


@cache
def key_pair() -> tuple[str, str]:
    key = rsa.generate_private_key(public_exponent=65_537, key_size=2_048)
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


@pytest.fixture
def salesforce() -> Iterator[Salesforce]:
    with Salesforce() as found:
        yield found


class Flow:
    """A flow's sink over an org; each `deliver` is a life of it, from opening to closing."""

    def __init__(self, salesforce: Salesforce, state: Path, **options: Any) -> None:
        self.salesforce = salesforce
        self.history = History()
        self.state = state
        self._context = FlowContext(flow="people", state=state)
        self.settings: dict[str, Any] = {
            "url": salesforce.url,
            "client_id": salesforce.client_id,
            "client_secret": SecretStr(salesforce.client_secret),
        }
        given = {"object": "Contact", "match": {"Number__c": "id"}, "fields": FIELDS, **options}
        self.options = SalesforceOptions.model_validate(given)

    def sink(self) -> SalesforceSink:
        return SalesforceSink(SalesforceSettings(**self.settings), self.options, self._context)

    def deliver(self, batch: Batch) -> DeliveryError | None:
        """Writes it, and returns what `write` raised."""

        async def run() -> DeliveryError | None:
            sink = self.sink()
            try:
                await sink.open()
                try:
                    await sink.prepare([group.relation for group in batch.groups])
                    await sink.write(batch)
                except DeliveryError as error:
                    return error
                return None
            finally:
                await sink.close()

        return asyncio.run(run())

    def changes(self, *changes: AnyChange) -> DeliveryError | None:
        return self.deliver(self.history.batch(*changes))

    def record(self, number: str) -> SObject | None:
        return self.salesforce.org.find("Contact", "Number__c", number)

    def upserts(self) -> int:
        return len(self.salesforce.called("composite/sobjects/", "PATCH"))


@pytest.fixture
def flow(salesforce: Salesforce, tmp_path: Path) -> Flow:
    return Flow(salesforce, tmp_path)


def person(number: int, **values: Any) -> AnyChange:
    return insert(PEOPLE, **{"id": str(number), "name": f"Person {number}", "vip": "f", **values})


def test_values_arrive_in_the_field_s_own_form(flow: Flow) -> None:
    account = flow.salesforce.org.types["Account"]
    firm, _ = flow.salesforce.org.upsert(account, "Number__c", {"Number__c": "F1", "Name": "Firm"})
    row = {
        "born": "1815-12-10",
        "seen": "2026-11-24 10:00:00.123456+00",
        "wakes": "06:30:00",
        "score": "12345678.50",
        "vip": "t",
        "likes": "{books,music}",
        "firm": "F1",
    }
    assert flow.changes(person(1, **row)) is None
    record = flow.record("1")
    assert record is not None
    assert record.values == {
        "Number__c": "1",
        "LastName": "Person 1",
        "Birthdate": "1815-12-10",
        "Seen__c": "2026-11-24T10:00:00.123Z",
        "Wakes__c": "06:30:00.000Z",
        "Score__c": 12345678.5,
        "Vip__c": True,
        "Likes__c": "books;music",
        "AccountId": firm.id,
    }
    # NULL empties them, the parent among them.
    assert flow.changes(update(PEOPLE, id="1", name="Ada", vip="f")) is None
    assert record.values == {"Number__c": "1", "LastName": "Ada", "Vip__c": False}


def test_two_hundred_records_go_into_each_call_and_unchanged_ones_into_none(flow: Flow) -> None:
    rows = [person(i) for i in range(500)]
    assert flow.changes(*rows) is None
    assert flow.upserts() == 3
    assert flow.changes(*rows) is None
    assert flow.upserts() == 3


def test_one_bad_row_is_refused_alone_with_a_reason_without_values(flow: Flow) -> None:
    failure = flow.changes(*(person(i, name="Xy" * 50 if i == 77 else "Ada") for i in range(300)))
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [77]
    assert "LastName takes no text as long as the row's" in failure.rows[77]
    assert "XyXy" not in failure.rows[77]
    assert "XyXy" in failure.answers[77]
    assert len(flow.salesforce.org.living("Contact")) == 299


def test_a_locked_record_goes_again_and_holds_up_no_other(flow: Flow) -> None:
    flow.salesforce.org.locked = {"5"}
    batch = flow.history.batch(*(person(i) for i in range(300)))
    failure = flow.deliver(batch)
    assert isinstance(failure, Transient)
    assert failure.everywhere is False
    assert failure.written == frozenset(range(300)) - {5}
    flow.salesforce.org.locked = set()
    assert flow.deliver(batch) is None
    assert flow.record("5") is not None
    assert flow.upserts() == 3


def test_a_parent_that_is_not_there_refuses_its_child_alone(flow: Flow) -> None:
    failure = flow.changes(person(1, firm="nobody"), person(2))
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [0]
    assert "the parent that it names by external ID is not there" in failure.rows[0]
    assert flow.record("2") is not None


def test_a_call_that_cannot_be_read_is_taken_apart(flow: Flow) -> None:
    """The field has become a number since the mapping was checked."""

    async def run() -> DeliveryError | None:
        sink = flow.sink()
        try:
            await sink.open()
            fields = flow.salesforce.org.types["Contact"].fields
            fields["LastName"] = type(fields["LastName"])("LastName", "double")
            rows = [person(i, name="many" if i == 42 else "1") for i in range(100)]
            await sink.write(flow.history.batch(*rows))
        except DeliveryError as error:
            return error
        finally:
            await sink.close()
        return None

    failure = asyncio.run(run())
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [42]
    assert flow.upserts() < 20


@pytest.mark.parametrize("deletes", ["ignore", "delete", "clear"])
def test_rows_that_disappear(salesforce: Salesforce, tmp_path: Path, deletes: str) -> None:
    flow = Flow(salesforce, tmp_path, fields={"LastName": "name", "FirstName": "email"}, deletes=deletes)
    assert flow.changes(*(person(i, email="x") for i in range(3))) is None
    assert flow.changes(delete(PEOPLE, id="1")) is None
    record = flow.record("1")
    assert (record is None) == (deletes == "delete")
    if record is not None:
        assert record.values.get("FirstName") == (None if deletes == "clear" else "x")


@pytest.mark.parametrize(
    "fault",
    [
        Fault("refuse", Answer(503, headers={"Retry-After": "7"})),
        Fault("fail_after", Answer(500)),
        Fault("reset"),
        Fault("reset_after"),
        Fault("garbage"),
        Fault("cut"),
        Fault("hang"),
    ],
    ids=lambda fault: fault.kind,
)
def test_a_failed_call_loses_and_doubles_nothing(flow: Flow, fault: Fault) -> None:
    flow.settings["timeout"] = "3s" if fault.kind == "hang" else "20s"
    batch = flow.history.batch(*(person(i) for i in range(300)))
    flow.salesforce.fault(fault, path="composite")
    failure = flow.deliver(batch)
    assert isinstance(failure, Transient)
    assert len(failure.written) in (100, 200)
    flow.settings["timeout"] = "20s"
    assert flow.deliver(batch) is None
    assert len(flow.salesforce.org.living("Contact")) == 300


def test_a_session_that_is_over_is_made_anew_once(flow: Flow) -> None:
    async def run() -> None:
        sink = flow.sink()
        try:
            await sink.open()
            flow.salesforce.end_sessions()
            await sink.write(flow.history.batch(*(person(i) for i in range(900))))
        finally:
            await sink.close()

    asyncio.run(run())
    assert flow.salesforce.logins == 2


def test_a_signed_token_is_exchanged_for_a_session(flow: Flow) -> None:
    private, flow.salesforce.certificate = key_pair()
    del flow.settings["client_secret"]
    flow.settings |= {"private_key": SecretStr(private), "user": flow.salesforce.user}
    assert flow.changes(person(1)) is None
    flow.settings["user"] = "somebody@example.org"
    with pytest.raises(Unauthorized, match="user hasn't approved this consumer"):
        flow.changes(person(2))
    flow.settings["private_key"] = SecretStr(flow.salesforce.certificate)
    with pytest.raises(Unauthorized, match="no RSA key"):
        flow.changes(person(2))


def test_wrong_credentials_refuse_no_row(flow: Flow) -> None:
    flow.settings["client_secret"] = SecretStr("wrong")
    with pytest.raises(Unauthorized, match="refuses the login"):
        flow.changes(person(1))
    flow.settings["client_secret"] = SecretStr(flow.salesforce.client_secret)
    assert flow.changes(person(1)) is None


def test_the_limit_of_the_day_waits(flow: Flow) -> None:
    flow.salesforce.daily = 2
    failure = flow.changes(person(1))
    assert isinstance(failure, Transient)
    assert failure.retry_after == 900
    assert "24 hours" in str(failure)


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"match": {"Passport__c": "id"}}, "Passport__c is no external ID", "Number__c"),
        ({"fields": {"LastNam": "name"}}, "no field 'LastNam'", "'LastName'"),
        (
            {"fields": {"LastName": "name", "CreatedDate": "seen"}},
            "CreatedDate cannot be written",
            "take it out",
        ),
        ({"fields": {"Email": "email"}}, "need LastName", "map a column"),
        (
            {"fields": {"LastName": "name", "Acount.Number__c": "firm"}},
            "no parent called 'Acount'",
            "'Account'",
        ),
        (
            {"fields": {"LastName": "name", "Account.Name": "firm"}},
            "Account.Name is no external ID",
            "external ID",
        ),
    ],
)
def test_a_mapping_that_the_org_cannot_take_is_an_error_before_any_row(
    salesforce: Salesforce, tmp_path: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    flow = Flow(salesforce, tmp_path, **options)
    with pytest.raises(Permanent, match=message) as raised:
        flow.changes(person(1))
    assert hint in raised.value.hint
    findings = asyncio.run(flow.sink().probe())
    assert message in findings[0].message


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"Birthdate": "seen"}, "has a time of day"),
        ({"Score__c": "name"}, "Score__c is a double, and the column is text"),
        ({"Vip__c": "id"}, "Vip__c is a boolean, and the column is integer"),
    ],
)
def test_a_column_that_does_not_fit_its_field_is_an_error_before_any_row(
    salesforce: Salesforce, tmp_path: Path, fields: dict[str, str], said: str
) -> None:
    failure = Flow(salesforce, tmp_path, fields={"LastName": "name", **fields}).changes(person(1))
    assert isinstance(failure, Permanent)
    assert said in str(failure)


def test_a_checkbox_is_never_null(flow: Flow) -> None:
    failure = flow.changes(person(1, vip=None), person(2))
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [0]
    assert "Vip__c is a checkbox" in failure.rows[0]


def test_the_org_describes_its_objects(flow: Flow) -> None:
    assert asyncio.run(flow.sink().objects()) == ["Account", "Contact"]
    fields = {one.name: one for one in asyncio.run(flow.sink().fields("Contact"))}
    assert fields["Number__c"].unique
    assert fields["LastName"].required
    assert fields["Likes__c"].options == ("books", "music", "sports")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"client_secret": None}, "either `private_key`"),
        ({"user": "x"}, "has no effect"),
        ({"url": "http://example.org"}, "must begin with https"),
        ({"api_version": "v62"}, "api_version"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    given = {"type": "salesforce", "url": "https://x.example", "client_id": "id", "client_secret": "s"}
    with pytest.raises(ValidationError, match=said):
        SalesforceSettings.model_validate({**given, **settings})


# Bulk jobs.


def test_many_records_go_by_one_job(flow: Flow) -> None:
    account = flow.salesforce.org.types["Account"]
    flow.salesforce.org.upsert(account, "Number__c", {"Number__c": "F1", "Name": "Firm"})
    row = {"seen": "2026-11-24 10:00:00+00", "score": "1.50", "vip": "t", "likes": "{books}", "firm": "F1"}
    rows = [person(i, name=f'"{i}", a\nb', **row) for i in range(2_500)]
    assert flow.changes(*rows) is None
    assert len(flow.salesforce.bulk.jobs) == 1
    assert flow.upserts() == 0
    record = flow.record("7")
    assert record is not None
    assert record.values["LastName"] == '"7", a\nb'
    assert record.values["Score__c"] == "1.50"
    assert "AccountId" in record.values
    assert not (flow.state / "bulk.json").exists()
    # And nothing of it again.
    assert flow.changes(*rows) is None
    assert len(flow.salesforce.bulk.jobs) == 1


def test_a_job_s_bad_rows_are_refused_and_its_locked_ones_go_again(
    salesforce: Salesforce, tmp_path: Path
) -> None:
    flow = Flow(salesforce, tmp_path, bulk=10, fields={"LastName": "name"})
    salesforce.org.locked = {"5"}
    batch = flow.history.batch(*(person(i, name="x" * 90 if i == 3 else "Ada") for i in range(50)))
    failure = flow.deliver(batch)
    assert isinstance(failure, Transient)
    assert list(failure.refused) == [3]
    assert "LastName takes no text as long" in failure.refused[3]
    assert failure.written == frozenset(range(50)) - {3, 5}
    salesforce.org.locked = set()
    assert isinstance(flow.deliver(batch), Rejected)
    assert flow.record("5") is not None


def test_what_a_failed_job_left_comes_again(salesforce: Salesforce, tmp_path: Path) -> None:
    flow = Flow(salesforce, tmp_path, bulk=10, fields={"LastName": "name"})
    salesforce.bulk.stops_after = 20
    batch = flow.history.batch(*(person(i) for i in range(50)))
    failure = flow.deliver(batch)
    # What the job did not deal with went by single calls, at once.
    assert failure is None or (isinstance(failure, Transient) and len(failure.written) == 20)
    salesforce.bulk.stops_after = None
    assert flow.deliver(batch) is None
    assert len(salesforce.org.living("Contact")) == 50


@pytest.mark.parametrize("killed", ["at its data", "at its end", "at its results"])
def test_a_job_is_found_again_after_a_kill(salesforce: Salesforce, tmp_path: Path, killed: str) -> None:
    """The worker dies somewhere in the life of a job, and the same records come again."""
    flow = Flow(salesforce, tmp_path, bulk=10, fields={"LastName": "name"})
    path = {"at its data": "batches", "at its end": r"ingest/\w+$", "at its results": "Results"}[killed]
    batch = flow.history.batch(*(person(i) for i in range(50)))
    salesforce.fault("reset_after", path=path)
    assert isinstance(flow.deliver(batch), Transient)
    assert (tmp_path / "bulk.json").exists()
    assert flow.deliver(batch) is None
    assert len(salesforce.org.living("Contact")) == 50
    # The one that had not begun was ended; any other was not made twice.
    assert len(salesforce.bulk.jobs) == (2 if killed == "at its data" else 1)
    assert not (tmp_path / "bulk.json").exists()


@pytest.mark.parametrize(
    "lost", [r"ingest$", "batches", r"ingest/\w+$", "successfulResults", "failedResults"]
)
def test_a_step_of_a_job_is_done_when_salesforce_says_so(
    salesforce: Salesforce, tmp_path: Path, lost: str
) -> None:
    """A page that somebody in between answers with, status 200, says nothing: the step has not happened."""
    flow = Flow(salesforce, tmp_path, bulk=10, fields={"LastName": "name"})
    batch = flow.history.batch(*(person(i) for i in range(50)))
    salesforce.fault("garbage", path=lost)
    flow.deliver(batch)
    failure = flow.deliver(batch)
    assert failure is None
    assert flow.upserts() == 0
    assert len(salesforce.org.living("Contact")) == 50
    assert not (tmp_path / "bulk.json").exists()


def test_a_job_of_older_states_is_ended_before_newer_ones_are_sent(
    salesforce: Salesforce, tmp_path: Path
) -> None:
    flow = Flow(salesforce, tmp_path, bulk=10, fields={"LastName": "name"})
    salesforce.bulk.polls = 1_000
    salesforce.fault("reset", path=r"ingest/\w+$", times=3)
    rows = [person(i, name="old") for i in range(50)]
    assert isinstance(flow.changes(*rows), Transient)
    (job,) = salesforce.bulk.jobs.values()
    job.state = "UploadComplete"
    salesforce.no_faults()
    newer = [update(PEOPLE, id=str(i), name="new", vip="f") for i in range(5)]
    assert flow.changes(*newer) is None
    assert job.state == "Aborted"
    assert {one.values["LastName"] for one in salesforce.org.living("Contact")} == {"new"}


def test_a_file_that_names_no_job_says_what_to_do(flow: Flow) -> None:
    (flow.state / "bulk.json").write_text("{")
    with pytest.raises(Exception, match=r"bulk\.json cannot be read"):
        flow.changes(person(1))
    (flow.state / "bulk.json").write_bytes(orjson.dumps({"id": "gone", "digest": "x"}))
    assert flow.changes(person(1)) is None


def test_a_parent_that_becomes_none_goes_by_a_call_of_its_own(salesforce: Salesforce, tmp_path: Path) -> None:
    """CSV has no form for it."""
    fields = {"LastName": "name", "Account.Number__c": "firm"}
    flow = Flow(salesforce, tmp_path, bulk=10, fields=fields)
    account = salesforce.org.types["Account"]
    salesforce.org.upsert(account, "Number__c", {"Number__c": "F1", "Name": "Firm"})
    assert flow.changes(*(person(i, firm="F1") for i in range(50))) is None
    changes = [update(PEOPLE, id=str(i), name="Ada", firm=None if i == 7 else "F1") for i in range(50)]
    assert flow.changes(*changes) is None
    assert (len(salesforce.bulk.jobs), flow.upserts()) == (2, 1)
    record = flow.record("7")
    assert record is not None
    assert record.values == {"Number__c": "7", "LastName": "Ada"}


def test_a_column_that_a_table_lacks_is_told_before_any_row(salesforce: Salesforce, tmp_path: Path) -> None:
    flow = Flow(salesforce, tmp_path, fields={"LastName": "nam"})
    [finding] = flow.sink().judge([ExpectedTable(PEOPLE)])
    assert (finding.severity, finding.remedy) == ("error", "did you mean 'name'?")
    assert "has no column 'nam'" in finding.message
    assert not salesforce.calls


def test_a_preview_shows_what_would_be_sent_and_calls_nobody(salesforce: Salesforce, tmp_path: Path) -> None:
    flow = Flow(salesforce, tmp_path, deletes="delete")
    same = insert(PEOPLE, id="1", name="Ada", score="1.50", vip="t")
    [new] = flow.sink().preview(History().batch(same))
    assert '"LastName":"Ada"' in new.text
    assert not any(tmp_path.iterdir())

    assert flow.changes(same, insert(PEOPLE, id="3", name="Bob", vip="f")) is None
    calls = len(salesforce.called())
    batch = History().batch(
        same,
        insert(PEOPLE, id="2", name="Eve", firm="77", vip="f", score="2.50"),
        delete(PEOPLE, id="3"),
    )
    shown = {one.indexes: one for one in flow.sink().preview(batch)}
    assert {one.target for one in shown.values()} == {"salesforce Contact"}
    assert "nothing" in shown[0,].text
    for said in ('"Number__c":"2"', '"Vip__c":false', '"Score__c":2.50', '"Account":{"Number__c":"77"}'):
        assert said in shown[1,].text
    assert shown[2,].text == "delete the record whose Number__c is 3"
    assert len(salesforce.called()) == calls
