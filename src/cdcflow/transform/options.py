"""What steps have in common in reading their options: models, and columns by name."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated, TypeVar

from pydantic import ConfigDict, Field, RootModel

from cdcflow.model import Relation
from cdcflow.sink import Settings
from cdcflow.transform.step import Noted, StepError, Way

T = TypeVar("T")


class StepOptions(Settings):
    """Options that are a mapping of known keys."""


class Plain(RootModel[T]):
    """Options that are something else: a list, or a mapping whose keys are columns."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)


#: The name of a column, as Postgres has it.
ColumnName = Annotated[str, Field(min_length=1)]

Names = Annotated[tuple[ColumnName, ...], Field(min_length=1)]


def place_of(relation: Relation, name: str, way: Way = ()) -> int:
    """The index of a column. Raises StepError, with the nearest right name, where there is none."""
    try:
        return relation.names.index(name)
    except ValueError:
        raise StepError(f"there is no column {name!r}", hint=nearest(name, relation.names), way=way) from None


def places_of(relation: Relation, names: Iterable[tuple[Way, str]]) -> list[int]:
    """The indexes of columns, each with the way to its name. Raises StepError for all that are not there."""
    noted = Noted()
    found = []
    for way, name in names:
        with noted.one():
            found.append(place_of(relation, name, way))
    noted.raise_all()
    return found


def nearest(name: str, known: Iterable[str]) -> str:
    """`did you mean 'x'?`, or what there is."""
    names = list(known)
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]!r}?" if close else f"columns here: {', '.join(names)}"


def unique(names: Iterable[str], way: Way = ()) -> None:
    """Raises StepError where a name is there twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise StepError(
                f"there would be two columns {name!r}", hint="give one of them another name", way=way
            )
        seen.add(name)
