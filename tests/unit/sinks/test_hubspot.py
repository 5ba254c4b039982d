"""What the `hubspot` sink does with rows, against a HubSpot account behind real HTTP."""

import asyncio
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from cdcflow.errors import DeliveryError, Permanent, Rejected, Transient, Unauthorized
from cdcflow.model import UNCHANGED, Batch, Column, Op, Unchanged
from cdcflow.sink import Budget, ExpectedTable, FlowContext, Limit
from cdcflow.testing.batches import make_relation
from cdcflow.testing.history import AnyChange, History, delete, insert, read, truncate, update
from cdcflow.testing.hubspot import HubSpot, Limits, Property
from cdcflow.testing.hubspot.account import CrmObject
from cdcflow.testing.hubspot.server import TOKEN
from cdcflow.testing.service import Answer, Fault, FaultKind
from cdcflow_sinks.hubspot import HubSpotOptions, HubSpotSettings, HubSpotSink
from cdcflow_sinks.hubspot.client import midnight, time_zone

CUSTOMERS = make_relation(
    "customers",
    [
        Column("id", 23, key=True),
        "email",
        "name",
        Column("revenue", 1700),
        Column("born", 1082),
        Column("seen", 1184),
        Column("news", 16),
        Column("likes", 1009),
        "stage",
        "company_vat",
    ],
    oid=17_001,
)
FIELDS = {
    "firstname": "name",
    "revenue": "revenue",
    "birthday": "born",
    "last_seen": "seen",
    "newsletter": "news",
    "interests": "likes",
    "lifecyclestage": "stage",
}


@pytest.fixture
def hubspot() -> Iterator[HubSpot]:
    with HubSpot() as found:
        yield found


class Flow:
    """A flow's sink over an account; each `deliver` is a life of it, from opening to closing."""

    def __init__(self, hubspot: HubSpot, state: Path, **options: Any) -> None:
        self.hubspot = hubspot
        self.history = History()
        self._context = FlowContext(flow="customers", state=state)
        self.settings: dict[str, Any] = {"token": SecretStr(TOKEN), "url": hubspot.url}
        given = {"object": "contacts", "match": {"customer_number": "id"}, "fields": FIELDS, **options}
        self.options = HubSpotOptions.model_validate(given)

    def sink(self) -> HubSpotSink:
        return HubSpotSink(HubSpotSettings(**self.settings), self.options, self._context)

    def deliver(self, *batches: Batch) -> DeliveryError | None:
        """Writes them, and returns what the last `write` raised."""

        async def run() -> DeliveryError | None:
            sink = self.sink()
            try:
                await sink.open()
                failure = None
                for batch in batches:
                    failure = None
                    try:
                        await sink.prepare([group.relation for group in batch.groups])
                        await sink.write(batch)
                    except DeliveryError as error:
                        failure = error
                return failure
            finally:
                await sink.close()

        return asyncio.run(run())

    def changes(self, *changes: AnyChange) -> DeliveryError | None:
        return self.deliver(self.history.batch(*changes))

    def record(self, number: str) -> CrmObject | None:
        return self.hubspot.account.find("contacts", "customer_number", number)

    def upserts(self) -> int:
        return len(self.hubspot.called("batch/upsert"))


@pytest.fixture
def flow(hubspot: HubSpot, tmp_path: Path) -> Flow:
    return Flow(hubspot, tmp_path)


def customer(number: int, **values: Any) -> AnyChange:
    return insert(CUSTOMERS, **{"id": str(number), "name": f"Customer {number}", **values})


def test_values_arrive_in_the_property_s_own_form(flow: Flow) -> None:
    row = {
        "revenue": "12345678901234567890.5000",
        "born": "1815-12-10",
        "seen": "2026-11-24 10:00:00.123456+00",
        "news": "t",
        "likes": "{books,music}",
        "stage": "lead",
    }
    assert flow.changes(customer(1, **row)) is None
    record = flow.record("1")
    assert record is not None
    assert record.properties == {
        "customer_number": "1",
        "firstname": "Customer 1",
        "revenue": "12345678901234567890.5000",
        "birthday": "1815-12-10",
        "last_seen": "2026-11-24T10:00:00.123Z",
        "newsletter": "true",
        "interests": "books;music",
        "lifecyclestage": "lead",
    }


