"""A process of the engine: capture, or the delivery of some flows. Tells the supervisor how it is on
stdout, and never outlives it.

    python -m cdcflow.engine.child capture --config PATH [--accepted FILE]
    python -m cdcflow.engine.child deliver --config PATH [--accepted FILE] [FLOW …]

Without a flow, delivery waits to be assigned some. `--accepted` is the configuration as the supervisor took
it over: the files themselves may say something else by now, or nothing that makes sense.

The first SIGTERM ends it behind the work in flight, the second at once. The same when the supervisor is
gone, which is known by the end of stdin: then there is little time, because a new one may be waiting for
the locks.
"""

import argparse
import ctypes
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from cdcflow.config import Config, load
from cdcflow.engine import log
from cdcflow.engine.accepted import load_accepted
from cdcflow.engine.reports import Assigned, Delivered, Failed, Live, Order, Report, decode, encode
from cdcflow.errors import CdcflowError

#: What an orphan may take to finish its work in flight. A new supervisor waits longer for the locks.
ORPHAN_SECONDS = 3.0

#: What a process may take from the second signal to its end.
HURRY_SECONDS = 3.0

#: Exit code of a process that was cut short. What it had in flight comes again after a restart.
CUT_SHORT = 1

SIGNALS = {signal.SIGTERM, signal.SIGINT}

#: The supervisor is gone. Not SIGTERM: Linux sends it once for every thread that a dying parent hands the
#: child on to, so that it often comes twice, and a second SIGTERM means haste.
ORPHANED = signal.SIGUSR1

_PR_SET_PDEATHSIG = 1


class Reporter:
    """The way to the supervisor. From any thread, and never waits: a supervisor that is suspended must not
    hold up capture, so reports that find the pipe full are dropped. One that is gone is noticed elsewhere.
    """

    def __init__(self) -> None:
        # Whatever code of a sink prints goes to stderr, and never between the reports.
        self._fd = os.dup(1)
        os.dup2(2, 1)
        os.set_blocking(self._fd, False)
        self._lock = threading.Lock()
        self._rest = b""

    def __call__(self, message: Report) -> None:
        with self._lock:
            self._flush()
            # A line that was begun is finished before another one is.
            if not self._rest:
                self._rest = encode(message)
                self._flush(begun=False)

    def _flush(self, *, begun: bool = True) -> None:
        try:
            while self._rest:
                self._rest = self._rest[os.write(self._fd, self._rest) :]
                begun = True
        except BlockingIOError:
            if not begun:
                self._rest = b""
        except BrokenPipeError:
            self._rest = b""


class Work(Protocol):
    """What a child does between its start and its end."""

    def run(self) -> int:
        """Returns the exit code. Called in the main thread."""
        ...

    # The others are called from other threads.

    def stop(self) -> None:
        """Ends `run` behind the work in flight."""
        ...

    def hurry(self) -> None:
        """Ends `run` now."""
        ...

    def obey(self, order: Order) -> None: ...


def end_after(seconds: float) -> None:
    """Ends this process in any case: a thread that a driver holds up must not keep it alive."""
    timer = threading.Timer(seconds, os._exit, [CUT_SHORT])
    timer.daemon = True
    timer.start()


def watch_supervisor(work: Work) -> None:
    """Obeys the orders that come on stdin, and ends the work where they end."""

    def follow() -> None:
        with os.fdopen(os.dup(0), "rb") as orders:
            for line in orders:
                message = decode(line)
                if isinstance(message, Delivered | Live | Assigned):
                    work.obey(message)
        _stop_orphaned(work)

    threading.Thread(target=follow, name="orders", daemon=True).start()
    if sys.platform == "linux":
        # Sooner than the end of stdin where something else holds the pipe open (prctl(2)).
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, ORPHANED, 0, 0, 0)


def _stop_orphaned(work: Work) -> None:
    end_after(ORPHAN_SECONDS)
    work.stop()


def obey_signals(work: Work) -> None:
    """In a thread of its own: a Python signal handler would run between two steps of the main thread, and
    could wait for a lock that the main thread holds."""

    def follow() -> None:
        told = False
        while True:
            if signal.sigwait(SIGNALS | {ORPHANED}) == ORPHANED:
                _stop_orphaned(work)
            elif not told:
                told = True
                work.stop()
            else:
                end_after(HURRY_SECONDS)
                work.hurry()

    threading.Thread(target=follow, name="signals", daemon=True).start()


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m cdcflow.engine.child")
    parser.add_argument("kind", choices=["capture", "deliver"])
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--accepted", type=Path)
    parser.add_argument("--verbose", action="store_true")
    parser.add_argument("flows", nargs="*")
    given = parser.parse_intermixed_args(arguments)
    report = Reporter()
    log.configure(verbose=given.verbose)

    def read() -> Config:
        return load(given.config) if given.accepted is None else load_accepted(given.config, given.accepted)

    def make() -> Work:
        if given.kind == "capture":
            from cdcflow.engine.capturing import Capturing

            return Capturing(read(), report)
        from cdcflow.engine.delivering import Delivering

        return Delivering(read, given.flows, report)

    return serve(make, report)


def serve(make: Callable[[], Work], report: Callable[[Report], None]) -> int:
    """Runs the work under the supervisor's eyes and gives the exit code."""
    # Before the first thread, so that every one of them leaves the signals to `obey_signals`.
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS | {ORPHANED})
    try:
        work = make()
        obey_signals(work)
        watch_supervisor(work)
        return work.run()
    except CdcflowError as error:
        report(Failed(str(error), error.hint, error.exit_code))
        return error.exit_code


if __name__ == "__main__":
    code = main()
    # Everything is closed. Taking the interpreter apart under threads that wait for a signal makes drivers
    # complain of leaks (DuckDB's does, by the page) and costs time in which the next one waits for a lock.
    logging.shutdown()
    sys.stderr.flush()
    os._exit(code)
