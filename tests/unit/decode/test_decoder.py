"""Both decoders, message by message."""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import pytest

from cdcflow.decode import messages, twin
from cdcflow.errors import DecodeError
from cdcflow.model import (
    MESSAGES,
    ORIGIN,
    UNCHANGED,
    Batch,
    Change,
    Column,
    Op,
    Position,
    PrefixPatterns,
    Relation,
)
from cdcflow.testing import pgoutput as wire

try:
    _kernel = import_module("cdcflow.decode._kernel")
except ImportError:  # the package works without a compiler
    MODULES: list[Any] = [twin]
else:
    MODULES = [twin, _kernel]

USERS = Relation(
    100,
    "public",
    "users",
    "d",
    (Column("id", 23, -1, True), Column("name", 25), Column("bio", 25)),
)
LOG = Relation(200, "app", "Log", "f", (Column("at", 1184, -1, True), Column("line", 25, -1, True)))


@pytest.fixture(params=MODULES, ids=lambda module: module.__name__.rpartition(".")[2])
def decoder_module(request: pytest.FixtureRequest) -> Any:
    return request.param


def frames(*parts: bytes) -> list[bytes]:
    return [wire.wal_data(part) for part in parts]


def transaction(lsn: int, *parts: bytes, end: int | None = None) -> list[bytes]:
    return frames(wire.begin(lsn, xid=7, commit_time=5), *parts, wire.commit(lsn, end or lsn + 8))


def decode(module: Any, stream: Sequence[bytes], skip_to: Position = ORIGIN) -> Batch:
    decoder = module.Decoder(skip_to)
    decoder.feed(stream)
    batch = decoder.take()
    assert isinstance(batch, Batch)
    assert decoder.take() is None
    for group in batch.groups:
        group.data.validate(full=True)
    return batch


def rows(batch: Batch) -> list[tuple[Any, ...]]:
    return [(c.op, c.relation.name, c.new, c.old) for c in batch.changes()]


def test_an_insert_an_update_and_a_delete_become_changes_in_order(decoder_module: Any) -> None:
    batch = decode(
        decoder_module,
        transaction(
            0x1000,
            wire.relation(USERS),
            wire.insert(USERS, ["1", "Ada", None]),
            wire.update(USERS, ["1", "Ada L.", ""]),
            wire.delete(USERS, ["1", None, None]),
        ),
    )
    assert rows(batch) == [
        (Op.INSERT, "users", {"id": "1", "name": "Ada", "bio": None}, None),
        (Op.UPDATE, "users", {"id": "1", "name": "Ada L.", "bio": ""}, None),
        (Op.DELETE, "users", None, {"id": "1"}),
    ]
    changes = list(batch.changes())
    assert [c.position for c in changes] == [Position(0x1000, n) for n in (1, 2, 3)]
    assert {(c.xid, c.commit_time) for c in changes} == {(7, 5)}
    assert (batch.count, batch.last, batch.committed) == (3, Position(0x1000, 3), 0x1008)


def test_changes_of_several_tables_keep_their_total_order(decoder_module: Any) -> None:
    batch = decode(
        decoder_module,
        transaction(
            8,
            wire.relation(USERS),
            wire.relation(LOG),
            wire.insert(LOG, ["t1", "a"]),
            wire.insert(USERS, ["1", None, None]),
            wire.insert(LOG, ["t2", "b"]),
        ),
    )
    assert [c.relation.name for c in batch.changes()] == ["Log", "users", "Log"]
    assert [c.index for c in batch.changes()] == [0, 1, 2]


def test_an_unchanged_toast_value_is_a_third_thing(decoder_module: Any) -> None:
    batch = decode(
        decoder_module,
        transaction(
            8,
            wire.relation(USERS),
            wire.insert(USERS, ["1", "x", "long"]),
            wire.update(USERS, ["1", None, UNCHANGED]),
            wire.update(USERS, ["1", UNCHANGED, "short"]),
        ),
    )
    new = [c.new for c in batch.changes()]
    assert new[1] is not None
    assert new[2] is not None
    assert (new[1]["name"], new[1]["bio"]) == (None, UNCHANGED)
    assert (new[2]["name"], new[2]["bio"]) == (UNCHANGED, "short")
    mask = batch.groups[0].unchanged_mask(2)
    assert mask is not None
    assert mask.to_pylist() == [False, True, False]
    assert batch.groups[0].unchanged_mask(0) is None


