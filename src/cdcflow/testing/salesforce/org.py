"""What a Salesforce org holds, and what it says of a record that it does not take.

Field types and describe: developer.salesforce.com/docs/atlas.en-us.api.meta/api/field_types.htm and
…/sforce_api_calls_describesobjects_describesobjectresult.htm. Status codes of a record's errors:
…/sforce_api_calls_concepts_core_data_objects.htm#i1421192 ("StatusCode").
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+\.[^@\s]+")
_NUMBER = re.compile(r"-?\d+(\.\d+)?([eE][-+]?\d+)?")
_DATE = re.compile(r"\d{4}-\d\d-\d\d")
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[-+]\d\d:?\d\d)")
_TIME = re.compile(r"\d\d:\d\d:\d\d(\.\d+)?Z?")
_TEXTS = frozenset({"string", "textarea", "email", "phone", "url", "picklist", "multipicklist", "id"})
_NUMBERS = frozenset({"int", "double", "currency", "percent"})


@dataclass(frozen=True)
class Field:
    """One field, as describe has it."""

    name: str
    type: str = "string"
    length: int = 255
    external_id: bool = False
    unique: bool = False
    case_sensitive: bool = False
    required: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()
    refers_to: str = ""
    relationship: str = ""
    #: Values that a validation rule does not let in.
    forbidden: frozenset[str] = frozenset()

    def described(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "label": self.name.removesuffix("__c"),
            "type": self.type,
            "length": self.length if self.type in _TEXTS else 0,
            "externalId": self.external_id,
            "idLookup": self.external_id or self.name == "Id",
            "unique": self.unique or self.external_id,
            "caseSensitive": self.case_sensitive,
            "nillable": not self.required and self.type != "boolean",
            "defaultedOnCreate": self.type == "boolean",
            "createable": not self.read_only,
            "updateable": not self.read_only,
            "picklistValues": [{"value": one, "active": True} for one in self.options],
            "restrictedPicklist": bool(self.options),
            "referenceTo": [self.refers_to] if self.refers_to else [],
            "relationshipName": self.relationship or None,
        }


@dataclass
class SObject:
    """A record."""

    id: str
    values: dict[str, Any]
    deleted: bool = False
    #: How often it was written.
    writes: int = 0


@dataclass
class Type:
    """An object with its fields and records."""

    name: str
    prefix: str
    fields: dict[str, Field]
    records: dict[str, SObject] = field(default_factory=dict)
    #: Per external id or unique field: folded value → id of the living record.
    keys: dict[str, dict[str, str]] = field(default_factory=dict)


class Refused(Exception):
    """A record that is refused: status code, message, fields."""

    def __init__(self, code: str, message: str, fields: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fields = list(fields)

    def entry(self) -> dict[str, Any]:
        return {"statusCode": self.code, "message": self.message, "fields": self.fields}


class Malformed(Exception):
    """A request that is refused as a whole: error code and message."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def _type(name: str, prefix: str, fields: Iterable[Field]) -> Type:
    own = (Field("Id", "id", 18, read_only=True), Field("CreatedDate", "datetime", read_only=True))
    return Type(name, prefix, {one.name: one for one in (*own, *fields)})


