"""What the test servers read and write of HTTP."""

import pytest

from cdcflow.testing.http import Head, Unreadable, read_head, rendered


def test_a_head_is_read_with_names_in_lower_case() -> None:
    found = read_head(b"POST /a?b=1 HTTP/1.1\r\nContent-Length: 3\r\nX-Odd:  a: b \r\nno header", 3)
    assert found == Head("POST", "/a?b=1", {"content-length": "3", "x-odd": "a: b"}, 3)
    assert read_head(b"GET / HTTP/1.1", 0) == Head("GET", "/", {}, 0)


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"nonsense", 400),
        (b"GET / HTTP/1.1 more", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: many", 400),
        (b"POST / HTTP/1.1\r\nContent-Length: -1", 400),
        (b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked", 411),
        (b"POST / HTTP/1.1\r\nContent-Length: 4", 413),
    ],
)
def test_what_cannot_be_served_has_a_status(data: bytes, status: int) -> None:
    with pytest.raises(Unreadable) as caught:
        read_head(data, 3)
    assert caught.value.status == status


def test_an_answer_has_a_length_unless_it_has_no_content() -> None:
    assert rendered(200, {"A": "b"}, b"xy") == b"HTTP/1.1 200 OK\r\nA: b\r\nContent-Length: 2\r\n\r\nxy"
    assert rendered(204, {}, b"xy") == b"HTTP/1.1 204 No Content\r\n\r\n"
    assert rendered(799, {}, b"").startswith(b"HTTP/1.1 799 Unknown\r\n")