def test_null_clears_or_is_skipped_as_the_flow_says(hubspot: HubSpot, tmp_path: Path) -> None:
    for nulls, left in (("clear", None), ("skip", "lead")):
        state = tmp_path / nulls
        state.mkdir()
        flow = Flow(hubspot, state, nulls=nulls)
        assert flow.changes(customer(1, stage="lead")) is None
        assert flow.changes(update(CUSTOMERS, id="1", name="Ada", stage=None)) is None
        record = flow.record("1")
        assert record is not None
        assert record.properties.get("lifecyclestage") == left


def test_a_row_that_changed_often_costs_one_record_of_one_call(flow: Flow) -> None:
    changes = [customer(1), *(update(CUSTOMERS, id="1", name=f"name {i}") for i in range(50))]
    assert flow.changes(*changes) is None
    assert flow.upserts() == 1
    assert [sent["firstname"] for _, _, sent in flow.hubspot.account.log] == ["name 49"]


def test_a_hundred_records_go_into_each_call(flow: Flow) -> None:
    assert flow.changes(*(customer(i) for i in range(250))) is None
    assert flow.upserts() == 3


def test_rows_that_are_as_delivered_cost_no_call(flow: Flow) -> None:
    rows = [customer(i) for i in range(150)]
    assert flow.changes(*rows) is None
    before = flow.upserts()
    # A rewind, and a new backfill, by a sink that was started anew.
    assert flow.changes(*rows) is None
    assert flow.changes(*(read(CUSTOMERS, id=str(i), name=f"Customer {i}") for i in range(150))) is None
    # A column that is not mapped.
    assert flow.changes(update(CUSTOMERS, id="3", name="Customer 3", email="x@example.org")) is None
    assert flow.upserts() == before
    assert flow.changes(update(CUSTOMERS, id="3", name="Ada")) is None
    assert flow.upserts() == before + 1


def test_everything_is_sent_with_only_changes_off(hubspot: HubSpot, tmp_path: Path) -> None:
    flow = Flow(hubspot, tmp_path, only_changes=False)
    for _ in range(2):
        assert flow.changes(customer(1)) is None
    assert flow.upserts() == 2


def test_a_state_that_came_back_is_sent_when_what_is_there_is_not_known(flow: Flow) -> None:
    """A → B, which arrives though the call fails, → A: the ledger must not say that A is there."""
    assert flow.changes(customer(1, name="A")) is None
    flow.hubspot.fault("reset_after", path="upsert")
    assert isinstance(flow.changes(update(CUSTOMERS, id="1", name="B")), Transient)
    assert flow.changes(update(CUSTOMERS, id="1", name="B"), update(CUSTOMERS, id="1", name="A")) is None
    record = flow.record("1")
    assert record is not None
    assert record.properties["firstname"] == "A"


def test_another_account_is_not_taken_for_the_one_that_has_it_all(flow: Flow) -> None:
    assert flow.changes(customer(1)) is None
    with HubSpot() as other:
        other.account.portal = 7
        flow.settings["url"] = other.url
        assert flow.changes(customer(1)) is None
        assert other.account.find("contacts", "customer_number", "1") is not None


def test_one_bad_row_is_refused_alone_with_a_reason_without_values(flow: Flow) -> None:
    rows = [customer(i, stage="no such stage" if i == 77 else "lead") for i in range(200)]
    failure = flow.changes(*rows)
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [77]
    assert "lifecyclestage takes none but its options" in failure.rows[77]
    assert "no such stage" not in failure.rows[77]
    assert "no such stage" in failure.answers[77]
    assert len(flow.hubspot.account.living("contacts")) == 199
    assert flow.upserts() == 2


@pytest.mark.parametrize("whole", ["conflict", "no multi-status"])
def test_one_bad_row_is_found_where_the_answer_does_not_name_it(flow: Flow, whole: str) -> None:
    flow.options = HubSpotOptions.model_validate(
        {"object": "contacts", "match": {"customer_number": "id"}, "fields": {**FIELDS, "email": "email"}}
    )
    if whole == "conflict":
        flow.hubspot.conflicts_fail_batch = True
        assert flow.changes(customer(900, email="taken@example.org")) is None
    else:
        flow.hubspot.multi_status = False
    bad = "taken@example.org" if whole == "conflict" else "no address"
    rows = [customer(i, email=bad if i == 42 else f"c{i}@example.org") for i in range(100)]
    failure = flow.changes(*rows)
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [42]
    assert flow.upserts() < 20
    assert all(flow.record(str(i)) is not None for i in range(100) if i != 42)


