"""Reading a flow's transforms: what is right is read, and what is wrong is told with file, line and key."""

from pathlib import Path
from textwrap import dedent, indent

import pytest

from cdcflow.config import Config, load, make_chain
from cdcflow.errors import ConfigurationError
from cdcflow.testing.history import ORDERS

HEAD = """
source: {dsn: postgresql://localhost/shop, tables: [public.*]}
sinks: {out: {type: "null"}}
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


def read(steps: str, head: str = HEAD) -> Config:
    Path("cdcflow.yaml").write_text(head)
    Path("flows").mkdir(exist_ok=True)
    text = "from: [orders]\nto: out\ntransforms:\n" + indent(dedent(steps).strip("\n"), "  ")
    Path("flows/one.yaml").write_text(text + "\n")
    return load(Path("cdcflow.yaml"))


def problem(steps: str, head: str = HEAD) -> str:
    with pytest.raises(ConfigurationError) as caught:
        read(steps, head)
    return f"{caught.value} | {caught.value.hint}"


def test_steps_are_read_in_their_order_with_their_lines() -> None:
    config = read(
        """
        - rename:
            status: state
        - select: [id, state]
          tables: [public.*]
        """
    )
    flow = config.flows["one"]
    assert [(entry.name, entry.tables, entry.site.line) for entry in flow.transforms] == [
        ("rename", (), 4),
        ("select", ("public.*",), 6),
    ]
    made = make_chain(flow, base=config.base, mask_key=config.mask_key)
    assert made.output(ORDERS)[0].names == ("id", "state")


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        (
            "- selct: [id]",
            "flows/one.yaml:4: transforms[0].selct: there is no step 'selct' | did you mean 'select'?",
        ),
        ("- select", "flows/one.yaml:4: transforms[0]: the step 'select' has no options"),
        ("- {}", "flows/one.yaml:4: transforms[0]: is not a step"),
        (
            "- select: [id]\n  rename: {a: b}",
            "flows/one.yaml:4: transforms[0]: expected one step, found select, rename",
        ),
        ("- select: id", "flows/one.yaml:4: transforms[0].select: expected a list, found text"),
        ("- select: []", "flows/one.yaml:4: transforms[0].select: is empty"),
        ("- select: [id]\n  tables: ['']", "flows/one.yaml:5: transforms[0].tables[0]"),
        ("- rename:\n    a: 1", "flows/one.yaml:5: transforms[0].rename.a: expected text, found a number"),
        (
            "- mask:\n    email: sha265",
            "flows/one.yaml:5: transforms[0].mask.email: expected 'sha256', 'sha256_unkeyed', 'tokenise', "
            "'partial', 'redact' or 'null', found 'sha265' | did you mean 'sha256'?",
        ),
        (
            "- mask:\n    email: {method: partial, lst: 3}",
            "flows/one.yaml:5: transforms[0].mask.email.lst: unknown key | did you mean 'last'?",
        ),
        (
            "- mask:\n    a: redact\n    email: sha256",
            "flows/one.yaml:6: transforms[0].mask.email: sha256 needs a secret key",
        ),
    ],
)  # fmt: skip
def test_what_is_wrong_in_a_step_is_told_with_its_place(steps: str, expected: str) -> None:
    assert problem(steps).startswith(expected)


def test_a_list_of_steps_is_asked_for() -> None:
    Path("cdcflow.yaml").write_text(HEAD)
    Path("flows").mkdir()
    Path("flows/one.yaml").write_text("from: [orders]\nto: out\ntransforms: {select: [id]}\n")
    with pytest.raises(ConfigurationError, match=r"flows/one.yaml:3: transforms: must be a list of steps"):
        load(Path("cdcflow.yaml"))


def test_the_key_of_masks_is_a_secret_of_the_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASK_KEY", "0123456789abcdef0123456789abcdef")
    config = read("- mask: {email: sha256}", HEAD + "mask: {key: '${MASK_KEY}'}\n")
    assert "0123456789" not in repr(config)
    assert config.mask_key is not None
    monkeypatch.setenv("MASK_KEY", "short")
    found = problem("- mask: {email: sha256}", HEAD + "mask: {key: '${MASK_KEY}'}\n")
    assert "the key has 5 bytes" in found
    assert "short" not in found


def test_a_step_that_has_only_moved_is_the_same_step() -> None:
    first = read("- select: [id]").flows["one"].transforms
    assert read("# moved\n- select: [id]").flows["one"].transforms == first
    assert read("- select: [id, status]").flows["one"].transforms != first


CRM = """
source: {dsn: postgresql://localhost/shop, tables: [public.*]}
sinks: {out: {type: hubspot, token: x}}
"""


def crm(fields: str) -> Config:
    Path("cdcflow.yaml").write_text(CRM)
    Path("flows").mkdir(exist_ok=True)
    text = dedent(f"""\
        from: [orders]
        to: out
        with:
          object: deals
          match: {{order_id: id}}
          fields:
            {fields}
        """)
    Path("flows/one.yaml").write_text(text)
    return load(Path("cdcflow.yaml"))


def test_a_formula_of_a_mapping_is_a_last_step_that_makes_its_column() -> None:
    flow = crm("dealname: {formula: status || '!'}").flows["one"]
    assert [(entry.name, entry.site.line) for entry in flow.transforms] == [("set", 6)]
    [shape] = make_chain(flow, base=Path(), mask_key=None).output(ORDERS)
    assert shape.names == (*ORDERS.names, "dealname: formula")


def test_a_formula_that_is_wrong_is_told_with_its_line_and_field() -> None:
    with pytest.raises(ConfigurationError) as caught:
        crm("dealname: {formula: status ||}")
    assert "one.yaml:7: with.fields.dealname: formula" in str(caught.value)
    flow = crm("dealname: {formula: state || '!'}").flows["one"]
    with pytest.raises(ConfigurationError, match=r"one\.yaml:7: with\.fields\.dealname: formula"):
        make_chain(flow, base=Path(), mask_key=None).output(ORDERS)
