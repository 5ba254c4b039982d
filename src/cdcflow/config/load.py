"""Reads `cdcflow.yaml` and its flow files. Either everything in them holds, or one error tells all that
does not; who runs already reads them in parts, and goes on with those that hold."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from cdcflow.config.document import Document, Way, dotted, read
from cdcflow.config.examples import read_examples, read_schema
from cdcflow.config.models import (
    FLOW_NAME,
    Config,
    EngineSettings,
    Flow,
    FlowSettings,
    JournalSettings,
    SinkEntry,
    SourceSettings,
    StepEntry,
)
from cdcflow.config.problems import Place, Problems, nearest, shown
from cdcflow.config.transforms import computed_step, mask_key, read_steps
from cdcflow.config.validation import validate
from cdcflow.errors import ConfigurationError
from cdcflow.model.ddl import DDL_PREFIX
from cdcflow.model.message import PrefixPattern, PrefixPatterns
from cdcflow.model.patterns import TablePattern, TablePatterns
from cdcflow.sink import registry
from cdcflow.transform import StepContext
from cdcflow.transform.python.modules import within

SECTIONS = ("source", "journal", "engine", "sinks", "mask", "flows")

#: Where flow files are, beside the configuration file.
FLOWS = "flows"


#: The first is read. The second is told about, since it would be passed over without a word.
SUFFIXES = (".yaml", ".yml")

#: What files say at one moment.
Texts = Mapping[Path, bytes]


@dataclass(frozen=True)
class Parts:
    """A configuration as far as it holds: `config` lacks the flows whose files have problems, and is None
    where the main file has one."""

    config: Config | None
    problems: Problems


def load(path: Path, texts: Texts | None = None) -> Config:
    """The configuration in the file `path`, or in what `texts` has of it and its flow files.

    Raises ConfigurationError naming file, line and key of everything that is wrong.
    """
    parts = load_parts(path, texts)
    if parts.problems or parts.config is None:
        raise parts.problems.error()
    return parts.config


def absolute(path: Path) -> Path:
    """The configuration file's path. Raises ConfigurationError where there is no such file."""
    path = path.expanduser().absolute()
    if not path.is_file():
        raise ConfigurationError(
            f"there is no configuration file {shown(path)}",
            hint="write one with `cdcflow init DSN`, or name it with --config",
        )
    return path


def load_parts(path: Path, texts: Texts | None = None) -> Parts:
    """As `load`, but what is wrong with one flow's file leaves the others alone. Raises ConfigurationError
    where there is no file at all."""
    if texts is None:
        path = absolute(path)
    problems = Problems()
    document = read(path, problems, base=path.parent, texts=texts)
    if document is None:
        return Parts(None, problems)
    if not isinstance(document.data, dict):
        problems.add(document.place(()), "", "must be a mapping with the key `source`")
        return Parts(None, problems)
    for key in document.data:
        if key not in SECTIONS:
            problems.add(document.place((key,)), key, "unknown key", nearest(key, SECTIONS))

    source = _source(document, problems)
    engine = _engine(document, problems)
    state = engine.state if engine is not None else path.parent
    journal = _journal(document, problems, state)
    sinks, named = _sinks(document, problems)
    mask = mask_key(document, _section(document, "mask", problems), problems)
    flows = _Flows(problems, sinks, named, source, mask, texts).read(document)
    wrong = problems.files()
    if path in wrong or source is None or engine is None or journal is None:
        return Parts(None, problems)
    sound = {name: flow for name, flow in flows.items() if flow.file not in wrong}
    refused = {file.stem: problems.error(file).told for file in sorted(wrong)}
    return Parts(Config(path, path.parent, source, journal, engine, sinks, sound, mask, refused), problems)


def flow_folder(path: Path, texts: Texts | None = None) -> Path | None:
    """The folder of flow files that the main file `path`, or what `texts` has of it, names; None where the
    flows are an inline list, or it says nothing that can be read."""
    document = read(path, Problems(), base=path.parent, texts=texts)
    if document is None or not isinstance(document.data, dict):
        return None
    given = document.data.get("flows", FLOWS)
    return document.base / Path(given).expanduser() if isinstance(given, str) else None


def flow_files(folder: Path) -> list[Path]:
    """The flow files of a folder, in the order of their names; none where there is no such folder."""
    try:
        return [file for file in _visible(folder) if file.suffix in SUFFIXES]
    except OSError:
        return []


def _visible(directory: Path) -> list[Path]:
    """An editor's swap and backup files are no flows. Raises OSError."""
    return sorted(file for file in directory.iterdir() if not file.name.startswith("."))


def _code(steps: Iterable[StepEntry], base: Path, texts: Texts) -> dict[Path, bytes]:
    """What the files hold that steps are made of. One that cannot be read is for the step to complain of."""
    found: dict[Path, bytes] = {}
    for entry in steps:
        found |= entry.plugin.files(entry.options, base, _reading(base, texts))
    return found


