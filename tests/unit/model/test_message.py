"""Which messages a pattern of prefixes means."""

import pytest

from cdcflow.errors import ConfigurationError
from cdcflow.model import MESSAGES, PrefixPatterns
from cdcflow.model.patterns import TablePatterns


@pytest.mark.parametrize(
    ("patterns", "meant", "not_meant"),
    [
        ([], [], ["orders", ""]),
        (["orders"], ["orders"], ["orders.paid", "Orders", "order"]),
        (["orders.*"], ["orders.", "orders.paid", "orders.a\nb"], ["orders", "ordersxpaid"]),
        (["job-?"], ["job-1"], ["job-", "job-12"]),
        (["*"], ["", "anything"], []),
        (["*", "!audit*"], ["orders"], ["audit", "audit.x"]),
        (["!audit*"], ["orders", ""], ["audit.x"]),
    ],
)
def test_a_pattern_means_whole_prefixes(patterns: list[str], meant: list[str], not_meant: list[str]) -> None:
    found = PrefixPatterns(patterns)
    assert [prefix for prefix in [*meant, *not_meant] if found.matches(prefix)] == meant
    assert bool(found) is bool(patterns)


@pytest.mark.parametrize("prefix", ["cdcflow", "cdcflow.heartbeat", "cdcflow:mark"])
def test_messages_of_our_own_are_never_meant(prefix: str) -> None:
    assert not PrefixPatterns(["*"]).matches(prefix)
    with pytest.raises(ConfigurationError, match="never events"):
        PrefixPatterns([prefix])


@pytest.mark.parametrize("patterns", [["*"], ["!x"], ["cdcflow.ddl", "!*"], ["cdcflow*.ddl"][:0]])
def test_ddl_is_meant_by_its_full_name_alone(patterns: list[str]) -> None:
    assert PrefixPatterns(patterns).matches("cdcflow.ddl") is ("cdcflow.ddl" in patterns)
    assert PrefixPatterns(["cdcflow.ddl"]).matches("cdcflow.ddl")
    assert not PrefixPatterns(["cdcflow.ddl"]).matches("orders")


@pytest.mark.parametrize("text", ["", "!"])
def test_an_empty_pattern_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="is empty"):
        PrefixPatterns([text])


def test_no_pattern_of_tables_means_the_messages() -> None:
    for text in ("*.*", "public.*", "messages", "pg_logical.messages", "!public.x"):
        assert not TablePatterns([text]).matches(MESSAGES.schema, MESSAGES.name)
