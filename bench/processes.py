"""What processes cost: CPU seconds and peak memory, of ours and of the server's, seen from outside."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil  # type: ignore[import-untyped]

#: A process that ends by itself is missing at most so much of its CPU time.
INTERVAL = 0.05


@dataclass(frozen=True, slots=True)
class Use:
    """CPU seconds (user and system) while it was watched, and the largest resident memory of its life."""

    cpu_seconds: float
    peak_mb: float


class Watch:
    """Looks at processes 20 times a second, in a thread, from `add` to `stop`; a context manager.

    `uses` is what was seen, by the name given to `add`. Ended processes keep their last figures.
    """

    def __init__(self) -> None:
        #: Each with the CPU time that does not count, and whether its children count.
        self._processes: dict[str, tuple[psutil.Process, float, bool]] = {}
        self._uses: dict[str, Use] = {}
        self._lock = threading.Lock()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def add(self, name: str, pid: int, *, from_birth: bool = False, family: bool = False) -> None:
        """Counts this process's CPU time from now on, or all of its life's; with `family` that of its
        children, too, and no memory. One that has ended already is left out, one that is known goes on.

        A family is looked at here and at the end only: to find children takes milliseconds, which would be
        missing from what is measured. Children that have ended count as long as their parent lives."""
        try:
            process = psutil.Process(pid)
            with self._lock:
                if name not in self._processes or self._processes[name][0].pid != pid:
                    self._processes[name] = process, 0.0 if from_birth else _cpu(process, family), family
        except psutil.NoSuchProcess:
            pass

    def stop(self) -> None:
        """The last look; nothing that comes later counts."""
        if not self._stopped.is_set():
            self._stopped.set()
            self._thread.join()
            self._look(families=True)

    @property
    def uses(self) -> Mapping[str, Use]:
        with self._lock:
            return dict(self._uses)

    def _run(self) -> None:
        while not self._stopped.wait(INTERVAL):
            self._look()

    def _look(self, families: bool = False) -> None:
        with self._lock:
            for name, (process, before, family) in self._processes.items():
                if family and not families:
                    continue
                try:
                    cpu, peak = _cpu(process, family) - before, 0.0 if family else peak_mb(process.pid)
                except (psutil.NoSuchProcess, psutil.AccessDenied):
                    continue  # it has ended
                # A zombie still knows its CPU time, but has no memory any more.
                known = self._uses.get(name)
                self._uses[name] = Use(round(cpu, 2), max(peak, known.peak_mb if known else 0.0))


def _cpu(process: psutil.Process, family: bool = False) -> float:
    times = process.cpu_times()
    seconds = float(times.user + times.system)
    if family:
        seconds += times.children_user + times.children_system
        for child in process.children():
            with suppress(psutil.NoSuchProcess):
                seconds += _cpu(child)
    return seconds


def peak_mb(pid: int) -> float:
    """Largest resident memory so far in MB (10^6 bytes): the kernel's own high-water mark on Linux, elsewhere
    what is resident now. Raises psutil.NoSuchProcess."""
    try:
        for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
            if line.startswith("VmHWM:"):
                return round(int(line.split()[1]) * 1024 / 1e6, 1)
    except (FileNotFoundError, ProcessLookupError):
        pass
    return round(int(psutil.Process(pid).memory_info().rss) / 1e6, 1)
