"""The CRMs of the fault matrix. They keep states: what counts is the last one of every row, and nothing else
is there. Rows are deleted by their key alone, and records are matched by another column."""

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from cdcflow.testing.hubspot import HubSpot, Limits, Property
from cdcflow.testing.salesforce import Field, Salesforce
from cdcflow.testing.service import Answer, Fault, FaultKind, Request, Service
from faults.subjects import POISON, Got, Subject

#: Fault → what happens to a request, and to which part of them.
KINDS: Mapping[str, tuple[FaultKind, float]] = {
    "fail after write": ("fail_after", 0.3),
    "hang": ("hang", 0.05),
    "slow": ("slow", 0.3),
    "reset": ("reset", 0.3),
    "reset after write": ("reset_after", 0.3),
    "garbage": ("garbage", 0.3),
    "cut": ("cut", 0.3),
    "down": ("refuse", 1.0),
}

BUSY = 0.3

NONE: frozenset[str] = frozenset()
#: Beside poison some of the versions: of a backlog, only the last state of each row is sent at all.
FORBIDDEN = frozenset((POISON, *(str(number) for number in range(3, 100_000, 8))))


class _Crm:
    """What both have in common."""

    faults: ClassVar[Sequence[str]] = ("reject", *KINDS, "busy", "session", "unauthorized")
    writes: ClassVar[str] = "states"
    service: Service

    def __init__(self, place: Path, draw: random.Random) -> None:
        self.place = place
        self.draw = draw
        self._fault: str | None = None

    def fault(self, name: str | None) -> None:
        with self.service.lock:
            self._fault = name
            self._authorize(name != "unauthorized")
            self._refuse(name == "reject")

    def mend(self) -> None:
        self.fault(None)

    def got(self) -> Sequence[Got]:
        return ()

    def stop(self) -> None:
        self.service.stop()

    def _meddle(self, request: Request) -> Fault | None:
        if self._fault == "session" and self.draw.random() < BUSY:
            self._end_sessions()
        if self._fault == "busy" and self.draw.random() < BUSY:
            return Fault("refuse", self._busy())
        kind, share = KINDS.get(self._fault or "", ("refuse", 0.0))
        if self.draw.random() >= share:
            return None
        return Fault(kind, Answer(503), seconds=0.3)

    def _authorize(self, right: bool) -> None:
        raise NotImplementedError

    def _refuse(self, refuses: bool) -> None:
        raise NotImplementedError

    def _end_sessions(self) -> None:
        raise NotImplementedError

    def _busy(self) -> Answer:
        raise NotImplementedError


class HubSpotContacts(_Crm):
    name: ClassVar[str] = "hubspot"

    def start(self) -> Mapping[str, Any]:
        self.service = self.hubspot = HubSpot(limits=Limits(calls=200, window=1.0))
        self.hubspot.meddle = self._meddle
        self._refuse(False)
        self.hubspot.start()
        oauth = {
            "client_id": self.hubspot.client_id,
            "client_secret": self.hubspot.client_secret,
            "refresh_token": self.hubspot.refresh_token,
        }
        mapping = {
            "object": "contacts",
            "match": "email",
            "fields": {"customer_number": "id", "version": "version", "company": "note"},
            "deletes": "archive",
        }
        settings = {"type": "hubspot", "url": self.hubspot.url, "oauth": oauth, "timeout": "2s"}
        return {"sink": settings, "with": mapping, "on_reject": "park"}

    def state(self) -> Mapping[str, int]:
        found = {}
        for record in self.hubspot.account.living("contacts"):
            key = record.properties["customer_number"]
            assert key not in found, f"{key} is there twice"
            found[key] = int(record.properties["version"])
        return found

    def _authorize(self, right: bool) -> None:
        self.hubspot.refresh_token = "na1-refresh-token" if right else "another"
        if not right:
            self.hubspot.expire_tokens()

    def _refuse(self, refuses: bool) -> None:
        for name, kind in (("company", "string"), ("version", "number")):
            rule = Property(name, kind, forbidden=FORBIDDEN if refuses else NONE)  # type: ignore[arg-type]
            self.hubspot.account.add_property("contacts", rule)

    def _end_sessions(self) -> None:
        self.hubspot.expire_tokens()

    def _busy(self) -> Answer:
        body = {"status": "error", "policyName": "TEN_SECONDLY_ROLLING"}
        return Answer.json(body, 429, {"Retry-After": "1"})