def test_a_changed_key_brings_the_old_key_and_full_brings_the_whole_old_row(decoder_module: Any) -> None:
    batch = decode(
        decoder_module,
        transaction(
            8,
            wire.relation(USERS),
            wire.relation(LOG),
            wire.insert(USERS, ["1", "x", None]),
            wire.update(USERS, ["2", "x", None], old=["1", None, None]),
            wire.update(LOG, ["t", "new"], old=["t", None]),
        ),
    )
    _, moved, logged = batch.changes()
    assert moved.old == {"id": "1"}
    assert (moved.key, moved.old_key) == (("2",), ("1",))
    assert logged.old == {"at": "t", "line": None}
    assert (logged.key, logged.old_key) == ((), None)


def test_a_truncate_is_one_change_per_table_with_its_options(decoder_module: Any) -> None:
    batch = decode(
        decoder_module,
        transaction(
            8,
            wire.relation(USERS),
            wire.relation(LOG),
            wire.insert(USERS, ["1", "x", None]),
            wire.truncate([USERS, LOG], options=3),
        ),
    )
    changes: list[Change] = list(batch.changes())
    assert [(c.op, c.relation.name, c.truncate_options) for c in changes[1:]] == [
        (Op.TRUNCATE, "users", 3),
        (Op.TRUNCATE, "Log", 3),
    ]
    assert changes[1].new is None
    assert changes[1].old is None
    assert changes[2].position == Position(8, 3)


def test_what_the_journal_has_already_is_dropped_when_it_comes_again(decoder_module: Any) -> None:
    stream = [
        *transaction(8, wire.relation(USERS), wire.insert(USERS, ["1", None, None])),
        *transaction(16, *(wire.insert(USERS, [str(n), None, None]) for n in range(2, 6))),
        *transaction(24, wire.insert(USERS, ["6", None, None])),
    ]
    batch = decode(decoder_module, stream, skip_to=Position(16, 3))
    assert [c.position for c in batch.changes()] == [Position(16, 4), Position(24, 1)]
    assert [(c.new or {})["id"] for c in batch.changes()] == ["5", "6"]
    assert [c.index for c in batch.changes()] == [0, 1]


def test_a_transaction_that_comes_again_shorter_than_journaled_is_an_error(decoder_module: Any) -> None:
    stream = transaction(8, wire.relation(USERS), wire.insert(USERS, ["1", None, None]))
    decoder = decoder_module.Decoder(Position(8, 2))
    with pytest.raises(DecodeError, match="fewer changes"):
        decoder.feed(stream)


def test_a_new_shape_of_a_table_begins_a_new_batch(decoder_module: Any) -> None:
    wider = Relation(100, "public", "users", "d", (*USERS.columns, Column("age", 23)))
    decoder = decoder_module.Decoder()
    decoder.feed(
        transaction(
            8,
            wire.relation(USERS),
            wire.insert(USERS, ["1", None, None]),
            wire.relation(USERS),  # announced again, the same: only the catalog can say whether it is
            wire.insert(USERS, ["2", None, None]),
            wire.relation(wider),
            wire.insert(wider, ["3", None, None, "7"]),
        )
    )
    assert decoder.sealed == 2
    first, again, second = decoder.take(), decoder.take(), decoder.take()
    assert [len(first), len(again), len(second)] == [1, 1, 1]
    assert first.groups[0].relation == again.groups[0].relation
    assert first.groups[0].relation is not again.groups[0].relation
    assert second.groups[0].relation == wider
    assert [c.position.ordinal for b in (first, again, second) for c in b.changes()] == [1, 2, 3]


