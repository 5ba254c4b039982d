# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The decoder of `twin.py`, compiled: the same messages, the same batches, the same errors.

Rows go straight from the wire into per-column Arrow buffers (offsets, bytes, validity), which are
handed to Arrow without a copy. The rare messages are parsed by `messages.py` in both decoders.
"""

from collections import deque

import pyarrow as pa

from cdcflow.decode import messages
from cdcflow.errors import DecodeError
from cdcflow.model import MESSAGES, ORIGIN, Batch, Group, Position, PrefixPatterns

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int16_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memchr, memcpy, memset

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    static inline uint64_t be64(const unsigned char *p) {
        uint64_t v; memcpy(&v, p, 8); return __builtin_bswap64(v);
    }
    static inline uint32_t be32(const unsigned char *p) {
        uint32_t v; memcpy(&v, p, 4); return __builtin_bswap32(v);
    }
    static inline int16_t be16(const unsigned char *p) {
        return (int16_t)((uint16_t)p[0] << 8 | p[1]);
    }
    /* Eight bytes at a time: values are short, and nearly always ASCII. */
    static inline int is_ascii(const unsigned char *p, size_t n) {
        uint64_t seen = 0, word;
        while (n >= 8) { memcpy(&word, p, 8); seen |= word; p += 8; n -= 8; }
        while (n) { seen |= (uint64_t)*p++ ; n--; }
        return (seen & 0x8080808080808080ULL) == 0;
    }
    """
    uint64_t be64(const unsigned char *p) nogil
    uint32_t be32(const unsigned char *p) nogil
    int16_t be16(const unsigned char *p) nogil
    bint is_ascii(const unsigned char *p, size_t n) nogil

cdef Py_ssize_t ENVELOPE = messages.ENVELOPE
cdef int64_t EPOCH = messages.EPOCH
cdef int64_t MAX_TIMESTAMP = messages.MAX_TIMESTAMP
cdef int64_t MAX_BATCH_BYTES = messages.MAX_BATCH_BYTES

# Rows and bytes that a column starts with. Small, because most tables see few changes per batch;
# they double as they fill.
cdef Py_ssize_t FIRST_ROWS = 64
cdef Py_ssize_t FIRST_BYTES = 512

_META_TYPES = (pa.uint32(), pa.uint8(), pa.uint64(), pa.uint64(), pa.uint32(), pa.int64())
cdef object STRING = pa.string()
cdef object BINARY = pa.binary()
cdef object BOOL = pa.bool_()
cdef object array_from_buffers = pa.Array.from_buffers
cdef object py_buffer = pa.py_buffer


cdef class _Memory:
    """Owns malloc'ed memory and lends it out as a read-only buffer."""

    cdef void *pointer
    cdef Py_ssize_t size

    def __dealloc__(self):
        free(self.pointer)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.pointer, self.size, 1, flags)


cdef object lend(void *pointer, Py_ssize_t size):
    cdef _Memory memory = _Memory.__new__(_Memory)
    memory.pointer = pointer
    memory.size = size
    return py_buffer(memory)


cdef int grow(void **pointer, Py_ssize_t size) except -1:
    cdef void *moved = realloc(pointer[0], size)
    if moved == NULL:
        raise MemoryError
    pointer[0] = moved
    return 0


cdef struct Column:
    # An Arrow string column under construction; nothing is allocated before the first row.
    char *data
    Py_ssize_t length
    Py_ssize_t capacity
    int32_t *offsets
    uint8_t *valid
    Py_ssize_t nulls


cdef inline int append_bytes(Column *column, Py_ssize_t row, const unsigned char *value, Py_ssize_t size) except -1:
    cdef Py_ssize_t wanted = column.length + size
    if wanted > column.capacity:
        column.capacity = max(wanted, 2 * column.capacity, FIRST_BYTES)
        grow(<void **> &column.data, column.capacity)
    memcpy(column.data + column.length, value, size)
    column.length = wanted
    column.offsets[row + 1] = <int32_t> wanted
    column.valid[row >> 3] |= <uint8_t> (1 << (row & 7))
    return 0


