"""What an org says of an object's fields, and whether a flow's mapping fits them.

developer.salesforce.com/docs/atlas.en-us.api.meta/api/sforce_api_calls_describesobjects_describesobjectresult.htm
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from cdcflow.sink.records import Problem, nearest
from cdcflow_sinks.salesforce.settings import SalesforceOptions


@dataclass(frozen=True)
class FieldInfo:
    """One field. `relationship` is what the parent is called that a reference points to."""

    name: str
    type: str = "string"
    label: str = ""
    external_id: bool = False
    case_sensitive: bool = False
    required: bool = False
    writable: bool = True
    options: tuple[str, ...] = ()
    relationship: str = ""
    parents: tuple[str, ...] = ()

    @classmethod
    def read(cls, found: Mapping[str, Any]) -> "FieldInfo":
        return cls(
            name=str(found.get("name", "")),
            type=str(found.get("type", "string")),
            label=str(found.get("label", "")),
            external_id=bool(found.get("externalId")),
            case_sensitive=bool(found.get("caseSensitive")),
            required=bool(found.get("createable"))
            and not found.get("nillable", True)
            and not found.get("defaultedOnCreate"),
            writable=bool(found.get("createable")) or bool(found.get("updateable")),
            options=tuple(
                str(one.get("value", "")) for one in found.get("picklistValues") or () if one.get("active")
            ),
            relationship=str(found.get("relationshipName") or ""),
            parents=tuple(str(one) for one in found.get("referenceTo") or ()),
        )


@dataclass(frozen=True)
class Described:
    """An object's fields by name."""

    object: str
    fields: Mapping[str, FieldInfo]

    @classmethod
    def read(cls, name: str, fields: Iterable[Mapping[str, Any]]) -> "Described":
        found = (FieldInfo.read(one) for one in fields)
        return cls(name, {one.name: one for one in found})

    def reference(self, relationship: str) -> FieldInfo | None:
        """The reference field whose parent is called so."""
        return next((one for one in self.fields.values() if one.relationship == relationship), None)


def parents(options: SalesforceOptions, own: Described) -> set[str]:
    """The objects whose fields have to be known to judge the mapping."""
    found = (own.reference(name.partition(".")[0]) for name in options.mapped if "." in name)
    return {one.parents[0] for one in found if one is not None and one.parents}


def problems(options: SalesforceOptions, own: Described, others: Mapping[str, Described]) -> list[Problem]:
    """Everything about the mapping that the org cannot take."""
    found: list[Problem] = []
    match, _ = options.matched
    if match not in own.fields:
        found.append(_unknown(own, match))
    elif not own.fields[match].external_id:
        ids = sorted(one.name for one in own.fields.values() if one.external_id)
        found.append(
            Problem(
                f"{own.object}.{match} is no external ID, so records cannot be matched by it",
                f"match by one of {', '.join(ids) or 'none'}, or make the field an external ID",
            )
        )
    given = {match}
    for name in options.mapped:
        relationship, dot, key = name.partition(".")
        if dot:
            reference = own.reference(relationship)
            if reference is None:
                known = [one.relationship for one in own.fields.values() if one.relationship]
                close = nearest(relationship, known)
                found.append(
                    Problem(
                        f"{own.object} has no parent called {relationship!r}",
                        f"did you mean {close!r}?"
                        if close
                        else f"there are {', '.join(sorted(known)) or 'none'}",
                    )
                )
                continue
            given.add(reference.name)
            other = others[reference.parents[0]] if reference.parents else None
            if other is not None and (key not in other.fields or not other.fields[key].external_id):
                found.append(
                    Problem(
                        f"{other.object}.{key} is no external ID", "name the parent by an external ID field"
                    )
                )
        elif name not in own.fields:
            found.append(_unknown(own, name))
        elif not own.fields[name].writable:
            found.append(Problem(f"{own.object}.{name} cannot be written", "take it out of `fields`"))
        given.add(name)
    missing = sorted(one.name for one in own.fields.values() if one.required and one.name not in given)
    if missing:
        found.append(
            Problem(
                f"new records of {own.object} need {', '.join(missing)}, and the mapping does not give"
                f" {'them' if len(missing) > 1 else 'it'}",
                "map a column to each of them",
            )
        )
    return found


def _unknown(own: Described, name: str) -> Problem:
    close = nearest(name, own.fields)
    return Problem(
        f"{own.object} has no field {name!r} (or its user may not see it)",
        f"did you mean {close!r}?" if close else "make the field, or give the user access to it",
    )
