"""The configuration that runs. Files change under a running engine, and may say nothing that makes sense for
a while; what was taken over stays in force, over restarts too, until something better comes.

Flow by flow: a valid file is taken over, an invalid one is refused and its version before runs on. The main
file is taken over as a whole, or not at all: where its flows cannot run with it, where it is invalid, and
where it changes what needs a restart.
"""

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from cdcflow.config import SUFFIXES, Config, Flow, Texts, absolute, flow_files, flow_folder, load, load_parts
from cdcflow.engine.places import Places
from cdcflow.errors import ConfigurationError, EnvironmentFault
from cdcflow.sink import Finding

log = logging.getLogger(__name__)

#: What capture, the journal and the processes themselves are made of.
FIXED = ("source", "journal", "engine")


#: What is wrong with a flow that can be read, in a sentence; empty: nothing.
Judge = Callable[[Config, Flow], str]


@dataclass(frozen=True)
class Refusal:
    """A file that is not run as it is. `since` is in seconds since 1970, `flow` empty for the main file."""

    file: Path
    flow: str
    message: str
    since: float
    #: Whether a version from before runs.
    runs: bool


@dataclass(frozen=True)
class Accepted:
    """What runs: `texts` is what the files said when they were taken over, `config` what that means."""

    texts: Texts
    config: Config
    refused: tuple[Refusal, ...] = ()
    #: Sections of the main file that wait for a restart.
    waiting: tuple[str, ...] = ()

    def findings(self) -> list[Finding]:
        """What is not run as it is written."""
        found = []
        for refusal in self.refused:
            subject = f"flow {refusal.flow}" if refusal.flow else self.config.path.name
            what = "the version before it runs on" if refusal.runs else "it does not run"
            message = f"the file is refused, {what}: {refusal.message}"
            found.append(Finding("error", subject, message, "correct the file; it is read again by itself"))
        if self.waiting:
            keys = ", ".join(self.waiting)
            message = f"{keys} changed: nothing of the file is taken over before a restart of cdcflow"
            remedy = "restart cdcflow, or take the change back"
            found.append(Finding("warning", self.config.path.name, message, remedy))
        return found


def start(path: Path, judge: Judge = lambda _config, _flow: "") -> Accepted:
    """What to run at a start. Where an engine has run before, a flow whose file is invalid runs as it ran; so
    does one that was changed since and about which `judge` has something to say.

    Raises ConfigurationError for a main file that is invalid, and at the first start for any.
    """
    path = absolute(path)
    texts = gather(path)
    parts = load_parts(path, texts)
    if parts.config is None:
        raise parts.problems.error()
    before = _read(Places(parts.config.engine.state).accepted)
    if before is None:
        if parts.problems:
            raise parts.problems.error()
        return Accepted(texts | _code(parts.config.flows.values()), parts.config)
    try:
        ran = Accepted(before, load(path, before))
    except ConfigurationError:  # another version of cdcflow wrote it, or a secret's file is gone
        return _merged(texts, before, parts.config)
    return _merged(texts, before, parts.config, running=ran, judge=judge)


def reload(running: Accepted, judge: Judge = lambda _config, _flow: "") -> Accepted:
    """What to run from now on, by what the files say now. `judge` is asked about flows that have changed."""
    path = running.config.path
    try:
        texts = gather(path)
    except OSError as error:
        return _main_refused(running, f"{error.filename or path}: {error.strerror}")
    if path not in texts:
        return _main_refused(running, f"there is no file {path} any more")
    folders = {file.parent for file in running.texts if file != path and file.suffix in SUFFIXES}
    if len(texts) == 1 and folders and not any(folder.is_dir() for folder in folders):
        return _main_refused(running, f"the flow files' folder {min(folders)} is gone")
    parts = load_parts(path, texts)
    if parts.config is None:
        # Only what is wrong in the file itself: the flows are judged by the version that runs.
        refused = _main_refused(running, parts.problems.error(path).told)
        return _flows_only(refused, judge)
    changed = tuple(name for name in FIXED if getattr(parts.config, name) != getattr(running.config, name))
    if changed:
        return _flows_only(replace(running, waiting=changed, refused=_of_flows(running)), judge)
    for name, flow in parts.config.flows.items():
        if flow.file != path or running.config.flows.get(name) == flow:
            continue
        if wrong := judge(parts.config, flow):
            return _flows_only(_main_refused(running, f"flow {name} cannot run: {wrong}"), judge)
    merged = _merged(texts, running.texts, parts.config, running=running, judge=judge)
    lost = [r for r in merged.refused if not r.runs and r.flow in running.config.flows]
    if lost and texts[path] != running.texts[path]:
        refused = _main_refused(running, f"flow {lost[0].flow} cannot run with it: {lost[0].message}")
        return _flows_only(refused, judge)
    return merged


