"""The documentation of expressions is what the code supports, and its examples are expressions."""

from pathlib import Path

import pytest

from cdcflow.model import Column
from cdcflow.testing.batches import make_relation
from cdcflow.transform.expression import Scope, compile
from cdcflow.transform.expression.__main__ import page
from cdcflow.transform.expression.function import Supported
from cdcflow.transform.expression.sqltype import builtin
from cdcflow.transform.expression.table import FAMILIES

DOCUMENT = Path(__file__).parents[4] / "docs" / "expressions.md"

#: The columns that the examples are about.
COLUMNS = {
    "int4": "a b id hours",
    "int8": "created_epoch",
    "numeric": "amount balance area",
    "text": "status name email code card phone first last city country sku path sent born",
    "timestamptz": "created_at ended_at started_at",
    "date": "valid_until",
    "interval": "waited",
    "jsonb": "payload",
    "_text": "tags more",
}
SCOPE = Scope.of(
    make_relation(
        "examples",
        [Column(name, builtin(key).oid) for key, names in COLUMNS.items() for name in names.split()],
        key=(),
    )
)
ENTRIES = [entry for _, entries in FAMILIES for entry in entries]


def test_the_page_is_printed_from_the_code() -> None:
    assert DOCUMENT.read_text(encoding="utf-8") == page()


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_example_is_an_expression(entry: Supported) -> None:
    example = entry.example
    if "json_" in entry.name and "jsonb" not in entry.name:
        example = example.replace("payload", "payload::json")
    if entry.name == "decode":
        example = example.replace("payload", "code")

    compile(example, SCOPE)