cdef Py_ssize_t append_escaped(
    Column *column, Py_ssize_t row, const unsigned char *value, Py_ssize_t size
) except -2:
    """Appends a field of COPY's text format. Returns the place of an unknown escape in it, or -1."""
    cdef Py_ssize_t wanted = column.length + size
    cdef Py_ssize_t pos = 0
    cdef unsigned char *out
    cdef unsigned char byte
    if wanted > column.capacity:
        column.capacity = max(wanted, 2 * column.capacity, FIRST_BYTES)
        grow(<void **> &column.data, column.capacity)
    out = <unsigned char *> column.data + column.length
    while pos < size:
        byte = value[pos]
        pos += 1
        if byte == c"\\":
            if pos == size:
                return pos - 1
            byte = value[pos]
            if byte == c"n":
                byte = 10
            elif byte == c"t":
                byte = 9
            elif byte == c"r":
                byte = 13
            elif byte == c"b":
                byte = 8
            elif byte == c"f":
                byte = 12
            elif byte == c"v":
                byte = 11
            elif byte != c"\\":
                return pos - 1
            pos += 1
        out[0] = byte
        out += 1
    column.length = <char *> out - column.data
    column.offsets[row + 1] = <int32_t> column.length
    column.valid[row >> 3] |= <uint8_t> (1 << (row & 7))
    return -1


cdef int check_utf8(const unsigned char *value, Py_ssize_t size, Py_ssize_t offset) except -1:
    if not is_ascii(value, size):
        try:
            PyUnicode_DecodeUTF8(<const char *> value, size, "strict")
        except UnicodeDecodeError as error:
            raise DecodeError("value is not UTF-8", offset) from error
    return 0


cdef inline void append_null(Column *column, Py_ssize_t row) noexcept:
    column.offsets[row + 1] = <int32_t> column.length
    column.nulls += 1


cdef int reserve(Column *column, Py_ssize_t rows, Py_ssize_t before) except -1:
    """Room for `rows` rows where there was room for `before`."""
    grow(<void **> &column.offsets, (rows + 1) * sizeof(int32_t))
    grow(<void **> &column.valid, rows >> 3)
    memset(column.valid + (before >> 3), 0, (rows - before) >> 3)
    if before == 0:
        column.offsets[0] = 0
    return 0


cdef object finish_column(Column *column, object kind, Py_ssize_t rows):
    """Hands the column's memory over to Arrow and leaves the column empty."""
    if column.data == NULL:
        # Arrow wants a data buffer even where every value is NULL or empty.
        column.data = <char *> malloc(1)
    valid = None
    if column.nulls:
        valid = lend(column.valid, (rows + 7) >> 3)
    else:
        free(column.valid)
    offsets = lend(column.offsets, (rows + 1) * sizeof(int32_t))
    data = lend(column.data, column.length)
    array = array_from_buffers(kind, rows, [valid, offsets, data], column.nulls)
    memset(column, 0, sizeof(Column))
    return array


cdef void free_column(Column *column) noexcept:
    free(column.data)
    free(column.offsets)
    free(column.valid)
    memset(column, 0, sizeof(Column))