def _reading(base: Path, texts: Texts) -> Callable[[Path], bytes | None]:
    """Reads the files of one step. Where `texts` has one of them, it has all: what has come beside them since
    then is none of the step's."""
    kept = False

    def read(path: Path) -> bytes | None:
        nonlocal kept
        if path in texts:
            kept = True
            return texts[path]
        return None if kept else within(base, path)

    return read


def _section(document: Document, key: str, problems: Problems) -> dict[str, Any] | None:
    """A section's mapping, empty where it is left out."""
    value = document.data.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        problems.add(document.place((key,)), key, "must be a mapping")
        return None
    return dict(value)


def _source(document: Document, problems: Problems) -> SourceSettings | None:
    data = _section(document, "source", problems)
    if data is None:
        return None
    if not data:
        hint = "say which database, and which of its tables: source: {dsn: …, tables: [public.*]}"
        problems.add(document.place(("source",)), "source", "is missing", hint)
        return None
    return validate(SourceSettings, document, ("source",), problems, data=data)


def _engine(document: Document, problems: Problems) -> EngineSettings | None:
    data = _section(document, "engine", problems)
    if data is None:
        return None
    # systemd's StateDirectory= (systemd.exec(5)): several are joined by colons.
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    data.setdefault("state", given or "state")
    return validate(EngineSettings, document, ("engine",), problems, data=data)


def _journal(document: Document, problems: Problems, state: Path) -> JournalSettings | None:
    data = _section(document, "journal", problems)
    if data is None:
        return None
    data.setdefault("path", str(state / "journal"))
    return validate(JournalSettings, document, ("journal",), problems, data=data)


def _sinks(document: Document, problems: Problems) -> tuple[dict[str, SinkEntry], list[str]]:
    """The entries that are right, and the names of all."""
    data = _section(document, "sinks", problems) or {}
    entries = {}
    for name, given in data.items():
        way: Way = ("sinks", name)
        place = document.place(way)
        if not isinstance(given, dict) or "type" not in given:
            problems.add(place, dotted(way), "must be a mapping with the key `type`", _installed())
            continue
        if given["type"] is None:  # YAML's own word for nothing, and the name of a sink
            given = {**given, "type": "null"}
        if not FLOW_NAME.fullmatch(name):
            problems.add(place, dotted(way), f"not a name: {_NAME_RULE}")
        try:
            plugin = registry.load(str(given["type"]))
        except ConfigurationError as error:
            problems.add(document.place((*way, "type")), dotted((*way, "type")), str(error), error.hint)
            continue
        settings = validate(plugin.settings, document, way, problems, data=given)
        if settings is not None:
            entries[name] = SinkEntry(name, plugin, settings)
    return entries, list(data)


_NAME_RULE = "lower-case letters, digits, - and _, starting with a letter or digit, at most 63"


def _installed() -> str:
    return f"types installed here: {', '.join(registry.names()) or 'none'}"


