"""One process of the engine, kept running: started again with a growing pause whenever it ends, until it is
told to stop or ends with a code that no restart mends."""

import asyncio
import contextlib
import logging
import signal
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable, Sequence

from cdcflow.delivery import FlowReport
from cdcflow.engine.reports import CaptureReport, Ended, Failed, Order, Report, decode, encode

log = logging.getLogger(__name__)

#: The first crash costs as much as starting takes, and nothing more.
FIRST_PAUSE = 0.2

#: A process that cannot live is started twice a minute: enough to notice that its cause is gone.
LONGEST_PAUSE = 30.0

#: Who ran this long was healthy: its next crash is a first one again.
HEALTHY_SECONDS = 60.0

#: One report per line; a flow's reason may quote a destination's answer.
LINE_BYTES = 1 << 20


class Child:
    """A process and its successors. `heard` is called for every report, `changed` when one starts or ends.

    `fatal` are the exit codes that end `run` instead of leading to a restart.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        *,
        heard: Callable[[Report], None],
        changed: Callable[[], None],
        fatal: frozenset[int] = frozenset(),
    ) -> None:
        self.name = name
        self.restarts = 0
        #: When the present or last process started, by the monotonic clock.
        self.since = 0.0
        #: Crashes since it was last healthy.
        self.crashes = 0
        #: What the present or last process said before it ended, if it did.
        self.failed: Failed | None = None
        #: Exit code of the last process; negative: the signal that killed it.
        self.code: int | None = None
        self._command = tuple(command)
        self._heard = heard
        self._changed = changed
        self._fatal = fatal
        self._process: Process | None = None
        self._stop = asyncio.Event()
        self._orders: dict[type[Order], Order] = {}

    @property
    def stopping(self) -> bool:
        return self._stop.is_set()

    @property
    def pid(self) -> int | None:
        """None while none runs."""
        return None if self._process is None else self._process.pid

    async def run(self) -> int | None:
        """Returns the fatal exit code, or None after `stop`, once the process has ended."""
        pause = FIRST_PAUSE
        while not self._stop.is_set():
            self.since = time.monotonic()
            try:
                self.code = await self._once()
            except OSError as error:
                self.code, self.failed = 1, Failed(f"it cannot be started: {error.strerror}")
            if self._stop.is_set():
                break
            if self.code in self._fatal:
                return self.code
            if time.monotonic() - self.since >= HEALTHY_SECONDS:
                pause, self.crashes = FIRST_PAUSE, 0
            self.crashes += 1
            why = f": {self.failed.message}" if self.failed else ""
            log.warning("%s %s%s; starts again in %.1f s", self.name, ending(self.code), why, pause)
            self._changed()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._stop.wait()
            pause = min(pause * 2, LONGEST_PAUSE)
            self.restarts += not self._stop.is_set()
        return None

    def stop(self) -> None:
        """No restart from now on, and the present process ends behind its work in flight."""
        if not self._stop.is_set():
            self._stop.set()
            self._signal(signal.SIGTERM)

    def hurry(self) -> None:
        """The present process ends now. Another signal than `stop` sends, since two of a kind that are
        pending together are one (signal(7))."""
        self.stop()
        self._signal(signal.SIGINT)

    def kill(self) -> None:
        self.stop()
        self._signal(signal.SIGKILL)

    def order(self, order: Order) -> None:
        """Tells the process, and each successor when it starts."""
        if self._orders.get(type(order)) != order:
            self._orders[type(order)] = order
            self._send(order)

    def _send(self, order: Order) -> None:
        process = self._process
        if process is not None and process.stdin is not None and not process.stdin.is_closing():
            process.stdin.write(encode(order))

    def _signal(self, number: int) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    async def _once(self) -> int:
        """One process, from its start to its end."""
        self.failed = None
        # A group of its own: Ctrl-C in a terminal goes to the foreground group, and it is for the
        # supervisor to say in which order things end.
        process = await asyncio.create_subprocess_exec(
            *self._command, stdin=PIPE, stdout=PIPE, process_group=0, limit=LINE_BYTES
        )
        self._process = process
        log.debug("%s runs as process %d", self.name, process.pid)
        self._changed()
        try:
            if self._stop.is_set():
                self._signal(signal.SIGTERM)
            for order in self._orders.values():
                self._send(order)
            await self._listen(process)
            return await process.wait()
        finally:
            self._process = None
            if process.returncode is None:
                # Only when this task is cancelled: nothing is left behind.
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
            if process.stdin is not None:
                process.stdin.close()
            self._changed()

    async def _listen(self, process: Process) -> None:
        assert process.stdout is not None
        async for line in process.stdout:
            try:
                message = decode(line)
            except ValueError as error:
                log.warning("%s says what is not a report: %s", self.name, error)
                continue
            if isinstance(message, Failed):
                self.failed = message
            if isinstance(message, Failed | FlowReport | CaptureReport | Ended):
                self._heard(message)


def ending(code: int) -> str:
    """How a process ended, in words."""
    if code >= 0:
        return f"ended with code {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"was ended by signal {-code}"
