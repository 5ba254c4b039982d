"""Reading cdcflow.yaml: what is right is read, and what is wrong is told with file, line and key."""

from collections.abc import Callable
from pathlib import Path
from textwrap import dedent

import pytest

from cdcflow.config import Config, load
from cdcflow.config import load as load_config
from cdcflow.errors import ConfigurationError
from cdcflow.sink import SinkOptions, SinkPlugin, SinkSettings, registry
from cdcflow.sink.protocol import FlowContext, Sink
from cdcflow.sink.settings import ConfigPath, Secret


class FileSettings(SinkSettings):
    path: ConfigPath
    token: Secret | None = None


class FileOptions(SinkOptions):
    prefix: str = ""
    map_file: ConfigPath | None = None


def _create(settings: object, options: object, context: FlowContext) -> Sink:
    raise AssertionError("reading a configuration must not make a sink")


PLUGIN = SinkPlugin("file", FileSettings, _create, FileOptions)

SOURCE = """
source:
  dsn: postgresql://localhost/shop
  tables: [public.*]
"""

Write = Callable[..., Path]


@pytest.fixture(autouse=True)
def _own_plugin(monkeypatch: pytest.MonkeyPatch) -> None:
    real = registry.load
    monkeypatch.setattr(registry, "load", lambda name: PLUGIN if name == "file" else real(name))
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes cdcflow.yaml, and flow files given as keywords."""
    monkeypatch.chdir(tmp_path)

    def made(text: str, **flows: str) -> Path:
        path = tmp_path / "cdcflow.yaml"
        path.write_text(dedent(text), encoding="utf-8")
        for name, flow in flows.items():
            (tmp_path / "flows").mkdir(exist_ok=True)
            (tmp_path / "flows" / f"{name}.yaml").write_text(dedent(flow), encoding="utf-8")
        return path

    return made


def problem(path: Path) -> str:
    """The whole message of what is wrong."""
    with pytest.raises(ConfigurationError) as caught:
        load(path)
    assert caught.value.exit_code == 2
    return f"{caught.value} | {caught.value.hint}"


def test_the_example_of_the_design_is_read(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://ada:s3cret@db/shop")
    monkeypatch.setenv("HOOK_TOKEN", "t0ken")
    path = write(
        """
        source:
          dsn: ${DATABASE_URL}            # secrets never in repr
          tables: [public.*, "!public.audit_*"]
          publication: cdcflow
          slot: cdcflow
          backfill: initial
        journal:
          path: state/journal
          keep: {size: 20GB, age: 7d}
        sinks:
          warehouse: {type: file, path: warehouse.duckdb}
          hook:      {type: file, path: hook, token: ${HOOK_TOKEN}}
        flows: flows/
        """,
        **{"paid-orders": "from: [public.orders]\nto: hook\nwith: {prefix: paid}\n"},
    )
    config = load(path)
    base = path.parent
    assert (config.path, config.base) == (path, base)
    assert config.source.dsn.get_secret_value() == "postgresql://ada:s3cret@db/shop"
    assert config.source.tables == ("public.*", "!public.audit_*")
    assert config.journal.path == base / "state" / "journal"
    assert config.journal.keep.size == 20_000_000_000
    assert config.journal.keep.age == 604_800.0
    assert config.engine.state == base / "state"
    warehouse = config.sinks["warehouse"]
    assert warehouse.plugin is PLUGIN
    assert isinstance(warehouse.settings, FileSettings)
    assert warehouse.settings.path == base / "warehouse.duckdb"
    flow = config.flows["paid-orders"]
    assert (flow.from_, flow.to, flow.start) == (("public.orders",), "hook", "earliest")
    assert isinstance(flow.options, FileOptions)
    assert flow.options.prefix == "paid"
    assert (flow.file, flow.line) == (base / "flows" / "paid-orders.yaml", 1)


def test_no_secret_shows_in_the_repr_of_a_configuration(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("T", "t0ken")
    config = load(
        write(
            """
            source: {dsn: "postgresql://ada:s3cret@db/shop", tables: [orders]}
            sinks: {hook: {type: file, path: x, token: ${T}}}
            """
        )
    )
    assert "s3cret" not in repr(config)
    assert "t0ken" not in repr(config)
    assert config.sinks["hook"].settings.model_dump()["token"].get_secret_value() == "t0ken"


def test_what_is_left_out_has_its_default(write: Write) -> None:
    config = load(write(SOURCE))
    assert config.source.slot == config.source.publication == "cdcflow"
    assert (config.source.backfill, config.source.confirm) == ("initial", "journaled")
    assert config.engine.processes is None
    assert config.journal.path == config.base / "state" / "journal"
    assert config.journal.segment_size == 128 << 20
    assert not config.sinks
    assert not config.flows


def test_heartbeat_and_retained_wal_are_read_and_contradictions_refused(write: Write) -> None:
    source = "source: {dsn: postgresql://db/shop, tables: [public.*], "
    plain = load(write(SOURCE)).source
    assert (plain.heartbeat.every, plain.heartbeat.kind, plain.heartbeat.table) == (30.0, "message", None)
    assert (plain.retained_wal.warn, plain.retained_wal.drop_slot) == (10 * 10**9, None)
    beats = "heartbeat: {every: 2m, table: ops.heartbeat}, retained_wal: {warn: 1GB, drop_slot: 50GB}}"
    config = load(write(source + beats)).source
    assert (config.heartbeat.every, config.heartbeat.table) == (120.0, "ops.heartbeat")
    assert (config.retained_wal.warn, config.retained_wal.drop_slot) == (10**9, 50 * 10**9)
    assert "expected schema.table" in problem(write(source + "heartbeat: {table: beats}}"))
    assert "leave one of them out" in problem(write(source + "heartbeat: {kind: none, table: ops.b}}"))


def test_under_systemd_state_is_in_its_state_directory(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", "/var/lib/cdcflow:/var/lib/other")
    config = load(write(SOURCE))
    assert config.engine.state == Path("/var/lib/cdcflow")
    assert config.journal.path == Path("/var/lib/cdcflow/journal")
    assert load(write(SOURCE + "engine: {state: here}\n")).engine.state == config.base / "here"


def test_a_limit_of_the_journal_can_be_taken_away(write: Write) -> None:
    config = load(write(SOURCE + "journal: {keep: {size: null, age: 12h}}\n"))
    assert (config.journal.keep.size, config.journal.keep.age) == (None, 43_200.0)


def test_flows_may_be_an_inline_list(write: Write) -> None:
    config = load(
        write(
            SOURCE
            + """