def test_the_state_before_a_refused_one_is_written(flow: Flow) -> None:
    failure = flow.changes(
        customer(1, stage="lead"),
        update(CUSTOMERS, id="1", name="Ada", stage="customer"),
        update(CUSTOMERS, id="1", name="Grace", stage="wrong"),
    )
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [2]
    record = flow.record("1")
    assert record is not None
    assert (record.properties["firstname"], record.properties["lifecyclestage"]) == ("Ada", "customer")


def test_a_value_that_no_property_takes_is_refused_before_any_call(flow: Flow) -> None:
    failure = flow.changes(customer(1, revenue="NaN"), customer(2, born="infinity"), customer(3))
    assert isinstance(failure, Rejected)
    assert set(failure.rows) == {0, 1}
    assert "revenue is a number, and the value is NaN or infinite" in failure.rows[0]


def test_a_row_without_its_match_value_is_refused(hubspot: HubSpot, tmp_path: Path) -> None:
    flow = Flow(hubspot, tmp_path, match={"email": "email"}, fields={"firstname": "name"})
    failure = flow.changes(customer(1), customer(2, email="Ada@Example.org"), customer(3, email=""))
    assert isinstance(failure, Rejected)
    assert set(failure.rows) == {0, 2}
    assert "email is NULL, and records are matched by email" in failure.rows[0]


def test_two_spellings_of_an_address_are_one_record(hubspot: HubSpot, tmp_path: Path) -> None:
    flow = Flow(hubspot, tmp_path, match={"email": "email"}, fields={"firstname": "name"})
    assert flow.changes(customer(1, email="Ada@example.org"), customer(2, email="ada@Example.org")) is None
    assert [one.properties["firstname"] for one in hubspot.account.living("contacts")] == ["Customer 2"]


@pytest.mark.parametrize("deletes", ["ignore", "archive", "clear"])
def test_rows_that_disappear(hubspot: HubSpot, tmp_path: Path, deletes: str) -> None:
    flow = Flow(hubspot, tmp_path, match={"email": "email"}, fields={"firstname": "name"}, deletes=deletes)
    assert flow.changes(*(customer(i, email=f"{i}@example.org") for i in range(4))) is None
    # A delete brings the key alone, and the record is matched by another column.
    assert flow.changes(delete(CUSTOMERS, id="1")) is None
    names = {
        one.properties["email"]: one.properties.get("firstname") for one in hubspot.account.living("contacts")
    }
    assert len(names) == (3 if deletes == "archive" else 4)
    assert names.get("1@example.org") == ("Customer 1" if deletes == "ignore" else None)
    assert flow.changes(truncate(CUSTOMERS), customer(9, email="9@example.org")) is None
    left = {one.properties["email"] for one in hubspot.account.living("contacts")}
    assert left == ({"9@example.org"} if deletes == "archive" else {*names, "9@example.org"})


def test_a_removal_that_failed_is_made_up_for(hubspot: HubSpot, tmp_path: Path) -> None:
    flow = Flow(hubspot, tmp_path, match={"email": "email"}, fields={"firstname": "name"}, deletes="archive")
    assert flow.changes(customer(1, email="a@example.org")) is None
    batch = flow.history.batch(delete(CUSTOMERS, id="1"), customer(2, email="b@example.org"))
    hubspot.fault("refuse", path="archive")
    assert isinstance(flow.deliver(batch), Transient)
    assert flow.deliver(batch) is None
    assert [one.properties["email"] for one in hubspot.account.living("contacts")] == ["b@example.org"]


def test_a_new_match_value_takes_unsent_values_along(hubspot: HubSpot, tmp_path: Path) -> None:
    flow = Flow(hubspot, tmp_path, match={"email": "email"}, fields={"firstname": "name"}, deletes="archive")
    assert flow.changes(customer(1, email="a@example.org", name="long text")) is None
    assert flow.changes(update(CUSTOMERS, id="1", email="b@example.org", name=UNCHANGED)) is None
    found = [one.properties for one in hubspot.account.living("contacts")]
    assert found == [{"email": "b@example.org", "firstname": "long text"}]


