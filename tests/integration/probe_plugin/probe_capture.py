"""Stands in for capture in the tests of the engine, where no database is needed: a process of the engine
that appends one change every few milliseconds to a real journal.

How many changes the journal is to hold is in the file `changes` beside the configuration, and may grow.
The rest of its behaviour is in the environment:
PROBE_ROWS, how many rows these are about, in turn (none: a new one each);
PROBE_FAIL, a message to fail with for good; PROBE_STATE, the state to report.
"""

import os
import sys
import threading
from pathlib import Path

from cdcflow.config import load_parts
from cdcflow.engine.child import Reporter, serve
from cdcflow.engine.reports import CaptureReport, Delivered, Order
from cdcflow.errors import SourceError
from cdcflow.testing.scripted import JournalSource


class Probe:
    def __init__(self, config: Path, report: Reporter) -> None:
        self._wanted = config.with_name("changes")
        read = load_parts(config).config
        assert read is not None
        self._path = read.journal.path
        self._report = report
        self._stop = threading.Event()
        self._delivered = 0

    def run(self) -> int:
        if "PROBE_FAIL" in os.environ:
            raise SourceError(os.environ["PROBE_FAIL"], hint="mend it")
        source = JournalSource(self._path)
        rows = int(os.environ.get("PROBE_ROWS", 1 << 40))
        while not self._stop.wait(0.005):
            offset = source.writer.tail.offset
            if offset < int(self._wanted.read_text()):
                source.change([(offset % rows, f"note {offset}")])
            state = os.environ.get("PROBE_STATE", "streaming")
            self._report(CaptureReport({"state": state, "delivered": self._delivered}))
        source.writer.close()
        return 0

    def stop(self) -> None:
        self._stop.set()

    def hurry(self) -> None:
        self._stop.set()

    def obey(self, order: Order) -> None:
        if isinstance(order, Delivered):
            self._delivered = order.offset


if __name__ == "__main__":
    reporter = Reporter()
    sys.exit(serve(lambda: Probe(Path(sys.argv[1]), reporter), reporter))
