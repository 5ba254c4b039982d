"""`diff`: updates in which none of the chosen columns changed are dropped. Compares Postgres' text, so that
nothing that changed is ever taken for the same."""

from functools import reduce

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.model import Group, Op, Relation
from cdcflow.transform.options import Names, Plain, places_of
from cdcflow.transform.rows import has_old, old_columns
from cdcflow.transform.step import Bound, Noted, Run, StepContext, StepError, StepPlugin


class Watched(Plain[Names]):
    """The columns whose changes count."""


class _Diff:
    def __init__(self, options: Watched, _context: StepContext) -> None:
        self._names = options.root

    def bind(self, relation: Relation) -> Bound:
        watched = places_of(relation, (((i,), name) for i, name in enumerate(self._names)))
        noted = Noted()
        for number, place in enumerate(watched):
            with noted.one():
                if place in relation.key:
                    continue
                raise StepError(
                    f"old rows do not hold {relation.names[place]!r}, so whether it changed is not known",
                    hint=f"run ALTER TABLE {relation.qualified} REPLICA IDENTITY FULL at the source, and put "
                    "`diff` before `key` and before what computes columns from old rows or look-ups",
                    way=(number,),
                )
        noted.raise_all()
        reason = f"none of {', '.join(self._names)} changed"

        def apply(group: Group, run: Run) -> list[Group]:
            came = has_old(group)
            updated = group.is_op(Op.UPDATE)
            # Postgres sends no old key with an update that leaves the key alone (manual, 54.9, "Update").
            same = (
                updated if came is None else pc.and_(updated, pc.or_(pc.invert(came), _same(group, watched)))
            )
            if not pc.any(same).as_py():
                return [group]
            return [run.drop(group, pc.invert(same), reason)]

        return Bound((relation,), apply)


def _same(group: Group, watched: list[int]) -> pa.Array:
    return reduce(pc.and_, (_equal(group, place) for place in watched))


def _equal(group: Group, place: int) -> pa.Array:
    new, old = group.new(place), old_columns(group)[place]
    both_null = pc.and_(new.is_null(), old.is_null())
    return pc.or_(pc.fill_null(pc.equal(new, old), False), both_null)


diff = StepPlugin(
    "diff",
    Watched,
    _Diff,
    makes=lambda _options: (),
    about="""\
Drops updates that changed none of the named columns. Inserts, deletes and everything else pass. Whether a
column changed is known where old rows hold it: all columns under REPLICA IDENTITY FULL, else the key's.""",
    example="- diff: [status, amount]",
)
