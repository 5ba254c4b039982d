# cython: boundscheck=False, wraparound=False, cdivision=True
"""HMAC-SHA256 (RFC 2104, FIPS 180-4) of a column of texts, as hex digits. The twin is in `hashing.py`.

What depends on the key alone, the states behind its two pads, is computed once; a short value then costs two
blocks. Not hardened against timing: who could time it has the process's memory.
"""

from libc.stdint cimport int32_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from "_sha256.h" nogil:
    bint sha256_has_instructions()
    void sha256_by_instructions(uint32_t* state, const uint8_t* block)
    void sha256_portable(uint32_t* state, const uint8_t* block)

ctypedef void (*Compress)(uint32_t* state, const uint8_t* block) noexcept nogil

#: Whether the processor hashes by itself, which takes a fifth of the time.
HAS_INSTRUCTIONS = sha256_has_instructions()

cdef uint32_t[8] START
START[:] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
]

#: The two hex digits of each byte.
cdef uint8_t[512] HEX
for _byte in range(256):
    HEX[2 * _byte] = b"0123456789abcdef"[_byte >> 4]
    HEX[2 * _byte + 1] = b"0123456789abcdef"[_byte & 15]


cdef void finish(
    Compress compress, uint32_t* state, const uint8_t* text, uint64_t size, uint64_t before
) noexcept nogil:
    """Takes `text`, which comes behind `before` bytes that the state holds, and the end into the state."""
    cdef uint8_t block[64]
    cdef uint64_t left = size, bits = (before + size) * 8
    cdef int i
    while left >= 64:
        compress(state, text)
        text += 64
        left -= 64
    memset(block, 0, 64)
    memcpy(block, text, left)
    block[left] = 0x80
    if left >= 56:
        compress(state, block)
        memset(block, 0, 64)
    for i in range(8):
        block[63 - i] = <uint8_t>(bits >> (8 * i))
    compress(state, block)


cdef inline void bytes_of(const uint32_t* state, uint8_t* out) noexcept nogil:
    cdef int i
    for i in range(8):
        out[4 * i] = <uint8_t>(state[i] >> 24)
        out[4 * i + 1] = <uint8_t>(state[i] >> 16)
        out[4 * i + 2] = <uint8_t>(state[i] >> 8)
        out[4 * i + 3] = <uint8_t>state[i]


cdef class Hmac:
    """The hash of one key. `key` is not longer than a block, 64 bytes. `portable`: without the processor's
    own instructions, where it has them."""

    cdef uint32_t[8] inner
    cdef uint32_t[8] outer
    cdef Compress compress

    def __cinit__(self, bytes key not None, *, bint portable=False):
        cdef uint8_t block[64]
        cdef int i
        if len(key) > 64:
            raise ValueError("a key longer than a block is hashed first")
        self.compress = sha256_portable if portable or not HAS_INSTRUCTIONS else sha256_by_instructions
        padded = key.ljust(64, b"\0")
        memcpy(self.inner, START, 32)
        memcpy(self.outer, START, 32)
        for i in range(64):
            block[i] = <uint8_t>padded[i] ^ 0x36
        self.compress(self.inner, block)
        for i in range(64):
            block[i] = <uint8_t>padded[i] ^ 0x5c
        self.compress(self.outer, block)

    def into(self, const int32_t[::1] offsets, const uint8_t[::1] texts, int32_t[::1] ends, uint8_t[::1] out):
        """Writes 64 hex digits for each text between two of the offsets, and where each begins and ends."""
        cdef Py_ssize_t count = offsets.shape[0] - 1, row
        cdef uint32_t state[8]
        cdef uint8_t digest[32]
        cdef uint8_t* to
        cdef int i
        cdef const uint8_t* first = NULL
        if count * 64 > 0x7fffffff:
            raise ValueError("more than a column of texts can hold")
        if out.shape[0] < count * 64 or ends.shape[0] < count + 1:
            raise ValueError("the output is too small")
        for row in range(count):
            if offsets[row] < 0 or offsets[row + 1] < offsets[row] or offsets[row + 1] > texts.shape[0]:
                raise ValueError("offsets that are none")
        if texts.shape[0]:
            first = &texts[0]
        with nogil:
            for row in range(count):
                memcpy(state, self.inner, 32)
                finish(
                    self.compress, state, first + offsets[row], <uint64_t>(offsets[row + 1] - offsets[row]), 64
                )
                bytes_of(state, digest)
                memcpy(state, self.outer, 32)
                finish(self.compress, state, digest, 32, 64)
                bytes_of(state, digest)
                to = &out[64 * row]
                for i in range(32):
                    memcpy(to + 2 * i, &HEX[2 * digest[i]], 2)
                ends[row] = <int32_t>(64 * row)
            ends[count] = <int32_t>(64 * count)
