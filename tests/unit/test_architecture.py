"""The arrows of ARCHITECTURE.md, held against the code's imports."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "src" / "cdcflow"
SINKS = ROOT / "sinks"

#: Who may know whom. Every package may use `errors` and the package's own version.
ALLOWED: dict[str, set[str]] = {
    "model": set(),
    "decode": {"model"},
    "types": {"model"},
    "sql": set(),
    "journal": {"model"},
    "source": {"model", "decode", "journal", "sql"},
    "transform": {"model", "types", "sink"},
    "sink": {"model", "types"},
    "delivery": {"model", "types", "journal", "transform", "sink", "sql"},
    "config": {"model", "sink", "transform"},
    "engine": {
        "model",
        "types",
        "decode",
        "journal",
        "source",
        "transform",
        "sink",
        "delivery",
        "config",
        "sql",
    },
}
#: The outermost: they may use everything below, not each other unless named.
OUTER: dict[str, set[str]] = {
    "cli": {"demo"},
    "demo": {"testing"},
    "testing": set(),
}
#: Standard-library and third-party modules that mean I/O.
IO = {"socket", "select", "subprocess", "psycopg", "httpx", "duckdb", "sqlite3", "asyncio", "mmap", "fcntl"}


def imports(file: Path) -> set[str]:
    """Dotted names of all modules that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module is not None:
            assert node.level == 0, f"{file}: relative imports hide the arrows"
            found.add(node.module)
            found.update(f"{node.module}.{alias.name}" for alias in node.names)
    return found


def ours(file: Path) -> set[str]:
    """The packages of cdcflow that a file imports."""
    names = (name.split(".") for name in imports(file))
    return {parts[1] for parts in names if parts[0] == "cdcflow" and len(parts) > 1 and is_package(parts[1])}


def is_package(name: str) -> bool:
    return (SOURCE / name).is_dir() or name == "sql"


def files(package: str) -> list[Path]:
    return sorted((ROOT / "sql" if package == "sql" else SOURCE / package).rglob("*.py"))


def test_every_package_has_its_arrows_written_down() -> None:
    packages = {path.name for path in SOURCE.iterdir() if path.is_dir() and any(path.glob("*.py"))}
    assert packages <= ALLOWED.keys() | OUTER.keys()


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_stands_below_it(package: str) -> None:
    wrong = {
        f"{file.relative_to(ROOT)} -> {other}"
        for file in files(package)
        for other in ours(file) - ALLOWED[package] - {package}
    }
    assert not wrong


@pytest.mark.parametrize("package", sorted(OUTER))
def test_the_outer_packages_do_not_know_each_other(package: str) -> None:
    allowed = ALLOWED.keys() | OUTER[package] | {package}
    wrong = {
        f"{file.relative_to(ROOT)} -> {other}" for file in files(package) for other in ours(file) - allowed
    }
    assert not wrong


def test_the_core_never_imports_a_sink() -> None:
    wrong = {
        str(file.relative_to(ROOT))
        for file in SOURCE.rglob("*.py")
        if any(name.split(".")[0] == "cdcflow_sinks" for name in imports(file))
    }
    assert not wrong


def test_sinks_know_the_model_the_types_and_the_protocol_only() -> None:
    allowed = {"model", "types", "sink"}
    wrong = {
        f"{file.relative_to(ROOT)} -> {other}"
        for file in SINKS.rglob("*.py")
        for other in ours(file) - allowed
    }
    assert not wrong


def test_sinks_do_not_know_each_other() -> None:
    wrong = set()
    for file in SINKS.rglob("*.py"):
        parts = file.relative_to(SINKS).parts
        for name in imports(file):
            pieces = name.split(".")
            if pieces[0] == "cdcflow_sinks" and len(pieces) > 1 and pieces[1] != parts[0]:
                wrong.add(f"{file.relative_to(ROOT)} -> {name}")
    assert not wrong


@pytest.mark.parametrize("package", ["model", "decode"])
def test_the_pure_packages_do_no_io(package: str) -> None:
    wrong = {
        f"{file.relative_to(ROOT)} -> {name}"
        for file in files(package)
        for name in imports(file)
        if name.split(".")[0] in IO
    }
    assert not wrong


def test_the_gpl_parser_is_imported_by_one_module_at_most() -> None:
    users = [file for file in SOURCE.rglob("*.py") if any(n.split(".")[0] == "pglast" for n in imports(file))]
    assert len(users) <= 1