cdef class _Columns:
    """The changes of one relation since the last batch, column by column."""

    cdef readonly object relation
    cdef readonly Py_ssize_t rows
    cdef Py_ssize_t capacity
    cdef Py_ssize_t width
    cdef Py_ssize_t key_width
    cdef bint full
    cdef bint any_old
    cdef bint any_unchanged
    cdef uint32_t *index
    cdef uint8_t *op
    cdef uint64_t *commit_lsn
    cdef uint64_t *ordinal
    cdef uint32_t *xid
    cdef int64_t *commit_time
    cdef Column *new
    # One per column of the table; only those of the key are used.
    cdef Column *old
    cdef bint *is_key
    cdef uint8_t *has_old
    cdef Column unchanged
    cdef uint8_t *bits
    cdef Py_ssize_t bits_size

    def __cinit__(self, relation):
        cdef Py_ssize_t i
        self.relation = relation
        self.width = len(relation.columns)
        self.full = relation.full
        self.bits_size = (self.width + 7) >> 3
        self.new = <Column *> calloc(max(self.width, 1), sizeof(Column))
        self.old = <Column *> calloc(max(self.width, 1), sizeof(Column))
        self.is_key = <bint *> calloc(max(self.width, 1), sizeof(bint))
        self.bits = <uint8_t *> calloc(max(self.bits_size, 1), 1)
        if self.new == NULL or self.old == NULL or self.is_key == NULL or self.bits == NULL:
            raise MemoryError
        for i in relation.key:
            self.is_key[i] = True

    def __dealloc__(self):
        cdef Py_ssize_t i
        free(self.index)
        free(self.op)
        free(self.commit_lsn)
        free(self.ordinal)
        free(self.xid)
        free(self.commit_time)
        free(self.has_old)
        for i in range(self.width):
            if self.new != NULL:
                free_column(&self.new[i])
            if self.old != NULL:
                free_column(&self.old[i])
        free_column(&self.unchanged)
        free(self.new)
        free(self.old)
        free(self.is_key)
        free(self.bits)

    cdef int make_room(self) except -1:
        cdef Py_ssize_t before = self.capacity
        cdef Py_ssize_t rows = max(2 * before, FIRST_ROWS)
        cdef Py_ssize_t i
        grow(<void **> &self.index, rows * sizeof(uint32_t))
        grow(<void **> &self.op, rows)
        grow(<void **> &self.commit_lsn, rows * sizeof(uint64_t))
        grow(<void **> &self.ordinal, rows * sizeof(uint64_t))
        grow(<void **> &self.xid, rows * sizeof(uint32_t))
        grow(<void **> &self.commit_time, rows * sizeof(int64_t))
        for i in range(self.width):
            reserve(&self.new[i], rows, before)
        if self.any_old:
            self.reserve_old(rows, before)
        if self.any_unchanged:
            reserve(&self.unchanged, rows, before)
        self.capacity = rows
        return 0

    cdef int reserve_old(self, Py_ssize_t rows, Py_ssize_t before) except -1:
        cdef Py_ssize_t i
        grow(<void **> &self.has_old, rows >> 3)
        memset(self.has_old + (before >> 3), 0, (rows - before) >> 3)
        for i in range(self.width):
            if self.is_key[i]:
                reserve(&self.old[i], rows, before)
        return 0

    cdef int want_old(self) except -1:
        """The first old row of a batch: all rows before it have none."""
        cdef Py_ssize_t i, row
        self.any_old = True
        self.reserve_old(self.capacity, 0)
        for i in range(self.width):
            if self.is_key[i]:
                for row in range(self.rows):
                    append_null(&self.old[i], row)
        return 0

    cdef int want_unchanged(self) except -1:
        cdef Py_ssize_t row
        self.any_unchanged = True
        reserve(&self.unchanged, self.capacity, 0)
        for row in range(self.rows):
            append_null(&self.unchanged, row)
        return 0

    cdef object group(self):
        cdef Py_ssize_t i
        cdef Py_ssize_t rows = self.rows
        arrays = []
        sizes = (4, 1, 8, 8, 4, 8)
        cdef void *pointers[6]
        pointers[0] = self.index
        pointers[1] = self.op
        pointers[2] = self.commit_lsn
        pointers[3] = self.ordinal
        pointers[4] = self.xid
        pointers[5] = self.commit_time
        for i in range(6):
            arrays.append(array_from_buffers(_META_TYPES[i], rows, [None, lend(pointers[i], rows * sizes[i])], 0))
        self.index = NULL
        self.op = NULL
        self.commit_lsn = NULL
        self.ordinal = NULL
        self.xid = NULL
        self.commit_time = NULL
        for i in range(self.width):
            arrays.append(finish_column(&self.new[i], STRING, rows))
        old = bool(self.any_old)
        if self.any_old:
            bits = lend(self.has_old, (rows + 7) >> 3)
            self.has_old = NULL
            arrays.append(array_from_buffers(BOOL, rows, [None, bits], 0))
            for i in range(self.width):
                if self.is_key[i]:
                    arrays.append(finish_column(&self.old[i], STRING, rows))
        unchanged = bool(self.any_unchanged)
        if self.any_unchanged:
            arrays.append(finish_column(&self.unchanged, BINARY, rows))
        self.rows = 0
        self.capacity = 0
        self.any_old = False
        self.any_unchanged = False
        schema = Group.schema(self.relation, old=old, unchanged=unchanged)
        return Group(self.relation, pa.RecordBatch.from_arrays(arrays, schema=schema), old, unchanged)


