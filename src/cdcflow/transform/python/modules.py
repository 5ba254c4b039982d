"""What a function's file imports from the configuration's directory: found by reading, not by running, so
that all of a function's code is known, and part of its flow's revision, before any of it runs.

Of `import a.b` the files are `a/__init__.py` and `a/b.py`, or `a/b/__init__.py`; a folder without
`__init__.py` is a package too (PEP 420). Imports stand anywhere in a file. One that is computed
(`importlib.import_module(name)`) is not seen, and such a module is not found when the function runs.
"""

import ast
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

#: What a file holds; None where there is none.
Read = Callable[[Path], bytes | None]


def imported(base: Path, file: Path, source: bytes, read: Read) -> dict[Path, bytes]:
    """The files of `base` that `file` imports, and those that these import, in their order, and what they
    hold. A file that is no Python imports nothing."""
    found: dict[Path, bytes] = {}
    waiting = [("", source)]
    while waiting:
        package, text = waiting.pop()
        for name in _names(text, package):
            for path in _files(base, name):
                if path == file or path in found:
                    continue
                held = read(path)
                if held is None:
                    continue
                found[path] = held
                inner = name if path.name == "__init__.py" else name.rpartition(".")[0]
                waiting.append((inner, held))
    return dict(sorted(found.items()))


def _files(base: Path, name: str) -> tuple[Path, Path]:
    place = base.joinpath(*name.split("."))
    return place / "__init__.py", place.with_name(f"{place.name}.py")


def _names(text: bytes, package: str) -> Iterator[str]:
    """The modules that may be imported in a text which belongs to `package`, those around them first."""
    try:
        tree = ast.parse(text)
    except (SyntaxError, ValueError, RecursionError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield from _around(alias.name)
        elif isinstance(node, ast.ImportFrom):
            whole = _absolute(node, package)
            if whole is None:
                continue
            yield from _around(whole)
            # What is named may be a module, too.
            yield from (f"{whole}.{alias.name}" if whole else alias.name for alias in node.names)


def _absolute(node: ast.ImportFrom, package: str) -> str | None:
    if not node.level:
        return node.module
    around = package.split(".") if package else []
    if node.level > len(around):
        return None
    parts = around[: len(around) - node.level + 1]
    return ".".join([*parts, *([node.module] if node.module else [])])


def _around(name: str) -> Iterator[str]:
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        yield ".".join(parts[:count])


def within(base: Path, path: Path) -> bytes | None:
    """What a file holds now, if it is one and in `base`, whatever links say."""
    try:
        return path.read_bytes() if path.resolve().is_relative_to(base.resolve()) else None
    except OSError:
        return None


def named(base: Path, files: Mapping[Path, bytes]) -> dict[str, tuple[str, bytes, bool]]:
    """By the name that each is imported by: its path, what it holds, and whether it is a package. Where there
    are `a/__init__.py` and `a.py`, `a` is the package, as for Python."""
    found: dict[str, tuple[str, bytes, bool]] = {}
    for path, text in files.items():
        parts = path.relative_to(base).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        if is_package or name not in found:
            found[name] = (str(path), text, is_package)
    return found