def test_a_name_that_moves_to_another_table_begins_a_new_batch(decoder_module: Any) -> None:
    recreated = Relation(101, "public", "users", "d", USERS.columns)
    decoder = decoder_module.Decoder()
    decoder.feed(
        [
            *transaction(8, wire.relation(USERS), wire.insert(USERS, ["1", None, None])),
            *transaction(16, wire.relation(recreated), wire.insert(recreated, ["1", None, None])),
        ]
    )
    assert [len(decoder.take()), len(decoder.take())] == [1, 1]


def test_a_type_message_names_the_type_of_later_relations(decoder_module: Any) -> None:
    mood = Relation(300, "public", "m", "n", (Column("mood", 16385),))
    batch = decode(
        decoder_module,
        transaction(8, wire.type_name(16385, "app", "mood"), wire.relation(mood), wire.insert(mood, ["ok"])),
    )
    assert batch.groups[0].relation.columns[0].type_name == "app.mood"


def test_keepalives_tell_the_wal_end_and_ask_for_replies(decoder_module: Any) -> None:
    decoder = decoder_module.Decoder()
    decoder.feed([wire.keepalive(5000)])
    assert (decoder.wal_end, decoder.reply_requested) == (5000, False)
    decoder.feed([wire.keepalive(4000, reply=True)])
    assert (decoder.wal_end, decoder.reply_requested) == (5000, True)
    assert decoder.take() is None


def test_origins_do_not_move_the_position(decoder_module: Any) -> None:
    stream = transaction(
        8, wire.origin(1, "elsewhere"), wire.relation(USERS), wire.insert(USERS, ["1", None, None])
    )
    assert [c.position for c in decode(decoder_module, stream).changes()] == [Position(8, 1)]


OUTBOX = [
    wire.wal_data(wire.logical_message("job", b"later", lsn=64, transactional=False), sent=9),
    # Its commit record may begin where the message's record ends.
    *transaction(
        64,
        wire.relation(USERS),
        wire.insert(USERS, ["1", None, None]),
        wire.logical_message("audit", b"not wanted", lsn=40),
        wire.logical_message("orders.paid", "42 €".encode(), lsn=48),
        wire.logical_message("cdcflow", b"our own", lsn=56),
        wire.insert(USERS, ["2", None, None]),
        end=80,
    ),
    *frames(wire.logical_message("job", b"\xff", lsn=96, transactional=False)),
    *frames(wire.logical_message("audit", b"not wanted", lsn=104, transactional=False)),
]
WANTED = PrefixPatterns(["orders.*", "job"])


def test_messages_stand_at_places_that_the_wal_alone_decides(decoder_module: Any) -> None:
    decoder = decoder_module.Decoder(prefixes=WANTED)
    decoder.feed(OUTBOX)
    batch = decoder.take()
    found = list(batch.changes())
    assert [(c.op, c.position, c.xid, c.commit_time) for c in found] == [
        (Op.MESSAGE, Position(64, 0), 0, 9),
        (Op.INSERT, Position(64, 1), 7, 5),
        (Op.MESSAGE, Position(64, 3), 7, 5),
        (Op.INSERT, Position(64, 5), 7, 5),
        (Op.MESSAGE, Position(96, 0), 0, 946_684_800_000_000),
    ]
    assert [c.new for c in found if c.relation == MESSAGES] == [
        {"prefix": "job", "content": "later", "bytes": None, "transactional": "f"},
        {"prefix": "orders.paid", "content": "42 €", "bytes": None, "transactional": "t"},
        {"prefix": "job", "content": None, "bytes": "\\xff", "transactional": "f"},
    ]
    # The last one is dropped, and yet all before its end has been seen.
    assert (batch.last, batch.committed, decoder.committed) == (Position(96, 0), 104, 104)


