"""What an account says of its objects' properties, and whether a flow's mapping fits them.

developers.hubspot.com/docs/api-reference/crm-properties-v3/guide.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cdcflow.sink.records import Problem, nearest
from cdcflow_sinks.hubspot.settings import HubSpotOptions

#: What a new record of a standard object cannot do without (each object's page, "Properties": deals need
#: `dealname` and `dealstage`, tickets `subject` and `hs_pipeline_stage`). A custom object's schema says it.
REQUIRED: Mapping[str, tuple[str, ...]] = {
    "deals": ("dealname", "dealstage"),
    "tickets": ("subject", "hs_pipeline_stage"),
}

#: Other names of the standard objects: singular, and object type id.
STANDARD: Mapping[str, str] = {
    "contact": "contacts",
    "0-1": "contacts",
    "company": "companies",
    "0-2": "companies",
    "deal": "deals",
    "0-3": "deals",
    "ticket": "tickets",
    "0-5": "tickets",
}
STANDARD_NAMES = ("contacts", "companies", "deals", "tickets")


@dataclass(frozen=True)
class Property:
    """One property. `multiple`: it takes several of its options."""

    name: str
    type: str = "string"
    multiple: bool = False
    unique: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()
    label: str = ""

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "Property":
        """From an entry of the properties API, of which any field may be missing."""
        name = str(found.get("name", ""))
        metadata = found.get("modificationMetadata") or {}
        return cls(
            name=name,
            type=str(found.get("type", "string")),
            multiple=found.get("fieldType") == "checkbox",
            # `email` is a contact's unique property, though the API does not say so of it.
            unique=bool(found.get("hasUniqueValue")) or name == "email",
            read_only=bool(metadata.get("readOnlyValue")) or bool(found.get("calculated")),
            options=tuple(str(option.get("value", "")) for option in found.get("options") or ()),
            label=str(found.get("label", "")),
        )


@dataclass(frozen=True)
class Schema:
    """An object's properties by name, and what a new record needs."""

    object: str
    properties: Mapping[str, Property]
    required: tuple[str, ...] = ()

    @classmethod
    def read(cls, name: str, properties: Iterable[Mapping[str, Any]], required: Iterable[str]) -> "Schema":
        found = (Property.read(one) for one in properties)
        return cls(name, {one.name: one for one in found}, tuple(required))


def standard(name: str) -> str | None:
    """The standard object that a name means, or None for a custom one."""
    return name if name in STANDARD_NAMES else STANDARD.get(name)


def problems(options: HubSpotOptions, schema: Schema, others: Mapping[str, Schema]) -> list[Problem]:
    """Everything about the mapping that the account cannot take. `others` are the schemas of the objects that
    are associated."""
    found: list[Problem] = []
    match, _ = options.matched
    own = schema.properties
    if match not in own:
        found.append(_unknown(schema, match))
    elif not own[match].unique:
        unique = sorted(one.name for one in own.values() if one.unique and not one.read_only)
        found.append(
            Problem(
                f"{schema.object}.{match} is not unique, so records cannot be matched by it",
                f"match by one of {', '.join(unique) or 'none'}, or make a property in HubSpot with"
                " “require unique values” (at most ten per object)",
            )
        )
    for name in options.mapped:
        if name not in own:
            found.append(_unknown(schema, name))
        elif own[name].read_only:
            found.append(
                Problem(f"{schema.object}.{name} is read-only in HubSpot", "take it out of `fields`")
            )
    missing = [name for name in schema.required if name not in options.fields and name != match]
    if missing:
        found.append(
            Problem(
                f"new {schema.object} need {', '.join(missing)}, and the mapping does not give"
                f" {'them' if len(missing) > 1 else 'it'}",
                "map a column to each of them",
            )
        )
    for association in options.associate:
        other = others[association.to]
        if association.match not in other.properties:
            found.append(_unknown(other, association.match))
        elif not other.properties[association.match].unique:
            found.append(
                Problem(
                    f"{other.object}.{association.match} is not unique, so nothing can be associated by it",
                    "match by a unique property",
                )
            )
    return found


def _unknown(schema: Schema, name: str) -> Problem:
    close = nearest(name, schema.properties)
    return Problem(
        f"{schema.object} have no property {name!r}",
        f"did you mean {close!r}?"
        if close
        else "make the property in HubSpot, or take it out of the mapping",
    )
