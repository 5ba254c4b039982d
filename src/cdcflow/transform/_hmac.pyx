# cython: boundscheck=False, wraparound=False, cdivision=True
"""HMAC-SHA256 (RFC 2104, FIPS 180-4) of a column of texts, as hex digits. The twin is in `hashing.py`.

What depends on the key alone, the states behind its two pads, is computed once; a short value then costs two
blocks. Not hardened against timing: who could time it has the process's memory.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef uint32_t[64] K
# The first 32 bits of the fractional parts of the cube roots of the first 64 primes (FIPS 180-4, 4.2.2).
K[:] = [
    0x428a2f98, 0x71374491, 0xb5c0fbcf, 0xe9b5dba5, 0x3956c25b, 0x59f111f1, 0x923f82a4, 0xab1c5ed5,
    0xd807aa98, 0x12835b01, 0x243185be, 0x550c7dc3, 0x72be5d74, 0x80deb1fe, 0x9bdc06a7, 0xc19bf174,
    0xe49b69c1, 0xefbe4786, 0x0fc19dc6, 0x240ca1cc, 0x2de92c6f, 0x4a7484aa, 0x5cb0a9dc, 0x76f988da,
    0x983e5152, 0xa831c66d, 0xb00327c8, 0xbf597fc7, 0xc6e00bf3, 0xd5a79147, 0x06ca6351, 0x14292967,
    0x27b70a85, 0x2e1b2138, 0x4d2c6dfc, 0x53380d13, 0x650a7354, 0x766a0abb, 0x81c2c92e, 0x92722c85,
    0xa2bfe8a1, 0xa81a664b, 0xc24b8b70, 0xc76c51a3, 0xd192e819, 0xd6990624, 0xf40e3585, 0x106aa070,
    0x19a4c116, 0x1e376c08, 0x2748774c, 0x34b0bcb5, 0x391c0cb3, 0x4ed8aa4a, 0x5b9cca4f, 0x682e6ff3,
    0x748f82ee, 0x78a5636f, 0x84c87814, 0x8cc70208, 0x90befffa, 0xa4506ceb, 0xbef9a3f7, 0xc67178f2,
]

cdef uint32_t[8] START
START[:] = [
    0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a, 0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19,
]

cdef const char* HEX = b"0123456789abcdef"


cdef inline uint32_t turned(uint32_t x, int by) noexcept nogil:
    return (x >> by) | (x << (32 - by))


cdef void compress(uint32_t* state, const uint8_t* block) noexcept nogil:
    """One round of the hash (FIPS 180-4, 6.2.2)."""
    cdef uint32_t w[64]
    cdef uint32_t a, b, c, d, e, f, g, h, one, two
    cdef int i
    for i in range(16):
        w[i] = (
            (<uint32_t>block[4 * i] << 24) | (<uint32_t>block[4 * i + 1] << 16)
            | (<uint32_t>block[4 * i + 2] << 8) | block[4 * i + 3]
        )
    for i in range(16, 64):
        one = turned(w[i - 15], 7) ^ turned(w[i - 15], 18) ^ (w[i - 15] >> 3)
        two = turned(w[i - 2], 17) ^ turned(w[i - 2], 19) ^ (w[i - 2] >> 10)
        w[i] = w[i - 16] + one + w[i - 7] + two
    a, b, c, d = state[0], state[1], state[2], state[3]
    e, f, g, h = state[4], state[5], state[6], state[7]
    for i in range(64):
        one = h + (turned(e, 6) ^ turned(e, 11) ^ turned(e, 25)) + ((e & f) ^ (~e & g)) + K[i] + w[i]
        two = (turned(a, 2) ^ turned(a, 13) ^ turned(a, 22)) + ((a & b) ^ (a & c) ^ (b & c))
        h = g
        g = f
        f = e
        e = d + one
        d = c
        c = b
        b = a
        a = one + two
    state[0] += a
    state[1] += b
    state[2] += c
    state[3] += d
    state[4] += e
    state[5] += f
    state[6] += g
    state[7] += h


cdef void finish(uint32_t* state, const uint8_t* text, uint64_t size, uint64_t before, uint8_t* out) noexcept nogil:
    """Hashes `text`, which comes behind `before` bytes that the state holds, into 32 bytes."""
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
    for i in range(8):
        out[4 * i] = <uint8_t>(state[i] >> 24)
        out[4 * i + 1] = <uint8_t>(state[i] >> 16)
        out[4 * i + 2] = <uint8_t>(state[i] >> 8)
        out[4 * i + 3] = <uint8_t>state[i]


cdef class Hmac:
    """The hash of one key. `key` is not longer than a block, 64 bytes."""

    cdef uint32_t[8] inner
    cdef uint32_t[8] outer

    def __cinit__(self, bytes key not None):
        cdef uint8_t block[64]
        cdef int i
        if len(key) > 64:
            raise ValueError("a key longer than a block is hashed first")
        padded = key.ljust(64, b"\0")
        memcpy(self.inner, START, 32)
        memcpy(self.outer, START, 32)
        for i in range(64):
            block[i] = <uint8_t>padded[i] ^ 0x36
        compress(self.inner, block)
        for i in range(64):
            block[i] = <uint8_t>padded[i] ^ 0x5c
        compress(self.outer, block)

    def into(self, const int32_t[::1] offsets, const uint8_t[::1] texts, uint8_t[::1] out):
        """Writes 64 hex digits for each text between two of the offsets."""
        cdef Py_ssize_t count = offsets.shape[0] - 1, row
        cdef uint32_t state[8]
        cdef uint8_t digest[32]
        cdef int i
        cdef const uint8_t* first = NULL
        if out.shape[0] < count * 64:
            raise ValueError("the output is too small")
        for row in range(count):
            if offsets[row] < 0 or offsets[row + 1] < offsets[row] or offsets[row + 1] > texts.shape[0]:
                raise ValueError("offsets that are none")
        if texts.shape[0]:
            first = &texts[0]
        with nogil:
            for row in range(count):
                memcpy(state, self.inner, 32)
                finish(state, first + offsets[row], <uint64_t>(offsets[row + 1] - offsets[row]), 64, digest)
                memcpy(state, self.outer, 32)
                finish(state, digest, 32, 64, digest)
                for i in range(32):
                    out[64 * row + 2 * i] = HEX[digest[i] >> 4]
                    out[64 * row + 2 * i + 1] = HEX[digest[i] & 15]
