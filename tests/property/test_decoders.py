"""The kernel and its twin: the same batches, or the same error at the same offset, for any bytes."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cdcflow.decode import twin
from cdcflow.errors import DecodeError
from cdcflow.model import UNCHANGED, Batch, Column, Position, PrefixPatterns, Relation
from cdcflow.testing import pgoutput as wire

_kernel = pytest.importorskip("cdcflow.decode._kernel", reason="the compiled decoder is not built")

PREFIXES = PrefixPatterns(["*", "!other"])
#: Microseconds since 1970 of which the protocol's, since 2000, fit into 64 bits.
TIMES = st.integers(-(1 << 62), 1 << 62)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=8)
VALUES = st.one_of(
    st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20), st.just("x" * 700)
)


@st.composite
def relations(draw: st.DrawFn, oid: int) -> Relation:
    identity: Any = draw(st.sampled_from("dnfi"))
    columns = tuple(
        Column(
            draw(NAMES),
            draw(st.sampled_from([20, 23, 25, 1700, 16400])),
            draw(st.integers(-1, 100)),
            identity == "f" or (identity in "di" and draw(st.booleans())),
        )
        for _ in range(draw(st.integers(0, 9)))
    )
    return Relation(oid, draw(NAMES), f"t{oid}", identity, columns)


@st.composite
def sessions(draw: st.DrawFn) -> list[bytes]:
    """A valid run of messages: transactions over some tables whose shapes may change in between."""
    stream: list[bytes] = []
    lsn = draw(st.integers(1, 1 << 40)) * 8
    known: dict[int, Relation] = {}
    for _ in range(draw(st.integers(1, 4))):
        if draw(st.integers(0, 3)) == 0:
            # Its record ends where the commit record begins, or before.
            end = lsn - draw(st.integers(0, 1)) * 4
            stream.append(wire.wal_data(draw(messages(lsn=end, transactional=False)), sent=draw(TIMES)))
        stream.append(wire.wal_data(wire.begin(lsn, xid=draw(st.integers(0, 2**32 - 1)))))
        for _ in range(draw(st.integers(0, 8))):
            oid = draw(st.integers(1, 3))
            if oid not in known or draw(st.integers(0, 9)) == 0:
                if draw(st.booleans()):
                    stream.append(wire.wal_data(wire.type_name(16400, draw(NAMES), draw(NAMES))))
                known[oid] = draw(relations(oid))
                stream.append(wire.wal_data(wire.relation(known[oid])))
            stream.append(wire.wal_data(draw(changes(known[oid], list(known.values())))))
            if draw(st.integers(0, 3)) == 0:
                stream.append(wire.wal_data(draw(messages(lsn=lsn - 4, transactional=True))))
            if draw(st.integers(0, 9)) == 0:
                stream.append(wire.keepalive(draw(st.integers(0, 2**64 - 1)), reply=draw(st.booleans())))
        stream.append(wire.wal_data(wire.commit(lsn, lsn + 8)))
        lsn += draw(st.integers(1, 100)) * 8
    return stream


def messages(*, lsn: int, transactional: bool) -> st.SearchStrategy[bytes]:
    return st.builds(
        lambda prefix, content: wire.logical_message(prefix, content, lsn=lsn, transactional=transactional),
        st.sampled_from(["orders.paid", "orders.é", "other", "", "cdcflow.x"]),
        st.one_of(st.binary(max_size=12), st.text(max_size=8).map(lambda text: text.encode())),
    )


@st.composite
def changes(draw: st.DrawFn, relation: Relation, known: list[Relation]) -> bytes:
    width = len(relation.columns)
    row = draw(st.lists(VALUES, min_size=width, max_size=width))
    partial = [UNCHANGED if draw(st.booleans()) else value for value in row]
    old = draw(st.lists(VALUES, min_size=width, max_size=width))
    kind = draw(st.sampled_from(["insert", "update", "partial", "moved", "delete", "truncate"]))
    if kind == "insert":
        return wire.insert(relation, row)
    if kind == "update":
        return wire.update(relation, row)
    if kind == "partial":
        return wire.update(relation, partial)
    if kind == "moved":
        return wire.update(relation, partial, old=old)
    if kind == "delete":
        return wire.delete(relation, old)
    return wire.truncate(
        draw(st.lists(st.sampled_from(known), min_size=1, max_size=3)), draw(st.integers(0, 3))
    )


def run(module: Any, stream: list[bytes], chunk: int, take: int, skip: Position) -> tuple[Any, ...]:
    """Everything that can be seen of a decoder: batches, state, and the error if there is one."""
    decoder = module.Decoder(skip, PREFIXES)
    batches: list[Batch] = []
    error = None
    try:
        for start in range(0, len(stream), chunk):
            decoder.feed(stream[start : start + chunk])
            if decoder.rows >= take:
                while (batch := decoder.take()) is not None:
                    batches.append(batch)
        while (batch := decoder.take()) is not None:
            batches.append(batch)
    except DecodeError as caught:
        error = (caught.reason, caught.offset)
    state = (
        decoder.rows,
        decoder.nbytes,
        decoder.wal_end,
        bool(decoder.reply_requested),
        bool(decoder.in_transaction),
        decoder.committed,
    )
    return batches, error, state


def assert_same(stream: list[bytes], chunk: int, take: int, skip: Position) -> None:
    expected, expected_error, expected_state = run(twin, stream, chunk, take, skip)
    found, found_error, found_state = run(_kernel, stream, chunk, take, skip)
    assert found_error == expected_error
    if expected_error is None:
        assert found_state == expected_state
    assert len(found) == len(expected)
    for ours, theirs in zip(found, expected, strict=True):
        assert (ours.count, ours.last, ours.committed, dict(ours.truncates)) == (
            theirs.count,
            theirs.last,
            theirs.committed,
            dict(theirs.truncates),
        )
        assert len(ours.groups) == len(theirs.groups)
        for a, b in zip(ours.groups, theirs.groups, strict=True):
            a.data.validate(full=True)
            assert a.relation == b.relation
            assert (a.old, a.unchanged) == (b.old, b.unchanged)
            assert a.data.equals(b.data)


CUTS = {"chunk": st.integers(1, 9), "take": st.integers(1, 9)}


@given(
    stream=sessions(), skip=st.sampled_from([Position(0, 0), Position(8, 1), Position(1 << 20, 2)]), **CUTS
)
@settings(deadline=None)
def test_both_decoders_read_valid_sessions_alike(
    stream: list[bytes], skip: Position, chunk: int, take: int
) -> None:
    assert_same(stream, chunk, take, skip)


@given(stream=sessions(), data=st.data(), **CUTS)
@settings(deadline=None)
def test_positions_increase_and_a_decoder_that_resumes_brings_exactly_the_rest(
    stream: list[bytes], data: st.DataObject, chunk: int, take: int
) -> None:
    batches, error, _ = run(_kernel, stream, chunk, take, Position(0, 0))
    assert error is None
    everything = [(c.position, c.op) for batch in batches for c in batch.changes()]
    positions = [position for position, _ in everything]
    assert positions == sorted(set(positions))
    at = data.draw(st.integers(0, len(everything)))
    last = positions[at - 1] if at else Position(0, 0)
    for module in (twin, _kernel):
        rest, error, _ = run(module, stream, chunk, take, last)
        assert error is None
        assert [(c.position, c.op) for batch in rest for c in batch.changes()] == everything[at:]


@given(stream=sessions(), data=st.data(), **CUTS)
@settings(deadline=None, max_examples=300)
def test_both_decoders_fail_alike_on_mutated_and_truncated_bytes(
    stream: list[bytes], data: st.DataObject, chunk: int, take: int
) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        number = data.draw(st.integers(0, len(stream) - 1))
        frame = bytearray(stream[number])
        if data.draw(st.booleans()):
            del frame[data.draw(st.integers(0, len(frame))) :]
        elif frame:
            frame[data.draw(st.integers(0, len(frame) - 1))] = data.draw(st.integers(0, 255))
        stream[number] = bytes(frame)
    assert_same(stream, chunk, take, Position(0, 0))


@given(stream=st.lists(st.binary(max_size=80), max_size=5))
def test_both_decoders_fail_alike_on_noise(stream: list[bytes]) -> None:
    assert_same(stream, 2, 2, Position(0, 0))


@given(lines=st.lists(st.binary(max_size=40), max_size=8), terminated=st.booleans())
def test_both_decoders_read_copy_rows_alike(lines: list[bytes], terminated: bool) -> None:
    relation = Relation(1, "public", "t", "d", (Column("a", 25), Column("b", 25)))
    rows = [line + (b"\n" if terminated else b"") for line in lines]
    seen = []
    for module in (twin, _kernel):
        decoder = module.CopyDecoder(relation, 7, 8)
        outcomes: list[Any] = []
        for row in rows:
            try:
                decoder.feed([row])
            except DecodeError as error:
                outcomes.append((error.reason, error.offset))
                break
        else:
            batch = decoder.take()
            outcomes.append(None if batch is None else batch.groups[0].data.to_pylist())
        seen.append((outcomes, decoder.rows))
    assert seen[0] == seen[1]


FIELDS = st.one_of(st.none(), st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12))


@given(rows=st.lists(st.tuples(FIELDS, FIELDS), max_size=20), block=st.integers(1, 7))
def test_copy_text_comes_back_as_it_was(rows: list[tuple[str | None, str | None]], block: int) -> None:
    escapes = {"\\": "\\\\", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}

    def field(value: str | None) -> str:
        return "\\N" if value is None else "".join(escapes.get(c, c) for c in value)

    relation = Relation(1, "public", "t", "d", (Column("a", 25), Column("b", 25)))
    for module in (twin, _kernel):
        decoder = module.CopyDecoder(relation, 7, 8)
        lines = [f"{field(a)}\t{field(b)}\n".encode() for a, b in rows]
        decoder.feed(b"".join(lines[i : i + block]) for i in range(0, len(lines), block))
        assert (decoder.rows, decoder.nbytes) == (len(lines), sum(map(len, lines)))
        batch = decoder.take()
        found = [] if batch is None else [tuple((c.new or {}).values()) for c in batch.changes()]
        assert found == rows
