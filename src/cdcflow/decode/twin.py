"""The decoder in plain Python: the meaning of `_kernel.pyx`, statement by statement, without a compiler.

A property test feeds both the same valid, mutated and truncated bytes: they give equal batches, or the
same DecodeError at the same offset.
"""

import struct
from collections import deque
from collections.abc import Iterable, Sequence

import pyarrow as pa

from cdcflow.decode import messages
from cdcflow.decode.messages import ENVELOPE, EPOCH, MAX_BATCH_BYTES, MAX_TIMESTAMP, Cursor
from cdcflow.errors import DecodeError
from cdcflow.model import MESSAGES, ORIGIN, Batch, Group, Op, Position, PrefixPatterns, Relation

_U64 = struct.Struct(">Q")
_U32 = struct.Struct(">I")
_LENGTH = struct.Struct(">i")

_NEW, _KEY, _OLD = ord("N"), ord("K"), ord("O")
_NULL, _UNCHANGED, _TEXT = ord("n"), ord("u"), ord("t")


class _Columns:
    """The changes of one relation since the last batch, column by column."""

    def __init__(self, relation: Relation) -> None:
        self.relation = relation
        self.clear()

    def clear(self) -> None:
        self.rows = 0
        self.meta: list[list[int]] = [[] for _ in range(6)]
        self.new: list[list[str | None]] = [[] for _ in self.relation.columns]
        self.has_old: list[bool] = []
        self.old: dict[int, list[str | None]] = {i: [] for i in self.relation.key}
        self.unchanged: list[bytes | None] = []
        self.any_old = False
        self.any_unchanged = False

    def group(self) -> Group:
        schema = Group.schema(self.relation, old=self.any_old, unchanged=self.any_unchanged)
        columns: list[Sequence[object]] = [*self.meta, *self.new]
        if self.any_old:
            columns += [self.has_old, *self.old.values()]
        if self.any_unchanged:
            columns.append(self.unchanged)
        arrays = [pa.array(column, field.type) for column, field in zip(columns, schema, strict=True)]
        data = pa.RecordBatch.from_arrays(arrays, schema=schema)
        return Group(self.relation, data, self.any_old, self.any_unchanged)


