"""Whatever is written comes back the same, in any pieces, from any place, after any restart."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from cdcflow.errors import JournalDamaged
from cdcflow.journal import Reader, Writer, inspect, verify
from cdcflow.model import UNCHANGED, Batch, Op, Position, Relation, ReplicaIdentity, Value
from cdcflow.testing.batches import Made, Row, batch_of, make_relation
from cdcflow.testing.journals import IDENTITY, Seen, crash_image, seen

#: What Postgres can send: any text without NUL. Long ones make frames that are read in another way.
TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12) | st.builds(
    lambda text, times: text * times,
    st.text("aäß€\U0001f600 ,", min_size=1, max_size=4),
    st.integers(1, 30_000),
)

IDENTITIES: st.SearchStrategy[ReplicaIdentity] = st.sampled_from(["d", "i", "f", "n"])


@st.composite
def relations(draw: st.DrawFn) -> Relation:
    names = draw(st.lists(st.text("abcäöü", min_size=1, max_size=3), min_size=1, max_size=10, unique=True))
    identity = draw(IDENTITIES)
    key = [] if identity == "n" else draw(st.lists(st.sampled_from(names), max_size=3, unique=True))
    name = draw(st.sampled_from(["orders", "Größe", "a.b"]))
    return make_relation(name, names, key=key, oid=draw(st.integers(1, 2**32 - 1)), replica_identity=identity)


@st.composite
def rows(draw: st.DrawFn, relation: Relation, *, unchanged: bool) -> Row:
    kinds: st.SearchStrategy[Value] = st.none() | TEXTS
    if unchanged:
        kinds |= st.just(UNCHANGED)
    return {name: draw(kinds) for name in relation.names}


@st.composite
def batches(draw: st.DrawFn, tables: list[Relation], after: Position) -> Batch:
    changes: list[Made] = []
    position = after
    for _ in range(draw(st.integers(1, 6))):
        relation = draw(st.sampled_from(tables))
        op = draw(st.sampled_from(Op))
        if draw(st.booleans()):
            position = Position(position.commit_lsn + draw(st.integers(1, 2**40)), 1)
        else:
            position = Position(position.commit_lsn, position.ordinal + draw(st.integers(1, 3)))
        new = None if op in (Op.DELETE, Op.TRUNCATE) else draw(rows(relation, unchanged=op is Op.UPDATE))
        old = None
        if op in (Op.UPDATE, Op.DELETE) and relation.key and draw(st.booleans()):
            everything = draw(rows(relation, unchanged=False))
            old = {relation.names[i]: everything[relation.names[i]] for i in relation.key}
        changes.append(
            Made(
                relation,
                op,
                new,
                old,
                position,
                xid=draw(st.integers(0, 2**32 - 1)),
                commit_time=draw(st.integers(-(2**62), 2**62)),
                truncate=draw(st.integers(0, 3)) if op is Op.TRUNCATE else 0,
            )
        )
    return batch_of(changes, committed=draw(st.sampled_from([0, position.commit_lsn + 8])))


@dataclass(frozen=True)
class Step:
    """A batch, and what is done behind it."""

    batch: Batch
    then: str


@st.composite
def histories(draw: st.DrawFn) -> list[Step]:
    tables = draw(st.lists(relations(), min_size=1, max_size=3))
    steps: list[Step] = []
    last = Position(draw(st.integers(1, 2**50)), 0)
    for _ in range(draw(st.integers(1, 6))):
        batch = draw(batches(tables, last))
        last = batch.last
        steps.append(Step(batch, draw(st.sampled_from(["nothing", "sync", "progress", "reopen"]))))
    return steps


SEGMENT_SIZES = st.sampled_from([1, 700, 3000, 1 << 20])


@contextmanager
def folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def write(path: Path, history: list[Step], segment_bytes: int) -> list[Seen]:
    """Plays the history; returns the changes as the writer took them in."""
    writer = Writer.open(path, IDENTITY, segment_bytes=segment_bytes)
    expected: list[Seen] = []
    try:
        for step in history:
            stored = writer.append(step.batch)
            assert stored.base == len(expected)
            expected += seen(stored)
            if step.then == "sync":
                writer.sync()
            elif step.then == "progress":
                writer.progress(step.batch.last.commit_lsn + 9, 1)
            elif step.then == "reopen":
                writer.close()
                writer = Writer.open(path, IDENTITY, segment_bytes=segment_bytes)
                assert writer.tail.offset == len(expected)
                assert writer.tail.last == step.batch.last
    finally:
        writer.close()
    return expected


@settings(deadline=None, max_examples=60)
@given(histories(), SEGMENT_SIZES, st.data())
def test_what_is_read_in_any_pieces_is_what_was_written(
    history: list[Step], segment_bytes: int, data: st.DataObject
) -> None:
    with folder() as path:
        expected = write(path, history, segment_bytes)
        assert list(verify(path)) == []
        infos = inspect(path)
        assert [info.base for info in infos] == [0, *(info.end for info in infos[:-1])]
        assert infos[-1].end == len(expected)
        got: list[Seen] = []
        reader = Reader(path)
        while len(got) < len(expected):
            found = reader.read(
                len(got),
                max_changes=data.draw(st.integers(1, 20)),
                max_bytes=data.draw(st.sampled_from([1, 1000, 1 << 30])),
            )
            assert found
            for batch in found:
                assert batch.base == len(got)
                keep = data.draw(st.integers(1, batch.count))
                got += seen(batch.slice(0, keep))
                if keep < batch.count:
                    break
            if data.draw(st.booleans()):
                reader.close()
                reader = Reader(path)
        assert reader.read(len(got), max_changes=1, max_bytes=1) == []
        reader.close()
        assert got == expected


@settings(deadline=None, max_examples=60)
@given(histories(), SEGMENT_SIZES, st.data())
def test_a_journal_cut_anywhere_behind_its_last_sync_keeps_all_that_was_synced(
    history: list[Step], segment_bytes: int, data: st.DataObject
) -> None:
    with folder() as path:
        expected: list[Seen] = []
        with Writer.open(path / "a", IDENTITY, segment_bytes=segment_bytes) as writer:
            synced = 0
            durable: dict[str, int] = {}
            for step in history:
                expected += seen(writer.append(step.batch))
                if step.then != "nothing":
                    writer.sync()
                    synced = len(expected)
                    durable = {file.name: file.stat().st_size for file in (path / "a").glob("*.seg")}
            crashed = crash_image(path / "a", path / "b")
        last = max(crashed.glob("*.seg"))
        size = last.stat().st_size
        with last.open("r+b") as file:
            file.truncate(data.draw(st.integers(durable.get(last.name, 0), size)))
        with Writer.open(crashed, IDENTITY, segment_bytes=segment_bytes) as writer:
            kept = writer.tail.offset
            assert synced <= kept <= len(expected)
            assert writer.lost == 0
            # What was cut is sent again by the source, and is then there exactly once.
            rest = [step.batch for step in history if step.batch.last > writer.tail.last]
            for batch in rest:
                writer.append(batch)
        with Reader(crashed) as reader:
            got: list[Seen] = []
            while found := reader.read(len(got), max_changes=100, max_bytes=1 << 30):
                for batch in found:
                    got += seen(batch)
        assert got == expected
        assert list(verify(crashed)) == []


@settings(deadline=None, max_examples=60)
@given(histories(), SEGMENT_SIZES, st.data())
def test_a_flipped_bit_is_reported_and_its_frame_is_never_returned(
    history: list[Step], segment_bytes: int, data: st.DataObject
) -> None:
    with folder() as path:
        expected = write(path, history, segment_bytes)
        files = sorted(path.glob("*.seg"))
        file = data.draw(st.sampled_from(files))
        content = bytearray(file.read_bytes())
        at = data.draw(st.integers(0, len(content) - 1))
        content[at] ^= 1 << data.draw(st.integers(0, 7))
        file.write_bytes(content)
        found = list(verify(path))
        assert [damage.segment for damage in found] == [file.name]
        assert found[0].at <= at
        for offset in range(len(expected)):
            with Reader(path) as reader:
                try:
                    got = [
                        s for b in reader.read(offset, max_changes=1000, max_bytes=1 << 30) for s in seen(b)
                    ]
                except JournalDamaged:
                    continue
                assert got == expected[offset : offset + len(got)]
