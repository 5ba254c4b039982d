"""HMAC-SHA256 (RFC 2104) of a column of texts, as hex digits: compiled where that was built, else by hashlib.

Both give the same; a property test holds them against each other.
"""

import hmac
from collections.abc import Callable
from hashlib import sha256

import pyarrow as pa

try:
    from cdcflow.transform._hmac import HAS_INSTRUCTIONS as BY_PROCESSOR
    from cdcflow.transform._hmac import Hmac as Compiled
except ImportError:  # no compiler was there
    Compiled, BY_PROCESSOR = None, False

#: Bytes of a block of SHA-256. A longer key is hashed first (RFC 2104, 2).
BLOCK = 64
#: Hex digits of a hash.
DIGITS = 64
#: Bytes of an offset in Arrow's `string`.
OFFSET = 4

Hash = Callable[[pa.StringArray], pa.StringArray]


def is_compiled() -> bool:
    """Whether the compiled one is there."""
    return Compiled is not None


def has_instructions() -> bool:
    """Whether it is there, and the processor has instructions for it."""
    return bool(BY_PROCESSOR)


def keyed(key: bytes) -> Hash:
    """The hash under a key: a function from column to column, in which null stays null."""
    return by_library(key) if Compiled is None else compiled(key)


def by_library(key: bytes) -> Hash:
    """The twin, value by value."""
    digest = hmac.digest

    def hashes(values: pa.StringArray) -> pa.StringArray:
        texts = values.to_pylist()
        return pa.array(
            [None if text is None else digest(key, text.encode(), "sha256").hex() for text in texts],
            pa.string(),
        )

    return hashes


def compiled(key: bytes, *, portable: bool = False) -> Hash:
    """The compiled one, over Arrow's buffers. `portable`: as on a processor without instructions for it."""
    assert Compiled is not None
    made = Compiled(sha256(key).digest() if len(key) > BLOCK else key, portable=portable)

    def hashes(values: pa.StringArray) -> pa.StringArray:
        count = len(values)
        if not count:
            return values
        if values.offset:
            # Copied, so that the bitmap begins at a byte.
            values = pa.concat_arrays([values, values.slice(0, 0)])
        validity, offsets, texts = values.buffers()
        places = memoryview(offsets).cast("i")[: count + 1]
        ends, out = pa.allocate_buffer((count + 1) * OFFSET), pa.allocate_buffer(count * DIGITS)
        made.into(
            places, memoryview(texts or b"").cast("B"), memoryview(ends).cast("i"), memoryview(out).cast("B")
        )
        return pa.StringArray.from_buffers(count, ends, out, validity)

    return hashes
