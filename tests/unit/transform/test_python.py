"""`python`: functions of users that do what they should, and all that they can do wrong."""

from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent
from threading import Thread
from typing import Any

import pytest

from cdcflow.errors import ConfigurationError, Permanent
from cdcflow.model import UNCHANGED, Batch, Column
from cdcflow.testing.batches import make_relation
from cdcflow.testing.history import History, delete, insert, truncate, update
from cdcflow.testing.steps import chain, context, rows
from cdcflow.testing.waiting import eventually
from cdcflow.transform import Chain

TYPES = {"id": 23, "price": 1700, "doc": 3802, "on_sale": 16, "note": 25}
ITEMS = make_relation("items", [Column(name, oid, key=name == "id") for name, oid in TYPES.items()])

Made = Callable[..., Chain]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[Made]:
    """Makes a chain of one function, whose file is written first."""
    chains: list[Chain] = []

    def make(code: str, **options: Any) -> Chain:
        (tmp_path / "code.py").write_text(dedent(code), encoding="utf-8")
        one = chain({"python": {"file": "code.py", **options}}, around=context(base=tmp_path))
        chains.append(one)
        return one

    yield make
    for one in chains:
        one.close()


def some() -> Batch:
    return History().batch(
        insert(ITEMS, id="1", price="1.10", doc='{"a": [1]}', on_sale="t", note="x"),
        update(ITEMS, id="1", price="2.50", doc=UNCHANGED, on_sale="f", note=None),
        delete(ITEMS, id="1"),
        truncate(ITEMS),
        insert(ITEMS, id="2", price=None, doc=None, on_sale=None, note="y"),
    )


def test_a_function_sets_columns_from_values_of_python(made: Made) -> None:
    found = rows(
        made(
            """
            from decimal import Decimal
            from cdcflow_change import UNCHANGED

            def transform(change):
                new = change.new
                if new is None:
                    return change
                if new["doc"] is not UNCHANGED:
                    new["first"] = new["doc"] and new["doc"]["a"][0] + new["id"]
                else:
                    new["first"] = UNCHANGED
                new["double"] = new["price"] and new["price"] * Decimal(2)
                new["note"] = {"sale": new["on_sale"]}
                return change
            """,
            sets={"first": "int", "double": "numeric", "note": "jsonb"},
        )(some())
    )
    assert [(op, new and (new["first"], new["double"], new["note"]), old) for op, new, old in found] == [
        ("insert", ("2", "2.20", '{"sale": true}'), None),
        ("update", (UNCHANGED, "5.00", '{"sale": false}'), None),
        ("delete", None, {"id": "1"}),
        ("truncate", None, None),
        ("insert", (None, None, '{"sale": null}'), None),
    ]
    assert found[1][1] is not None
    assert (found[1][1]["price"], found[1][1]["doc"]) == ("2.50", UNCHANGED)


def test_a_function_drops_and_repeats_changes(made: Made) -> None:
    one = made(
        """
        def transform(change):
            if change.op == "update":
                return None
            if change.op == "insert" and change.new["id"] == 2:
                again = change.copy()
                again.new["note"] = "again"
                return [change, again]
            return change
        """,
        sets={"note": "text"},
    )
    batch = some()
    found = one(batch)
    assert [(c.op.word, c.index, c.new and c.new["note"]) for c in found.changes()] == [
        ("insert", 0, "x"),
        ("delete", 2, None),
        ("truncate", 3, None),
        ("insert", 4, "y"),
        ("insert", 4, "again"),
    ]
    assert len({str(c.position) for c in found.changes()}) == 5
    assert one.trace(batch)[1].dropped == {1: "code.py:2 did not give it back"}


def test_a_function_takes_a_batch(made: Made) -> None:
    one = made(
        """
        def transform(changes):
            total = sum(c.new["id"] for c in changes if c.new)
            for c in changes:
                if c.new:
                    c.new["total"] = total
            return [c for c in changes if c.op != "delete"]
        """,
        batch=True,
        sets={"total": "bigint"},
    )
    found = one(some())
    assert [c.new["total"] for c in found.changes() if c.new] == ["4", "4", "4"]
    assert [c.op.word for c in found.changes()] == ["insert", "update", "truncate", "insert"]


