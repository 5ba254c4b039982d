"""A table with columns of many kinds, and its histories by chance, for tests of steps.

It is there with its key as replica identity (`KEYED`) and under REPLICA IDENTITY FULL (`FULL`). A history has
every kind of change: keys that change or come again, rows that a backfill reads, values that are not sent.
"""

import random
from collections.abc import Mapping, Sequence

from cdcflow.model import UNCHANGED, Batch, Column, Op, Relation, ReplicaIdentity, Value
from cdcflow.testing.batches import make_relation
from cdcflow.testing.history import AnyChange, History

#: The columns of the table and their types: integer, text, numeric, text, text[], jsonb, and a composite of
#: a text and an integer.
COLUMNS: Mapping[str, int] = {
    "id": 23,
    "status": 25,
    "amount": 1700,
    "body": 25,
    "tags": 1009,
    "doc": 3802,
    "place": 50_001,
}


def _relation(names: Sequence[str], identity: ReplicaIdentity) -> Relation:
    full = identity == "f"
    types = {**COLUMNS, "extra": 25}
    columns = [
        Column(name, types[name], key=full or name == "id", type_name="public.place" * (name == "place"))
        for name in names
    ]
    return make_relation("things", columns, oid=17_002 if full else 17_001, replica_identity=identity)


KEYED, FULL = _relation([*COLUMNS], "d"), _relation([*COLUMNS], "f")
#: After ALTER TABLE … ADD COLUMN, and after all but the key was dropped.
WIDER = {one: _relation([*COLUMNS, "extra"], one.replica_identity) for one in (KEYED, FULL)}
LEAST = {one: _relation(["id"], one.replica_identity) for one in (KEYED, FULL)}

Row = dict[str, str | None]

_STATUS = ("new", "paid", "sent", None)
_AMOUNT = ("0", "1.50", "100", "-7", None)
_BODY = ("", "short", "x" * 3_000, None)
_TAGS = ("{}", "{a}", '{a,"b c",NULL}', "{c,a,b}", None)
_PLACE = ("(Graz,4)", '("Bad Ischl",)', None)
_DOC = ('{"city": "Graz", "n": 1}', '{"city": null}', '[1, {"a": 2}]', "null", None)


class Things:
    """The table as its changes come, by `chance`. `rows` are those that it holds now, by id.

    `unsent`: updates that leave `body` alone may come without it, where only the key is sent of old rows.
    The column `extra`, where there is one, counts the rows that came.
    """

    def __init__(
        self, chance: random.Random, relation: Relation, *, unsent: bool = True, truncates: bool = True
    ) -> None:
        self.rows: dict[str, Row] = {}
        self._chance = chance
        self._relation = relation
        self._unsent = unsent or relation.full
        self._truncates = truncates
        self._count = 0

    def batches(self, history: History, steps: int) -> list[Batch]:
        """The next `steps` changes, or some more, in transactions of up to a dozen."""
        found: list[Batch] = []
        while steps > 0:
            count = self._chance.randint(1, 12)
            found.append(history.batch(*[self.change() for _ in range(count)]))
            steps -= count
        return found

    def change(self) -> AnyChange:
        chance, relation, rows = self._chance, self._relation, self.rows
        kind = chance.random()
        free = [str(i) for i in range(40) if str(i) not in rows]
        if not rows or (kind < 0.35 and free):
            row = self._row(chance.choice(free))
            rows[_id(row)] = row
            return relation, Op.READ if kind < 0.05 else Op.INSERT, dict(row), None
        before = rows.pop(chance.choice(sorted(rows)))
        if kind < 0.5:
            return relation, Op.DELETE, None, _old(relation, before)
        if kind < 0.52 and self._truncates:
            rows.clear()
            return relation, Op.TRUNCATE, None, None
        row = self._row(_id(before))
        sent: dict[str, Value] = dict(row)
        if chance.random() < 0.3 and before["body"] is not None and self._unsent:
            row["body"], sent["body"] = before["body"], UNCHANGED
        if chance.random() < 0.15:
            row["id"] = sent["id"] = next(
                str(i) for i in range(100) if str(i) not in rows and str(i) != before["id"]
            )
        rows[_id(row)] = row
        moved = row["id"] != before["id"]
        return relation, Op.UPDATE, sent, _old(relation, before) if moved or relation.full else None

    def _row(self, key: str) -> Row:
        chance = self._chance
        self._count += 1
        row: Row = {
            "id": key,
            "status": chance.choice(_STATUS),
            "amount": chance.choice(_AMOUNT),
            "body": chance.choice(_BODY),
            "tags": chance.choice(_TAGS),
            "doc": chance.choice(_DOC),
            "place": chance.choice(_PLACE),
            "extra": f"{self._count:06}",
        }
        return {name: value for name, value in row.items() if name in self._relation.names}


def _id(row: Row) -> str:
    found = row["id"]
    assert found is not None
    return found


def _row(chance: random.Random, relation: Relation, key: str) -> Row:
    row: Row = {
        "id": key,
        "status": chance.choice(_STATUS),
        "amount": chance.choice(_AMOUNT),
        "body": chance.choice(_BODY),
        "tags": chance.choice(_TAGS),
        "doc": chance.choice(_DOC),
        "place": chance.choice(_PLACE),
    }
    return {name: value for name, value in {**row, "extra": key}.items() if name in relation.names}


def _old(relation: Relation, row: Row) -> Row:
    return dict(row) if relation.full else {"id": row["id"]}
