"""What a HubSpot account holds: object types with their properties, records, associations; and what HubSpot
says about a value that a property does not take.

Pages: properties and their types, https://developers.hubspot.com/docs/api-reference/crm-properties-v3/guide;
the words of a validation error, https://developers.hubspot.com/docs/api-reference/error-handling.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal

PropertyType = Literal["string", "number", "bool", "date", "datetime", "enumeration", "phone_number"]

#: "Single-line text: up to 65,536 characters" (knowledge.hubspot.com, "Property field types in HubSpot").
LONGEST_TEXT = 65_536

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[A-Za-z]{2,}")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:?\d\d)")
_DAY_MS = 86_400_000


@dataclass(frozen=True)
class Property:
    """One property of an object type, as the properties API describes it."""

    name: str
    type: PropertyType = "string"
    field_type: str = "text"
    unique: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()
    label: str = ""
    longest: int = LONGEST_TEXT
    #: Values that an administrator's validation rule does not let in (from 2026-09 on, of every write:
    #: developers.hubspot.com/changelog, "property validation rules").
    forbidden: frozenset[str] = frozenset()

    def described(self) -> dict[str, Any]:
        """As `GET /crm/v3/properties/{objectType}` has it."""
        return {
            "name": self.name,
            "label": self.label or self.name,
            "type": self.type,
            "fieldType": self.field_type,
            "groupName": "information",
            "description": "",
            "hasUniqueValue": self.unique,
            "hidden": False,
            "archived": False,
            "calculated": False,
            "options": [
                {"label": option.title(), "value": option, "hidden": False, "displayOrder": number}
                for number, option in enumerate(self.options)
            ],
            "modificationMetadata": {
                "archivable": True,
                "readOnlyDefinition": False,
                "readOnlyValue": self.read_only,
            },
        }

    def refuse(self, value: str) -> tuple[str, str] | None:
        """Code and message when the property does not take the value; an empty string clears any."""
        if self.read_only:
            return "READ_ONLY_VALUE", f'"{self.name}" is a read only property; its value cannot be set.'
        if value == "":
            return None
        if value in self.forbidden:
            return "VALIDATION_RULE", f"{value} does not meet the validation rule of {self.name}"
        match self.type:
            case "number" if not _NUMBER.fullmatch(value):
                return "INVALID_LONG", f"{value} was not a valid number."
            case "bool" if value not in ("true", "false"):
                return "INVALID_OPTION", f"{value} was not one of the allowed options: [true, false]"
            case "date" if not _is_date(value):
                return "INVALID_DATE", f"{value} was not a valid date, or is not at midnight UTC."
            case "datetime" if not (value.lstrip("-").isdecimal() or _MOMENT.fullmatch(value)):
                return "INVALID_DATE", f"{value} was not a valid timestamp."
            case "enumeration":
                # "Values separated by a semicolon; with a semicolon before the first, they are added."
                parts = value.removeprefix(";").split(";") if self.field_type == "checkbox" else [value]
                wrong = [part for part in parts if part not in self.options]
                if wrong:
                    allowed = ", ".join(self.options)
                    return "INVALID_OPTION", f"{wrong[0]} was not one of the allowed options: [{allowed}]"
            case _:
                pass
        if self.name == "email" and not _EMAIL.fullmatch(value):
            return "INVALID_EMAIL", f"Email address {value} is invalid"
        if len(value) > self.longest:
            return "VALUE_TOO_LONG", f"Property value is longer than {self.longest} characters"
        return None


def _is_date(value: str) -> bool:
    """ISO 8601, or milliseconds at midnight UTC ("If you try to set a value that is not midnight UTC, you
    will receive an error": developers.hubspot.com/docs/faq/how-should-timestamps-be-formatted)."""
    if value.lstrip("-").isdecimal():
        return int(value) % _DAY_MS == 0
    return _DATE.fullmatch(value) is not None


@dataclass
class CrmObject:
    """A record."""

    id: str
    properties: dict[str, str]
    created: str
    updated: str
    archived: bool = False
    #: How often it was written.
    writes: int = 0


@dataclass
class ObjectType:
    """An object type: `contacts` is also known by its id, `0-1`, and `contact`."""

    name: str
    id: str
    properties: dict[str, Property]
    #: Without a value for these no record is made ("requiredProperties" of the schema).
    required: tuple[str, ...] = ()
    custom: bool = False
    records: dict[str, CrmObject] = field(default_factory=dict)
    #: Per unique property: value → id of the living record that has it.
    unique: dict[str, dict[str, str]] = field(default_factory=dict)

    def schema(self) -> dict[str, Any]:
        """As `GET /crm/v3/schemas/{objectType}` has it."""
        return {
            "id": self.id,
            "objectTypeId": self.id,
            "name": self.name,
            "fullyQualifiedName": f"p1_{self.name}",
            "labels": {"singular": self.name, "plural": self.name},
            "requiredProperties": list(self.required),
            "properties": [one.described() for one in self.properties.values()],
        }


def _type(name: str, kind: str, required: Sequence[str], *properties: Property) -> ObjectType:
    own = (
        Property("hs_object_id", "number", "number", read_only=True),
        Property("createdate", "datetime", "date", read_only=True),
        Property("lastmodifieddate", "datetime", "date", read_only=True),
    )
    return ObjectType(name, kind, {one.name: one for one in (*own, *properties)}, tuple(required))


def standard_types() -> list[ObjectType]:
    """The four types every account has, with some of their properties.

    Object type ids: https://developers.hubspot.com/docs/guides/crm/understanding-the-crm. What a new record
    needs: the object's own page, "properties" (deals: `dealname`, `dealstage`; tickets: `subject`,
    `hs_pipeline_stage`).
    """
    stages = ("appointmentscheduled", "qualifiedtobuy", "closedwon", "closedlost")
    lifecycle = ("subscriber", "lead", "customer", "evangelist")
    return [
        _type(
            "contacts",
            "0-1",
            (),
            Property("email", unique=True, label="Email"),
            Property("firstname"),
            Property("lastname"),
            Property("phone", "phone_number", "phonenumber"),
            Property("company"),
            Property("lifecyclestage", "enumeration", "radio", options=lifecycle),
            Property("interests", "enumeration", "checkbox", options=("books", "music", "sports")),
            Property("birthday", "date", "date"),
            Property("last_seen", "datetime", "date"),
            Property("newsletter", "bool", "booleancheckbox", options=("true", "false")),
            Property("revenue", "number", "number"),
            Property("customer_number", unique=True),
        ),
        _type("companies", "0-2", (), Property("name"), Property("domain"), Property("vat_id", unique=True)),
        _type(
            "deals",
            "0-3",
            ("dealname", "dealstage"),
            Property("dealname"),
            Property("amount", "number", "number"),
            Property("dealstage", "enumeration", "radio", options=stages),
            Property("pipeline", "enumeration", "select", options=("default",)),
            Property("closedate", "datetime", "date"),
            Property("order_id", unique=True),
        ),
        _type(
            "tickets",
            "0-5",
            ("subject", "hs_pipeline_stage"),
            Property("subject"),
            Property("content", field_type="textarea"),
            Property("hs_pipeline_stage", "enumeration", "select", options=("1", "2", "3", "4")),
            Property("ticket_number", unique=True),
        ),
    ]


class Invalid(Exception):
    """A record that is refused: HubSpot's category, message and what it says per property."""

    def __init__(self, category: str, message: str, errors: Sequence[Mapping[str, Any]] = ()) -> None:
        super().__init__(message)
        self.category = category
        self.message = message
        self.errors = list(errors)


class Account:
    """The contents of one account ("portal")."""

    def __init__(self, portal: int = 891_936_587) -> None:
        self.portal = portal
        self.time_zone = "UTC"
        self.types: dict[str, ObjectType] = {one.name: one for one in standard_types()}
        #: (type, id, type, id) → the ids of the association's labels.
        self.associations: dict[tuple[str, str, str, str], set[int]] = {}
        #: Every record write, in order: (type, value of the id property, the properties sent).
        self.log: list[tuple[str, str, Mapping[str, str]]] = []
        self._next = 101

    def add_type(self, name: str, *properties: Property, required: Sequence[str] = ()) -> ObjectType:
        """A custom object; its id begins with `2-`."""
        found = _type(name, f"2-{340_000 + len(self.types)}", required, *properties)
        found.custom = True
        self.types[name] = found
        return found

    def add_property(self, kind: str, found: Property) -> None:
        self.types[kind].properties[found.name] = found

    def type(self, name: str) -> ObjectType | None:
        """By name, by id, by fully qualified name, or in the singular, as the API takes them."""
        for one in self.types.values():
            if name in (one.name, one.id, f"p1_{one.name}", f"p{self.portal}_{one.name}"):
                return one
            if not one.custom and name == _singular(one.name):
                return one
        return None

    def find(self, kind: str, by: str, value: str) -> CrmObject | None:
        """The living record whose unique property has the value."""
        found = self.types[kind].unique.get(by, {}).get(_folded(by, value))
        return None if found is None else self.types[kind].records[found]

    def living(self, kind: str) -> list[CrmObject]:
        return [one for one in self.types[kind].records.values() if not one.archived]

    def upsert(
        self, kind: ObjectType, by: str, value: str, properties: Mapping[str, str]
    ) -> tuple[CrmObject, bool]:
        """Writes a record; whether it is new. Raises Invalid, and then nothing was written."""
        values = {**properties, by: value}
        self._validate(kind, values)
        existing = kind.unique.get(by, {}).get(_folded(by, value))
        for name, text in values.items():
            if kind.properties[name].unique and text:
                owner = kind.unique.get(name, {}).get(_folded(name, text))
                if owner is not None and owner != existing:
                    raise Invalid(
                        "CONFLICT", f"{name} already belongs to another record. Existing ID: {owner}"
                    )
        now = _now()
        if existing is None:
            missing = [name for name in kind.required if not values.get(name)]
            if missing:
                raise Invalid(
                    "VALIDATION_ERROR",
                    "Error creating record. Some required properties were not set.",
                    [
                        {
                            "message": f"required property was not set: {name}",
                            "code": "MISSING_REQUIRED_PROPERTY",
                            "context": {"propertyName": [name]},
                        }
                        for name in missing
                    ],
                )
            record = CrmObject(str(self._next), {}, now, now)
            self._next += 1
            kind.records[record.id] = record
        else:
            record = kind.records[existing]
        for name, text in values.items():
            self._set(kind, record, name, text)
        record.updated = now
        record.writes += 1
        self.log.append((kind.name, value, dict(properties)))
        return record, existing is None

    def archive(self, kind: ObjectType, identity: str) -> None:
        """Idempotent: what is not there is archived already."""
        record = kind.records.get(identity)
        if record is None or record.archived:
            return
        record.archived = True
        for name, owners in kind.unique.items():
            text = record.properties.get(name)
            if text and owners.get(_folded(name, text)) == identity:
                del owners[_folded(name, text)]

    def _validate(self, kind: ObjectType, values: Mapping[str, str]) -> None:
        wrong = []
        for name, text in values.items():
            found = kind.properties.get(name)
            if found is None:
                refusal: tuple[str, str] | None = (
                    "PROPERTY_DOESNT_EXIST",
                    f'Property "{name}" does not exist',
                )
            else:
                refusal = found.refuse(text)
            if refusal is not None:
                wrong.append(
                    {
                        "isValid": False,
                        "message": refusal[1],
                        "error": refusal[0],
                        "name": name,
                        "localizedErrorMessage": refusal[1],
                        "portalId": self.portal,
                    }
                )
        if wrong:
            # As in the page's own example: the list is JSON inside of the message.
            text = json.dumps(wrong, separators=(",", ":"), ensure_ascii=False)
            raise Invalid(
                "VALIDATION_ERROR",
                f"Property values were not valid: {text}",
                [
                    {
                        "message": one["message"],
                        "code": one["error"],
                        "context": {"propertyName": [one["name"]]},
                    }
                    for one in wrong
                ],
            )

    def _set(self, kind: ObjectType, record: CrmObject, name: str, text: str) -> None:
        found = kind.properties[name]
        if found.unique:
            owners = kind.unique.setdefault(name, {})
            before = record.properties.get(name)
            if before and owners.get(_folded(name, before)) == record.id:
                del owners[_folded(name, before)]
            if text:
                owners[_folded(name, text)] = record.id
        if found.field_type == "checkbox" and text.startswith(";"):
            before = record.properties.get(name, "")
            parts = [part for part in before.split(";") if part]
            parts += [part for part in text[1:].split(";") if part not in parts]
            text = ";".join(parts)
        if name == "email":
            text = text.lower()
        if text == "":
            record.properties.pop(name, None)
        else:
            record.properties[name] = text


def _singular(name: str) -> str:
    return "company" if name == "companies" else name.removesuffix("s")


def _folded(name: str, value: str) -> str:
    """HubSpot keeps e-mail addresses in lower case."""
    return value.lower() if name == "email" else value


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
