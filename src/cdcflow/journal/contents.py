"""What frames hold: batches, progress and the start of a segment, to and from headers and bodies.

A group of a batch is one encapsulated Arrow IPC message without its schema, which follows from the
relation. The message is compressed as a whole, one LZ4 frame, where that makes it smaller. Measured
with 8 columns of text: against compressing each Arrow buffer (what IPC itself offers) it costs a fifth
less to write, and to read it takes 6 µs instead of 140 µs for a single row and a quarter for 5,000.
Even a single row shrinks to less than half, because the message's metadata does.

A chunk of a backfill is packed by another process before its place is known: the table's columns alone.
The frame's header says at which position the rows begin, which of them were dropped, and what is the same
for all.
"""

from collections.abc import Container, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.errors import JournalError
from cdcflow.journal.frame import DEFINES, Kind, Piece, Prefix, aligned, encode
from cdcflow.journal.layout import FORMAT, Identity
from cdcflow.journal.ledger import Ledger, Step
from cdcflow.model import META, ORIGIN, Batch, Group, Op, Position, Relation

#: A negative level looks for less of what repeats (LZ4 calls it acceleration, and it is one more): what this
#: makes is 1 to 5 % larger, for 10 to 40 % less time, most where values hardly repeat. Beyond it grows fast.
_LZ4 = pa.Codec("lz4", compression_level=-8)

#: A message is stored compressed when that saves at least a tenth; else it is read without a copy.
_WORTH = 0.9

