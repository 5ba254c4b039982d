"""`cdcflow flow preview|validate|explain|test`, on a journal and without a database."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import Result

from cdcflow.cli import output
from cdcflow.delivery import CheckpointStore
from cdcflow.model import Column, Op
from cdcflow.testing.batches import make_batch, make_relation
from cdcflow.testing.scripted import JournalSource
from unit.cli.conftest import Run

ORDERS = make_relation("orders", [Column("id", 20, key=True), "status", "email", Column("total", 1700)])

MAIN = """\
source: {dsn: "postgresql://ada:s3cret@127.0.0.1:1/shop", tables: [public.*]}
mask: {key: a key that is long enough}
sinks:
  hook:
    type: webhook
    url: http://127.0.0.1:1/in/t0ken
    headers: {x-api-key: s3cret}
    secret: whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw
  events: {type: jsonl, path: events}
  warehouse: {type: duckdb, path: warehouse.duckdb}
"""

PAID = """\
from: [public.orders]
to: hook
transforms:
  - filter: status = 'paid'
  - set: {gross: total * 1.2}
  - mask: {email: redact}
"""


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cdcflow.yaml").write_text(MAIN, encoding="utf-8")
    (tmp_path / "flows").mkdir()
    write(tmp_path, "paid", PAID)
    (tmp_path / "state").mkdir()
    source = JournalSource(tmp_path / "state" / "journal")
    for number in range(40):
        row = {"id": str(number), "status": "paid" if number % 2 else "new", "email": "a@b.c", "total": "10"}
        source.writer.append(make_batch(ORDERS, [(Op.INSERT, row, None)], commit_lsn=8 * (number + 1)))
    source.writer.sync()
    yield tmp_path
    source.writer.close()


def write(folder: Path, flow: str, text: str) -> None:
    (folder / "flows" / f"{flow}.yaml").write_text(text, encoding="utf-8")


def test_a_preview_shows_each_step_what_is_dropped_and_why_and_the_request(shop: Path, run: Run) -> None:
    shown = run("flow", "preview", "paid", "--last", "2")
    assert shown.exit_code == 0, shown.output
    lines = shown.output.splitlines()
    assert any(line.startswith("offset 38  insert public.orders  id=38") for line in lines)
    assert "filter       ✗ dropped: does not fulfil the condition  [flows/paid.yaml:4:" in shown.output
    assert 'set          + gross="12.0"' in shown.output
    assert 'mask         email: "a@b.c" → ' in shown.output
    assert "→ POST http://127.0.0.1:1/***" in shown.output
    assert "webhook-id: paid:0/140:1" in shown.output
    assert "2 change(s) of flow paid" in shown.output
    assert "1 would go to webhook. Nothing was sent" in shown.output
    assert "s3cret" not in shown.output
    assert "t0ken" not in shown.output


def test_on_a_terminal_the_steps_stand_side_by_side(
    shop: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    monkeypatch.setenv("COLUMNS", "200")
    shown = run("flow", "preview", "paid", "--last", "2")
    assert shown.exit_code == 0, shown.output
    lines = [line.split() for line in shown.output.splitlines()]
    assert ["came", "filter", "set", "mask"] in lines
    assert ["id", "39", "39", "39", "39"] in lines
    assert ["gross", '"12.0"', '"12.0"'] in lines
    [masked] = [line for line in lines if line[:2] == ["email", '"a@b.c"'] and len(line) > 2]
    assert masked[:4] == ["email", '"a@b.c"', '"a@b.c"', '"a@b.c"']
    assert masked[4] != '"a@b.c"'
    assert ["op", "insert", "✗", "dropped"] in lines
    assert "filter ✗ dropped: does not fulfil the condition  [flows/paid.yaml:4:" in shown.output
    assert "webhook-id: paid:0/140:1" in shown.output


def test_where_a_step_makes_several_they_stand_below_each_other_on_a_terminal(
    shop: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(output, "on_terminal", lambda: True)
    step = "  - python: {file: twice.py}\n"
    (shop / "twice.py").write_text("def transform(change):\n    return [change, change]\n")
    write(shop, "paid", f"from: [public.orders]\nto: hook\ntransforms:\n{step}")
    assert "makes 2 of 1" in run("flow", "preview", "paid", "--last", "1").output


def test_a_preview_moves_no_checkpoint_and_makes_no_file(shop: Path, run: Run) -> None:
    write(shop, "events", "from: [public.orders]\nto: events\n")
    write(shop, "warehouse", "from: [public.orders]\nto: warehouse\n")
    assert '{"offset":39,"id":"0/140:1"' in run("flow", "preview", "events", "-n", "1").output
    shown = run("flow", "preview", "warehouse", "-n", "1").output
    assert '→ table "public"."orders"' in shown
    assert 'a row comes: {"id":39' in shown
    assert not (shop / "events").exists()
    assert not (shop / "warehouse.duckdb").exists()
    with CheckpointStore(shop / "state" / "cdcflow.db") as store:
        assert store.get("events") is None


def test_a_row_s_changes_are_found_by_its_key(shop: Path, run: Run) -> None:
    found = json.loads(run("flow", "preview", "paid", "--key", "7", "--json").stdout)
    assert [change["came"]["key"] for change in found["changes"]] == [{"id": 7}]
    assert found["changes"][0]["out"][0]["new"]["gross"] == "12.0"
    assert json.loads(run("flow", "preview", "paid", "--key", "400", "--json").stdout)["changes"] == []


def test_changes_from_a_file_are_previewed(shop: Path, run: Run) -> None:
    lines = [
        {"table": "public.orders", "new": {"id": 1, "status": "paid", "total": 5}},
        {"schema": "public", "table": "orders", "op": "delete", "old": {"id": 1}},
    ]
    (shop / "rows.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    shown = run("flow", "preview", "paid", "--file", "rows.jsonl", "--json")
    assert [change["came"]["op"] for change in json.loads(shown.stdout)["changes"]] == ["insert", "delete"]
    (shop / "rows.jsonl").write_text('{"id": 1}\nnonsense', encoding="utf-8")
    wrong = run("flow", "preview", "paid", "--file", "rows.jsonl")
    assert wrong.exit_code == 2
    assert "rows.jsonl:2: not a JSON object" in wrong.output


def test_a_step_that_does_not_fit_is_named_by_preview_explain_and_validate(shop: Path, run: Run) -> None:
    write(shop, "paid", PAID.replace("total * 1.2", "totl * 1.2"))
    for command in ("preview", "explain", "validate"):
        shown = run("flow", command, "paid")
        assert "flows/paid.yaml:5: transforms[1].set.gross" in shown.output, command
        assert "total" in shown.output
        assert shown.exit_code != 0
    write(shop, "paid", PAID)
    assert run("flow", "validate").exit_code == 0


def test_columns_and_types_are_explained_after_every_step(shop: Path, run: Run) -> None:
    lines = run("flow", "explain", "paid").stdout.splitlines()
    assert "public.orders\tcomes\tpublic.orders\tid\tbigint (key)" in lines
    assert "public.orders\tset\tpublic.orders\tgross\tnumeric" in lines
    found = json.loads(run("flow", "explain", "paid", "--json").stdout)
    assert [shape["step"] for shape in found[0]["shapes"]] == ["comes", "filter", "set", "mask"]


EXAMPLES = """\
examples:
  - name: paid
    in: {new: {id: 1, status: paid, total: 10, email: null}}
    out: {new: {id: 1, status: paid, total: 10.00, gross: 12}}
  - in: {new: {id: 2, status: new}}
    out: none
  - in: {new: {id: 3, status: paid, total: 1, email: a@b.c}}
    out: {op: update, new: {id: 3, status: paid, total: 2, grosss: 1}}
  - in: [{new: {id: 4, status: paid}}, {new: {id: 5, status: new}}]
    out: []
  - in: {new: {id: 6, status: new}}
    out: {new: {id: 6}}
