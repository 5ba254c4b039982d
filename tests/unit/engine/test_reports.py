import pytest

from cdcflow.delivery import FlowReport
from cdcflow.engine.reports import CaptureReport, Delivered, Failed, Live, Order, Report, decode, encode


@pytest.mark.parametrize(
    "message",
    [
        FlowReport(name="hook", state="needs attention", reason="two\nlines, ünïcode", checkpoint=5),
        CaptureReport({"state": "streaming", "lag_bytes": None}),
        Failed("the slot is lost", "make it anew", 3),
        Delivered(2**62),
        Live(),
    ],
)
def test_a_message_is_one_line_and_comes_back_equal(message: Report | Order) -> None:
    line = encode(message)
    assert line.count(b"\n") == 1
    assert decode(line) == message


@pytest.mark.parametrize(
    "line", [b"", b"hello\n", b"[1]\n", b'{"kind":"new"}\n', b'{"kind":"failed","x":1}\n']
)
def test_anything_else_is_a_value_error(line: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        decode(line)