#: Which company a version of a row belongs to; none of every fourth.
COMPANY = "case when version % 4 > 0 then 'DE' || (version % 4) end"


class HubSpotAssociations(HubSpotContacts):
    """Every contact belongs to the company that its row names now, and to no other. One company is not there
    while the fault refuses."""

    name: ClassVar[str] = "hubspot, associated"

    def start(self) -> Mapping[str, Any]:
        self._late = False
        found = super().start()
        for vat in ("DE1", "DE2"):
            self._add(vat)
        self._late = True
        link = {"to": "companies", "match": "vat_id", "column": "company_vat"}
        mapping = {**found["with"], "associate": [link]}
        return {**found, "with": mapping, "transforms": [{"set": {"company_vat": COMPANY}}]}

    def amiss(self) -> str:
        """Contacts that do not belong to what their row says, or not only to that."""
        account = self.hubspot.account
        vats = {one.id: one.properties["vat_id"] for one in account.living("companies")}
        for contact in account.living("contacts"):
            rest = int(contact.properties["version"]) % 4
            belongs = sorted(
                vats[target]
                for kind, source, _, target in account.associations
                if (kind, source) == ("contacts", contact.id)
            )
            if belongs != ([f"DE{rest}"] if rest else []):
                return f"version {contact.properties['version']} belongs to {belongs}"
        return ""

    def _refuse(self, refuses: bool) -> None:
        super()._refuse(refuses)
        if self._late and not refuses:
            self._add("DE3")

    def _add(self, vat: str) -> None:
        account = self.hubspot.account
        if account.find("companies", "vat_id", vat) is None:
            account.upsert(account.types["companies"], "vat_id", vat, {})


class _Contacts(_Crm):
    bulk: ClassVar[int | None]

    def start(self) -> Mapping[str, Any]:
        self.service = self.salesforce = Salesforce()
        self.salesforce.org.add_field("Contact", Field("Address__c", external_id=True))
        self.salesforce.meddle = self._meddle
        self._refuse(False)
        self.salesforce.start()
        (self.place / "crm.secret").write_text(self.salesforce.client_secret)
        settings = {
            "type": "salesforce",
            "url": self.salesforce.url,
            "client_id": self.salesforce.client_id,
            "client_secret": "file:crm.secret",
            "timeout": "2s",
        }
        mapping = {
            "object": "Contact",
            "match": {"Address__c": "email"},
            "fields": {"LastName": "id", "Version__c": "version", "FirstName": "note"},
            "deletes": "delete",
            "bulk": self.bulk,
        }
        return {"sink": settings, "with": mapping, "on_reject": "park"}

    def state(self) -> Mapping[str, int]:
        found = {}
        for record in self.salesforce.org.living("Contact"):
            key = str(record.values["LastName"])
            assert key not in found, f"{key} is there twice"
            found[key] = int(record.values["Version__c"])
        return found

    def _authorize(self, right: bool) -> None:
        self.salesforce.client_secret = "E0A1consumersecret" if right else "another"
        if not right:
            self.salesforce.end_sessions()

    def _refuse(self, refuses: bool) -> None:
        for name, kind in (("FirstName", "string"), ("Version__c", "double")):
            rule = Field(name, kind, forbidden=FORBIDDEN if refuses else NONE)
            self.salesforce.org.add_field("Contact", rule)

    def _end_sessions(self) -> None:
        self.salesforce.end_sessions()

    def _busy(self) -> Answer:
        said = [{"message": "TotalRequests Limit exceeded.", "errorCode": "REQUEST_LIMIT_EXCEEDED"}]
        return Answer.json(said, 403, {"Retry-After": "1"})


class SalesforceCollections(_Contacts):
    name: ClassVar[str] = "salesforce"
    bulk: ClassVar[int | None] = None


class SalesforceJobs(_Contacts):
    name: ClassVar[str] = "salesforce, jobs"
    bulk: ClassVar[int | None] = 1


CRMS: Sequence[Callable[[Path, random.Random], Subject]] = (
    HubSpotContacts,
    HubSpotAssociations,
    SalesforceCollections,
    SalesforceJobs,
)