"""


def test_examples_are_run_and_what_differs_is_told(shop: Path, run: Run) -> None:
    write(shop, "paid", PAID + EXAMPLES)
    shown = run("flow", "test", "paid")
    assert shown.exit_code == 1
    for said in (
        "ok   paid: paid",
        "ok   paid: line 11",
        "FAIL paid: line 13",
        "expected update, found insert",
        "new.total: expected 2, found '1'",
        "new.grosss: expected 1, and there is no such column",
        "new.gross: found '1.2', and nothing was expected of it",
        "one more came out than expected: insert public.orders",
        "this did not come out: {'new': {'id': 6}}; filter (flows/paid.yaml:4: transforms[0].filter): "
        "does not fulfil the condition",
        "2 of 5 example(s) hold",
    ):
        assert said in shown.output, shown.output
    found = json.loads(run("flow", "test", "--json").stdout)
    assert [one["passed"] for one in found] == [True, True, False, False, False]


def test_examples_need_neither_journal_nor_types(shop: Path, run: Run) -> None:
    text = PAID.replace("public.orders", "public.sales") + EXAMPLES.partition("  - in: {new: {id: 3")[0]
    write(shop, "paid", text)
    assert run("flow", "test").exit_code == 0, run("flow", "test").output
    write(
        shop, "paid", text + 'schema: {public.sales: {id: bigint key, status: text, total: "numeric(8,2)"}}\n'
    )
    shown = run("flow", "test")
    assert "public.sales has no column 'email'" in shown.output


def test_an_example_that_makes_no_sense_is_told_with_its_place(shop: Path, run: Run) -> None:
    write(
        shop,
        "paid",
        PAID + "examples:\n  - in: {nwe: {id: 1}}\n    out: []\n  - out: []\nschema: {t: {a: nonsense}}\n",
    )
    shown = run("flow", "test")
    assert shown.exit_code == 2
    assert "flows/paid.yaml:8: examples[0].in.nwe: unknown key (did you mean 'new'?)" in shown.output
    assert "flows/paid.yaml:10: examples[1].in: is missing" in shown.output


def test_the_example_flows_do_what_their_examples_say(monkeypatch: pytest.MonkeyPatch, run: Run) -> None:
    for name in (
        "DATABASE_URL",
        "MASK_KEY",
        "HELPDESK_URL",
        "SUCCESS_URL",
        "MARKETING_URL",
        "STATE_DIRECTORY",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(Path(__file__).parents[3] / "examples")
    shown: Result = run("flow", "test")
    assert shown.exit_code == 0, shown.output
    assert "8 of 8 example(s) hold" in shown.output


def test_validate_tells_everything_that_is_wrong_in_every_file(shop: Path, run: Run) -> None:
    write(
        shop,
        "bad",
        "from: [public.orders]\nto: hook\non_reject: never\n"
        "transforms:\n- filter: status = = 1\n- set: {a: 'id +', b: 'nothing('}\n",
    )
    write(
        shop,
        "misspelt",
        "from: [public.orders]\nto: events\ntransforms:\n- filter: staus = 'x'\n- mask: {emial: redact}\n",
    )
    shown = run("flow", "validate", "--json")
    assert shown.exit_code == 2
    found = [one for one in json.loads(shown.stdout) if one["severity"] == "error"]
    said = [f"{one['subject']}: {one['message']}" for one in found]
    places = ["bad.yaml:3", "bad.yaml:5", "bad.yaml:6", "bad.yaml:6", "misspelt.yaml:4", "misspelt.yaml:5"]
    assert len(said) == len(places)
    for place, one in zip(places, said, strict=True):
        assert place in one
    assert "flow paid" in shown.stdout
    only = run("flow", "validate", "paid", "misspelt", "--json")
    assert only.exit_code == 2
    assert "bad.yaml" not in only.stdout
    assert run("flow", "validate", "paid").exit_code == 0
    assert "there is no flow 'piad'" in run("flow", "validate", "piad").output