class Org:
    """The contents of one org."""

    def __init__(self, identity: str = "00DKX0000004321ABC") -> None:
        self.id = identity
        account = _type(
            "Account",
            "001",
            (
                Field("Name", required=True),
                Field("Number__c", external_id=True),
                Field("Industry", "picklist", options=("Energy", "Media", "Retail")),
                Field("AnnualRevenue", "currency"),
                Field("NumberOfEmployees", "int"),
                Field("Website", "url"),
            ),
        )
        contact = _type(
            "Contact",
            "003",
            (
                Field("LastName", length=80, required=True),
                Field("FirstName", length=40),
                Field("Email", "email", 80),
                Field("Number__c", external_id=True),
                Field("Passport__c", unique=True),
                Field("Birthdate", "date"),
                Field("Seen__c", "datetime"),
                Field("Wakes__c", "time"),
                Field("Score__c", "double"),
                Field("Vip__c", "boolean"),
                Field("Likes__c", "multipicklist", options=("books", "music", "sports")),
                Field("AccountId", "reference", 18, refers_to="Account", relationship="Account"),
            ),
        )
        self.types: dict[str, Type] = {"Account": account, "Contact": contact}
        #: Every record write, in order: (object, external id, the fields sent).
        self.log: list[tuple[str, str, Mapping[str, Any]]] = []
        #: External ids whose records somebody else has locked now.
        self.locked: set[str] = set()
        self._next = 1

    def add_object(self, name: str, *fields: Field) -> Type:
        """A custom object."""
        found = self.types[name] = _type(name, f"a{len(self.types):02}", fields)
        return found

    def add_field(self, name: str, found: Field) -> None:
        self.types[name].fields[found.name] = found

    def find(self, name: str, by: str, value: str) -> SObject | None:
        """The living record with this external id."""
        kind = self.types[name]
        identity = kind.keys.get(by, {}).get(_folded(kind.fields[by], value))
        return None if identity is None else kind.records[identity]

    def living(self, name: str) -> list[SObject]:
        return [one for one in self.types[name].records.values() if not one.deleted]

    def check(self, kind: Type, by: str, record: Mapping[str, Any]) -> None:
        """Raises Malformed for what refuses a request before any record is looked at."""
        for name in record:
            if name == "attributes":
                continue
            if name not in kind.fields and not self._relation(kind, name):
                raise Malformed("INVALID_FIELD", f"No such column '{name}' on sobject of type {kind.name}")
        if not kind.fields[by].external_id:
            raise Malformed(
                "NOT_FOUND", f"Provided external ID field does not exist or is not accessible: {by}"
            )

    def upsert(self, kind: Type, by: str, record: Mapping[str, Any]) -> tuple[SObject, bool]:
        """Writes a record; whether it is new. Raises Refused, and then nothing was written."""
        key = record.get(by)
        if key in (None, ""):
            raise Refused("MISSING_ARGUMENT", f"{by} not specified")
        key = _text(key)
        if key in self.locked:
            raise Refused("UNABLE_TO_LOCK_ROW", "unable to obtain exclusive access to this record")
        values: dict[str, Any] = {}
        for name, value in record.items():
            relation = self._relation(kind, name)
            if name == "attributes":
                continue
            if relation is not None and isinstance(value, Mapping):
                values[relation.name] = self._parent(relation, value)
            else:
                values[name] = value
        wrong = [self._wrong(kind.fields[name], value) for name, value in values.items()]
        for refusal in wrong:
            if refusal is not None:
                raise refusal
        identity = kind.keys.get(by, {}).get(_folded(kind.fields[by], key))
        existing = None if identity is None else kind.records[identity]
        missing = [
            one.name
            for one in kind.fields.values()
            if one.required
            and (values.get(one.name) in (None, "") if existing is None or one.name in values else False)
        ]
        if missing:
            raise Refused("REQUIRED_FIELD_MISSING", f"Required fields are missing: {missing}", missing)
        for name, value in values.items():
            found = kind.fields[name]
            if (found.unique or found.external_id) and value not in (None, ""):
                owner = kind.keys.get(name, {}).get(_folded(found, _text(value)))
                if owner is not None and owner != identity:
                    raise Refused(
                        "DUPLICATE_VALUE",
                        f"duplicate value found: {name} duplicates value on record with id: {owner}",
                        [name],
                    )
        stored = existing
        if stored is None:
            stored = SObject(f"{kind.prefix}KX{self._next:010}AAA", {})
            self._next += 1
            kind.records[stored.id] = stored
        for name, value in values.items():
            self._set(kind, stored, name, value)
        stored.writes += 1
        self.log.append((kind.name, key, dict(record)))
        return stored, existing is None

    def delete(self, identity: str) -> None:
        """Raises Refused."""
        for kind in self.types.values():
            found = kind.records.get(identity)
            if found is None:
                continue
            if found.deleted:
                raise Refused("ENTITY_IS_DELETED", "entity is deleted")
            found.deleted = True
            for owners in kind.keys.values():
                for value in [value for value, owner in owners.items() if owner == identity]:
                    del owners[value]
            return
        raise Refused("INVALID_CROSS_REFERENCE_KEY", "invalid cross reference id")

    def _relation(self, kind: Type, name: str) -> Field | None:
        return next(
            (one for one in kind.fields.values() if one.relationship and one.relationship == name), None
        )

    def _parent(self, relation: Field, value: Mapping[str, Any]) -> str:
        """The id of the record that an external id names ("Foreign key external ID … not found")."""
        keys = {name: one for name, one in value.items() if name not in ("attributes", "type")}
        (by, key), *_ = keys.items()
        found = self.find(relation.refers_to, by, _text(key))
        if found is None:
            raise Refused(
                "INVALID_FIELD",
                f"Foreign key external ID: {key} not found for field {by} in entity {relation.refers_to}",
                [by],
            )
        return found.id

    def _wrong(self, found: Field, value: Any) -> Refused | None:
        name = found.name
        if found.read_only:
            return Refused(
                "INVALID_FIELD_FOR_INSERT_UPDATE",
                f"Unable to create/update fields: {name}. Please check the security settings of this field",
                [name],
            )
        if value is None:
            if found.type == "boolean":
                return Refused(
                    "INVALID_TYPE_ON_FIELD_IN_RECORD", f"{name}: value not of required type", [name]
                )
            return None
        text = _text(value)
        if text in found.forbidden:
            return Refused("FIELD_CUSTOM_VALIDATION_EXCEPTION", f"the rule of {name} is not met", [name])
        if found.type in _NUMBERS:
            if isinstance(value, bool) or not _NUMBER.fullmatch(text):
                raise _unreadable(found, text)
            if found.type == "int" and not -(2**31) <= float(text) < 2**31:
                return Refused("NUMBER_OUTSIDE_VALID_RANGE", f"{name}: number outside of valid range", [name])
        elif found.type == "boolean":
            if text not in ("true", "false"):
                raise _unreadable(found, text)
        elif found.type in ("date", "datetime", "time"):
            pattern = {"date": _DATE, "datetime": _MOMENT, "time": _TIME}[found.type]
            if not pattern.fullmatch(text):
                raise _unreadable(found, text)
        elif found.type == "email" and text and not _EMAIL.fullmatch(text):
            return Refused("INVALID_EMAIL_ADDRESS", f"{name}: invalid email address: {text}", [name])
        elif found.options and text:
            parts = text.split(";") if found.type == "multipicklist" else [text]
            if not set(parts) <= set(found.options):
                return Refused(
                    "INVALID_OR_NULL_FOR_RESTRICTED_PICKLIST",
                    f"{name}: bad value for restricted picklist field: {text}",
                    [name],
                )
        if found.type in _TEXTS and len(text) > found.length:
            return Refused(
                "STRING_TOO_LONG",
                f"{name}: data value too large: {text[:255]} (max length={found.length})",
                [name],
            )
        return None

    def _set(self, kind: Type, record: SObject, name: str, value: Any) -> None:
        found = kind.fields[name]
        if found.unique or found.external_id:
            owners = kind.keys.setdefault(name, {})
            before = record.values.get(name)
            if before is not None and owners.get(_folded(found, _text(before))) == record.id:
                del owners[_folded(found, _text(before))]
            if value not in (None, ""):
                owners[_folded(found, _text(value))] = record.id
        # An empty text is no value, as everywhere in Salesforce.
        if value in (None, ""):
            record.values.pop(name, None)
        else:
            record.values[name] = value


def _unreadable(found: Field, text: str) -> Malformed:
    return Malformed(
        "JSON_PARSER_ERROR",
        f"Cannot deserialize instance of {found.type} from VALUE_STRING value {text} or request may be"
        " missing a required field",
    )


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return str(value)


def _folded(found: Field, value: str) -> str:
    return value if found.case_sensitive else value.casefold()
