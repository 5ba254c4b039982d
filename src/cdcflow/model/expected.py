"""A table as the source will announce it, known from the catalog before any change of it has come."""

from dataclasses import dataclass

from cdcflow.model.relation import Relation


@dataclass(frozen=True, slots=True)
class ExpectedTable:
    """A relation that is to come, with what its Relation message will not say.

    `toasted` are the columns whose values may stand out of line, where the table has any such values now
    (`toast_bytes`, from the planner's statistics): an update that leaves them alone does not send them,
    unless the replica identity is FULL.
    """

    relation: Relation
    toasted: tuple[str, ...] = ()
    toast_bytes: int = 0
