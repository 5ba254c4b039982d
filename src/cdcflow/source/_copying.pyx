# cython: boundscheck=False, wraparound=False
"""Rows of a COPY gathered in blocks, without an object or the interpreter's lock for each of them. `copying.py`
says what for, and has the twin."""

from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

ctypedef int (*get_copy_data)(void *connection, char **row, int asynchronous) noexcept nogil
ctypedef void (*free_memory)(void *pointer) noexcept nogil


cdef class Rows:
    """The rows of the COPY under way on a connection. All three are addresses: of libpq's `PQgetCopyData` and
    `PQfreemem`, and of the `PGconn`, which must outlive this.

    It lends out the block that was read last; no view of it may be left when the next one is read.
    """

    cdef get_copy_data get
    cdef free_memory release
    cdef void *connection
    cdef char *data
    cdef Py_ssize_t capacity
    cdef Py_ssize_t size
    #: What libpq has answered last: below 0 once there are no more rows.
    cdef readonly int answer

    def __cinit__(self, size_t get, size_t release, size_t connection):
        self.get = <get_copy_data> <void *> get
        self.release = <free_memory> <void *> release
        self.connection = <void *> connection

    def __dealloc__(self):
        free(self.data)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.data, self.size, 1, flags)

    def read(self, Py_ssize_t wanted):
        """Reads rows until they are `wanted` bytes, or there are no more; waits for them. Says how many bytes
        there are."""
        cdef bint enough
        with nogil:
            enough = self.fill(wanted)
        if not enough:
            raise MemoryError
        return self.size

    cdef bint fill(self, Py_ssize_t wanted) noexcept nogil:
        cdef char *row
        cdef char *moved
        cdef Py_ssize_t room
        self.size = 0
        while self.size < wanted:
            self.answer = self.get(self.connection, &row, 0)
            if self.answer < 0:
                return True
            if self.size + self.answer > self.capacity:
                room = max(self.size + self.answer, wanted + (wanted >> 2))
                moved = <char *> realloc(self.data, room)
                if moved == NULL:
                    self.release(row)
                    return False
                self.data, self.capacity = moved, room
            memcpy(self.data + self.size, row, self.answer)
            self.size += self.answer
            self.release(row)
        return True