@pytest.mark.parametrize("at", range(6))
@pytest.mark.parametrize("prefixes", [[], ["*"], ["audit"]])
def test_wherever_the_journal_ends_the_rest_comes_once_whatever_the_prefixes_were_before(
    decoder_module: Any, at: int, prefixes: list[str]
) -> None:
    whole = decoder_module.Decoder(prefixes=PrefixPatterns(["*"]))
    whole.feed(OUTBOX)
    everything = [(c.position, c.new) for c in whole.take().changes()]
    end = everything[at][0]
    decoder = decoder_module.Decoder(end, PrefixPatterns(prefixes))
    decoder.feed(OUTBOX)
    batch = decoder.take()
    found = [(c.position, c.new) for c in batch.changes()] if batch else []
    wanted = PrefixPatterns(prefixes)
    assert found == [
        (position, new)
        for position, new in everything[at + 1 :]
        if "prefix" not in new or wanted.matches(new["prefix"])
    ]


def test_content_is_text_only_where_postgres_would_call_it_so(decoder_module: Any) -> None:
    contents = [b"", b"a\0b", b"\xc3", b"\xed\xa0\x80", "\N{SNOWMAN}\n".encode()]
    decoder = decoder_module.Decoder(prefixes=PrefixPatterns(["*"]))
    decoder.feed(transaction(8, *(wire.logical_message("", content) for content in contents)))
    found = [c.new for c in decoder.take().changes()]
    assert [new["content"] for new in found] == ["", None, None, None, "\N{SNOWMAN}\n"]
    assert [new["bytes"] for new in found] == [None, "\\x610062", "\\xc3", "\\xeda080", None]


@pytest.mark.parametrize("transactional", [True, False])
def test_a_message_on_the_wrong_side_of_a_transactions_bounds_is_an_error(
    decoder_module: Any, transactional: bool
) -> None:
    message = frames(wire.logical_message("x", b"", transactional=transactional))
    decoder = decoder_module.Decoder()
    with pytest.raises(DecodeError, match="transaction"):
        decoder.feed(message if transactional else [*frames(wire.begin(8)), *message])


def test_a_table_without_columns_has_changes_too(decoder_module: Any) -> None:
    empty = Relation(9, "public", "nothing", "d", ())
    batch = decode(decoder_module, transaction(8, wire.relation(empty), wire.insert(empty, [])))
    assert rows(batch) == [(Op.INSERT, "nothing", {}, None)]


def test_a_table_of_1600_columns_and_a_value_of_many_megabytes_come_through(decoder_module: Any) -> None:
    wide = Relation(9, "public", "wide", "d", tuple(Column(f"c{n}", 25) for n in range(1600)))
    large = "ä" * (6 << 20)
    batch = decode(
        decoder_module,
        transaction(
            8,
            wire.relation(wide),
            wire.insert(wide, ["v"] * 1600),
            wire.relation(USERS),
            wire.insert(USERS, ["1", large, "x"]),
        ),
    )
    first, second = batch.changes()
    assert first.new == {f"c{n}": "v" for n in range(1600)}
    assert (second.new or {})["name"] == large


BROKEN: list[tuple[str, list[bytes], str, int]] = [
    ("nothing", [b""], "message is empty", 0),
    ("an unknown envelope", [b"x123"], "unknown replication message", 0),
    ("a short envelope", [b"w123"], "ends inside WAL data", 4),
    ("a short keepalive", [b"k123"], "keepalive has the wrong length", 4),
    ("an unknown message", frames(b"Z"), "unknown message type 90", 25),
    ("a change outside", frames(wire.relation(USERS), wire.insert(USERS, ["1", "", ""])), "outside", 25),
    ("a nested begin", frames(wire.begin(8), wire.begin(8)), "begin inside", 25),
    ("a lone commit", frames(wire.commit(8, 16)), "commit outside", 25),
    ("a wrong commit", frames(wire.begin(8), wire.commit(9, 16)), "not the one that begin announced", 27),
    ("an unknown table", frames(wire.begin(8), wire.insert(USERS, ["1", "", ""])), "never described", 26),
    (
        "a row of the wrong width",
        frames(wire.begin(8), wire.relation(USERS), wire.insert(USERS, ["1"])),
        "row has 1 columns, its relation 3",
        31,
    ),
    (
        "a value that is not UTF-8",
        frames(wire.begin(8), wire.relation(LOG), wire.insert(LOG, ["a", "b"]).replace(b"b", b"\xff")),
        "value is not UTF-8",
        44,
    ),
    (
        "bytes behind a row",
        frames(wire.begin(8), wire.relation(LOG), wire.insert(LOG, ["a", "b"]) + b"?"),
        "bytes are left",
        45,
    ),
    (
        "a strange identity",
        frames(wire.relation(USERS).replace(b"users\0d", b"users\0q")),
        "identity 'q'",
        43,
    ),
]