def test_records_are_associated_by_a_unique_property(hubspot: HubSpot, tmp_path: Path) -> None:
    company, _ = hubspot.account.upsert(hubspot.account.types["companies"], "vat_id", "DE1", {"name": "Firm"})
    associate = [{"to": "companies", "match": "vat_id", "column": "company_vat"}]
    flow = Flow(hubspot, tmp_path, fields={"firstname": "name"}, associate=associate)
    failure = flow.changes(customer(1, company_vat="DE1"), customer(2), customer(3, company_vat="DE9"))
    assert isinstance(failure, Rejected)
    assert list(failure.rows) == [2]
    assert "not associated" in failure.rows[2]
    record = flow.record("1")
    assert record is not None
    assert list(hubspot.account.associations) == [("contacts", record.id, "companies", company.id)]


class Firms:
    """A flow of contacts that belong to firms, of which three are there."""

    def __init__(self, hubspot: HubSpot, state: Path, *labels: int | None, **options: Any) -> None:
        self.hubspot = hubspot
        kind = hubspot.account.types["companies"]
        self.ids = {hubspot.account.upsert(kind, "vat_id", vat, {})[0].id: vat for vat in ("A", "B", "C")}
        associate = [
            {"to": "companies", "match": "vat_id", "column": "company_vat", "label": label}
            for label in labels or (None,)
        ]
        self.flow = Flow(hubspot, state, fields={"firstname": "name"}, associate=associate, **options)

    def belongs(self, vat: str | Unchanged | None) -> DeliveryError | None:
        """The contact's row says so now; by a new life of the flow."""
        return self.flow.changes(update(CUSTOMERS, id="1", name="Ada", company_vat=vat))

    def found(self) -> list[str]:
        return sorted(self.ids[target] for _, _, _, target in self.hubspot.account.associations)


@pytest.mark.parametrize("label", [None, 341])
@pytest.mark.parametrize("only_changes", [True, False])
def test_a_record_leaves_the_one_that_its_row_points_to_no_more(
    hubspot: HubSpot, tmp_path: Path, label: int | None, only_changes: bool
) -> None:
    firms = Firms(hubspot, tmp_path, label, only_changes=only_changes)
    for vat, there in (("A", ["A"]), (UNCHANGED, ["A"]), ("B", ["B"]), (None, []), ("A", ["A"])):
        assert firms.belongs(vat) is None
        assert firms.found() == there
    # What is right costs no further call.
    removals = len(hubspot.called("archive"))
    assert firms.belongs("A") is None
    assert len(hubspot.called("archive")) == removals == 2


def test_what_others_have_associated_stays(hubspot: HubSpot, tmp_path: Path) -> None:
    firms = Firms(hubspot, tmp_path, 341)
    assert firms.belongs("A") is None
    [key] = hubspot.account.associations
    hubspot.account.associations[key].add(7)
    other = (*key[:3], next(number for number, vat in firms.ids.items() if vat == "C"))
    hubspot.account.associations[other] = {341}
    assert firms.belongs("B") is None
    assert hubspot.account.associations[key] == {7}
    assert firms.found() == ["A", "B", "C"]


def test_an_association_that_is_not_there_to_be_made_leaves_the_former_one_removed(
    hubspot: HubSpot, tmp_path: Path
) -> None:
    firms = Firms(hubspot, tmp_path)
    assert firms.belongs("A") is None
    failure = firms.belongs("nowhere")
    assert isinstance(failure, Rejected)
    assert "not associated" in failure.rows[0]
    assert firms.found() == []


@pytest.mark.parametrize("kind", ["reset", "reset_after", "fail_after", "garbage"])
@pytest.mark.parametrize("call", ["associate/default", "batch/archive"])
def test_an_association_that_nobody_knows_of_is_not_left_behind(
    hubspot: HubSpot, tmp_path: Path, kind: FaultKind, call: str
) -> None:
    """The row goes on to another one before what came of the call is known."""
    firms = Firms(hubspot, tmp_path)
    assert firms.belongs("A") is None
    hubspot.fault(Fault(kind, Answer(500)), path=call)
    assert isinstance(firms.belongs("B"), Transient)
    assert firms.belongs("C") is None
    assert firms.found() == ["C"]


