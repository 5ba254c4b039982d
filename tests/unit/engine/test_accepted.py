"""What is taken over of the files of a running engine, and what is not."""

from pathlib import Path

import pytest

from cdcflow.config import Config, Flow, load
from cdcflow.engine import accepted
from cdcflow.engine.accepted import Accepted
from cdcflow.engine.places import Places
from cdcflow.engine.preview import misfit
from cdcflow.testing.scripted import JournalSource

MAIN = """\
source: {dsn: "postgresql://127.0.0.1:1/shop", tables: [public.*]}
journal: {path: journal}
engine: {state: state}
sinks: {events: {type: "null"}}
"""
STEP = "from: [public.orders]\nto: events\ntransforms:\n  - python: {file: step.py}\n"
GOOD = "def transform(change):\n    return change\n"


class Files:
    """A configuration in a folder, over a journal that knows the table `orders`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "flows").mkdir()
        (folder / "state").mkdir()
        source = JournalSource(folder / "journal")
        source.commit([1])
        source.writer.close()
        self.write("cdcflow.yaml", MAIN)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).write_text(text, encoding="utf-8")

    def start(self) -> Accepted:
        running = accepted.start(self.folder / "cdcflow.yaml", misfit)
        accepted.keep(running)
        return running

    def reload(self, running: Accepted) -> Accepted:
        after = accepted.reload(running, misfit)
        accepted.keep(after)
        return after

    def of_a_process(self) -> Config:
        """The configuration as the engine's other processes read it."""
        return accepted.load_accepted(self.folder / "cdcflow.yaml", Places(self.folder / "state").accepted)

    @property
    def code(self) -> Path:
        return self.folder / "step.py"


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def source_of(flow: Flow) -> str:
    [code] = flow.code.values()
    return code.decode()


def test_python_that_changes_is_a_new_revision(files: Files) -> None:
    files.write("flows/one.yaml", STEP)
    files.write("step.py", GOOD)
    running = files.start()
    files.write("step.py", GOOD + "\n# better\n")
    after = files.reload(running)
    before, now = running.config.flows["one"], after.config.flows["one"]
    assert before.revision != now.revision
    assert source_of(files.of_a_process().flows["one"]) == GOOD + "\n# better\n"


@pytest.mark.parametrize("broken", ["import nowhere_to_be_found\n", "def transform(:\n", ""])
def test_python_that_does_not_load_is_refused_and_what_it_was_runs_on_over_restarts(
    files: Files, broken: str
) -> None:
    files.write("flows/one.yaml", STEP)
    files.write("flows/other.yaml", "from: [public.orders]\nto: events\n")
    files.write("step.py", GOOD)
    running = files.start()
    files.write("step.py", broken)
    after = files.reload(running)
    [refused] = after.refused
    assert (refused.flow, refused.runs) == ("one", True)
    assert "step.py" in refused.message
    assert "one.yaml:4" in refused.message
    assert after.config.flows == running.config.flows
    # A process that is started now, and the engine itself: the file is as broken as before.
    assert source_of(files.of_a_process().flows["one"]) == GOOD
    again = files.start()
    assert [(one.flow, one.runs) for one in again.refused] == [("one", True)]
    assert source_of(again.config.flows["one"]) == GOOD
    files.code.unlink()
    gone = files.reload(again)
    assert [(one.flow, one.runs) for one in gone.refused] == [("one", True)]
    assert source_of(files.of_a_process().flows["one"]) == GOOD
    files.write("step.py", GOOD + "\n# mended\n")
    mended = files.reload(gone)
    assert mended.refused == ()
    assert source_of(files.of_a_process().flows["one"]) == GOOD + "\n# mended\n"


HELPED = "from lib.texts import note\n\ndef transform(change):\n    return note(change)\n"


def held(config: Config, file: Path) -> str:
    return config.flows["one"].code[file].decode()