cdef object fail(str reason, Py_ssize_t offset):
    raise DecodeError(reason, offset)


cdef class Decoder:
    """Turns replication messages into batches: see `cdcflow.decode.twin.Decoder`."""

    cdef public bint reply_requested
    cdef readonly Py_ssize_t rows
    cdef readonly int64_t nbytes
    cdef readonly uint64_t wal_end
    cdef readonly bint in_transaction
    cdef readonly uint64_t committed
    cdef uint64_t skip_lsn
    cdef uint64_t skip_ordinal
    cdef uint64_t commit_lsn
    cdef uint64_t ordinal
    cdef uint32_t xid
    cdef int64_t commit_time
    cdef uint64_t last_lsn
    cdef uint64_t last_ordinal
    cdef dict relations
    cdef dict columns
    cdef dict types
    cdef dict truncates
    cdef object prefixes
    cdef object ready
    cdef object error
    # The relation of the change before: runs of one table skip the dictionary.
    cdef uint32_t recent_oid
    cdef _Columns recent

    def __init__(self, skip_to=ORIGIN, prefixes=None):
        self.prefixes = prefixes or PrefixPatterns()
        self.skip_lsn, self.skip_ordinal = skip_to
        self.last_lsn = self.skip_lsn
        self.last_ordinal = self.skip_ordinal
        self.relations = {}
        self.columns = {}
        self.types = {}
        self.truncates = {}
        self.ready = deque()
        self.error = None
        self.recent = None

    @property
    def sealed(self):
        """Batches that are complete because a table's shape changed behind them, waiting for `take`."""
        return len(self.ready)

    def feed(self, frames):
        """Reads the payloads of CopyData messages, in order. Raises DecodeError."""
        cdef Py_buffer view
        if self.error is not None:
            raise self.error
        try:
            for frame in frames:
                PyObject_GetBuffer(frame, &view, PyBUF_SIMPLE)
                try:
                    self.frame(<const unsigned char *> view.buf, view.len)
                finally:
                    PyBuffer_Release(&view)
        except DecodeError as error:
            self.error = error
            raise

    def take(self):
        """The changes read so far as a batch, or None where there are none."""
        if self.error is not None:
            raise self.error
        if self.ready:
            return self.ready.popleft()
        self.seal()
        return self.ready.popleft() if self.ready else None

    cdef int seal(self) except -1:
        self.nbytes = 0
        if not self.rows:
            return 0
        cdef _Columns columns
        groups = []
        for columns in self.columns.values():
            if columns.rows:
                groups.append(columns.group())
        self.ready.append(
            Batch(
                groups=tuple(groups),
                count=self.rows,
                last=Position(self.last_lsn, self.last_ordinal),
                committed=self.committed,
                truncates=self.truncates,
            )
        )
        self.rows = 0
        self.truncates = {}
        return 0

    cdef int frame(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef uint64_t wal_end
        if size == 0:
            fail("message is empty", 0)
        self.nbytes += size
        if self.nbytes > MAX_BATCH_BYTES:
            fail("a batch would exceed 2 GiB", 0)
        if data[0] == c"w":
            if size <= ENVELOPE:
                fail("message ends inside WAL data", size)
            wal_end = be64(data + 9)
            if wal_end > self.wal_end:
                self.wal_end = wal_end
            self.message(data, size)
        elif data[0] == c"k":
            if size != 18:
                fail("keepalive has the wrong length", size)
            wal_end = be64(data + 1)
            if wal_end > self.wal_end:
                self.wal_end = wal_end
            if data[17]:
                self.reply_requested = True
        else:
            fail(f"unknown replication message {data[0]}", 0)
        return 0

    cdef int message(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef unsigned char kind = data[ENVELOPE]
        cdef Py_ssize_t pos = ENVELOPE + 1
        cdef _Columns columns
        cdef Py_ssize_t row
        if kind == c"I":
            columns = self.relation(data, size, pos)
            row = self.begin_row(columns, c"I")
            pos = self.expect_new(data, size, pos + 4)
            pos = self.new_tuple(data, size, pos, columns, row)
            if row >= 0:
                self.no_old(columns, row)
                columns.rows += 1
        elif kind == c"U":
            columns = self.relation(data, size, pos)
            row = self.begin_row(columns, c"U")
            pos += 4
            if pos < size and (data[pos] == c"K" or data[pos] == c"O"):
                pos = self.old_tuple(data, size, pos, columns, row)
            elif row >= 0:
                self.no_old(columns, row)
            pos = self.expect_new(data, size, pos)
            pos = self.new_tuple(data, size, pos, columns, row)
            if row >= 0:
                columns.rows += 1
        elif kind == c"D":
            columns = self.relation(data, size, pos)
            row = self.begin_row(columns, c"D")
            pos = self.old_tuple(data, size, pos + 4, columns, row)
            if row >= 0:
                self.no_new(columns, row)
                columns.rows += 1
        elif kind == c"B":
            pos = self.begin(data, size, pos)
        elif kind == c"C":
            pos = self.commit(data, size, pos)
        else:
            self.rare(PyBytes_FromStringAndSize(<const char *> data, size), kind, pos)
            return 0
        if pos != size:
            fail("bytes are left behind the message", pos)
        return 0

    cdef Py_ssize_t begin(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos) except -1:
        cdef int64_t stamp
        if self.in_transaction:
            fail("begin inside a transaction", ENVELOPE)
        if pos + 8 > size:
            fail("message ends inside final LSN", pos)
        self.commit_lsn = be64(data + pos)
        if pos + 16 > size:
            fail("message ends inside commit time", pos + 8)
        stamp = <int64_t> be64(data + pos + 8)
        if stamp > MAX_TIMESTAMP:
            fail("commit time is out of range", pos + 8)
        self.commit_time = stamp + EPOCH
        if pos + 20 > size:
            fail("message ends inside xid", pos + 16)
        self.xid = be32(data + pos + 16)
        self.ordinal = 0
        self.in_transaction = True
        return pos + 20

    cdef Py_ssize_t commit(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos) except -1:
        if not self.in_transaction:
            fail("commit outside a transaction", ENVELOPE)
        if pos + 1 > size:
            fail("message ends inside commit flags", pos)
        if pos + 9 > size:
            fail("message ends inside commit LSN", pos + 1)
        if be64(data + pos + 1) != self.commit_lsn:
            fail("commit LSN is not the one that begin announced", pos + 1)
        if pos + 17 > size:
            fail("message ends inside end LSN", pos + 9)
        if pos + 25 > size:
            fail("message ends inside commit time", pos + 17)
        if self.commit_lsn == self.skip_lsn and self.ordinal < self.skip_ordinal:
            fail("the transaction came again with fewer changes than the journal holds", pos + 1)
        self.committed = be64(data + pos + 9)
        self.in_transaction = False
        return pos + 25

    cdef int rare(self, bytes data, unsigned char kind, Py_ssize_t pos) except -1:
        if kind == c"R":
            self.new_generation(messages.relation(data, pos, self.types))
        elif kind == c"Y":
            oid, name = messages.type_name(data, pos)
            self.types[oid] = name
        elif kind == c"T":
            truncation = messages.truncate(data, pos)
            for oid, at in truncation.relations:
                self.truncate(self.known(oid, at), truncation.options)
        elif kind == c"O":
            messages.origin(data, pos)
        elif kind == c"M":
            self.logical_message(messages.logical_message(data, pos), data)
        else:
            fail(f"unknown message type {kind}", ENVELOPE)
        return 0

    cdef int new_generation(self, relation) except -1:
        cdef _Columns known = self.relations.get(relation.oid)
        cdef _Columns columns, other
        if known is not None and known.relation == relation:
            # Announced again, the table may have been altered in ways that the message does not show:
            # what comes from here on has a relation object of its own, and batch, to be looked up.
            if known.rows > 0:
                self.seal()
            known.relation = relation
            return 0
        columns = self.columns.get(relation.fingerprint)
        if columns is None:
            columns = _Columns(relation)
        # One generation of a table in a batch: also when the name has moved to another OID.
        superseded = []
        held = False
        for other in self.columns.values():
            if other is columns:
                continue
            if other.relation.oid == relation.oid or other.relation.qualified == relation.qualified:
                superseded.append(other)
                held = held or other.rows > 0
        if held:
            self.seal()
        for other in superseded:
            del self.columns[other.relation.fingerprint]
            self.relations.pop(other.relation.oid, None)
        self.columns[relation.fingerprint] = columns
        self.relations[relation.oid] = columns
        self.recent = None
        return 0

    cdef int truncate(self, _Columns columns, options) except -1:
        cdef Py_ssize_t row = self.begin_row(columns, c"T")
        if row >= 0:
            self.truncates[self.rows - 1] = options
            self.no_new(columns, row)
            self.no_old(columns, row)
            columns.rows += 1
        return 0

    cdef int logical_message(self, message, bytes data) except -1:
        cdef _Columns columns
        cdef Py_ssize_t row, i
        cdef bytes value
        cdef uint64_t lsn
        if bool(message.transactional) is not bool(self.in_transaction):
            raise messages.misplaced(message)
        if not message.transactional:
            lsn = message.lsn
            self.commit_lsn = lsn
            self.ordinal = <uint64_t> -1
            self.xid = 0
            self.commit_time = messages.send_time(data)
            # All that lies before its record's end has been sent.
            self.committed = max(self.committed, lsn)
        if not self.prefixes.matches(message.prefix):
            self.ordinal += 1
            return 0
        columns = self.columns.get(MESSAGES.fingerprint)
        if columns is None:
            columns = self.columns[MESSAGES.fingerprint] = _Columns(MESSAGES)
        row = self.begin_row(columns, c"M")
        if row < 0:
            return 0
        values = message.row()
        if values[1] is None:
            # Two digits for each byte, of which one is counted already.
            self.nbytes += len(message.content)
            if self.nbytes > MAX_BATCH_BYTES:
                fail("a batch would exceed 2 GiB", 0)
        for i in range(columns.width):
            if values[i] is None:
                append_null(&columns.new[i], row)
            else:
                value = values[i].encode()
                append_bytes(&columns.new[i], row, <const unsigned char *> PyBytes_AS_STRING(value), len(value))
        columns.rows += 1
        return 0

    cdef _Columns known(self, uint32_t oid, Py_ssize_t at):
        cdef _Columns columns = self.recent
        if columns is None or oid != self.recent_oid:
            columns = self.relations.get(oid)
            if columns is None:
                fail(f"relation {oid} was never described", at)
            self.recent = columns
            self.recent_oid = oid
        if not self.in_transaction:
            fail("change outside a transaction", ENVELOPE)
        return columns

    cdef inline _Columns relation(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos):
        if pos + 4 > size:
            fail("message ends inside relation oid", pos)
        return self.known(be32(data + pos), pos)

    cdef inline Py_ssize_t begin_row(self, _Columns columns, uint8_t op) except -2:
        """Counts a change. Returns the row to fill, or -1 when the journal has the change already."""
        cdef Py_ssize_t row
        self.ordinal += 1
        if self.commit_lsn < self.skip_lsn or (
            self.commit_lsn == self.skip_lsn and self.ordinal <= self.skip_ordinal
        ):
            return -1
        self.last_lsn = self.commit_lsn
        self.last_ordinal = self.ordinal
        row = columns.rows
        if row == columns.capacity:
            columns.make_room()
        columns.index[row] = <uint32_t> self.rows
        columns.op[row] = op
        columns.commit_lsn[row] = self.commit_lsn
        columns.ordinal[row] = self.ordinal
        columns.xid[row] = self.xid
        columns.commit_time[row] = self.commit_time
        self.rows += 1
        return row

    cdef inline Py_ssize_t expect_new(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos) except -1:
        if pos >= size:
            fail("message ends inside new row", pos)
        if data[pos] != c"N":
            fail(f"expected a new row, found byte {data[pos]}", pos)
        return pos + 1

    cdef Py_ssize_t count(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos, _Columns columns) except -1:
        cdef Py_ssize_t found
        if pos + 2 > size:
            fail("message ends inside column count", pos)
        found = be16(data + pos)
        if found != columns.width:
            fail(f"row has {found} columns, its relation {columns.width}", pos)
        return pos + 2

    cdef inline Py_ssize_t value(self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos) except -1:
        """Checks the value whose length field stands at `pos`; returns its length."""
        cdef int32_t length
        if pos + 4 > size:
            fail("message ends inside value length", pos)
        length = <int32_t> be32(data + pos)
        if length < 0:
            fail(f"negative value length {length}", pos)
        if pos + 4 + length > size:
            fail("message ends inside value", pos + 4)
        check_utf8(data + pos + 4, length, pos + 4)
        return length

    cdef Py_ssize_t new_tuple(
        self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos, _Columns columns, Py_ssize_t row
    ) except -1:
        cdef Py_ssize_t i
        cdef int32_t length
        cdef unsigned char kind
        cdef bint partial = False
        pos = self.count(data, size, pos, columns)
        for i in range(columns.width):
            if pos >= size:
                fail("message ends inside column kind", pos)
            kind = data[pos]
            pos += 1
            if kind == c"t":
                length = <int32_t> self.value(data, size, pos)
                pos += 4
                if row >= 0:
                    append_bytes(&columns.new[i], row, data + pos, length)
                pos += length
            elif kind == c"n":
                if row >= 0:
                    append_null(&columns.new[i], row)
            elif kind == c"u":
                if not partial:
                    memset(columns.bits, 0, columns.bits_size)
                    partial = True
                columns.bits[i >> 3] |= <uint8_t> (1 << (i & 7))
                if row >= 0:
                    append_null(&columns.new[i], row)
            else:
                fail(f"unexpected column kind {kind}", pos - 1)
        if row >= 0:
            if partial:
                if not columns.any_unchanged:
                    columns.want_unchanged()
                append_bytes(&columns.unchanged, row, columns.bits, columns.bits_size)
            elif columns.any_unchanged:
                append_null(&columns.unchanged, row)
        return pos

    cdef Py_ssize_t old_tuple(
        self, const unsigned char *data, Py_ssize_t size, Py_ssize_t pos, _Columns columns, Py_ssize_t row
    ) except -1:
        cdef Py_ssize_t i
        cdef int32_t length
        cdef unsigned char kind
        cdef unsigned char wanted = c"O" if columns.full else c"K"
        if pos >= size:
            fail("message ends inside old row", pos)
        if data[pos] != wanted:
            fail(f"expected an old row of kind {wanted}, found byte {data[pos]}", pos)
        pos = self.count(data, size, pos + 1, columns)
        if row >= 0:
            if not columns.any_old:
                columns.want_old()
            columns.has_old[row >> 3] |= <uint8_t> (1 << (row & 7))
        for i in range(columns.width):
            if pos >= size:
                fail("message ends inside column kind", pos)
            kind = data[pos]
            pos += 1
            if kind == c"t":
                length = <int32_t> self.value(data, size, pos)
                pos += 4
                if row >= 0 and columns.is_key[i]:
                    append_bytes(&columns.old[i], row, data + pos, length)
                pos += length
            elif kind == c"n":
                if row >= 0 and columns.is_key[i]:
                    append_null(&columns.old[i], row)
            else:
                fail(f"unexpected column kind {kind}", pos - 1)
        return pos

    cdef inline void no_old(self, _Columns columns, Py_ssize_t row) noexcept:
        cdef Py_ssize_t i
        if columns.any_old:
            for i in range(columns.width):
                if columns.is_key[i]:
                    append_null(&columns.old[i], row)

    cdef inline void no_new(self, _Columns columns, Py_ssize_t row) noexcept:
        cdef Py_ssize_t i
        for i in range(columns.width):
            append_null(&columns.new[i], row)
        if columns.any_unchanged:
            append_null(&columns.unchanged, row)


cdef class CopyDecoder:
    """Turns COPY's rows into batches: see `cdcflow.decode.twin.CopyDecoder`."""

    cdef readonly Py_ssize_t rows
    cdef readonly int64_t nbytes
    cdef readonly uint64_t ordinal
    cdef uint64_t commit_lsn
    cdef int64_t commit_time
    cdef _Columns columns
    cdef object error

    def __init__(self, relation, commit_lsn, commit_time, ordinal=0):
        self.ordinal = ordinal
        self.commit_lsn = commit_lsn
        self.commit_time = commit_time
        self.columns = _Columns(relation)
        self.error = None

    def feed(self, blocks):
        """Reads blocks of whole rows, in order. Raises DecodeError."""
        cdef Py_buffer view
        if self.error is not None:
            raise self.error
        try:
            for block in blocks:
                PyObject_GetBuffer(block, &view, PyBUF_SIMPLE)
                try:
                    self.block(<const unsigned char *> view.buf, view.len)
                finally:
                    PyBuffer_Release(&view)
        except DecodeError as error:
            self.error = error
            raise

    def take(self):
        """The rows read so far as a batch, or None where there are none."""
        if self.error is not None:
            raise self.error
        self.nbytes = 0
        if not self.rows:
            return None
        batch = Batch((self.columns.group(),), self.rows, Position(self.commit_lsn, self.ordinal))
        self.rows = 0
        return batch

    cdef int block(self, const unsigned char *data, Py_ssize_t size) except -1:
        cdef Py_ssize_t pos = 0
        cdef Py_ssize_t end
        if size == 0 or data[size - 1] != c"\n":
            fail("row does not end with a newline", size)
        self.nbytes += size
        if self.nbytes > MAX_BATCH_BYTES:
            fail("a batch would exceed 2 GiB", 0)
        while pos < size:
            # A newline within a value is escaped.
            end = <const unsigned char *> memchr(data + pos, c"\n", size - pos) - data
            self.row(data, pos, end)
            pos = end + 1
        return 0

    cdef int row(self, const unsigned char *data, Py_ssize_t pos, Py_ssize_t end) except -1:
        cdef _Columns columns = self.columns
        cdef Py_ssize_t row = columns.rows
        cdef Py_ssize_t width = columns.width
        cdef Py_ssize_t i, stop
        cdef const void *found
        if row == columns.capacity:
            columns.make_room()
        if width == 0 and pos != end:
            fail("row does not have 0 columns", pos)
        for i in range(width):
            found = memchr(data + pos, c"\t", end - pos) if end > pos else NULL
            stop = end if found == NULL else <const unsigned char *> found - data
            if (stop == end) != (i == width - 1):
                fail(f"row does not have {width} columns", stop)
            self.field(&columns.new[i], row, data, pos, stop)
            pos = stop + 1
        self.ordinal += 1
        columns.index[row] = <uint32_t> self.rows
        columns.op[row] = c"R"
        columns.commit_lsn[row] = self.commit_lsn
        columns.ordinal[row] = self.ordinal
        columns.xid[row] = 0
        columns.commit_time[row] = self.commit_time
        columns.rows += 1
        self.rows += 1
        return 0

    cdef int field(
        self, Column *column, Py_ssize_t row, const unsigned char *data, Py_ssize_t start, Py_ssize_t stop
    ) except -1:
        cdef Py_ssize_t size = stop - start
        cdef Py_ssize_t before = column.length
        cdef Py_ssize_t bad
        if size == 0 or memchr(data + start, c"\\", size) == NULL:
            check_utf8(data + start, size, start)
            append_bytes(column, row, data + start, size)
        elif size == 2 and data[start] == c"\\" and data[start + 1] == c"N":
            append_null(column, row)
        else:
            bad = append_escaped(column, row, data + start, size)
            if bad >= 0:
                fail("unknown escape", start + bad)
            check_utf8(<unsigned char *> column.data + before, column.length - before, start)
        return 0
