from unittest import mock

from cdcflow.model import Batch, Op, Position, PrefixPatterns
from cdcflow.model.patterns import TablePatterns
from cdcflow.testing.batches import Made, batch_of, made_message, make_relation
from cdcflow.testing.scripted import ids
from cdcflow.transform import Select

ORDERS = make_relation("orders", oid=1)
AUDIT = make_relation("audit", oid=2)


def mixed() -> Batch:
    rows = [(ORDERS, "1"), (AUDIT, "2"), (ORDERS, "3"), (AUDIT, "4")]
    return batch_of(
        [
            Made(relation, Op.INSERT, {"id": id_}, position=Position(8, ordinal))
            for ordinal, (relation, id_) in enumerate(rows, 1)
        ],
        base=100,
    )


def test_only_the_tables_meant_are_left_and_the_offsets_stay() -> None:
    batch = mixed()
    kept = Select(TablePatterns(["public.*", "!public.audit"]))(batch)
    assert ids(kept) == [1, 3]
    assert [change.offset for change in kept.changes()] == [100, 102]
    assert (kept.base, kept.end, kept.last) == (batch.base, batch.end, batch.last)


def test_a_batch_without_any_of_them_still_covers_its_offsets() -> None:
    kept = Select(TablePatterns(["public.customers"]))(mixed())
    assert (len(kept), kept.base, kept.end) == (0, 100, 104)


def test_a_batch_that_is_wanted_whole_is_left_as_it_is() -> None:
    batch = mixed()
    assert Select(TablePatterns(["public.*"]))(batch) is batch


def test_patterns_are_asked_once_per_generation() -> None:
    select = Select(TablePatterns(["public.orders"]))
    with mock.patch.object(TablePatterns, "matches", autospec=True, return_value=True) as matches:
        for _ in range(3):
            select(mixed())
    assert matches.call_count == 2


def test_messages_are_chosen_by_their_prefix_and_by_no_pattern_of_tables() -> None:
    row = Made(ORDERS, Op.INSERT, {"id": "1"}, position=Position(8, 1))
    prefixes = ["orders.paid", "audit", "orders.sent"]
    said = [made_message(prefix, position=Position(8, ordinal)) for ordinal, prefix in enumerate(prefixes, 2)]
    batch = batch_of([row, *said], base=100)

    def kept(tables: list[str], messages: list[str]) -> list[tuple[str, int]]:
        found = Select(TablePatterns(tables), PrefixPatterns(messages))(batch)
        assert (found.base, found.end, found.last) == (batch.base, batch.end, batch.last)
        return [(change.op.word, change.offset) for change in found.changes()]

    assert kept(["*.*"], []) == [("insert", 100)]
    assert kept([], ["orders.*"]) == [("message", 101), ("message", 103)]
    assert kept([], ["nobody"]) == []
    assert kept(["orders"], ["audit"]) == [("insert", 100), ("message", 102)]
    everything = Select(TablePatterns(["*.*"]), PrefixPatterns(["*"]))
    assert everything(batch) is batch