class Decoder:
    """Turns replication messages into batches. Does no I/O and keeps no clock.

    `skip_to` is where the journal ends: changes at or before it are read, counted and dropped. So are
    logical messages but for those that `prefixes` mean: every transactional message counts, kept or not,
    so that ordinals depend on what the server sends alone. After a DecodeError the decoder is of no more
    use: every later call raises the same error.
    """

    def __init__(self, skip_to: Position = ORIGIN, prefixes: PrefixPatterns | None = None) -> None:
        #: Changes held for the next batch.
        self.rows = 0
        #: Bytes of the messages read since the last batch.
        self.nbytes = 0
        #: The furthest WAL position that the server has named.
        self.wal_end = 0
        #: A keepalive asked for a reply; whoever replies sets it back.
        self.reply_requested = False
        self.in_transaction = False
        #: End LSN of the last complete transaction or message outside of any, 0 before the first.
        self.committed = 0
        self._prefixes = prefixes or PrefixPatterns()
        self._skip = skip_to
        self._commit_lsn = 0
        self._ordinal = 0
        self._xid = 0
        self._commit_time = 0
        self._last = skip_to
        self._relations: dict[int, _Columns] = {}
        self._columns: dict[str, _Columns] = {}
        self._types: dict[int, str] = {}
        self._truncates: dict[int, int] = {}
        self._sealed: deque[Batch] = deque()
        self._error: DecodeError | None = None

    @property
    def sealed(self) -> int:
        """Batches that are complete because a table's shape changed behind them, waiting for `take`."""
        return len(self._sealed)

    def feed(self, frames: Sequence[bytes | memoryview]) -> None:
        """Reads the payloads of CopyData messages, in order. Raises DecodeError."""
        if self._error is not None:
            raise self._error
        try:
            for frame in frames:
                self._frame(bytes(frame))
        except DecodeError as error:
            self._error = error
            raise

    def take(self) -> Batch | None:
        """The changes read so far as a batch, or None where there are none.

        A batch holds one generation of a table at most, so there may be another one behind it. Raises the
        DecodeError that ended an earlier `feed`.
        """
        if self._error is not None:
            raise self._error
        if self._sealed:
            return self._sealed.popleft()
        self._seal()
        return self._sealed.popleft() if self._sealed else None

    def _seal(self) -> None:
        self.nbytes = 0
        if not self.rows:
            return
        filled = [columns for columns in self._columns.values() if columns.rows]
        batch = Batch(
            groups=tuple(columns.group() for columns in filled),
            count=self.rows,
            last=self._last,
            committed=self.committed,
            truncates=self._truncates,
        )
        for columns in filled:
            columns.clear()
        self.rows = 0
        self._truncates = {}
        self._sealed.append(batch)

    def _frame(self, data: bytes) -> None:
        if not data:
            raise DecodeError("message is empty", 0)
        self.nbytes += len(data)
        if self.nbytes > MAX_BATCH_BYTES:
            raise DecodeError("a batch would exceed 2 GiB", 0)
        kind = data[0]
        if kind == ord("w"):
            if len(data) <= ENVELOPE:
                raise DecodeError("message ends inside WAL data", len(data))
            self.wal_end = max(self.wal_end, _U64.unpack_from(data, 9)[0])
            self._message(data)
        elif kind == ord("k"):
            if len(data) != 18:
                raise DecodeError("keepalive has the wrong length", len(data))
            self.wal_end = max(self.wal_end, _U64.unpack_from(data, 1)[0])
            if data[17]:
                self.reply_requested = True
        else:
            raise DecodeError(f"unknown replication message {kind}", 0)

    def _message(self, data: bytes) -> None:
        kind = data[ENVELOPE]
        pos = ENVELOPE + 1
        if kind == ord("I"):
            columns, pos = self._relation(data, pos)
            stored = self._begin_row(columns, Op.INSERT)
            pos = self._expect_new(data, pos)
            pos = self._new_tuple(data, pos, columns, stored)
            if stored:
                self._no_old(columns)
        elif kind == ord("U"):
            columns, pos = self._relation(data, pos)
            stored = self._begin_row(columns, Op.UPDATE)
            if pos < len(data) and data[pos] in (_KEY, _OLD):
                pos = self._old_tuple(data, pos, columns, stored)
            elif stored:
                self._no_old(columns)
            pos = self._expect_new(data, pos)
            pos = self._new_tuple(data, pos, columns, stored)
        elif kind == ord("D"):
            columns, pos = self._relation(data, pos)
            stored = self._begin_row(columns, Op.DELETE)
            pos = self._old_tuple(data, pos, columns, stored)
            if stored:
                self._no_new(columns)
        elif kind == ord("B"):
            pos = self._begin(data, pos)
        elif kind == ord("C"):
            pos = self._commit(data, pos)
        else:
            self._rare(data, kind, pos)
            return
        if pos != len(data):
            raise DecodeError("bytes are left behind the message", pos)

    def _begin(self, data: bytes, pos: int) -> int:
        if self.in_transaction:
            raise DecodeError("begin inside a transaction", ENVELOPE)
        cursor = Cursor(data, pos)
        self._commit_lsn = cursor.u64("final LSN")
        at = cursor.pos
        stamp = cursor.i64("commit time")
        if stamp > MAX_TIMESTAMP:
            raise DecodeError("commit time is out of range", at)
        self._commit_time = stamp + EPOCH
        self._xid = cursor.u32("xid")
        self._ordinal = 0
        self.in_transaction = True
        return cursor.pos

    def _commit(self, data: bytes, pos: int) -> int:
        if not self.in_transaction:
            raise DecodeError("commit outside a transaction", ENVELOPE)
        cursor = Cursor(data, pos)
        cursor.u8("commit flags")
        at = cursor.pos
        if cursor.u64("commit LSN") != self._commit_lsn:
            raise DecodeError("commit LSN is not the one that begin announced", at)
        end = cursor.u64("end LSN")
        cursor.i64("commit time")
        if self._commit_lsn == self._skip.commit_lsn and self._ordinal < self._skip.ordinal:
            raise DecodeError("the transaction came again with fewer changes than the journal holds", at)
        self.committed = end
        self.in_transaction = False
        return cursor.pos

    def _rare(self, data: bytes, kind: int, pos: int) -> None:
        if kind == ord("R"):
            self._new_generation(messages.relation(data, pos, self._types))
        elif kind == ord("Y"):
            oid, name = messages.type_name(data, pos)
            self._types[oid] = name
        elif kind == ord("T"):
            truncation = messages.truncate(data, pos)
            for oid, at in truncation.relations:
                self._truncate(self._known(oid, at), truncation.options)
        elif kind == ord("O"):
            messages.origin(data, pos)
        elif kind == ord("M"):
            self._logical_message(messages.logical_message(data, pos), data)
        else:
            raise DecodeError(f"unknown message type {kind}", ENVELOPE)

    def _new_generation(self, relation: Relation) -> None:
        known = self._relations.get(relation.oid)
        if known is not None and known.relation == relation:
            # Announced again, the table may have been altered in ways that the message does not show:
            # what comes from here on has a relation object of its own, and batch, to be looked up.
            if known.rows:
                self._seal()
            known.relation = relation
            return
        columns = self._columns.get(relation.fingerprint)
        if columns is None:
            columns = _Columns(relation)
        # One generation of a table in a batch: also when the name has moved to another OID.
        superseded = [
            other
            for other in self._columns.values()
            if other is not columns
            and (other.relation.oid == relation.oid or other.relation.qualified == relation.qualified)
        ]
        if any(other.rows for other in superseded):
            self._seal()
        for other in superseded:
            del self._columns[other.relation.fingerprint]
            self._relations.pop(other.relation.oid, None)
        self._columns[relation.fingerprint] = columns
        self._relations[relation.oid] = columns

    def _truncate(self, columns: _Columns, options: int) -> None:
        if self._begin_row(columns, Op.TRUNCATE):
            self._truncates[self.rows - 1] = options
            self._no_new(columns)
            self._no_old(columns)

    def _logical_message(self, message: messages.LogicalMessage, data: bytes) -> None:
        if message.transactional is not self.in_transaction:
            raise messages.misplaced(message)
        if not message.transactional:
            self._commit_lsn, self._ordinal = message.lsn, -1
            self._xid, self._commit_time = 0, messages.send_time(data)
            # All that lies before its record's end has been sent.
            self.committed = max(self.committed, message.lsn)
        if not self._prefixes.matches(message.prefix):
            self._ordinal += 1
            return
        columns = self._columns.get(MESSAGES.fingerprint)
        if columns is None:
            columns = self._columns[MESSAGES.fingerprint] = _Columns(MESSAGES)
        if not self._begin_row(columns, Op.MESSAGE):
            return
        row = message.row()
        if row[1] is None:
            # Two digits for each byte, of which one is counted already.
            self.nbytes += len(message.content)
            if self.nbytes > MAX_BATCH_BYTES:
                raise DecodeError("a batch would exceed 2 GiB", 0)
        for column, value in zip(columns.new, row, strict=True):
            column.append(value)
        columns.unchanged.append(None)
        self._no_old(columns)

    def _known(self, oid: int, at: int) -> _Columns:
        columns = self._relations.get(oid)
        if columns is None:
            raise DecodeError(f"relation {oid} was never described", at)
        if not self.in_transaction:
            raise DecodeError("change outside a transaction", ENVELOPE)
        return columns

    def _relation(self, data: bytes, pos: int) -> tuple[_Columns, int]:
        if pos + 4 > len(data):
            raise DecodeError("message ends inside relation oid", pos)
        return self._known(_U32.unpack_from(data, pos)[0], pos), pos + 4

    def _begin_row(self, columns: _Columns, op: Op) -> bool:
        """Counts a change and, unless the journal has it, starts a row for it."""
        self._ordinal += 1
        position = Position(self._commit_lsn, self._ordinal)
        if position <= self._skip:
            return False
        self._last = position
        fields = (self.rows, op, self._commit_lsn, self._ordinal, self._xid, self._commit_time)
        for column, value in zip(columns.meta, fields, strict=True):
            column.append(int(value))
        columns.rows += 1
        self.rows += 1
        return True

    def _expect_new(self, data: bytes, pos: int) -> int:
        if pos >= len(data):
            raise DecodeError("message ends inside new row", pos)
        if data[pos] != _NEW:
            raise DecodeError(f"expected a new row, found byte {data[pos]}", pos)
        return pos + 1

    def _values(
        self, data: bytes, pos: int, relation: Relation, unchanged: bytearray | None
    ) -> tuple[list[str | None], int]:
        """TupleData at `pos`. Sets the bits of unchanged columns; None there makes them an error."""
        if pos + 2 > len(data):
            raise DecodeError("message ends inside column count", pos)
        count = int.from_bytes(data[pos : pos + 2], "big", signed=True)
        if count != len(relation.columns):
            raise DecodeError(f"row has {count} columns, its relation {len(relation.columns)}", pos)
        pos += 2
        size = len(data)
        values: list[str | None] = []
        for i in range(count):
            if pos >= size:
                raise DecodeError("message ends inside column kind", pos)
            kind = data[pos]
            pos += 1
            if kind == _TEXT:
                if pos + 4 > size:
                    raise DecodeError("message ends inside value length", pos)
                length = _LENGTH.unpack_from(data, pos)[0]
                if length < 0:
                    raise DecodeError(f"negative value length {length}", pos)
                pos += 4
                if pos + length > size:
                    raise DecodeError("message ends inside value", pos)
                values.append(messages.text(data, pos, pos + length, "value"))
                pos += length
            elif kind == _NULL:
                values.append(None)
            elif kind == _UNCHANGED and unchanged is not None:
                unchanged[i >> 3] |= 1 << (i & 7)
                values.append(None)
            else:
                raise DecodeError(f"unexpected column kind {kind}", pos - 1)
        return values, pos

    def _new_tuple(self, data: bytes, pos: int, columns: _Columns, stored: bool) -> int:
        bits = bytearray((len(columns.relation.columns) + 7) // 8)
        values, pos = self._values(data, pos, columns.relation, bits)
        if stored:
            for column, value in zip(columns.new, values, strict=True):
                column.append(value)
            columns.any_unchanged |= any(bits)
            columns.unchanged.append(bytes(bits) if any(bits) else None)
        return pos

    def _old_tuple(self, data: bytes, pos: int, columns: _Columns, stored: bool) -> int:
        if pos >= len(data):
            raise DecodeError("message ends inside old row", pos)
        wanted = _OLD if columns.relation.full else _KEY
        if data[pos] != wanted:
            raise DecodeError(f"expected an old row of kind {wanted}, found byte {data[pos]}", pos)
        values, pos = self._values(data, pos + 1, columns.relation, None)
        if stored:
            columns.any_old = True
            columns.has_old.append(True)
            for i, column in columns.old.items():
                column.append(values[i])
        return pos

    def _no_old(self, columns: _Columns) -> None:
        columns.has_old.append(False)
        for column in columns.old.values():
            column.append(None)

    def _no_new(self, columns: _Columns) -> None:
        for column in columns.new:
            column.append(None)
        columns.unchanged.append(None)


#: What COPY writes behind a backslash: "COPY", section "Text Format" of the manual.
_ESCAPES = {
    ord("b"): 8,
    ord("f"): 12,
    ord("n"): 10,
    ord("r"): 13,
    ord("t"): 9,
    ord("v"): 11,
    ord("\\"): ord("\\"),
}


class CopyDecoder:
    """Turns the rows of `COPY … TO STDOUT` (text format) into batches of `read` changes.

    All rows get `commit_lsn`; their ordinals go on from `ordinal`. `feed` takes CopyData payloads, one or
    several in a block: the server sends whole rows. Only DecodeError comes out.
    """

    def __init__(self, relation: Relation, commit_lsn: int, commit_time: int, ordinal: int = 0) -> None:
        self.rows = 0
        self.nbytes = 0
        #: The ordinal of the last row read.
        self.ordinal = ordinal
        self._commit_lsn = commit_lsn
        self._commit_time = commit_time
        self._columns = _Columns(relation)
        self._error: DecodeError | None = None

    def feed(self, blocks: Iterable[bytes | memoryview]) -> None:
        """Reads blocks of whole rows, in order. Raises DecodeError."""
        if self._error is not None:
            raise self._error
        try:
            for block in blocks:
                self._block(bytes(block))
        except DecodeError as error:
            self._error = error
            raise

    def take(self) -> Batch | None:
        """The rows read so far as a batch, or None where there are none."""
        if self._error is not None:
            raise self._error
        self.nbytes = 0
        if not self.rows:
            return None
        batch = Batch((self._columns.group(),), self.rows, Position(self._commit_lsn, self.ordinal))
        self._columns.clear()
        self.rows = 0
        return batch

    def _block(self, data: bytes) -> None:
        if not data.endswith(b"\n"):
            raise DecodeError("row does not end with a newline", len(data))
        self.nbytes += len(data)
        if self.nbytes > MAX_BATCH_BYTES:
            raise DecodeError("a batch would exceed 2 GiB", 0)
        pos = 0
        while pos < len(data):
            # A newline within a value is escaped.
            end = data.index(b"\n", pos)
            self._row(data, pos, end)
            pos = end + 1

    def _row(self, data: bytes, pos: int, end: int) -> None:
        columns = self._columns
        width = len(columns.new)
        values: list[str | None] = []
        if not width and pos != end:
            raise DecodeError("row does not have 0 columns", pos)
        for i in range(width):
            stop = data.find(b"\t", pos, end)
            if stop < 0:
                stop = end
            if (stop == end) != (i == width - 1):
                raise DecodeError(f"row does not have {width} columns", stop)
            values.append(self._field(data, pos, stop))
            pos = stop + 1
        self.ordinal += 1
        for column, value in zip(columns.new, values, strict=True):
            column.append(value)
        fields = (self.rows, Op.READ, self._commit_lsn, self.ordinal, 0, self._commit_time)
        for meta, number in zip(columns.meta, fields, strict=True):
            meta.append(int(number))
        columns.rows += 1
        self.rows += 1

    def _field(self, data: bytes, start: int, stop: int) -> str | None:
        if data.find(b"\\", start, stop) < 0:
            return messages.text(data, start, stop, "value")
        if data[start:stop] == b"\\N":
            return None
        plain = bytearray()
        pos = start
        while pos < stop:
            byte = data[pos]
            if byte == ord("\\"):
                escaped = _ESCAPES.get(data[pos + 1]) if pos + 1 < stop else None
                if escaped is None:
                    raise DecodeError("unknown escape", pos)
                plain.append(escaped)
                pos += 2
            else:
                plain.append(byte)
                pos += 1
        try:
            return plain.decode("utf-8")
        except UnicodeDecodeError as error:
            raise DecodeError("value is not UTF-8", start) from error