@pytest.mark.parametrize("broken", ["import nowhere_to_be_found\n", "def note(:\n", "", None])
def test_what_a_step_s_file_imports_is_part_of_the_flow_over_restarts(
    files: Files, broken: str | None
) -> None:
    (files.folder / "lib").mkdir()
    texts = files.folder / "lib" / "texts.py"
    files.write("flows/one.yaml", STEP)
    files.write("step.py", HELPED)
    files.write("lib/texts.py", "def note(change):\n    return change\n")
    running = files.start()
    first = running.config.flows["one"].revision

    files.write("lib/texts.py", "def note(change):\n    return None\n")
    better = files.reload(running)
    assert better.config.flows["one"].revision != first
    assert "return None" in held(files.of_a_process(), texts)

    if broken is None:
        texts.unlink()
    else:
        files.write("lib/texts.py", broken)
    after = files.reload(better)
    [refused] = after.refused
    assert (refused.flow, refused.runs) == ("one", True)
    assert ("texts" if broken is not None else "No module named 'lib'") in refused.message
    assert after.config.flows == better.config.flows
    # A process that is started now, and the engine itself.
    assert files.of_a_process().flows["one"].revision == better.config.flows["one"].revision
    assert "return None" in held(files.of_a_process(), texts)
    again = files.start()
    assert [(one.flow, one.runs) for one in again.refused] == [("one", True)]
    assert "return None" in held(again.config, texts)

    files.write("lib/texts.py", "def note(change):\n    return change\n")
    mended = files.reload(again)
    assert mended.refused == ()
    assert mended.config.flows["one"].revision == first


def test_a_module_that_comes_beside_what_was_taken_over_is_no_part_of_it(files: Files) -> None:
    files.write("flows/one.yaml", STEP)
    files.write("step.py", "try:\n    import extra\nexcept ImportError:\n    pass\n" + GOOD)
    running = files.start()
    files.write("extra.py", "1 / 0\n")
    assert files.of_a_process().flows["one"].revision == running.config.flows["one"].revision
    assert list(files.of_a_process().flows["one"].code) == [files.code]
    [refused] = files.reload(running).refused
    assert "extra.py" in refused.message


def test_an_inline_flow_that_does_not_fit_its_tables_keeps_the_main_file_from_being_taken_over(
    files: Files,
) -> None:
    inline = MAIN + "flows:\n  - {name: one, from: [orders], to: events, transforms: [{filter: CONDITION}]}\n"
    files.write("cdcflow.yaml", inline.replace("CONDITION", "note is not null"))
    running = files.start()
    files.write("cdcflow.yaml", inline.replace("CONDITION", "noet is not null"))
    after = files.reload(running)
    [refused] = after.refused
    assert (refused.file.name, refused.flow, refused.runs) == ("cdcflow.yaml", "", True)
    for word in ("flow one", "cdcflow.yaml:6", "noet", "did you mean note"):
        assert word in refused.message
    assert after.config == running.config
    assert load(files.folder / "cdcflow.yaml") != running.config
    files.write("cdcflow.yaml", inline.replace("CONDITION", "note is null"))
    assert files.reload(after).refused == ()


def test_a_refusal_says_all_that_is_wrong_with_the_file(files: Files) -> None:
    good = "from: [orders]\nto: events\ntransforms:\n- filter: note is not null\n- set: {a: id + 1}\n"
    files.write("flows/one.yaml", good)
    running = files.start()
    files.write("flows/one.yaml", good.replace("note", "noet").replace("id + 1", "idd + 1"))
    [refused] = files.reload(running).refused
    for word in ("2 things are wrong", "one.yaml:4", "'noet'", "did you mean note", "one.yaml:5", "'idd'"):
        assert word in refused.message
    files.write("flows/one.yaml", good.replace("not null", "nott null").replace("id + 1", "id +"))
    [refused] = files.reload(running).refused
    for word in ("2 things are wrong", "one.yaml:4", "one.yaml:5"):
        assert word in refused.message
