"""Chains of steps by chance over histories by chance: order survives them, and what each row comes to."""

import hmac
import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

import orjson
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from cdcflow.model import Batch, Change, Column, join
from cdcflow.model.position import PART_SHIFT
from cdcflow.testing.history import History, expected_rows
from cdcflow.testing.steps import MASK_KEY, HeldTables, chain, context
from cdcflow.testing.things import COLUMNS, FULL, KEYED, WIDER, Row, Things
from cdcflow.transform import Chain, Tables
from cdcflow.types.arrays import elements

LABELS: list[Row] = [{"status": "new", "label": "N"}, {"status": "paid", "label": None}]
DOUBLES = {"0": "0", "1.50": "3.00", "100": "200", "-7": "-14", None: None}
PLACES = {
    "(Graz,4)": '{"city":"Graz","number":4}',
    '("Bad Ischl",)': '{"city":"Bad Ischl","number":null}',
    None: None,
}


@dataclass(frozen=True)
class Kind:
    """A step, and what it makes of a row. `needs` and `spends` are columns as they come from the source: what
    it looks at, and what is not that any more behind it."""

    step: Mapping[str, Any]
    rows: Callable[[Row], Sequence[Row]] | None = None
    needs: frozenset[str] = frozenset()
    spends: frozenset[str] = frozenset()
    #: For old rows that are whole, and while they are.
    full: bool = False
    #: A row may come to it, or move, by an update, which then has to bring all values.
    whole: bool = False
    #: A truncate does not pass.
    scatters: bool = False


def only(change: Callable[[Row], Row]) -> Callable[[Row], Sequence[Row]]:
    return lambda row: [change(row)]


def without(*names: str, **more: str | None) -> Callable[[Row], Sequence[Row]]:
    return only(lambda row: {**{n: v for n, v in row.items() if n not in names}, **more})


def hashed(row: Row) -> Row:
    return {**row, "id": hmac.digest(MASK_KEY.encode(), str(row["id"]).encode(), "sha256").hex()}


def exploded(row: Row) -> Sequence[Row]:
    rest = {name: value for name, value in row.items() if name != "tags"}
    found = [] if row["tags"] is None else elements(row["tags"])
    return [{**rest, "tag": tag, "tags_position": str(n)} for n, tag in enumerate(found, 1)]


def flattened(row: Row) -> Row:
    document = orjson.loads(row["doc"] or "null")
    fields = document if isinstance(document, dict) else {}
    rest = {name: value for name, value in row.items() if name != "doc"}
    return {**rest, "city": fields.get("city")}


def some(*names: str) -> frozenset[str]:
    return frozenset(names)


KINDS = [
    Kind(
        {"filter": "amount >= 0"},
        lambda row: [row] if row["amount"] is not None and float(row["amount"]) >= 0 else [],
        some("amount"),
        whole=True,
    ),
    Kind(
        {"filter": "id < 20"}, lambda row: [row] if int(row["id"] or 0) < 20 else [], some("id"), whole=True
    ),
    Kind({"filter": "op <> 'update' or changed(id)"}, None, some("id")),
    Kind(
        {"set": {"double": "amount * 2", "status": "coalesce(status, 'none')"}},
        only(lambda row: {**row, "double": DOUBLES[row["amount"]], "status": row["status"] or "none"}),
        some("amount", "status"),
        some("status"),
    ),
    Kind(
        {"set": {"id": "id * 10 + 1"}},
        only(lambda row: {**row, "id": str(int(row["id"] or 0) * 10 + 1)}),
        some("id"),
        some("id"),
    ),
    Kind({"mask": {"id": "sha256"}}, only(hashed), some("id"), some("id")),
    Kind(
        {"rename": {"body": "text"}},
        only(lambda row: {("text" if n == "body" else n): v for n, v in row.items()}),
        some("body"),
        some("body"),
    ),
    Kind({"cast": {"amount": "text"}}, only(lambda row: row), some("amount"), some("amount")),
    Kind({"exclude": ["doc"]}, without("doc"), some("doc"), some("doc")),
    Kind(
        {"flatten": {"column": "doc", "fields": {"city": "city"}}}, only(flattened), some("doc"), some("doc")
    ),
    Kind(
        {"composite": {"place": {"city": "text", "number": "int4"}}},
        only(lambda row: {**row, "place": PLACES[row["place"]]}),
        some("place"),
        some("place"),
    ),
    Kind(
        {"lookup": {"table": "public.labels", "on": ["status"], "columns": ["label"]}},
        only(lambda row: {**row, "label": "N" if row["status"] == "new" else None}),
        some("status", "label"),
        some("label"),
    ),
    Kind({"toast": "omit"}, only(lambda row: row)),
    Kind({"explode": {"column": "tags", "as": "tag"}}, exploded, some("tags"), some("tags", "id"), full=True),
    Kind(
        {"route": "case when amount > 1 then 'large' else 'small' end"},
        only(lambda row: row),
        some("amount", "table"),
        some("table"),
        full=True,
        scatters=True,
    ),
    Kind(
        {"route": "case when id > 9 then 'large' else 'small' end"},
        only(lambda row: row),
        some("id", "table"),
        some("table"),
        whole=True,
        scatters=True,
    ),
    Kind({"diff": ["status"]}, None, some("status"), full=True),
]


