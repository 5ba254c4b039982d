"""The chain: what it keeps whatever its steps do, and what it says of steps that do not fit."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cdcflow.errors import ConfigurationError, Permanent
from cdcflow.model import UNCHANGED, Batch, Group, Op, Position, Relation
from cdcflow.model.layout import Attribute, Layout
from cdcflow.model.position import PART_SHIFT
from cdcflow.sink.event import events
from cdcflow.testing.batches import Made, batch_of, made_message, make_relation
from cdcflow.testing.history import CUSTOMERS, LOG, ORDERS, History, delete, insert, truncate, update
from cdcflow.testing.steps import chain, link, rows, through
from cdcflow.transform import Bound, Chain, Link, Misfit, Run, StepContext, StepError, StepPlugin
from cdcflow.transform.options import Plain


class Anything(Plain[Any]):
    pass


class _Twice:
    """Every change twice, the second to another table; nothing of what the option names."""

    def __init__(self, options: Anything, _context: StepContext) -> None:
        self._refused = options.root

    def bind(self, relation: Relation) -> Bound:
        copy = replace(relation, name=f"{relation.name}_copy", oid=relation.oid + 1)

        def apply(group: Group, run: Run) -> Sequence[Group]:
            run.multiplied = True
            second = replace(group, relation=copy)
            if self._refused is not None:
                second = run.refuse_rows(second, {self._refused: "not this one"})
            return [group, second]

        return Bound((relation, copy), apply)


TWICE = StepPlugin("twice", Anything, _Twice)


def some() -> Batch:
    return History(base=100).batch(
        insert(ORDERS, id="1", status="new", body="b"),
        insert(CUSTOMERS, id="7", name="Ada", notes=None),
        update(ORDERS, id="1", status="paid", body=UNCHANGED),
        delete(ORDERS, id="1"),
        truncate(CUSTOMERS),
    )


def test_a_chain_without_steps_gives_the_batch_itself() -> None:
    batch = some()
    assert Chain()(batch) is batch
    assert Chain().output(ORDERS) == (ORDERS,)


def test_the_run_of_offsets_and_the_total_order_stay() -> None:
    batch = some()
    found = chain({"rename": {"id": "number"}})(batch)
    assert (found.base, found.count, found.last, found.committed) == (
        batch.base,
        batch.count,
        batch.last,
        batch.committed,
    )
    assert [(c.offset, c.op, c.relation.name) for c in found.changes()] == [
        (c.offset, c.op, c.relation.name) for c in batch.changes()
    ]


def test_logical_messages_pass_untouched() -> None:
    batch = batch_of(
        [made_message("orders.paid", b"1"), Made(ORDERS, Op.INSERT, {"id": "1"}, position=Position(8, 2))]
    )
    found = chain({"select": ["id"]})(batch)
    assert [c.op for c in found.changes()] == [Op.MESSAGE, Op.INSERT]
    assert next(iter(found.changes())).new == next(iter(batch.changes())).new


def test_a_step_for_some_tables_leaves_the_others_alone() -> None:
    found = chain({"exclude": ["body"], "tables": ["public.orders"]})(some())
    assert {g.relation.name: g.relation.names for g in found.groups} == {
        "orders": ("id", "status"),
        "customers": ("id", "name", "notes"),
    }


def test_columns_and_types_after_every_step_are_known_without_rows() -> None:
    made = chain({"rename": {"status": "state"}}, {"exclude": ["body"]}, {"mask": {"state": "sha256"}})
    assert [shapes[0].names for shapes in made.bind(ORDERS)] == [
        ("id", "state", "body"),
        ("id", "state"),
        ("id", "state"),
    ]


def test_a_step_that_does_not_fit_is_named_with_file_line_key_and_the_right_name() -> None:
    made = chain({"rename": {"status": "state"}}, {"select": ["id", "stat"]})
    with pytest.raises(ConfigurationError) as caught:
        made.bind(ORDERS)
    assert str(caught.value).startswith(
        "flow.yaml:2: transforms[1].select[1]: public.orders: there is no column 'stat'"
    )
    assert caught.value.hint == "did you mean 'state'?"
    with pytest.raises(Permanent, match=r"flow\.yaml:2: .* no column 'stat'"):
        made(some())


def test_a_new_generation_in_the_middle_is_bound_when_it_comes() -> None:
    wide = make_relation("orders", [*ORDERS.columns, "extra"], oid=ORDERS.oid)
    made = chain({"exclude": ["body"]})
    history = History()
    assert through(made, history.batch(insert(ORDERS, id="1", status="new"))) == [
        ("insert", {"id": "1", "status": "new"}, None)
    ]
    assert through(made, history.batch(insert(wide, id="2", status="new", extra="x"))) == [
        ("insert", {"id": "2", "status": "new", "extra": "x"}, None)
    ]


def test_values_that_the_old_row_holds_are_known_to_every_step() -> None:
    full = make_relation("docs", ["id", "body"], replica_identity="f")
    batch = History().batch((full, Op.UPDATE, {"id": "2", "body": UNCHANGED}, {"id": "1", "body": "b"}))
    assert through(chain({"rename": {"body": "text"}}), batch) == [
        ("update", {"id": "2", "text": "b"}, {"id": "1", "text": "b"})
    ]


def test_several_changes_of_one_follow_each_other_and_are_told_apart_by_their_position() -> None:
    made = Chain([link(TWICE, {"twice": None}), link(TWICE, {"twice": None})])
    batch = History().batch(*[insert(ORDERS, id=i, status="new", body=None) for i in "12"])
    found = made(batch)
    changes = list(found.changes())
    assert [c.index for c in changes] == [0, 0, 0, 0, 1, 1, 1, 1]
    assert [c.relation.name for c in changes[:4]] == [
        "orders",
        "orders_copy",
        "orders_copy",
        "orders_copy_copy",
    ]
    ids = [event["id"] for _, event in events(found)]
    assert ids == [str(c.position) for c in changes]
    assert len(set(ids)) == 8
    assert [i.partition("+")[2] for i in ids[:4]] == ["", "1", "2", "3"]
    assert [Position.parse(i) for i in ids] == [c.position for c in changes]


def test_a_refused_change_goes_with_all_that_was_made_of_it() -> None:
    made = Chain([link(TWICE, {"twice": 1})])
    batch = History(base=50).batch(*[insert(ORDERS, id=i, status="new", body=None) for i in "123"])
    found = made(batch)
    assert found.refused == {1: "not this one"}
    assert sorted({c.index for c in found.changes()}) == [0, 2]
    assert (found.base, found.end) == (50, 53)
    assert found.slice(1, 3).refused == {0: "not this one"}


def test_a_trace_shows_every_step_and_what_became_of_each_change() -> None:
    stages = Chain([link(TWICE, {"twice": 0})]).trace(History().batch(insert(ORDERS, id="1", status="new")))
    assert stages[0].link is None
    assert len(stages[0].batch) == 1
    assert stages[1].link is not None
    assert stages[1].link.name == "twice"
    assert (len(stages[1].batch), stages[1].refused) == (0, {0: "not this one"})


LAID_OUT = replace(
    make_relation("people", ["id", "email", "age"]),
    layout=Layout(
        "16384", 3, tuple(Attribute(n, name, 25, -1, 700) for n, name in enumerate(["id", "email", "age"], 1))
    ),
)


def numbers(made: Chain) -> dict[str, int]:
    [output] = made.output(LAID_OUT)
    assert output.layout is not None
    return {a.name: a.number for a in output.layout.attributes}


def test_a_column_keeps_its_number_under_another_name() -> None:
    assert numbers(chain({"rename": {"email": "mail", "age": "email"}})) == {"id": 1, "mail": 2, "email": 3}


def test_a_column_that_is_left_out_was_not_dropped() -> None:
    [output] = chain({"exclude": ["email"]}).output(LAID_OUT)
    assert output.layout is not None
    assert not output.layout.dropped(2)
    assert output.layout.by_number[2].hidden
    assert "email" not in output.layout.by_name


def test_a_masked_column_is_another_one_and_another_key_makes_it_yet_another() -> None:
    one, same, other = (
        numbers(chain({"mask": {"email": rule}}))["email"]
        for rule in ("sha256", "sha256", {"method": "sha256", "key": "another key, long enough too"})
    )
    assert one == same < 0
    assert other != one


def test_a_step_changes_nothing_of_a_table_that_nothing_identifies() -> None:
    batch = History().batch(
        insert(LOG, level="info", text="a"),
        (LOG, Op.UPDATE, {"level": "warn", "text": "a"}, {"level": "info", "text": "a"}),
        delete(LOG, level="warn", text="a"),
    )
    made = chain({"rename": {"text": "message"}})
    assert made.output(LOG)[0].full
    assert through(made, batch)[1:] == [
        ("update", {"level": "warn", "message": "a"}, {"level": "info", "message": "a"}),
        ("delete", None, {"level": "warn", "message": "a"}),
    ]


def test_the_place_of_a_file_below_is_short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    made = chain({"select": ["nothing"]})
    site = replace(made.links[0].site, file=tmp_path / "flows" / "a.yaml")
    with pytest.raises(ConfigurationError, match=r"^flows/a\.yaml:1: "):
        Chain([replace(made.links[0], site=site)]).bind(ORDERS)
    assert rows(Chain()(some()))


class _Copies:
    """Only what went to the second table."""

    def __init__(self, _options: Anything, _context: StepContext) -> None:
        pass

    def bind(self, relation: Relation) -> Bound:
        return Bound(
            (relation,), lambda group, _run: [group] if group.relation.name.endswith("_copy") else []
        )


COPIES = StepPlugin("copies", Anything, _Copies)


def test_parts_that_are_made_of_parts_behind_a_window_are_told_apart() -> None:
    def twice() -> Link:
        return link(TWICE, {"twice": None})

    [window] = chain({"collapse": {}}).links
    made = Chain([twice(), window, link(COPIES, {"copies": None}), twice()])
    batch = History().batch(insert(ORDERS, id="1", status="a", body="b"))
    found = list(made.finish(made(batch)).changes())
    assert len(found) == 2
    assert [one.position.ordinal >> PART_SHIFT for one in found] == [0, 1]


def mistakes(*steps: dict[str, Any]) -> list[tuple[str, str]]:
    """Place and message of each thing that is wrong, each of which has a remedy."""
    with pytest.raises(Misfit) as caught:
        chain(*steps).bind(ORDERS)
    assert all(one.hint for one in caught.value.mistakes)
    return [(one.place, one.message.split("\n")[0]) for one in caught.value.mistakes]


def test_all_that_is_wrong_with_the_steps_is_said_at_once_each_with_its_place() -> None:
    found = mistakes(
        {"filter": "stat = 'paid'"},
        {"set": {"a": "upper(bdy)", "b": "upper(status)", "c": "nothing_such(id)"}},
        {"mask": {"nmae": "sha256", "status": "redact", "mial": "null"}},
        {"select": ["id", "status", "wight", "hight"]},
    )
    assert [place for place, _ in found] == [
        "flow.yaml:1: transforms[0].filter.where",
        "flow.yaml:2: transforms[1].set.a",
        "flow.yaml:2: transforms[1].set.c",
        "flow.yaml:3: transforms[2].mask.nmae",
        "flow.yaml:3: transforms[2].mask.mial",
        "flow.yaml:4: transforms[3].select[2]",
        "flow.yaml:4: transforms[3].select[3]",
    ]
    assert "'stat'" in found[0][1]
    assert "at column 7" in found[1][1]


def test_what_follows_from_a_mistake_is_no_mistake_of_its_own() -> None:
    found = mistakes(
        {"set": {"gross": "totl * 2", "name": "upper(status)"}},
        {"filter": "gross > 10 and length(name) > 1"},
        {"cast": {"gross": "int8"}},
        {"rename": {"gross": "sum", "nmae": "title", "name": "caption"}},
        {"set": {"x": "sum + length(title) + length(caption)", "y": "idd + 1"}},
    )
    assert [place for place, _ in found] == [
        "flow.yaml:1: transforms[0].set.gross",
        "flow.yaml:4: transforms[3].rename.nmae",
        "flow.yaml:5: transforms[4].set.y",
    ]


def test_behind_a_step_that_says_not_what_it_makes_nothing_is_judged() -> None:
    class _Never(_Twice):
        def bind(self, relation: Relation) -> Bound:
            raise StepError("does not fit", hint="leave it out")

    links = [link(StepPlugin("never", Anything, _Never), {"never": None}), *chain({"filter": "x = 1"}).links]
    with pytest.raises(Misfit) as caught:
        Chain(links).bind(ORDERS)
    assert [one.message for one in caught.value.mistakes] == ["does not fit"]