def _flows_only(running: Accepted, judge: Judge) -> Accepted:
    """The flow files as they are now, under the main file as it runs."""
    path = running.config.path
    main = {path: running.texts[path]}
    texts = main | _contents(_flow_files(path, main)) | _code(running.config.flows.values(), path)
    parts = load_parts(path, texts)
    if parts.config is None:
        # A variable or a secret's file is gone.
        return _main_refused(running, parts.problems.error(path).told)
    merged = _merged(texts, running.texts, parts.config, running=running, judge=judge)
    mains = tuple(refusal for refusal in running.refused if not refusal.flow)
    return replace(merged, refused=mains + merged.refused, waiting=running.waiting)


def _merged(
    texts: Texts,
    before: Texts,
    config: Config,
    *,
    running: Accepted | None = None,
    judge: Judge = lambda _config, _flow: "",
) -> Accepted:
    """`texts`, with what is invalid replaced by what `before` has of it, or left out."""
    path = config.path
    known = () if running is None else running.refused
    flows = {} if running is None else running.config.flows
    problems = load_parts(path, texts).problems
    said = {file: problems.error(file).told for file in problems.files() - {path}}
    for name, flow in config.flows.items():
        # One that is refused is judged again: what it did not fit may have changed.
        if flow.file != path and flows.get(name) != flow and (wrong := judge(config, flow)):
            said[flow.file] = wrong
    broken = said.keys()
    taken = {
        file: before.get(file, b"") if file in broken else text
        for file, text in {**_code(config.flows.values()), **texts}.items()
        if file not in broken or file in before
    }
    # What a refused flow runs on with, other flows that share it do too.
    taken |= _code(flow for flow in flows.values() if flow.file in broken)
    parts = load_parts(path, taken)
    worse = parts.problems.files()
    taken = {file: text for file, text in taken.items() if file not in worse or file == path}
    since = {(refusal.file, refusal.message): refusal.since for refusal in known}
    refused = []
    for file in sorted(broken):
        message = said[file]
        at = since.get((file, message), time.time())
        refused.append(Refusal(file, file.stem, message, at, file in taken))
    after = load(path, taken)
    # As it runs, and not made anew of files beside it that may not be what they were.
    kept = {r.flow: flows[r.flow] for r in refused if r.runs and r.flow in flows and r.flow in after.flows}
    return Accepted(taken, replace(after, flows={**after.flows, **kept}), tuple(refused))


def _code(flows: Iterable[Flow], file: Path | None = None) -> dict[Path, bytes]:
    """What steps of flows are made of, or of those that are written in `file`."""
    meant = (flow for flow in flows if file is None or flow.file == file)
    return {place: text for flow in meant for place, text in flow.code.items()}


def _of_flows(running: Accepted) -> tuple[Refusal, ...]:
    return tuple(refusal for refusal in running.refused if refusal.flow)


def _main_refused(running: Accepted, message: str) -> Accepted:
    known = [r for r in running.refused if not r.flow and r.message == message]
    refusal = known[0] if known else Refusal(running.config.path, "", message, time.time(), True)
    return replace(running, refused=(refusal, *_of_flows(running)), waiting=())


def gather(path: Path) -> dict[Path, bytes]:
    """What the configuration's files say now. One that has just gone is left out. Raises OSError."""
    return _contents([path, *_flow_files(path)])


def _flow_files(path: Path, texts: Texts | None = None) -> list[Path]:
    folder = flow_folder(path, texts)
    return [] if folder is None else flow_files(folder)


def _contents(files: list[Path]) -> dict[Path, bytes]:
    found = {}
    for file in files:
        try:
            found[file] = file.read_bytes()
        except FileNotFoundError:
            continue
    return found


# On disk, for the processes of the engine and for the next start.


def keep(accepted: Accepted) -> None:
    """Durable on return. Raises EnvironmentFault."""
    place = Places(accepted.config.engine.state).accepted
    fresh = place.with_name(f".{place.name}")
    body = {str(file): text.decode("utf-8", "surrogateescape") for file, text in accepted.texts.items()}
    try:
        # Only for this user: what stands in it may be a secret.
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(body, file)
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(place)
    except OSError as error:
        raise EnvironmentFault(
            f"the configuration cannot be kept in {place}: {error.strerror}",
            hint="make the state folder writable for this user, on a disk with free space",
        ) from error


def load_accepted(path: Path, place: Path) -> Config:
    """The configuration that the supervisor has kept. Raises ConfigurationError."""
    texts = _read(place)
    if texts is None:
        raise ConfigurationError(f"there is no accepted configuration in {place}", hint="restart cdcflow")
    return load(path, texts)


def as_it_runs(config: Config) -> Config:
    """The configuration with the flows whose files are refused as they were taken over before, those that
    were."""
    before = _read(Places(config.engine.state).accepted) if config.refused else None
    if before is None:
        return config
    try:
        ran = load(config.path, before).flows
    except ConfigurationError:
        return config
    kept = {n: ran[n] for n in config.refused if n in ran and ran[n].to in config.sinks}
    return replace(config, flows={**config.flows, **kept})


def _read(place: Path) -> Mapping[Path, bytes] | None:
    try:
        body = json.loads(place.read_text(encoding="utf-8"))
        return {Path(file): str(text).encode("utf-8", "surrogateescape") for file, text in body.items()}
    except (OSError, ValueError, AttributeError):
        return None
