"""What a destination says of itself: its objects and their fields, for mappings and checks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable


@dataclass(frozen=True, slots=True)
class Field:
    """One field of an object. `type` is the destination's own word. `unique`: records can be matched by it;
    `required`: a new record needs a value; `options`: the values that it takes, where they are listed."""

    name: str
    label: str
    type: str
    unique: bool = False
    required: bool = False
    read_only: bool = False
    options: tuple[str, ...] = ()


@runtime_checkable
class Describes(Protocol):
    """Reads the account's objects and fields as they are now. Called without `open`; raises DeliveryError."""

    async def objects(self) -> Sequence[str]: ...

    async def fields(self, name: str) -> Sequence[Field]: ...