class _Flows:
    """Reads flows from a directory or from an inline list."""

    def __init__(
        self,
        problems: Problems,
        sinks: Mapping[str, SinkEntry],
        named: list[str],
        source: SourceSettings | None,
        mask: SecretStr | None,
        texts: Texts | None = None,
    ) -> None:
        self._texts = texts
        self._problems = problems
        self._mask = mask
        self._sinks = sinks
        self._named = named
        self._captured = TablePatterns(source.tables) if source is not None else None
        self._prefixes = PrefixPatterns(source.captured_messages) if source is not None else None
        self._flows: dict[str, Flow] = {}

    def read(self, document: Document) -> dict[str, Flow]:
        given = document.data.get("flows")
        folder = document.base / FLOWS
        if isinstance(given, list):
            for index, flow in enumerate(given):
                self._inline(document, index, flow)
        elif isinstance(given, str):
            self._directory(document, document.base / Path(given).expanduser())
        elif given is not None:
            self._problems.add(
                document.place(("flows",)), "flows", "must be a directory of flow files, or a list of flows"
            )
        elif self._texts is not None or folder.is_dir():
            self._directory(document, folder)
        return self._flows

    def _inline(self, document: Document, index: int, given: object) -> None:
        way: Way = ("flows", index)
        if not isinstance(given, dict) or not isinstance(given.get("name"), str):
            self._problems.add(document.place(way), dotted(way), "must be a mapping with the key `name`")
            return
        rest = {key: value for key, value in given.items() if key != "name"}
        self._flow(given["name"], document, way, rest)

    def _directory(self, document: Document, directory: Path) -> None:
        place = document.place(("flows",))
        if self._texts is not None:
            self._files([file for file in sorted(self._texts) if file.parent == directory], document.base)
            return
        if not directory.is_dir():
            hint = "make it, or write a list of flows"
            self._problems.add(place, "flows", f"there is no directory {shown(directory)}", hint)
            return
        try:
            files = _visible(directory)
        except OSError as error:
            self._problems.add(place, "flows", f"{shown(directory)} cannot be read: {error.strerror}")
            return
        self._files(files, document.base)

    def _files(self, files: Iterable[Path], base: Path) -> None:
        for file in files:
            if file.suffix == ".yaml":
                self._file(file, base)
            elif file.suffix == ".yml":
                self._problems.add(Place(file, 1), "", "is not read", "flow files end in .yaml: rename it")

    def _file(self, file: Path, base: Path) -> None:
        document = read(file, self._problems, base=base, texts=self._texts)
        if document is None:
            return
        data = document.data
        if not isinstance(data, dict):
            self._problems.add(document.place(()), "", "must be a mapping with the keys `from` and `to`")
        elif "name" in data:
            hint = f"the flow's name is its file's: {file.stem}"
            self._problems.add(document.place(("name",)), "name", "unknown key", hint)
        else:
            self._flow(file.stem, document, (), data)

    def _flow(self, name: str, document: Document, way: Way, data: dict[str, Any]) -> None:
        place = document.place(way)
        if not FLOW_NAME.fullmatch(name):
            self._problems.add(place, dotted(way), f"{name!r} is not a flow's name: {_NAME_RULE}")
        if name in self._flows:
            first = self._flows[name]
            self._problems.add(
                place, dotted(way), f"the flow {name!r} is there twice: first in line {first.line}"
            )
            return
        self._check_sink(document, (*way, "to"), data.get("to"))
        settings = validate(FlowSettings, document, way, self._problems, data=data)
        if "from" not in data and not data.get("messages"):
            hint = "say which tables the flow reads, or with `messages` which logical messages"
            self._problems.add(place, dotted((*way, "from")), "is missing", hint)
        texts = self._texts or {}
        context = StepContext(name, document.base, self._mask, code=texts)
        steps = read_steps(document, (*way, "transforms"), data.get("transforms"), self._problems, context)
        sink = self._sinks.get(str(data.get("to")))
        options = None
        if sink is not None and isinstance(data.get("with", {}), dict):
            options = validate(
                sink.plugin.options, document, (*way, "with"), self._problems, data=data.get("with", {})
            )
        if options is not None and sink is not None:
            formulas = sink.plugin.formulas(options)
            steps += computed_step(document, (*way, "with"), formulas, self._problems, context)
        if settings is not None:
            self._check_messages(document, way, settings)
            self._check_tables(document, way, settings)
        if settings is not None and sink is not None and options is not None:
            self._flows[name] = Flow(
                name,
                settings.from_,
                settings.to,
                options,
                settings.start,
                document.file,
                place.line,
                settings.messages,
                settings.on_reject or ("supersede" if sink.plugin.writes == "states" else "park"),
                settings.dead_letters,
                steps,
                read_examples(document, (*way, "examples"), settings.examples, self._problems),
                read_schema(document, (*way, "schema"), settings.schema_, self._problems),
                document.text_of(way),
                _code(steps, document.base, texts),
            )

    def _check_sink(self, document: Document, way: Way, name: object) -> None:
        if isinstance(name, str) and name not in self._named:
            hint = nearest(name, self._named) or "there is none under `sinks:` yet"
            self._problems.add(document.place(way), dotted(way), f"there is no sink {name!r}", hint)

    def _check_messages(self, document: Document, way: Way, settings: FlowSettings) -> None:
        """As `_check_tables`; and without any in `source.messages`, no pattern can bring a message."""
        if self._prefixes is None:
            return
        for index, text in enumerate(settings.messages):
            pattern = PrefixPattern.parse(text)
            if self._prefixes and (
                pattern.excludes or pattern.literal is None or self._prefixes.matches(pattern.literal)
            ):
                continue
            here: Way = (*way, "messages", index)
            self._problems.add(
                document.place(here),
                dotted(here),
                f"messages {text} are not captured: nothing in source.messages includes them",
                "set source.ddl: true"
                if text == DDL_PREFIX
                else "add the prefix to source.messages, or correct it",
            )

    def _check_tables(self, document: Document, way: Way, settings: FlowSettings) -> None:
        """A table that is named in full but not captured would leave the flow silently without it."""
        if self._captured is None:
            return
        for index, text in enumerate(settings.from_):
            pattern = TablePattern.parse(text)
            if pattern.excludes or pattern.literal is None or self._captured.matches(*pattern.literal):
                continue
            here: Way = (*way, "from", index)
            self._problems.add(
                document.place(here),
                dotted(here),
                f"the table {text} is not captured: nothing in source.tables includes it",
                "add it to source.tables, or correct the name",
            )
