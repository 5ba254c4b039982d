"""`cdcflow deadletters`, on a real state database; what the engine is asked goes to a socket of the test."""

import asyncio
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from typer.testing import Result

from cdcflow.delivery import LetterStore, Selection
from cdcflow.delivery.lanes import stands
from cdcflow.delivery.letters import Arrival
from cdcflow.delivery.payload import unpack
from cdcflow.engine.control import ControlServer
from cdcflow.engine.places import Places
from cdcflow.model import Op
from cdcflow.testing.batches import make_batch, make_relation

Run = Callable[..., Result]
ORDERS = make_relation("orders", oid=1)


@pytest.fixture
def letters(project: Path) -> Iterator[LetterStore]:
    """Two causes: three dead letters of one, one of the other with two parked behind it."""
    places = Places(project / "state")
    places.make()
    rows = [(Op.INSERT, {"id": str(i), "note": f"secret {i}"}, None) for i in (1, 2, 3, 4, 4, 4)]
    batch = make_batch(ORDERS, rows, base=100)
    arrivals = []
    for i in range(6):
        change = batch.slice(i, i + 1)
        [row] = change.changes()
        reason = f"the field 'note' cannot be 'secret {i}'" if i < 3 else "no such object"
        arrivals.append(
            Arrival(
                change,
                stands((row,), None),
                "parked" if i > 3 else "dead",
                reason if i <= 3 else "",
                f"answer {i}",
            )
        )
    with LetterStore(places.checkpoints) as store:
        store.add("orders", arrivals, "r1")
        yield store


@contextmanager
def flow_answering(project: Path, answer: Callable[[Mapping[str, Any]], object]) -> Iterator[None]:
    """A flow's socket, as its worker has one."""
    loop = asyncio.new_event_loop()
    listening, ended = threading.Event(), asyncio.Event()

    async def handle(request: Mapping[str, Any]) -> bytes:
        return orjson.dumps(answer(request))

    async def serve() -> None:
        server = await ControlServer.start(Places(project / "state").flow_socket("orders"), handle)
        listening.set()
        await ended.wait()
        await server.close()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert listening.wait(10)
        yield
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


def test_dead_letters_are_listed_and_chosen_by_cause_and_key(letters: LetterStore, run: Run) -> None:
    result = run("deadletters", "list", "--json")
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert [(one["number"], one["key"]["id"]) for one in found] == [(1, "1"), (2, "2"), (3, "3"), (4, "4")]
    groups = json.loads(run("deadletters", "list", "--by-cause", "--json").stdout)
    assert [(group["count"], group["sentence"]) for group in groups] == [
        (3, "the field '…' cannot be '…'"),
        (1, "no such object"),
    ]
    cause = groups[0]["cause"]
    assert len(json.loads(run("deadletters", "list", "--cause", cause, "--json").stdout)) == 3
    [one] = json.loads(run("deadletters", "list", "--key", "2", "--json").stdout)
    assert one["number"] == 2
    assert len(json.loads(run("deadletters", "list", "--parked", "--json").stdout)) == 6
    assert json.loads(run("deadletters", "list", "--until", "1h", "--json").stdout) == []
    assert len(json.loads(run("deadletters", "list", "--since", "1h", "--json").stdout)) == 4
    assert "2 parked behind them" in run("deadletters", "list").stderr


def test_a_misspelt_flow_is_no_empty_list(letters: LetterStore, run: Run) -> None:
    for command in ("list", "retry", "export"):
        result = run("deadletters", command, "--flow", "ordres")
        assert result.exit_code == 2, command
        assert "there is no flow 'ordres', and no dead letter of one" in result.stderr
        assert "orders" in result.stderr


def test_one_letter_is_shown_with_its_change(letters: LetterStore, run: Run) -> None:
    found = json.loads(run("deadletters", "show", "2", "--json").stdout)
    assert found["event"]["new"] == {"id": "2", "note": "secret 2", "status": None}
    assert (found["answer"], found["revision"], found["attempts"]) == ("answer 1", "r1", 1)
    assert "secret 2" in run("deadletters", "show", "2").stdout
    assert run("deadletters", "show", "99").exit_code == 1


def test_letters_are_exported_as_lines_for_this_user_only(
    letters: LetterStore, run: Run, tmp_path: Path
) -> None:
    file = tmp_path / "out.jsonl"
    assert run("deadletters", "export", "--file", str(file)).exit_code == 0
    assert [json.loads(line)["state"] for line in file.read_text().splitlines()] == ["dead"] * 4 + [
        "parked"
    ] * 2
    assert file.stat().st_mode & 0o777 == 0o600