#: What a row takes in memory beside the table's columns.
_META_BYTES = sum(kind.bit_width // 8 for _, kind in META)

_OLD = 1
_UNCHANGED = 2


@dataclass(frozen=True)
class Tail:
    """Where a journal ends: the next offset, the position and transaction of the last change, and the
    highest LSN up to which it is known to hold everything, progress included."""

    offset: int = 0
    last: Position = ORIGIN
    last_xid: int = 0
    committed: int = 0

    @property
    def whole(self) -> bool:
        """Whether no more of the last change's transaction can come. A message of no transaction, which is
        known by its ordinal 0, is whole by itself."""
        return self.committed > self.last.commit_lsn or self.last.ordinal == 0


@dataclass(frozen=True)
class Payload:
    """A batch made ready to be written, before its place is known."""

    batch: Batch
    pieces: list[Piece]
    #: Per group: fingerprint, flags, rows, bytes in the body, bytes when decompressed (0: it is plain).
    groups: list[list[Any]]
    first: Position
    last_xid: int
    times: tuple[int, int]
    weight: int

    @property
    def size(self) -> int:
        return sum(aligned(stored) for _, _, _, stored, _ in self.groups)


@dataclass(frozen=True)
class Packed:
    """Rows of one relation, serialised and compressed where that is worth it, without their place.
    `plain` is their size when decompressed (0: they are not compressed), `time` the moment they are of,
    in microseconds since 1970."""

    relation: Relation
    unchanged: bool
    rows: int
    message: pa.Buffer
    plain: int
    weight: int
    time: int


@dataclass(frozen=True)
class Chunk:
    """A chunk of a backfill in its place: the kept rows stand at `first` and the ordinals behind it.
    `dropped` are the indexes of rows that are not part of it. `audience`: the only flows that get it;
    empty: all."""

    packed: Packed
    dropped: tuple[int, ...]
    first: Position
    committed: int
    step: Step
    audience: tuple[str, ...] = ()

    @property
    def count(self) -> int:
        return self.packed.rows - len(self.dropped)

    @property
    def last(self) -> Position:
        return Position(self.first.commit_lsn, self.first.ordinal + self.count - 1)


def pack(group: Group) -> Packed:
    """Serialises the rows that a backfill has read. Their `commit_lsn` and `ordinal` do not matter."""
    columns = group.data.select(range(len(META), group.data.num_columns))
    message, plain, weight = _squeeze(columns)
    weight += len(group) * _META_BYTES
    time = group.meta("commit_time")[0].as_py()
    return Packed(group.relation, group.unchanged, len(group), message, plain, weight, time)


def _squeeze(data: pa.RecordBatch) -> tuple[pa.Buffer, int, int]:
    """The message to be stored, its size when decompressed (0: it is not compressed), and in memory."""
    message = data.serialize()
    squeezed = _LZ4.compress(message)
    small = squeezed.size < message.size * _WORTH
    return (squeezed, message.size, message.size) if small else (message, 0, message.size)


def prepare(batch: Batch) -> Payload:
    """Serialises and compresses, which is nearly all the work and is done without the GIL.

    Raises JournalError when the batch is not a whole run: fewer rows than offsets, or a last row that
    does not stand at `batch.last`.
    """
    pieces: list[Piece] = []
    groups: list[list[Any]] = []
    first: Position | None = None
    last = ORIGIN
    xid = weight = rows = 0
    times: list[int] = []
    for group in batch.groups:
        count = len(group)
        if not count:
            continue
        lowest, highest = _position(group, 0), _position(group, count - 1)
        first = lowest if first is None else min(first, lowest)
        if highest > last:
            last, xid = highest, group.meta("xid")[count - 1].as_py()
        spread = pc.min_max(group.meta("commit_time")).as_py()
        times += (spread["min"], spread["max"])
        stored, plain, size = _squeeze(group.data)
        flags = _OLD * group.old | _UNCHANGED * group.unchanged
        groups.append([group.relation.fingerprint, flags, count, stored.size, plain])
        pieces.append(stored)
        weight += size
        rows += count
    if first is None or rows != batch.count or last != batch.last:
        raise JournalError(
            f"a batch of {batch.count} changes up to {batch.last} cannot be journaled: "
            f"it holds {rows} rows up to {last}"
        )
    return Payload(batch, pieces, groups, first, xid, (min(times), max(times)), weight)


def changes_frame(
    payload: Payload, base: int, known: Container[str], synced: int, step: Step | None = None
) -> tuple[list[Piece], int]:
    """The frame of a batch whose first change has offset `base`. It defines the relations that are not
    `known`, by fingerprint, in this segment. `step` is what it says to the ledger."""
    batch = payload.batch
    relations = {g.relation.fingerprint: g.relation for g in batch.groups if len(g)}
    defined = {name: relation.to_state() for name, relation in relations.items() if name not in known}
    header = {
        "first": list(payload.first),
        "last": list(batch.last),
        "xid": payload.last_xid,
        "committed": batch.committed,
        "times": list(payload.times),
        "truncates": [[index, bits] for index, bits in batch.truncates.items()],
        "groups": payload.groups,
        "relations": defined,
    }
    if batch.audience:
        header["audience"] = list(batch.audience)
    if step is not None:
        header["step"] = step.to_state()
    return encode(
        Kind.CHANGES,
        header,
        payload.pieces,
        base=base,
        count=batch.count,
        weight=payload.weight,
        synced=synced,
        flags=DEFINES if defined else 0,
    )


def chunk_frame(chunk: Chunk, base: int, known: Container[str], synced: int) -> tuple[list[Piece], int]:
    """The frame of a chunk with at least one row, as `changes_frame`."""
    packed = chunk.packed
    relation = packed.relation
    defined = {} if relation.fingerprint in known else {relation.fingerprint: relation.to_state()}
    flags = _UNCHANGED * packed.unchanged
    header = {
        "first": list(chunk.first),
        "last": list(chunk.last),
        "xid": 0,
        "committed": chunk.committed,
        "times": [packed.time, packed.time],
        "truncates": [],
        "groups": [[relation.fingerprint, flags, packed.rows, packed.message.size, packed.plain]],
        "relations": defined,
        "at": list(chunk.first),
        "dropped": list(chunk.dropped),
        "step": chunk.step.to_state(),
    }
    if chunk.audience:
        header["audience"] = list(chunk.audience)
    return encode(
        Kind.CHANGES,
        header,
        [packed.message],
        base=base,
        count=chunk.count,
        weight=packed.weight,
        synced=synced,
        flags=DEFINES if defined else 0,
    )


def progress_frame(
    base: int, committed: int, time_us: int, synced: int, step: Step | None = None
) -> tuple[list[Piece], int]:
    header: dict[str, Any] = {"committed": committed, "time": time_us}
    if step is not None:
        header["step"] = step.to_state()
    return encode(Kind.PROGRESS, header, base=base, synced=synced)


def segment_frame(
    identity: Identity, tail: Tail, time_us: int, ledger: Ledger | None = None
) -> tuple[list[Piece], int]:
    """The first frame of a segment that starts at `tail`."""
    header = {
        "format": FORMAT,
        "identity": {
            "system_identifier": identity.system_identifier,
            "timeline": identity.timeline,
            "database": identity.database,
            "slot": identity.slot,
            "publication": identity.publication,
        },
        "last": list(tail.last),
        "xid": tail.last_xid,
        "committed": tail.committed,
        "time": time_us,
    }
    if ledger is not None:
        header["ledger"] = ledger.to_state()
    return encode(Kind.SEGMENT, header, base=tail.offset)


def following(tail: Tail, prefix: Prefix, header: Mapping[str, Any]) -> Tail:
    """The tail behind a frame, given the one before it."""
    if prefix.kind == Kind.PROGRESS:
        return Tail(tail.offset, tail.last, tail.last_xid, max(tail.committed, header["committed"]))
    committed = max(tail.committed, header["committed"])
    return Tail(prefix.end, Position(*header["last"]), header["xid"], committed)


def defined_relations(header: Mapping[str, Any]) -> dict[str, Relation]:
    """The relations that a frame of changes defines, by fingerprint."""
    return {name: Relation.from_state(state) for name, state in header["relations"].items()}


def decode_batch(
    prefix: Prefix, header: Mapping[str, Any], frame: pa.Buffer, relations: Mapping[str, Relation]
) -> Batch:
    """The batch of a frame of changes. Columns of messages that are not compressed are views of `frame`.

    Raises KeyError when a relation is missing from `relations`, and pyarrow.ArrowInvalid or ValueError
    when a message does not fit its relation.
    """
    groups = []
    at = prefix.body_at
    for name, flags, _, stored, plain in header["groups"]:
        relation = relations[name]
        old, unchanged = bool(flags & _OLD), bool(flags & _UNCHANGED)
        message = frame.slice(at, stored)
        if plain:
            message = _LZ4.decompress(message, plain)
        schema = Group.schema(relation, old=old, unchanged=unchanged)
        if "at" in header:
            data = _placed(message, schema, header)
        else:
            data = pa.ipc.read_record_batch(message, schema)
        groups.append(Group(relation, data, old, unchanged))
        at += aligned(stored)
    return Batch(
        groups=tuple(groups),
        count=prefix.count,
        last=Position(*header["last"]),
        committed=header["committed"],
        base=prefix.base,
        truncates=dict(header["truncates"]),
        audience=tuple(header.get("audience", ())),
    )


def _placed(message: pa.Buffer, schema: pa.Schema, header: Mapping[str, Any]) -> pa.RecordBatch:
    """The rows of a chunk without the dropped ones, in their place."""
    fields = [schema.field(i) for i in range(len(META), len(schema))]
    data = pa.ipc.read_record_batch(message, pa.schema(fields))
    if header["dropped"]:
        lost = pa.array(header["dropped"], pa.uint64())
        data = data.filter(pc.invert(pc.is_in(_numbers(data.num_rows), value_set=lost)))
    rows, first = data.num_rows, Position(*header["at"])
    numbers = _numbers(rows)
    meta = {
        "index": numbers.cast(pa.uint32()),
        "ordinal": pc.add(numbers, pa.scalar(first.ordinal, pa.uint64())),
    }
    same = {"op": Op.READ, "commit_lsn": first.commit_lsn, "xid": 0, "commit_time": header["times"][0]}
    for name, kind in META:
        if name in same:
            meta[name] = pa.repeat(pa.scalar(int(same[name]), kind), rows)
    arrays = [*(meta[name] for name, _ in META), *data.columns]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _numbers(count: int) -> pa.Array:
    """0, 1, 2 … as uint64, which Arrow has no shorter word for."""
    return pc.indices_nonzero(pa.repeat(pa.scalar(True, pa.bool_()), count))


def _position(group: Group, row: int) -> Position:
    return Position(group.meta("commit_lsn")[row].as_py(), group.meta("ordinal")[row].as_py())