def test_clearing_a_record_takes_its_associations(hubspot: HubSpot, tmp_path: Path) -> None:
    firms = Firms(hubspot, tmp_path, deletes="clear")
    assert firms.belongs("A") is None
    assert firms.flow.changes(delete(CUSTOMERS, id="1")) is None
    assert firms.found() == []
    assert firms.belongs("B") is None
    assert firms.found() == ["B"]


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
    batch = flow.history.batch(*(customer(i) for i in range(150)))
    flow.hubspot.fault(fault, path="upsert")
    failure = flow.deliver(batch)
    assert isinstance(failure, Transient)
    assert failure.written
    assert len(failure.written) in (50, 100)
    if fault.kind == "refuse":
        assert failure.retry_after == 7
    flow.settings["timeout"] = "20s"
    assert flow.deliver(batch) is None
    assert len(flow.hubspot.account.living("contacts")) == 150


def test_a_record_is_archived_when_hubspot_says_so(hubspot: HubSpot, tmp_path: Path) -> None:
    """A page that somebody in between answers with, status 200, says nothing."""
    flow = Flow(hubspot, tmp_path, deletes="archive")
    assert flow.changes(customer(1)) is None
    flow.hubspot.fault(Fault("garbage"), path="batch/archive")
    assert isinstance(flow.changes(delete(CUSTOMERS, id="1")), Transient)
    assert flow.record("1") is not None
    assert flow.changes(delete(CUSTOMERS, id="1")) is None
    assert flow.record("1") is None


def test_the_token_may_be_replaced_while_the_flow_waits(flow: Flow) -> None:
    flow.hubspot.tokens = {"pat-new"}
    with pytest.raises(Unauthorized, match="does not accept the token"):
        flow.changes(customer(1))
    flow.settings["token"] = SecretStr("pat-new")
    assert flow.changes(customer(1)) is None


def test_an_oauth_app_refreshes_its_token_before_it_expires_and_once_when_it_is_refused(flow: Flow) -> None:
    hubspot = flow.hubspot
    flow.settings = {
        "url": hubspot.url,
        "oauth": {
            "client_id": hubspot.client_id,
            "client_secret": hubspot.client_secret,
            "refresh_token": hubspot.refresh_token,
        },
    }

    async def run() -> None:
        sink = flow.sink()
        try:
            await sink.open()
            await sink.write(flow.history.batch(*(customer(i) for i in range(500))))
            assert hubspot.refreshes == 1
            hubspot.expire_tokens()
            await sink.write(flow.history.batch(*(customer(i) for i in range(1_000, 1_500))))
            assert hubspot.refreshes == 2
        finally:
            await sink.close()

    asyncio.run(run())
    hubspot.refresh_token = "another"
    with pytest.raises(Unauthorized, match="BAD_REFRESH_TOKEN"):
        flow.changes(customer(1))


def test_a_missing_scope_is_named(flow: Flow) -> None:
    flow.hubspot.scopes.discard("crm.objects.contacts.write")
    failure = flow.changes(customer(1))
    assert isinstance(failure, Permanent)
    assert "crm.objects.contacts.write" in str(failure)


def test_a_daily_limit_waits_for_midnight_at_the_account_and_says_when_that_is(flow: Flow) -> None:
    flow.hubspot.account.time_zone = "Asia/Kolkata"
    limits = flow.hubspot.limits
    limits.daily = limits.used_today + 2
    failure = flow.changes(customer(1))
    assert isinstance(failure, Transient)
    assert failure.retry_after is not None
    again = datetime.now(UTC) + timedelta(seconds=failure.retry_after)
    # Midnight in India, which is half an hour off.
    assert abs((again - again.replace(hour=18, minute=30, second=0, microsecond=0)).total_seconds()) < 60
    assert "daily limit" in str(failure)
    assert f"from {again + timedelta(hours=5, minutes=31):%Y-%m-%d} 00:00" in failure.hint
    assert "(18:30 UTC)" in failure.hint


def test_a_daily_limit_that_is_met_before_the_account_is_known_is_looked_at_now_and_then(flow: Flow) -> None:
    flow.hubspot.limits.daily = flow.hubspot.limits.used_today
    with pytest.raises(Transient, match="daily limit") as failure:
        flow.changes(customer(1))
    assert failure.value.retry_after == 900


