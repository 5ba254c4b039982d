"""What a process of the engine does for itself, seen from a process of its own."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cdcflow.engine.reports import Failed, decode
from cdcflow.testing.waiting import TIMEOUT, eventually

REPORTS = """
from cdcflow.engine.child import Reporter
from cdcflow.engine.reports import Failed
report = Reporter()
for i in range(5_000):
    report(Failed(f"message {i}" + "x" * (i % 3) * 4_000))
print("printed", flush=True)
import sys
sys.stdin.readline()
report(Failed("the end"))
"""

ORPHAN = """
from cdcflow.engine import child
child.ORPHAN_SECONDS = 0.2
class Work:
    def run(self):
        print("ready", flush=True)
        while True:
            pass
    def stop(self):
        pass
    def hurry(self):
        pass
    def obey(self, order):
        pass
child.serve(Work, lambda message: None)
"""


@contextmanager
def running(text: str) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen(
        [sys.executable, "-c", text], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        with process:
            yield process
            process.kill()
    finally:
        process.kill()


def test_a_supervisor_that_does_not_listen_holds_nobody_up_and_later_gets_whole_reports() -> None:
    with running(REPORTS) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        # Far more than a pipe holds was reported, and nobody has read any of it.
        assert process.stderr.readline() == b"printed\n"
        first = decode(process.stdout.readline())
        process.stdin.write(b"go on\n")
        process.stdin.flush()
        messages = [first, *map(decode, process.stdout)]
    assert messages[0] == Failed("message 0")
    assert all(isinstance(message, Failed) for message in messages)
    assert 10 < len(messages) < 5_000


def test_work_that_does_not_stop_is_ended_when_the_supervisor_is_gone() -> None:
    with running(ORPHAN) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        process.stdin.close()
        assert process.wait(TIMEOUT) == 1


SUPERVISOR = """
import subprocess, sys, threading, time
for _ in range(8):
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
subprocess.Popen([sys.executable, "-c", sys.argv[1], sys.argv[2]])
time.sleep(60)
"""

FINISHES = """
import sys, threading
from cdcflow.engine import child
class Work:
    told = threading.Event()
    hurried = False
    def run(self):
        print("ready", flush=True)
        self.told.wait()
        import time; time.sleep(0.3)  # the write in flight
        open(sys.argv[1], "w").write("cut short" if self.hurried else "finished")
        return 0
    def stop(self):
        self.told.set()
    def hurry(self):
        self.hurried = True
    def obey(self, order):
        pass
child.serve(Work, lambda message: None)
"""


def test_an_orphan_of_a_supervisor_with_threads_is_not_hurried(tmp_path: Path) -> None:
    """Linux tells it once per thread of the parent that it was handed on to."""
    for number in range(4):
        file = tmp_path / str(number)
        supervisor = subprocess.Popen(
            [sys.executable, "-c", SUPERVISOR, FINISHES, str(file)], stdout=subprocess.PIPE
        )
        assert supervisor.stdout is not None
        with supervisor.stdout as output:
            assert output.readline() == b"ready\n"
            supervisor.kill()
            supervisor.wait(TIMEOUT)
            eventually(lambda: file.exists() and file.read_text())  # noqa: B023
        assert file.read_text() == "finished"
