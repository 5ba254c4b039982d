"""What the documents promise about the tests: every test that they name exists."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST = re.compile(r"`(test_\w+)`")


def existing_tests() -> set[str]:
    return {
        node.name
        for file in (ROOT / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


@pytest.mark.parametrize("document", sorted((ROOT / "docs").glob("*.md")), ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    named = set(TEST.findall(document.read_text(encoding="utf-8")))
    assert sorted(named - existing_tests()) == []


#: The pages that promise something in each line of their tables, and whether a line may be open.
PROMISES = {"postgres.md": True, "tested.md": False}
HEADS = (
    "| what is true | held by |",
    "| trouble | how it ends | held by |",
    "| case | what is true | tests besides the oracle |",
)


@pytest.mark.parametrize("page", PROMISES)
def test_every_promise_names_its_test_or_says_that_it_is_open(page: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|") and not line.startswith("|---")]
    lines = [row for row in rows if row not in HEADS]
    assert lines
    for line in lines:
        held_by = line.split("|")[-2]
        assert TEST.search(held_by) or (PROMISES[page] and held_by.strip().startswith("open")), line
