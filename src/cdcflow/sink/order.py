"""Which change has to wait for which, so that order is kept within each key and nowhere else.

* Changes of one key of one table follow each other; an update that changes the key belongs to both keys.
* A change whose row nothing identifies, and a truncate, come after everything before them of their table and
  before everything after.
* So does the first change of a new generation of the table, since its key may be made of other columns.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field

from cdcflow.model import Change, Op, Value

Key = tuple[Value, ...]


@dataclass(frozen=True)
class Order:
    """For change `n` of those given: how many it `waits` for, and which `followers` wait for it."""

    waits: list[int]
    followers: list[list[int]]

    def behind(self, number: int) -> set[int]:
        """Everything that can only be sent after change `number`."""
        found: set[int] = set()
        rest = [number]
        while rest:
            for follower in self.followers[rest.pop()]:
                if follower not in found:
                    found.add(follower)
                    rest.append(follower)
        return found


@dataclass
class _Table:
    fingerprint: str
    #: The last change that held the whole table up, and the last one of each key since.
    barrier: int | None = None
    last: dict[Key, int] = field(default_factory=dict)


def order(changes: Iterable[Change]) -> Order:
    """The order of `changes`, which come in total order."""
    found = Order([], [])
    tables: dict[tuple[str, str], _Table] = {}
    for number, change in enumerate(changes):
        relation = change.relation
        name = (relation.schema, relation.name)
        table = tables.get(name)
        if table is None:
            table = tables[name] = _Table(relation.fingerprint)
        key = change.key
        if not key or change.op is Op.TRUNCATE or table.fingerprint != relation.fingerprint:
            before: set[int | None] = {*table.last.values()} or {table.barrier}
            table.fingerprint, table.barrier = relation.fingerprint, number
            table.last.clear()
        else:
            old_key = change.old_key
            keys = (key,) if old_key is None else (key, old_key)
            before = {table.last.get(one, table.barrier) for one in keys}
            table.last.update(dict.fromkeys(keys, number))
        predecessors = [one for one in before if one is not None]
        found.waits.append(len(predecessors))
        found.followers.append([])
        for predecessor in predecessors:
            found.followers[predecessor].append(number)
    return found