def test_without_an_engine_a_retry_says_so_and_sends_nothing(letters: LetterStore, run: Run) -> None:
    result = run("deadletters", "retry", "--all")
    assert result.exit_code == 3
    assert "cdcflow run" in result.stderr
    assert len(letters.select(Selection())) == 6


def test_choosing_nothing_is_not_choosing_all(letters: LetterStore, run: Run) -> None:
    assert run("deadletters", "retry").exit_code == 2
    assert run("deadletters", "discard", "--reason", "x").exit_code == 2


def test_a_retry_asks_the_worker_and_warns_of_newer_state(
    letters: LetterStore, project: Path, run: Run
) -> None:
    asked: list[Mapping[str, Any]] = []

    def answer(request: Mapping[str, Any]) -> object:
        asked.append(request)
        what = {1: ("delivered", ""), 2: ("superseded", "")}
        found = {n: what.get(n, ("refused", "still")) for n in request["numbers"]}
        return [{"number": n, "what": done, "reason": why} for n, (done, why) in found.items()]

    with flow_answering(project, answer):
        result = run("deadletters", "retry", "--all", "--rate", "2")
        forced = run("deadletters", "retry", "2", "--force")
    assert result.exit_code == 1
    assert "newer state of 1 row(s)" in result.stderr
    assert "--force" in result.stderr
    assert "2 refused again: still" in result.stderr
    assert [request["numbers"] for request in asked] == [[1, 2], [3, 4], [2]]
    assert [request["rate"] for request in asked] == [2.0, 2.0, None]
    assert asked[-1]["force"] is True
    assert forced.exit_code == 1


def test_a_flow_that_does_not_run_keeps_no_other_from_it(
    letters: LetterStore, project: Path, run: Run
) -> None:
    [letter, *_] = letters.select(Selection())
    letters.add("another", [Arrival(unpack(letters.payload(letter.number) or b""), (), "dead", "no")], "r1")

    def answer(request: Mapping[str, Any]) -> object:
        reason = "the warehouse has newer state"
        return [{"number": n, "what": "superseded", "reason": reason} for n in request["numbers"]]

    with flow_answering(project, answer):
        result = run("deadletters", "retry", "--all", "--force")
    assert result.exit_code == 3
    assert "4 superseded" in result.stderr
    assert "flow 'another' does not run" in result.stderr


def test_what_a_sink_takes_back_for_nobody_is_told_without_force(
    letters: LetterStore, project: Path, run: Run
) -> None:
    def answer(request: Mapping[str, Any]) -> object:
        reason = "the warehouse has newer state"
        return [{"number": n, "what": "superseded", "reason": reason} for n in request["numbers"]]

    with flow_answering(project, answer):
        result = run("deadletters", "retry", "1", "--force")
    assert result.exit_code == 1
    assert "1 superseded: the warehouse has newer state" in result.stderr
    assert "--force" not in result.stderr


def test_discarding_takes_a_reason_and_is_kept(letters: LetterStore, run: Run) -> None:
    assert run("deadletters", "discard", "1").exit_code == 2
    assert run("deadletters", "discard", "1", "--reason", "a test row").exit_code == 0
    assert {letter.number for letter in letters.select(Selection())} == {2, 3, 4, 5, 6}
    [entry] = json.loads(run("deadletters", "list", "--discarded", "--json").stdout)
    assert (entry["number"], entry["why"]) == (1, "a test row")


def test_a_project_that_has_never_run_has_no_dead_letters(project: Path, run: Run) -> None:
    result = run("deadletters", "list", "--json")
    assert (result.exit_code, json.loads(result.stdout)) == (0, [])


def test_a_flow_that_needs_attention_is_told_to_try_again(project: Path, run: Run) -> None:
    asked: list[Mapping[str, Any]] = []

    def answer(request: Mapping[str, Any]) -> object:
        asked.append(request)
        return {}

    Places(project / "state").make()
    with flow_answering(project, answer):
        assert run("flow", "retry", "orders").exit_code == 0
    assert [request["op"] for request in asked] == ["retry"]
    assert run("flow", "retry", "orders").exit_code == 3
    assert run("flow", "retry", "ordres").exit_code == 2
