import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from cdcflow.engine.sdnotify import Notifier


@pytest.fixture(params=["file", "abstract"])
def manager(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, str]]:
    """What systemd would listen on, and how it names that to a service."""
    name = str(tmp_path / "s") if request.param == "file" else f"@cdcflow-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(name.replace("@", "\0", 1) if name.startswith("@") else name)
        listener.settimeout(5)
        yield listener, name


def test_the_manager_hears_every_message(manager: tuple[socket.socket, str]) -> None:
    listener, name = manager
    notifier = Notifier({"NOTIFY_SOCKET": name})
    notifier.ready()
    notifier.status("2 of 3 flows up to date")
    notifier.status("2 of 3 flows up to date")
    notifier.alive()
    notifier.stopping()
    heard = [listener.recv(200) for _ in range(4)]
    assert heard == [b"READY=1", b"STATUS=2 of 3 flows up to date", b"WATCHDOG=1", b"STOPPING=1"]


def test_without_a_manager_nothing_is_said() -> None:
    notifier = Notifier({})
    notifier.ready()
    assert notifier.watchdog_seconds is None


def test_a_manager_that_is_gone_is_no_reason_to_fail(tmp_path: Path) -> None:
    Notifier({"NOTIFY_SOCKET": str(tmp_path / "gone")}).ready()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "30000000"}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0),
        ({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_served_at_half_its_limit_by_the_process_it_means(
    environment: dict[str, str], seconds: float | None
) -> None:
    assert Notifier({"NOTIFY_SOCKET": "@x", **environment}).watchdog_seconds == seconds
