"""Tells systemd how the service is doing (sd_notify(3)): ready, status, stopping, alive. Does nothing
where no `NOTIFY_SOCKET` is set, and never fails: a manager that does not listen is no reason to stop."""

import os
import socket
from collections.abc import Mapping


class Notifier:
    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._address = environment.get("NOTIFY_SOCKET", "")
        self._watched = environment.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        self._watchdog = environment.get("WATCHDOG_USEC", "")
        self._status = ""

    @property
    def watchdog_seconds(self) -> float | None:
        """How often `alive` must be called: half of systemd's limit (sd_watchdog_enabled(3)); None: never."""
        if not self._address or not self._watched or not self._watchdog.isdigit():
            return None
        return int(self._watchdog) / 1e6 / 2

    def ready(self) -> None:
        self._send("READY=1")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def alive(self) -> None:
        self._send("WATCHDOG=1")

    def status(self, text: str) -> None:
        """One line for `systemctl status`; sent when it is another than before."""
        if text != self._status:
            self._status = text
            self._send(f"STATUS={text}")

    def _send(self, message: str) -> None:
        if not self._address:
            return
        # A leading @ stands for the NUL byte of an abstract address.
        address = "\0" + self._address[1:] if self._address.startswith("@") else self._address
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.connect(address)
                sender.send(message.encode())
        except OSError:
            pass
