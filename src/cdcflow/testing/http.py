"""HTTP/1.1 as far as servers of tests need it (RFC 9112): requests with Content-Length, one at a time. Does
no I/O: bytes in, a head out; an answer in, bytes out."""

from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus

#: What ends a request's head.
END = b"\r\n\r\n"


class Unreadable(ValueError):
    """What came is no request that can be served; `status` is what it is to be answered with."""

    def __init__(self, status: int) -> None:
        super().__init__(f"the request is answered with {status}")
        self.status = status


@dataclass(frozen=True, slots=True)
class Head:
    """What stands in front of a body of `length` bytes. Names of headers are in lower case."""

    method: str
    target: str
    headers: Mapping[str, str]
    length: int


def read_head(data: bytes, largest: int) -> Head:
    """The head of a request, which `END` ended. Raises Unreadable, also for a body of more than `largest`
    bytes."""
    lines = data.decode("latin-1").split("\r\n")
    headers = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if colon:
            headers[name.lower()] = value.strip()
    try:
        method, target, _ = lines[0].split(" ")
        length = int(headers.get("content-length", "0"))
    except ValueError:
        raise Unreadable(400) from None
    if "transfer-encoding" in headers:
        raise Unreadable(411)
    if not 0 <= length <= largest:
        raise Unreadable(413 if length > 0 else 400)
    return Head(method, target, headers, length)


def rendered(status: int, headers: Mapping[str, str], body: bytes) -> bytes:
    """An answer. One that is "no content" has neither a length nor a body (RFC 9110, 8.6)."""
    try:
        reason = HTTPStatus(status).phrase
    except ValueError:
        reason = "Unknown"
    lines = [f"HTTP/1.1 {status} {reason}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    if status == HTTPStatus.NO_CONTENT:
        body = b""
    else:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body