@pytest.mark.parametrize(
    ("now", "zone", "then"),
    [
        ("2026-11-25T03:00+00:00", "US/Eastern", "2026-11-25T05:00+00:00"),
        ("2026-11-25T05:00+00:00", "US/Eastern", "2026-11-26T05:00+00:00"),
        ("2026-11-25T03:00+00:00", "UTC", "2026-11-26T00:00+00:00"),
        # Days of 25 and of 23 hours.
        ("2026-10-24T22:00+00:00", "Europe/Berlin", "2026-10-25T23:00+00:00"),
        ("2026-03-28T23:00+00:00", "Europe/Berlin", "2026-03-29T22:00+00:00"),
    ],
)
def test_the_day_ends_when_it_does_at_the_account(now: str, zone: str, then: str) -> None:
    found = time_zone({"timeZone": zone, "utcOffsetMilliseconds": 0})
    assert found is not None
    assert midnight(datetime.fromisoformat(now), found).astimezone(UTC) == datetime.fromisoformat(then)


def test_a_time_zone_that_this_system_does_not_know_is_the_offset_that_it_has_now() -> None:
    found = time_zone({"timeZone": "Mars/Olympus", "utcOffsetMilliseconds": -18_000_000})
    assert found == timezone(timedelta(hours=-5))
    assert time_zone({}) is None


def test_the_limit_that_the_account_tells_is_never_exceeded(tmp_path: Path) -> None:
    with HubSpot(limits=Limits(calls=20, window=1.0)) as hubspot:
        flow = Flow(hubspot, tmp_path)
        assert flow.changes(*(customer(i) for i in range(5_000))) is None
        assert hubspot.limits.refused == 0
        assert hubspot.limits.most <= 20
        assert flow.upserts() == 50


@pytest.mark.parametrize(
    ("options", "message", "hint"),
    [
        ({"match": {"lastname": "id"}}, "contacts.lastname is not unique", "customer_number"),
        ({"match": {"customer_numbr": "id"}}, "no property 'customer_numbr'", "'customer_number'"),
        ({"fields": {"first_name": "name"}}, "no property 'first_name'", "'firstname'"),
        ({"fields": {"createdate": "seen"}}, "createdate is read-only", "take it out"),
        (
            {"object": "deals", "match": {"order_id": "id"}, "fields": {"amount": "revenue"}},
            "new deals need dealname, dealstage",
            "map a column",
        ),
        (
            {"associate": [{"to": "companies", "match": "name", "column": "company_vat"}]},
            "companies.name is not unique",
            "unique property",
        ),
    ],
)
def test_a_mapping_that_the_account_cannot_take_is_an_error_before_any_row(
    hubspot: HubSpot, tmp_path: Path, options: dict[str, Any], message: str, hint: str
) -> None:
    flow = Flow(hubspot, tmp_path, **options)
    with pytest.raises(Permanent, match=message) as raised:
        flow.changes(customer(1))
    assert hint in raised.value.hint
    findings = asyncio.run(flow.sink().probe())
    assert [one.severity for one in findings] == ["error"]
    assert message in findings[0].message


def test_a_mapping_that_fits_is_said_to(flow: Flow) -> None:
    findings = asyncio.run(flow.sink().probe())
    assert [one.severity for one in findings] == ["ok"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"birthday": "seen"}, "has a time of day"),
        ({"revenue": "name"}, "revenue is a number, and the column is text"),
        ({"newsletter": "id"}, "newsletter is a bool, and the column is integer"),
        ({"lifecyclestage": "likes"}, "lifecyclestage takes one option"),
        ({"firstname": "nam"}, "did you mean name?"),
    ],
)
def test_a_column_that_does_not_fit_its_property_is_an_error_before_any_row(
    hubspot: HubSpot, tmp_path: Path, fields: dict[str, str], said: str
) -> None:
    failure = Flow(hubspot, tmp_path, fields=fields).changes(customer(1))
    assert isinstance(failure, Permanent)
    assert said in str(failure)


def test_a_property_that_is_gone_is_the_mapping_s_fault_and_no_row_s(flow: Flow) -> None:
    assert flow.changes(customer(1)) is None

    async def run() -> DeliveryError | None:
        sink = flow.sink()
        try:
            await sink.open()
            del flow.hubspot.account.types["contacts"].properties["birthday"]
            await sink.write(flow.history.batch(*(customer(i, stage="lead") for i in range(20))))
        except DeliveryError as error:
            return error
        finally:
            await sink.close()
        return None

    failure = asyncio.run(run())
    assert isinstance(failure, Permanent)
    assert "birthday" in str(failure)


