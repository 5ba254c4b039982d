"""`cdcflow version`: what exactly is running here, for a report about it."""

import platform
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as installed
from typing import Annotated

import typer

import cdcflow
from cdcflow.cli import output


def version(
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """Show the versions of cdcflow and of what it is built on."""
    found = {
        "cdcflow": cdcflow.__version__,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "decoder": _decoder(),
        "psycopg": _package("psycopg"),
        "libpq": _libpq(),
        "pyarrow": _package("pyarrow"),
        "duckdb": _package("duckdb"),
    }
    if as_json:
        output.json(found)
    else:
        width = max(map(len, found))
        for name, value in found.items():
            output.data(f"{name:<{width}}  {value or 'not installed'}")


def _package(name: str) -> str | None:
    """From the package's metadata, since importing it costs more than the answer is worth."""
    try:
        return installed(name)
    except PackageNotFoundError:
        return None


def _decoder() -> str:
    from cdcflow.decode import implementation

    return {"c": "compiled", "py": "pure Python"}[implementation()]


def _libpq() -> str | None:
    try:
        from psycopg import pq
    except ImportError:
        # The C library is what psycopg cannot be imported without.
        return None
    number = pq.version()
    # PQlibVersion(): 180002 is 18.2 (manual, 34.1).
    return f"{number // 10_000}.{number % 10_000} ({pq.__impl__})"
