"""Reads a YAML file into plain values, every `${VARIABLE}` resolved, and knows the line of each of them."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, CommentedSeq
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.scalarstring import FoldedScalarString, LiteralScalarString

from cdcflow.config.problems import Place, Problems

#: The way to a value: keys of mappings and indexes of lists.
Way = tuple[str | int, ...]

_REFERENCE = re.compile(r"\$\$\{|\$\{([^}\n]*)\}?")
#: What has to pass through YAML unseen: see `_MASKED`. Text in quotes needs no such help.
_BARE = re.compile(r"\$\$\{|\$\{[A-Za-z_][^}'\"\n]*\}")
#: In `[…]` and `{…}` YAML forbids braces in text without quotes, and people write `{token: ${TOKEN}}`.
#: While YAML reads the text, references carry these instead: permanent noncharacters, which Unicode
#: keeps for such internal use (23.7), one for one so that columns stay right.
_MASKED = str.maketrans({"$": "\ufdd0", "{": "\ufdd1", "}": "\ufdd2"})
_UNMASKED = {ord(after): chr(before) for before, after in _MASKED.items()}
_VARIABLE = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


class Document:
    """One file. `data` holds its values resolved, `written` what the file says at each way."""

    def __init__(
        self,
        file: Path,
        base: Path,
        data: Any,
        written: Mapping[Way, Any],
        lines: Mapping[Way, int],
        text: str,
        blocks: frozenset[Way] = frozenset(),
    ) -> None:
        self.file = file
        self.base = base
        self.data = data
        self.written = written
        self.text = text
        self._lines = lines
        self._blocks = blocks

    def text_of(self, way: Way) -> str:
        """The text of the value at `way` as the file has it, references unresolved: the whole file's for
        the whole, JSON for a part."""
        if not way:
            return self.text
        return json.dumps(self._as_written(way), indent=2, ensure_ascii=False, default=str)

    def _as_written(self, way: Way) -> Any:
        value = self.written[way]
        if isinstance(value, CommentedMap):
            return {str(key): self._as_written((*way, str(key))) for key in value}
        if isinstance(value, CommentedSeq):
            return [self._as_written((*way, index)) for index in range(len(value))]
        return value

    def place(self, way: Way) -> Place:
        """The line of a value's key, or of the nearest thing around it that has one."""
        return _place(self.file, self._lines, way)

    def lines_below(self, way: Way) -> dict[Way, int]:
        """The lines at which the value at `way`, and the values within it, begin; by the way from there."""
        found = {below[len(way) :]: line for below, line in self._lines.items() if below[: len(way)] == way}
        # The text of a block begins behind the line of its key.
        blocks = [below[len(way) :] for below in self._blocks if below[: len(way)] == way]
        return found | {below: found[below] + 1 for below in blocks if below in found}


def read(
    file: Path,
    problems: Problems,
    *,
    base: Path,
    environment: Mapping[str, str] = os.environ,
    texts: Mapping[Path, bytes] | None = None,
) -> Document | None:
    """Reads a file, whose relative paths count from `base`, or what `texts` has of it.

    What is wrong goes to `problems`; None comes back where nothing could be read.
    """
    try:
        text = (file.read_bytes() if texts is None else texts[file]).decode("utf-8")
    except UnicodeDecodeError as error:
        problems.add(Place(file, 1), "", f"is not UTF-8 (byte {error.start})")
        return None
    except OSError as error:
        problems.add(Place(file, 1), "", f"cannot be read: {error.strerror}")
        return None
    yaml = YAML(typ="rt")
    try:
        loaded = yaml.load(_BARE.sub(lambda match: match[0].translate(_MASKED), text))
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        what = " ".join(str(error.problem or error.context or "cannot be parsed").split())
        problems.add(Place(file, mark.line + 1 if mark else 1), "", f"not valid YAML: {what}")
        return None
    except YAMLError as error:
        problems.add(Place(file, 1), "", f"not valid YAML: {str(error).splitlines()[0]}")
        return None
    walk = _Walk(file, problems, environment)
    data = walk.value(loaded, ())
    return Document(file, base, data, walk.written, walk.lines, text, frozenset(walk.blocks))


def dotted(way: Way) -> str:
    """`sinks.hook.headers`, `tables[0]`."""
    text = ""
    for step in way:
        text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
    return text


def _place(file: Path, lines: Mapping[Way, int], way: Way) -> Place:
    while way and way not in lines:
        way = way[:-1]
    return Place(file, lines.get(way, 1))


class _Walk:
    """Turns ruamel's values into plain ones and notes where each stands."""

    def __init__(self, file: Path, problems: Problems, environment: Mapping[str, str]) -> None:
        self._file = file
        self._problems = problems
        self._environment = environment
        self.written: dict[Way, Any] = {}
        self.lines: dict[Way, int] = {}
        self.blocks: set[Way] = set()

    def value(self, value: Any, way: Way) -> Any:
        if isinstance(value, LiteralScalarString | FoldedScalarString):
            self.blocks.add(way)
        if isinstance(value, str):
            value = value.translate(_UNMASKED)
        self.written[way] = value
        if isinstance(value, CommentedMap):
            if not way:
                self.lines[()] = value.lc.line + 1
            return {str(key): self._child(value, key, way) for key in value}
        if isinstance(value, CommentedSeq):
            return [self._item(value, index, way) for index in range(len(value))]
        if isinstance(value, str):
            return self._resolve(value, way)
        return value

    def _child(self, mapping: CommentedMap, key: Any, way: Way) -> Any:
        below = (*way, str(key))
        # A key that came by `<<` has no line of its own here: `place` takes its mapping's.
        if key in (mapping.lc.data or {}):
            self.lines[below] = mapping.lc.key(key)[0] + 1
        return self.value(mapping[key], below)

    def _item(self, sequence: CommentedSeq, index: int, way: Way) -> Any:
        below = (*way, index)
        if index in (sequence.lc.data or {}):
            self.lines[below] = sequence.lc.item(index)[0] + 1
        return self.value(sequence[index], below)

    def _resolve(self, text: str, way: Way) -> str:
        """`${NAME}`, `${NAME:-default}` where it is unset or empty; `$${` is a plain `${`."""

        def replaced(match: re.Match[str]) -> str:
            if match[1] is None:
                return "${"
            named = _VARIABLE.fullmatch(match[1])
            if named is None or not match[0].endswith("}"):
                self._complain(way, f"{match[0]!r} is not a variable", "write ${NAME}, or $${ for a plain ${")
                return ""
            name, default = named[1], named[2]
            found = self._environment.get(name)
            if default is not None:
                return found or default
            if found is None:
                self._complain(
                    way,
                    f"the environment variable {name} is not set",
                    f"export {name}=…, or give a default: ${{{name}:-…}}",
                )
                return ""
            return found

        return _REFERENCE.sub(replaced, text)

    def _complain(self, way: Way, message: str, hint: str) -> None:
        self._problems.add(_place(self._file, self.lines, way), dotted(way), message, hint)
