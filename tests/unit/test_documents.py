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


def test_every_line_about_postgres_names_its_test_or_says_that_it_is_open() -> None:
    text = (ROOT / "docs" / "postgres.md").read_text(encoding="utf-8")
    rows = [line for line in text.splitlines() if line.startswith("|")]
    lines = [row for row in rows if row not in ("| what is true | held by |", "|---|---|")]
    assert lines
    for line in lines:
        _, _, held_by, _ = line.split("|")
        assert TEST.search(held_by) or held_by.strip().startswith("open"), line