@pytest.mark.parametrize(("stream", "reason", "offset"), [b[1:] for b in BROKEN], ids=[b[0] for b in BROKEN])
def test_broken_bytes_are_an_error_that_names_the_place(
    decoder_module: Any, stream: list[bytes], reason: str, offset: int
) -> None:
    decoder = decoder_module.Decoder()
    with pytest.raises(DecodeError, match=reason) as caught:
        decoder.feed(stream)
    assert caught.value.offset == offset
    with pytest.raises(DecodeError, match=reason):  # and it stays an error
        decoder.feed([wire.keepalive(1)])
    with pytest.raises(DecodeError, match=reason):
        decoder.take()


def test_copy_rows_become_read_changes(decoder_module: Any) -> None:
    decoder = decoder_module.CopyDecoder(USERS, 99, 5, 10)
    decoder.feed([b"1\tAda\t\\N\n", b"2\ta\\tb\\\\c\\n\\r\\b\\f\\v\t\n", b"3\t\\\\N\t\xc3\xa4\n"])
    batch = decoder.take()
    assert [c.new for c in batch.changes()] == [
        {"id": "1", "name": "Ada", "bio": None},
        {"id": "2", "name": "a\tb\\c\n\r\b\f\v", "bio": ""},
        {"id": "3", "name": "\\N", "bio": "ä"},
    ]
    assert [c.position for c in batch.changes()] == [Position(99, n) for n in (11, 12, 13)]
    assert {(c.op, c.xid, c.commit_time) for c in batch.changes()} == {(Op.READ, 0, 5)}
    assert (batch.last, decoder.ordinal, decoder.take()) == (Position(99, 13), 13, None)


@pytest.mark.parametrize(
    ("row", "reason", "offset"),
    [
        (b"", "newline", 0),
        (b"1\ta\tb", "newline", 5),
        (b"1\ta\n", "3 columns", 3),
        (b"1\ta\tb\tc\n", "3 columns", 5),
        (b"1\ta\\q\tb\n", "unknown escape", 3),
        (b"1\t\\\t\n", "unknown escape", 2),
        (b"1\t\xff\tb\n", "UTF-8", 2),
    ],
)
def test_broken_copy_rows_are_an_error(decoder_module: Any, row: bytes, reason: str, offset: int) -> None:
    decoder = decoder_module.CopyDecoder(USERS, 99, 5)
    with pytest.raises(DecodeError, match=reason) as caught:
        decoder.feed([row])
    assert caught.value.offset == offset


def test_copy_of_a_table_without_columns_counts_rows(decoder_module: Any) -> None:
    decoder = decoder_module.CopyDecoder(Relation(9, "public", "nothing", "d", ()), 99, 5)
    decoder.feed([b"\n", b"\n"])
    assert decoder.take().count == 2


def test_a_batch_never_exceeds_what_32_bit_offsets_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    # The kernel's limit is the same constant, copied when it is loaded.
    assert messages.MAX_BATCH_BYTES == 2**31 - 1
    monkeypatch.setattr(twin, "MAX_BATCH_BYTES", 100)
    decoder = twin.Decoder()
    with pytest.raises(DecodeError, match="2 GiB"):
        decoder.feed([wire.keepalive(1)] * 6)
