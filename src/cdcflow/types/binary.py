"""bytea in hex form: `\\x00ff` ⇄ bytes; base64 in JSON (RFC 4648, section 4), BLOB in DuckDB."""

from base64 import b64encode
from binascii import unhexlify
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.types.base import Family, Known, PgType


@dataclass(frozen=True)
class Bytea(PgType):
    """bytea."""

    @classmethod
    def of(cls) -> "Bytea":
        return cls("bytea", pa.binary(), "BLOB")

    def _convert(self, values: pa.StringArray) -> pa.Array:
        if not pc.all(pc.starts_with(values, "\\x"), min_count=0).as_py():
            raise ValueError("not bytea in hex form")
        # The values lie one behind the other in one buffer, so they are decoded at once: without their
        # prefixes, which no digit looks like.
        filled = pc.fill_null(values, "\\x")
        lengths = pc.subtract(pc.shift_right(pc.binary_length(filled), 1), 1)
        offsets = pa.concat_arrays([pa.array([0], pa.int32()), pc.cumulative_sum(lengths).cast(pa.int32())])
        raw = unhexlify(_bytes(filled).replace(b"\\x", b""))
        decoded = pa.Array.from_buffers(
            pa.binary(), len(filled), [None, offsets.buffers()[1], pa.py_buffer(raw)]
        )
        return pc.if_else(values.is_valid(), decoded, pa.scalar(None, pa.binary()))

    def json(self, text: str) -> object:
        return b64encode(unhexlify(text[2:])).decode("ascii")


def _bytes(values: pa.StringArray) -> bytes:
    """All values of a column without nulls, joined."""
    if len(values) == 0:
        return b""
    _, offsets, data = values.buffers()
    bounds = pa.Array.from_buffers(pa.int32(), len(values) + 1, [None, offsets], offset=values.offset)
    return bytes(memoryview(data)[bounds[0].as_py() : bounds[-1].as_py()]) if data is not None else b""


FAMILY = Family(
    "Bytes",
    (Known("bytea", Bytea.of(), "\\x00ff", 17, 1001),),
    notes="Base64 with padding in JSON (RFC 4648, section 4).",
)
