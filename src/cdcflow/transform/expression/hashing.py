"""Hashes and encodings."""

import hashlib
from base64 import b64encode
from binascii import Error as NotEncoded
from binascii import a2b_base64
from collections.abc import Callable
from functools import partial

from cdcflow.transform.expression import reading
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Refused,
    Supported,
    Variant,
    by_row,
    constant_value,
    row_kernel,
)
from cdcflow.transform.expression.node import Bound
from cdcflow.transform.expression.sqltype import BYTEA, TEXT

_FORMATS = ("hex", "base64", "escape")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def _md5_bytes(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _digest(name: str, data: bytes) -> bytes:
    return hashlib.new(name, data).digest()


def _encoded(data: bytes, form: str) -> str:
    match form:
        case "hex":
            return data.hex()
        case "base64":
            text = b64encode(data).decode()
            # RFC 2045: lines of 76 characters.
            return "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    return "".join(
        f"\\{byte:03o}" if byte == 0 or byte >= 128 else "\\\\" if byte == 92 else chr(byte) for byte in data
    )


def _decoded(text: str, form: str) -> bytes:
    match form:
        case "hex":
            return reading.from_hex(text)
        case "base64":
            try:
                return a2b_base64(text.translate({ord(c): None for c in " \n\t\r"}), strict_mode=True)
            except (NotEncoded, ValueError):
                raise Fails("invalid base64 sequence") from None
    if text.startswith("\\x"):
        raise Fails("invalid input syntax for type bytea")
    return reading.bytea(text)


def _form(argument: Bound) -> str:
    form = "" if argument.constant is None else str(constant_value(argument)).lower()
    if form not in _FORMATS:
        raise Refused(f"the format must be one of {', '.join(_FORMATS)}")
    return form


def _encode(_data: Bound, form: Bound) -> Kernel:
    name = _form(form)
    kernel = row_kernel(lambda data: _encoded(data, name), [BYTEA], TEXT)
    return lambda rows, data, _form: kernel(rows, data)


def _decode(_text: Bound, form: Bound) -> Kernel:
    name = _form(form)
    kernel = row_kernel(lambda text: _decoded(text, name), [TEXT], BYTEA)
    return lambda rows, text, _form: kernel(rows, text)


def _to_hex(bits: int) -> Callable[[int], str]:
    return lambda value: f"{value & (1 << bits) - 1:x}"


SUPPORTED: tuple[Supported, ...] = (
    Supported(
        "md5",
        "MD5 in hexadecimal digits",
        "md5(email)",
        {"text": by_row(_md5, "text", "text"), "bytea": by_row(_md5_bytes, "bytea", "text")},
    ),
    *(
        Supported(
            name,
            f"SHA-{name[3:]} as bytea",
            f"encode({name}(email::bytea), 'hex')",
            {"bytea": by_row(partial(_digest, name), "bytea", "bytea")},
        )
        for name in ("sha224", "sha256", "sha384", "sha512")
    ),
    Supported(
        "encode",
        "bytes as text: hex, base64 or escape",
        "encode(sha256(email::bytea), 'hex')",
        {"bytea,text": Variant(bind=_encode)},
    ),
    Supported(
        "decode",
        "the other way round",
        "decode(payload, 'base64')",
        {"text,text": Variant(bind=_decode, fails=True)},
    ),
    Supported(
        "to_hex",
        "an integer in hexadecimal digits",
        "to_hex(id)",
        {"int4": by_row(_to_hex(32), "int4", "text"), "int8": by_row(_to_hex(64), "int8", "text")},
    ),
)