def test_the_account_describes_its_objects(flow: Flow) -> None:
    flow.hubspot.account.add_type("machines", Property("serial", unique=True), required=["serial"])
    assert "machines" in asyncio.run(flow.sink().objects())
    fields = {one.name: one for one in asyncio.run(flow.sink().fields("machines"))}
    assert fields["serial"].unique
    assert fields["serial"].required
    stage = {one.name: one for one in asyncio.run(flow.sink().fields("contacts"))}["lifecyclestage"]
    assert "lead" in stage.options


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, "either `token`"),
        ({"token": " "}, "is empty"),
        ({"token": "x", "url": "http://example.org"}, "must begin with https"),
    ],
)
def test_settings_that_cannot_work_are_refused(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        HubSpotSettings.model_validate({"type": "hubspot", **settings})


def test_the_ledger_is_nobody_else_s_to_read(flow: Flow, tmp_path: Path) -> None:
    assert flow.changes(customer(1)) is None
    for file in tmp_path.glob("ledger.sqlite*"):
        assert file.stat().st_mode & 0o077 == 0


def test_a_delete_of_a_row_that_was_never_delivered_is_nothing(hubspot: HubSpot, tmp_path: Path) -> None:
    flow = Flow(hubspot, tmp_path, match={"email": "email"}, fields={"firstname": "name"}, deletes="archive")
    assert flow.changes((CUSTOMERS, Op.DELETE, None, {"id": "5"})) is None
    assert not hubspot.called("archive")


def test_a_column_that_a_table_lacks_is_told_before_any_row(hubspot: HubSpot, tmp_path: Path) -> None:
    flow = Flow(hubspot, tmp_path, fields={"firstname": "nam"})
    [finding] = flow.sink().judge([ExpectedTable(CUSTOMERS)])
    assert (finding.severity, finding.remedy) == ("error", "did you mean 'name'?")
    assert "has no column 'nam'" in finding.message
    assert not hubspot.calls


def test_a_sink_that_opens_waits_for_no_smaller_limit_than_the_account_s(tmp_path: Path) -> None:
    # Whoever would have to wait stops instead.
    budget = Budget(stopping=lambda: True)
    budget.spend(Limit("calls", 100, 10.0), 150)
    with HubSpot(limits=Limits(calls=1_000)) as hubspot:
        flow = Flow(hubspot, tmp_path)
        settings = HubSpotSettings(**flow.settings)
        sink = HubSpotSink(settings, flow.options, FlowContext("customers", tmp_path, budget))

        async def run() -> None:
            try:
                await sink.open()
            finally:
                await sink.close()

        asyncio.run(run())


def test_a_preview_shows_what_would_be_sent_and_calls_nobody(hubspot: HubSpot, tmp_path: Path) -> None:
    hubspot.account.upsert(hubspot.account.types["companies"], "vat_id", "ATU1", {"name": "Firm"})
    associate = [{"to": "companies", "match": "vat_id", "column": "company_vat"}]
    flow = Flow(hubspot, tmp_path, deletes="archive", associate=associate)
    same, other = customer(1, born="1815-12-10"), customer(2, born="1815-12-11", company_vat="ATU1")
    # Before the flow has ever run, the types of the account's properties are not known.
    [new] = flow.sink().preview(History().batch(same))
    assert '"birthday": "1815-12-10"' in new.text
    assert not any(tmp_path.iterdir())

    assert flow.changes(same, customer(3)) is None
    calls = len(hubspot.called())
    batch = History().batch(
        same,
        other,
        update(CUSTOMERS, id="2", name="Two", born=UNCHANGED, company_vat="ATU1"),
        delete(CUSTOMERS, id="3"),
    )
    shown = {one.indexes: one for one in flow.sink().preview(batch)}
    assert {one.target for one in shown.values()} == {"hubspot contacts"}
    assert "nothing" in shown[0,].text
    told = shown[1, 2].text
    for said in ('"idProperty": "customer_number"', '"firstname": "Two"', '"birthday": "1815-12-11"'):
        assert said in told
    assert "associated with the record of companies whose vat_id is ATU1" in told
    assert shown[3,].text == "archive the record whose customer_number is 3"
    assert len(hubspot.called()) == calls
    # What was shown is as it was: nothing of it is known as delivered.
    assert flow.deliver(batch) is None
    record = flow.record("2")
    assert record is not None
    assert record.properties["firstname"] == "Two"
