"""Sizes and durations as people write them."""

import pytest

from cdcflow.sink.quantities import parse_duration, parse_size


@pytest.mark.parametrize(
    ("text", "expected"),
    [("1B", 1), ("500kB", 500_000), ("64MB", 64_000_000), ("1.5 GiB", 3 << 29), ("20gb", 20 * 10**9)],
)
def test_a_size_is_read_in_bytes(text: str, expected: int) -> None:
    assert parse_size(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("30s", 30.0), ("12h", 43_200.0), ("7d", 604_800.0), ("250ms", 0.25), ("5m", 300.0)],
)
def test_a_duration_is_read_in_seconds(text: str, expected: float) -> None:
    assert parse_duration(text) == expected


@pytest.mark.parametrize("text", ["20", "", "GB", "-1GB", "20 parsecs", "1e9B", "7D"])
def test_a_quantity_without_a_unit_or_with_an_unknown_one_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="with a unit such as"):
        parse_duration(text)
    if text != "7D":
        with pytest.raises(ValueError, match="with a unit such as"):
            parse_size(text)