def test_a_change_for_which_it_raises_is_refused_with_the_places_and_without_values(made: Made) -> None:
    one = made(
        """
        def inner(value):
            raise ValueError(f"secret {value}")

        def transform(change):
            if change.op == "update":
                inner(change.new["price"])
            return change
        """
    )
    found = one(some())
    assert found.refused == {1: "code.py:7 in transform, code.py:3 in inner: ValueError"}
    assert [c.index for c in found.changes()] == [0, 2, 3, 4]
    stopping = made("def transform(change):\n    return 1 / 0\n", on_error="stop")
    with pytest.raises(Permanent, match=r"code\.py:2 in transform: ZeroDivisionError"):
        stopping(some())


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("return 5", "gave back a int, not the change, None or a list of changes"),
        ("return [change, 'x']", "gave back a str"),
        ("change.new['price'] = 1; return change", "sets 'price', which the step does not name"),
        ("change.new['other'] = 1; return change", "sets 'other', which the step does not name"),
        ("change.new['n'] = object(); return change", "sets 'n' to a object"),
        ("change.new['n'] = 'many'; return change", "sets 'n' to what is no integer"),
        ("change.new = 'x'; return change", "set new to a str"),
    ],
)
def test_what_is_no_answer_is_refused(made: Made, line: str, said: str) -> None:
    one = made(f"def transform(change):\n    {line}\n", sets={"n": "int"})
    batch = History().batch(insert(ITEMS, id="1", price="1", doc=None, on_sale=None, note=None))
    found = one(batch)
    assert len(found) == 0
    assert found.refused[0].startswith("code.py:1: ")
    assert said in found.refused[0]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import nothing_of_that_name\n", r"code\.py:1: ModuleNotFoundError: No module named"),
        ("\ndef transform(change:\n", r"code\.py:2: SyntaxError"),
        ("x = 1 / 0\n", r"code\.py:1: ZeroDivisionError"),
        ("def other(change): return change\n", r"code\.py:1: has no function 'transform'"),
        ("\nwhile True: pass\n", r"code\.py:2: .*did not return|code\.py:2: TooLong"),
    ],
)
def test_a_file_that_cannot_be_used_is_said_before_any_row_flows(made: Made, code: str, said: str) -> None:
    one = made(code, timeout="1s")
    with pytest.raises(ConfigurationError, match=rf"flow\.yaml:1: transforms\[0\]\.python\.file: .*{said}"):
        one.bind(ITEMS)


def test_only_a_file_of_the_configuration_is_run(made: Made, tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "out.py").write_text("def transform(change): return change\n")
    (tmp_path / "base" / "link.py").symlink_to(tmp_path / "out.py")
    around = context(base=tmp_path / "base")
    for name in ("../out.py", str(tmp_path / "out.py"), "link.py"):
        with pytest.raises(ConfigurationError, match="only a file in the configuration's directory"):
            chain({"python": name}, around=around)
    with pytest.raises(ConfigurationError, match=r"there is no file missing\.py"):
        chain({"python": "missing.py"}, around=around)


def test_a_function_that_loops_is_stopped_and_named_with_its_line(made: Made) -> None:
    one = made(
        """
        def transform(change):
            while True:
                try:
                    sum(range(1000))
                except Exception:
                    pass
        """,
        timeout="1s",
    )
    with pytest.raises(
        Permanent, match=r"code\.py:\d in transform: the function transform did not return within 1 s"
    ):
        one(some())
    # What stands in the file now is for a flow that begins anew.
    found = made("def transform(change):\n    return change\n")
    assert len(found(some())) == 5
    with pytest.raises(Permanent, match="1 s"):
        one(some())


def test_a_function_that_does_not_hear_its_alarm_is_killed(made: Made) -> None:
    one = made(
        """
        import signal

        def transform(change):
            signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
            while True:
                pass
        """,
        timeout="1s",
    )
    with pytest.raises(Permanent, match=r"code\.py:4: the function transform did not return within 1 s"):
        one(some())


def test_a_function_that_needs_too_much_memory_is_named_with_its_line(made: Made) -> None:
    one = made(
        "def transform(change):\n    hoard = bytearray(2 * 10**9)\n    return change\n", memory="256MB"
    )
    with pytest.raises(Permanent, match=r"code\.py:2 in transform: .* needs more memory than 256 MB"):
        one(some())


def test_a_function_that_ends_its_process_stops_its_flow_only(made: Made) -> None:
    one = made("import os\n\ndef transform(change):\n    os._exit(3)\n")
    with pytest.raises(Permanent, match=r"code\.py:3: .* ended its process with exit code 3"):
        one(some())


def test_what_it_prints_does_not_disturb(made: Made) -> None:
    one = made("def transform(change):\n    print('hello' * 1000)\n    return change\n")
    assert len(one(some())) == 5


def test_a_wait_for_a_function_can_be_ended(made: Made, tmp_path: Path) -> None:
    one = made(
        f"""
        from pathlib import Path

        def transform(change):
            Path({str(tmp_path)!r}, "began").touch()
            while True:
                pass
        """,
        timeout="10m",
    )
    failed: list[Exception] = []

    def call() -> None:
        try:
            one(some())
        except Permanent as error:
            failed.append(error)

    thread = Thread(target=call)
    thread.start()
    eventually((tmp_path / "began").exists, what="the function's beginning")
    one.interrupt()
    thread.join(30)
    assert not thread.is_alive()
    assert failed