sinks: {a: {type: file, path: a}}
flows:
  - name: one
    from: [orders]
    to: a
  - name: two
    from: [orders, "!audit_*"]
    to: a
    start: latest
"""
        )
    )
    assert [(flow.name, flow.start, flow.line) for flow in config.flows.values()] == [
        ("one", "earliest", 8),
        ("two", "latest", 11),
    ]


@pytest.mark.parametrize("text", ["null", '"null"'])
def test_the_sink_that_yaml_takes_for_nothing_needs_no_quotes(write: Write, text: str) -> None:
    config = load(write(SOURCE + f"sinks: {{nowhere: {{type: {text}}}}}\n"))
    assert config.sinks["nowhere"].plugin.name == "null"
    assert config.sinks["nowhere"].settings.type == "null"


def test_relative_paths_of_a_flow_file_count_from_the_configuration_file(write: Write) -> None:
    path = write(
        SOURCE + "sinks: {a: {type: file, path: a}}\n",
        one="from: [orders]\nto: a\nwith: {map_file: maps/one.csv}\n",
    )
    options = load(path).flows["one"].options
    assert isinstance(options, FileOptions)
    assert options.map_file == path.parent / "maps" / "one.csv"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("${WHERE}", "here"),
        ("a-${WHERE}-b", "a-here-b"),
        ("${NOWHERE:-there}", "there"),
        ("${EMPTY:-there}", "there"),
        ("${NOWHERE:-}x", "x"),
        ("$${WHERE}", "${WHERE}"),
        ("$WHERE {x} $$", "$WHERE {x} $$"),
        ("${NESTED}", "${WHERE}"),
    ],
)
@pytest.mark.parametrize("style", ['{type: file, path: "%s"}', "\n    type: file\n    path: '%s'"])
def test_variables_are_resolved_once_in_every_string(
    write: Write, monkeypatch: pytest.MonkeyPatch, text: str, expected: str, style: str
) -> None:
    monkeypatch.setenv("WHERE", "here")
    monkeypatch.setenv("NESTED", "${WHERE}")
    monkeypatch.setenv("EMPTY", "")
    monkeypatch.delenv("NOWHERE", raising=False)
    config = load(write(SOURCE + "sinks:\n  a: " + style.replace("%s", text) + "\n"))
    settings = config.sinks["a"].settings
    assert isinstance(settings, FileSettings)
    assert settings.path == config.base / expected


def test_a_variable_may_give_a_number(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKERS", "3")
    assert load(write(SOURCE + "engine: {processes: ${WORKERS}}\n")).engine.processes == 3


def test_an_unset_variable_is_named_with_its_place(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DATABASE_URL", raising=False)
    said = problem(write("source:\n  tables: [orders]\n  dsn: ${DATABASE_URL}\n"))
    assert said == (
        "cdcflow.yaml:3: source.dsn: the environment variable DATABASE_URL is not set"
        " | export DATABASE_URL=…, or give a default: ${DATABASE_URL:-…}"
    )


@pytest.mark.parametrize("text", ["${", "${}", "${a b}", "${a-b}"])
def test_a_malformed_variable_is_refused(write: Write, text: str) -> None:
    assert "cdcflow.yaml:1: source.dsn: " in problem(write(f"source: {{dsn: '{text}', tables: [orders]}}\n"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (SOURCE + "sink: {}\n", "cdcflow.yaml:5: sink: unknown key | did you mean 'sinks'?"),
        (SOURCE + "console: {}\n", "cdcflow.yaml:5: console: unknown key"),
        (SOURCE + "  slott: x\n", "cdcflow.yaml:5: source.slott: unknown key | did you mean 'slot'?"),
        (SOURCE + "  slot: My-Slot\n", "cdcflow.yaml:5: source.slot: a slot's name is made of lower-case"),
        (SOURCE + f"  publication: {'x' * 64}\n", "cdcflow.yaml:5: source.publication: a name in Postgres"),
        (
            SOURCE + "  backfill: initail\n",
            "cdcflow.yaml:5: source.backfill: expected 'initial' or 'none', found 'initail'"
            " | did you mean 'initial'?",
        ),
        (
            SOURCE + "engine: {processes: many}\n",
            "cdcflow.yaml:5: engine.processes: expected a whole number, found 'many'",
        ),
        (SOURCE + "engine: {processes: 0}\n", "cdcflow.yaml:5: engine.processes: must be ≥ 1, found 0"),
        (
            SOURCE + "journal:\n  keep: {size: 20}\n",
            "cdcflow.yaml:6: journal.keep.size: expected a size with",
        ),
        (SOURCE + "journal:\n  keep:\n    sise: 1GB\n", "cdcflow.yaml:7: journal.keep.sise: unknown key |"),
        (SOURCE + "journal: []\n", "cdcflow.yaml:5: journal: must be a mapping"),
        (SOURCE + "flows: nowhere/\n", "cdcflow.yaml:5: flows: there is no directory nowhere"),
        (SOURCE + "flows: 1\n", "cdcflow.yaml:5: flows: must be a directory of flow files, or a list"),
        ("source: {dsn: x}\n", "cdcflow.yaml:1: source.tables: is missing"),
        ("source: {dsn: '', tables: [a]}\n", "cdcflow.yaml:1: source.dsn: is empty"),
        ("source: {dsn: [s3cret], tables: [a]}\n", "cdcflow.yaml:1: source.dsn: expected text, found a list"),
        (
            "source:\n  dsn: x\n  tables: public.orders\n",
            "cdcflow.yaml:3: source.tables: expected a list, found text | put it into brackets: [a, b]",
        ),
        ("source: {dsn: x, tables: []}\n", "cdcflow.yaml:1: source.tables: is empty"),
        (
            "source:\n  dsn: x\n  tables:\n    - public.*\n    - a.b.c\n",
            "cdcflow.yaml:5: source.tables[1]: the table pattern 'a.b.c' has 3 parts",
        ),
        ("journal: {}\n", "cdcflow.yaml:1: source: is missing | say which database"),
        ("", "cdcflow.yaml:1: must be a mapping"),
        ("- a\n", "cdcflow.yaml:1: must be a mapping"),
        ("source: [\n", "cdcflow.yaml:2: not valid YAML: "),
        (
            "source: {dsn: x, tables: [a]}\nsource: {}\n",
            "cdcflow.yaml:2: not valid YAML: found duplicate key",
        ),
        (
            SOURCE + "sinks: {a: {path: x}}\n",
            "cdcflow.yaml:5: sinks.a: must be a mapping with the key `type`",
        ),
        (
            SOURCE + "sinks:\n  a:\n    type: webhok\n",
            "cdcflow.yaml:7: sinks.a.type: there is no sink of type 'webhok' | did you mean 'webhook'?",
        ),
        (
            SOURCE + "sinks: {a: {type: file, path: x, tokn: y}}\n",
            "cdcflow.yaml:5: sinks.a.tokn: unknown key | did you mean 'token'?",
        ),
        (SOURCE + "sinks: {a: {type: file}}\n", "cdcflow.yaml:5: sinks.a.path: is missing"),
        (
            SOURCE + "sinks: {A b: {type: file, path: x}}\n",
            "cdcflow.yaml:5: sinks.A b: not a name: lower-case",
        ),
        (
            SOURCE + "sinks: {a: {type: file, path: x, token: 'file:/no/such'}}\n",
            "cdcflow.yaml:5: sinks.a.token: the secret's file does not exist: looked for /no/such",
        ),
    ],
)
def test_what_is_wrong_is_told_with_its_place(write: Write, text: str, expected: str) -> None:
    assert problem(write(text)).startswith(expected)


FLOWS = SOURCE + "sinks:\n  crm: {type: file, path: x}\n"


@pytest.mark.parametrize(
    ("flow", "expected"),
    [
        (
            "from: [orders]\nto: crn\n",
            "flows/one.yaml:2: to: there is no sink 'crn' | did you mean 'crm'?",
        ),
        ("to: crm\n", "flows/one.yaml:1: from: is missing"),
        ("from: [orders]\nto: crm\ntoo: x\n", "flows/one.yaml:3: too: unknown key |"),
        ("from: [a.b.c]\nto: crm\n", "flows/one.yaml:1: from[0]: the table pattern 'a.b.c'"),
        (
            "name: two\nfrom: [orders]\nto: crm\n",
            "flows/one.yaml:1: name: unknown key | the flow's name is its file's: one",
        ),
        (
            "from: [orders]\nto: crm\nwith:\n  prefixx: a\n",
            "flows/one.yaml:4: with.prefixx: unknown key | did you mean 'prefix'?",
        ),
        (
            "from: [orders]\nto: crm\ntransform: []\n",
            "flows/one.yaml:3: transform: unknown key | did you mean 'transforms'?",
        ),
        (
            "from:\n  - orders\n  - shop.orders\nto: crm\n",
            "flows/one.yaml:3: from[1]: the table shop.orders is not captured",
        ),
        ("", "flows/one.yaml:1: must be a mapping with the keys `from` and `to`"),
        ("from: [orders\n", "flows/one.yaml:2: not valid YAML"),
    ],
)
def test_what_is_wrong_in_a_flow_file_is_told_with_its_place(write: Write, flow: str, expected: str) -> None:
    assert problem(write(FLOWS, one=flow)).startswith(expected)


def test_two_inline_flows_of_one_name_are_refused(write: Write) -> None:
    flow = "  - {name: one, from: [orders], to: crm}\n"
    said = problem(write(FLOWS + "flows:\n" + flow + flow))
    assert said.startswith("cdcflow.yaml:9: flows[1]: the flow 'one' is there twice: first in line 8")


@pytest.mark.parametrize("name", ["Orders", "-a", "a b", "x" * 64])
def test_a_flow_has_a_name_that_fits_everywhere(write: Write, name: str) -> None:
    said = problem(write(FLOWS, **{name: "from: [orders]\nto: crm\n"}))
    assert f"{name!r} is not a flow's name" in said


def test_a_flow_file_with_the_wrong_ending_is_not_passed_over(write: Write) -> None:
    path = write(FLOWS, one="from: [orders]\nto: crm\n")
    (path.parent / "flows" / "two.yml").write_text("from: [orders]\nto: crm\n", encoding="utf-8")
    assert "flows/two.yml:1: is not read | flow files end in .yaml" in problem(path)


def test_everything_that_is_wrong_is_told_at_once(write: Write) -> None:
    said = problem(write(SOURCE + "  slot: NO\nsinks: {a: {type: nope}}\n", one="to: b\nfrm: [x]\n"))
    lines = said.splitlines()
    assert lines[0] == "5 things are wrong:"
    assert [line.strip().rsplit(" (")[0] for line in lines[1:]] == [
        f"cdcflow.yaml:5: source.slot: {SLOT_RULE}; found 'NO'",
        "cdcflow.yaml:6: sinks.a.type: there is no sink of type 'nope'",
        "flows/one.yaml:1: to: there is no sink 'b'",
        "flows/one.yaml:1: from: is missing",
        "flows/one.yaml:2: frm: unknown key",
    ]


SLOT_RULE = "a slot's name is made of lower-case letters, digits and underscores, at most 63"


def test_a_missing_file_says_how_to_write_one(tmp_path: Path) -> None:
    said = problem(tmp_path / "none.yaml")
    assert "there is no configuration file" in said
    assert "cdcflow init DSN" in said


def test_a_file_that_is_not_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cdcflow.yaml"
    path.write_bytes(b"source: \xff\n")
    assert "is not UTF-8 (byte 8)" in problem(path)


def test_no_value_that_may_be_a_secret_shows_in_an_error(
    write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("S", "s3cret")
    said = problem(
        write(
            """
            source: {dsn: {url: s3cret}, tables: {a: s3cret}, backfill: ${S}}
            sinks: {a: {type: file, path: x, token: [s3cret], extra: s3cret}}
            engine: {processes: ${S}}
            """
        )
    )
    assert "s3cret" not in said
    assert "found '${S}'" in said


def test_the_package_gives_what_others_code_against() -> None:
    assert load_config is load
    assert set(Config.__dataclass_fields__) == {
        "path", "base", "source", "journal", "engine", "sinks", "flows", "mask_key",
        "refused",
    }  # fmt: skip


def test_a_flow_reads_messages_beside_tables_or_alone(write: Write) -> None:
    config = load(
        write(
            """
            source: {dsn: "postgresql://h/d", tables: [orders], messages: ["orders.*", job]}
            sinks: {hook: {type: file, path: x}}
            """,
            both="from: [orders]\nmessages: [job]\nto: hook\n",
            outbox='messages: ["orders.paid", "o*"]\nto: hook\n',
        )
    )
    assert config.source.messages == ("orders.*", "job")
    both, outbox = config.flows["both"], config.flows["outbox"]
    assert (both.from_, both.messages) == (("orders",), ("job",))
    assert (outbox.from_, outbox.messages) == ((), ("orders.paid", "o*"))
    assert both.sources == ("orders", "messages job")


def test_a_flow_gets_ddl_where_it_is_captured(write: Write) -> None:
    config = load(
        write(
            """
            source: {dsn: "postgresql://h/d", tables: [orders], ddl: true}
            sinks: {hook: {type: webhook, url: "http://h/"}}
            """,
            ddl="messages: [cdcflow.ddl]\nto: hook\n",
        )
    )
    assert config.source.captured_messages == ("cdcflow.ddl",)
    assert config.flows["ddl"].messages == ("cdcflow.ddl",)


@pytest.mark.parametrize(
    ("source", "flow", "expected"),
    [
        ("messages: [orders.*]", "messages: [audit]", "messages audit are not captured"),
        ("", "messages: ['*']", "messages * are not captured: nothing in source.messages"),
        ("messages: [cdcflow.x]", "from: [orders]", "which are never events"),
        ("messages: [cdcflow.ddl]", "from: [orders]", "is captured with `ddl: true`"),
        ("messages: ['*']", "messages: [cdcflow.ddl]", "set source.ddl: true"),
        ("messages: ['']", "from: [orders]", "is empty"),
        ("messages: ['*']", "messages: []", "messages: is empty"),
        ("messages: ['*']", "start: latest", "from: is missing"),
    ],
)
def test_messages_that_can_never_come_are_an_error(
    write: Write, source: str, flow: str, expected: str
) -> None:
    path = write(
        f"source: {{dsn: 'postgresql://h/d', tables: [orders], {source}}}\n"
        "sinks: {hook: {type: file, path: x}}\n",
        outbox=f"{flow}\nto: hook\n",
    )
    assert expected in problem(path)
