"""Fixtures on real PostgreSQL servers: one run of a test per version found.

pytest --pg 18              only this version (may be given several times)
pytest --dsn postgresql://  the user's own server instead of ours
"""

import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from cdcflow.errors import ConfigurationError
from cdcflow.testing.binaries import Binaries, server_account
from cdcflow.testing.database import Database
from cdcflow.testing.postgres import AnyServer, ForeignServer, Server, find_binaries

#: The versions that the tests are meant for.
MATRIX = (15, 16, 17, 18)
#: The parameter under which the user's own server runs.
FOREIGN = "dsn"

OwnServer = Callable[..., Server]

# How long an example takes says something about the machine and its other processes, not about the code.
settings.register_profile("cdcflow", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("cdcflow")


def pytest_configure() -> None:
    # A shell that runs us in the background has SIGINT ignored, and so had the programs that tests interrupt.
    ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    if ignored and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("cdcflow")
    group.addoption("--pg", action="append", type=int, default=[], help="test on this major version only")
    group.addoption("--dsn", help="test on this server: a role that may create databases and slots")


def _available(config: pytest.Config) -> dict[int, Binaries]:
    """One installation per wanted version, oldest first."""
    wanted = config.getoption("--pg") or MATRIX
    found: dict[int, Binaries] = {}
    for binaries in find_binaries():
        if binaries.version in wanted:
            found.setdefault(binaries.version, binaries)
    missing = [version for version in config.getoption("--pg") if version not in found]
    if missing:
        raise pytest.UsageError(f"no installation of PostgreSQL {', '.join(map(str, missing))} was found")
    return dict(sorted(found.items()))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "postgres_version" not in metafunc.fixturenames:
        return
    if metafunc.config.getoption("--dsn") and "postgres_server" in metafunc.fixturenames:
        versions: list[int | str] = [FOREIGN]
    else:
        versions = [*_available(metafunc.config)]
    # Where there is none, pytest reports the test as skipped for its empty parameter set.
    names = [version if version == FOREIGN else f"pg{version}" for version in versions]
    metafunc.parametrize("postgres_version", versions, indirect=True, scope="session", ids=map(str, names))


def _what_is_tested(config: pytest.Config) -> str:
    if config.getoption("--dsn"):
        servers = "the one of --dsn"
    else:
        servers = ", ".join(map(str, _available(config).values())) or "none found"
    try:
        from cdcflow.decode import implementation
    except (ImportError, ConfigurationError) as error:
        decoder = f"not importable ({error})"
    else:
        decoder = implementation()
    return f"PostgreSQL: {servers}; decoder: {decoder}"


def pytest_report_header(config: pytest.Config) -> str:
    return _what_is_tested(config)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    # With -q, which is our default, pytest leaves the header out.
    if terminalreporter.verbosity < 0:
        terminalreporter.write_line(_what_is_tested(config))


def _make_directory() -> Path:
    """pytest's own temporary directories are closed to the user that a server runs as."""
    directory = Path(tempfile.mkdtemp(prefix="cdcflow-test-"))
    if server_account().uid is not None:
        directory.chmod(0o711)
    return directory


@pytest.fixture(scope="session")
def _servers(pytestconfig: pytest.Config) -> Iterator[Callable[[int | str], AnyServer]]:
    """Gives the session's server of a version, which is started when it is first asked for."""
    started: dict[int | str, AnyServer] = {}
    own: list[Server] = []

    def get(version: int | str) -> AnyServer:
        if version not in started:
            if version == FOREIGN:
                started[version] = ForeignServer(pytestconfig.getoption("--dsn"))
            else:
                server = Server(_available(pytestconfig)[int(version)], _make_directory())
                own.append(server)
                server.init()
                server.start()
                started[version] = server
        return started[version]

    yield get
    for server in own:
        server.destroy()


@pytest.fixture(scope="session")
def postgres_version(request: pytest.FixtureRequest) -> int | str:
    """The version that this run of the test is for."""
    version: int | str = request.param
    return version


@pytest.fixture(scope="session")
def postgres_server(postgres_version: int | str, _servers: Callable[[int | str], AnyServer]) -> AnyServer:
    """The session's server of this version. It is shared: tests that stop it use `own_server`."""
    return _servers(postgres_version)


@pytest.fixture
def postgres(postgres_server: AnyServer) -> Iterator[Database]:
    """A fresh database on the session's server, dropped afterwards with its slots."""
    database = Database(postgres_server)
    yield database
    database.drop()


@pytest.fixture
def newest_postgres(
    pytestconfig: pytest.Config, _servers: Callable[[int | str], AnyServer]
) -> Iterator[Database]:
    """As `postgres`, once: on the newest version found, for what is long and no different on the others."""
    versions: list[int | str] = [FOREIGN] if pytestconfig.getoption("--dsn") else [*_available(pytestconfig)]
    if not versions:
        pytest.skip("no PostgreSQL was found")
    database = Database(_servers(versions[-1]))
    yield database
    database.drop()


@contextmanager
def _owned(binaries: Binaries) -> Iterator[OwnServer]:
    made: list[Server] = []

    def make(**options: Any) -> Server:
        server = Server(binaries, _make_directory(), **options)
        made.append(server)
        server.init()
        server.start()
        return server

    try:
        yield make
    finally:
        for server in made:
            server.destroy()


@pytest.fixture
def own_server(postgres_version: int | str, pytestconfig: pytest.Config) -> Iterator[OwnServer]:
    """Makes and starts servers that the test may stop, kill and reconfigure; takes `Server`'s keywords."""
    if postgres_version == FOREIGN:
        pytest.skip("needs a server that it may stop, which the one of --dsn is not")
    with _owned(_available(pytestconfig)[int(postgres_version)]) as make:
        yield make


@pytest.fixture
def own_newest_server(pytestconfig: pytest.Config) -> Iterator[OwnServer]:
    """As `own_server`, once: of the newest version found."""
    found = _available(pytestconfig)
    if pytestconfig.getoption("--dsn") or not found:
        pytest.skip("needs a server that it may stop")
    with _owned(found[max(found)]) as make:
        yield make