@dataclass
class Plan:
    """A chain by chance that fits the table under an identity."""

    full: bool
    steps: list[Mapping[str, Any]] = field(default_factory=list)
    kinds: list[Kind] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        return any(kind.whole for kind in self.kinds)

    @property
    def of_rows(self) -> bool:
        return all(kind.rows is not None for kind in self.kinds)

    def expected(self, row: Row) -> Sequence[Row]:
        rows: Sequence[Row] = [row]
        for kind in self.kinds:
            assert kind.rows is not None
            rows = [made for one in rows for made in kind.rows(one)]
        return rows

    def chain(self, source: HeldTables) -> Chain:
        labels = HeldTables([Column("status", 25), Column("label", 25)], LABELS)

        class Both:
            """Each table under its name."""

            def columns(self, table: tuple[str, str]) -> Sequence[Column]:
                return self._of(table).columns(table)

            def fetch(self, table: tuple[str, str], *given: Any) -> Any:
                return self._of(table).fetch(table, *given)

            def _of(self, table: tuple[str, str]) -> HeldTables:
                return labels if table[1] == "labels" else source

            def interrupt(self) -> None: ...

            def close(self) -> None: ...

        both: Tables = Both()
        return chain(*self.steps, around=context(tables=lambda _warehouse: both))


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    plan = Plan(full=draw(st.booleans()))
    here, whole_old = {*COLUMNS, "label", "table"}, plan.full
    if not plan.full and draw(st.booleans()):
        plan.steps.append({"toast": "source"})
    for _ in range(draw(st.integers(1, 5))):
        fits = [kind for kind in KINDS if kind.needs <= here and (whole_old or not kind.full)]
        kind = draw(st.sampled_from(fits))
        plan.steps.append(kind.step)
        plan.kinds.append(kind)
        here -= kind.spends
    exploded = any("explode" in kind.step for kind in plan.kinds)
    if plan.full and draw(st.booleans()):
        plan.steps.append({"key": ["id", "tags_position"] if exploded else ["id"]})
        whole_old = False
    if not whole_old and draw(st.booleans()):
        plan.steps.append({"collapse": {}})
    return plan


def played(made: Chain, batches: Sequence[Batch], chance: random.Random) -> list[Batch]:
    """As the engine runs a chain: steps up to the first that gathers on each batch as it comes, the others on
    what has gathered by then."""
    found, waiting = [], []
    for batch in batches:
        waiting.append(made(batch))
        if chance.random() < 0.4:
            found += [made.finish(one) for one in join(waiting)]
            waiting = []
    return found + [made.finish(one) for one in join(waiting)]


def place_of(change: Change) -> str:
    """The position of the source's change that it was made of."""
    return str(change.position).partition("+")[0]


def order_of(change: Change) -> tuple[int, int, int]:
    ordinal = change.position.ordinal
    return change.position.commit_lsn, ordinal & ((1 << PART_SHIFT) - 1), ordinal >> PART_SHIFT


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(plans(), st.randoms(use_true_random=False), st.integers(1, 60))
def test_the_order_of_each_key_and_what_it_comes_to_survive_any_chain(
    plan: Plan, chance: random.Random, length: int
) -> None:
    relation = WIDER[FULL if plan.full else KEYED]
    filled = plan.full or {"toast": "source"} in plan.steps
    things = Things(
        chance,
        relation,
        unsent=filled or not plan.whole,
        truncates=not any(kind.scatters for kind in plan.kinds),
    )
    batches = things.batches(History(base=500), length)
    source = HeldTables(
        [Column(n, oid) for n, oid in {**COLUMNS, "extra": 25}.items()], [*things.rows.values()]
    )
    for step in plan.steps:
        event(next(iter(step)))

    out = played(plan.chain(source), batches, chance)

    assert (out[0].base, out[-1].end) == (batches[0].base, batches[-1].end)
    assert all(one.end == other.base for one, other in pairwise(out)), "no offset is lost"
    assert not any(one.refused for one in out)
    came = {str(c.position): c for batch in batches for c in batch.changes()}
    changes = [change for batch in out for change in batch.changes()]
    places = [order_of(change) for change in changes]
    assert places == sorted(set(places)), "in order, and each once"
    for change in changes:
        before = came[place_of(change)]
        assert change.offset == before.offset
        if change.new is not None and before.new is not None:
            assert change.new["extra"] == before.new["extra"], "the values of the change that stood there"
    if plan.of_rows:
        found = Counter(frozen(row) for rows in expected_rows(out).values() for row in rows)
        wanted = Counter(frozen(made) for row in things.rows.values() for made in plan.expected(row))
        assert found == wanted


def frozen(row: Row) -> tuple[tuple[str, str | None], ...]:
    return tuple(sorted(row.items()))
