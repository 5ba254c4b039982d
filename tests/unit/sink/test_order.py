"""Which change has to wait for which."""

import random

from hypothesis import given
from hypothesis import strategies as st

from cdcflow.model import Batch, Change, Op, Position
from cdcflow.sink.order import Order, order
from cdcflow.testing.batches import Made, batch_of, made_message, make_relation

ORDERS = make_relation("orders", ["id", "note"], oid=1)
#: The same table after a column was added and the key moved.
ORDERS_LATER = make_relation("orders", ["id", "note", "uid"], key=["uid"], oid=1)
OTHERS = make_relation("others", ["id", "note"], oid=2)
LOG = make_relation("log", ["text"], replica_identity="f", oid=3)

Step = tuple[str, str, str]


def made(step: Step, number: int) -> Made:
    """`("orders", "u", "1>2")`: an update in orders of row 1, which becomes row 2."""
    table, op, key = step
    relation = {"orders": ORDERS, "later": ORDERS_LATER, "others": OTHERS, "log": LOG}[table]
    column = {"later": "uid", "log": "text"}.get(table, "id")
    before, _, after = key.rpartition(">")
    position = Position(8, number + 1)
    if op == "t":
        return Made(relation, Op.TRUNCATE, position=position)
    if op == "d":
        return Made(relation, Op.DELETE, None, {column: after}, position)
    kind = Op.UPDATE if op == "u" else Op.INSERT
    return Made(relation, kind, {column: after}, {column: before} if before else None, position)


def batch(*steps: Step) -> Batch:
    return batch_of([made(step, number) for number, step in enumerate(steps)])


def followers(*steps: Step) -> list[list[int]]:
    return order(batch(*steps).changes()).followers


def test_changes_of_one_key_follow_each_other_and_others_do_not() -> None:
    steps = [("orders", "i", "1"), ("orders", "i", "2"), ("orders", "u", "1"), ("orders", "d", "1")]
    assert followers(*steps, ("others", "i", "1")) == [[2], [], [3], [], []]


def test_messages_of_one_prefix_follow_each_other_and_hold_up_nobody_else() -> None:
    steps = ["orders", "jobs", "orders", "jobs"]
    said = [made_message(prefix, position=Position(8, n)) for n, prefix in enumerate(steps, 1)]
    row = Made(ORDERS, Op.INSERT, {"id": "1"}, position=Position(8, 9))
    assert order(batch_of([*said, row]).changes()).followers == [[2], [3], [], [], []]


def test_a_changed_key_is_ordered_with_both_keys() -> None:
    steps = [("orders", "i", "1"), ("orders", "i", "2"), ("orders", "u", "1>3"), ("orders", "u", "2>1")]
    assert followers(*steps, ("orders", "d", "3")) == [[2], [3], [3, 4], [], []]


def test_a_truncate_holds_up_its_table_and_no_other() -> None:
    steps = [("orders", "i", "1"), ("orders", "i", "2"), ("others", "i", "1"), ("orders", "t", "")]
    assert followers(*steps, ("orders", "i", "1"), ("orders", "i", "9"), ("others", "u", "1")) == [
        *([3], [3], [6]),
        *([4, 5], [], [], []),
    ]


def test_rows_without_a_key_follow_each_other() -> None:
    assert followers(("log", "i", "a"), ("log", "i", "b"), ("orders", "i", "1"), ("log", "d", "a")) == [
        *([1], [3]),
        *([], []),
    ]


def test_a_new_generation_of_a_table_comes_after_the_old_one() -> None:
    steps = [("orders", "i", "1"), ("orders", "i", "2"), ("later", "i", "a"), ("later", "i", "b")]
    assert followers(*steps) == [[2], [2], [3], []]


def test_everything_behind_a_change_is_found() -> None:
    steps = [("orders", "i", "1"), ("orders", "u", "1>2"), ("orders", "u", "2>3"), ("orders", "i", "1")]
    found = order(batch(*steps, ("orders", "i", "7")).changes())
    assert found.behind(0) == {1, 2, 3}
    assert found.behind(2) == set()


def conflicting(first: Change, second: Change) -> bool:
    """Whether the second may not overtake the first, said in another way than `order` says it."""
    if first.relation.name != second.relation.name:
        return False
    if first.relation != second.relation:
        return True
    whole = [change.op is Op.TRUNCATE or not change.key for change in (first, second)]
    keys = [{change.key, change.old_key} - {None} for change in (first, second)]
    return any(whole) or bool(keys[0] & keys[1])


def run(wanted: Order, choose: random.Random) -> list[int]:
    """One of the sequences that the order allows."""
    waits = list(wanted.waits)
    ready = [number for number, waiting in enumerate(waits) if not waiting]
    done = []
    while ready:
        number = ready.pop(choose.randrange(len(ready)))
        done.append(number)
        for follower in wanted.followers[number]:
            waits[follower] -= 1
            if not waits[follower]:
                ready.append(follower)
    return done


KEYS = st.sampled_from("1234")
STEPS = st.one_of(
    st.tuples(st.sampled_from(["orders", "others", "log"]), st.sampled_from("iud"), KEYS),
    st.tuples(st.just("orders"), st.just("u"), st.tuples(KEYS, KEYS).map(">".join)),
    st.tuples(st.sampled_from(["orders", "log"]), st.just("t"), st.just("")),
    st.tuples(st.just("later"), st.sampled_from("iu"), KEYS),
)


@given(steps=st.lists(STEPS, min_size=1, max_size=25), seed=st.integers(0, 2**16))
def test_whatever_comes_first_nothing_overtakes_what_it_conflicts_with(steps: list[Step], seed: int) -> None:
    # A table's generations do not alternate.
    steps.sort(key=lambda step: step[0] == "later")
    changes = list(batch(*steps).changes())
    sent = run(order(changes), random.Random(seed))
    assert sorted(sent) == list(range(len(changes)))
    place = {number: at for at, number in enumerate(sent)}
    for second in range(len(changes)):
        for first in range(second):
            if conflicting(changes[first], changes[second]):
                assert place[first] < place[second]
