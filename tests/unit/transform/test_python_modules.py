"""What a function's file imports from the configuration's directory."""

from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from cdcflow.errors import ConfigurationError
from cdcflow.testing.batches import make_relation
from cdcflow.testing.history import History, insert
from cdcflow.testing.steps import chain, context, rows
from cdcflow.transform import Chain
from cdcflow.transform.python.modules import imported, within

ITEMS = make_relation("items", ["id", "note"])
STEP = """\
import json, prices.vat
from prices import rounding, COUNT
from names import *

def transform(change):
    from late import shout
    change.new["note"] = shout(f"{prices.vat.RATE} {rounding.digits()} {title('x')}")
    return change
"""
FILES = {
    "prices/__init__.py": "from .digits import COUNT\n",
    "prices/vat.py": "RATE = 19\n",
    "prices/digits.py": "from ..outside import x\nCOUNT = 2\n",
    "prices/rounding.py": "from . import digits as d\n\ndef digits():\n    return d.COUNT\n",
    "prices/unused.py": "1 / 0\n",
    "names.py": "import step, deep.down.there\n\ndef title(x):\n    return deep.down.there.X + x\n",
    "deep/down/there.py": "X = 'deep '\n",
    "late.py": "def shout(text):\n    return text + '!'\n",
    "unused.py": "1 / 0\n",
}
USED = sorted(set(FILES) - {"prices/unused.py", "unused.py"})


@pytest.fixture
def base(tmp_path: Path) -> Path:
    files = {**FILES, "step.py": STEP, "prices/digits.py": "COUNT = 2\n"}
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def made(base: Path) -> Iterator[Chain]:
    one = chain({"python": {"file": "step.py", "sets": {"note": "text"}}}, around=context(base=base))
    yield one
    one.close()


def test_all_that_is_imported_is_found_by_reading(base: Path) -> None:
    found = imported(base, base / "step.py", STEP.encode(), partial(within, base))
    assert [str(path.relative_to(base)) for path in found] == USED
    assert found[base / "late.py"] == FILES["late.py"].encode()


def test_nothing_outside_of_the_directory_is(base: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    outside = tmp_path_factory.mktemp("outside") / "far.py"
    outside.write_text("X = 1\n")
    (base / "far.py").symlink_to(outside)
    (base / "near.py").symlink_to(base / "late.py")
    source = b"import far, near\nfrom .. import late\nfrom ...x import y\n"
    found = imported(base, base / "step.py", source, partial(within, base))
    assert list(found) == [base / "near.py"]


@pytest.mark.parametrize("source", [b"def f(:", b"\0", b"\xff\xfe", b"(" * 10_000], ids=repr)
def test_what_is_no_python_imports_nothing(base: Path, source: bytes) -> None:
    assert imported(base, base / "step.py", source, partial(within, base)) == {}


def test_the_function_s_process_has_the_modules_as_they_were_and_no_others(base: Path, made: Chain) -> None:
    for name in FILES:
        (base / name).write_text("raise RuntimeError\n", encoding="utf-8")
    found = made(History().batch(insert(ITEMS, id="1", note=None)))
    assert rows(found) == [("insert", {"id": "1", "note": "19 2 deep x!"}, None)]


def test_a_module_that_nobody_names_is_not_found(base: Path) -> None:
    (base / "step.py").write_text(
        "import importlib\n\ndef transform(change):\n    importlib.import_module('unu' + 'sed')\n"
    )
    one = chain({"python": {"file": "step.py"}}, around=context(base=base))
    found = one(History().batch(insert(ITEMS, id="1", note=None)))
    one.close()
    assert list(found.refused.values()) == ["step.py:4 in transform: ModuleNotFoundError"]


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("prices/vat.py", "def f(:\n", r"prices/vat\.py:1: SyntaxError"),
        ("late.py", "\nimport\n", r"late\.py:2: SyntaxError"),
        ("names.py", "\nx = 1 / 0\n", r"names\.py:2: ZeroDivisionError"),
        ("names.py", "import no_such_thing\n", r"names\.py:1: ModuleNotFoundError: No module named"),
    ],
)
def test_a_module_that_is_broken_is_named_before_any_row_flows(
    base: Path, name: str, text: str, said: str
) -> None:
    (base / name).write_text(text, encoding="utf-8")
    one = chain({"python": {"file": "step.py", "sets": {"note": "text"}}}, around=context(base=base))
    with pytest.raises(ConfigurationError, match=said):
        one.bind(ITEMS)
    one.close()
