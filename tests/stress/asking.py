"""What people ask of backfills while everything else goes on: one after the other for any table, paused,
resumed, cancelled. Nothing of it may change what sinks come to hold."""

import random
import threading
from collections import Counter
from contextlib import suppress
from typing import Any

import psycopg

from cdcflow.engine import control
from cdcflow.errors import CdcflowError
from cdcflow.source.requests import Kept, Requests
from cdcflow.testing.waiting import eventually
from faults.project import Project

#: Backfills that are under way at once.
AT_ONCE = 2
#: Rows a second of the slow ones: something happens to their table before they are done.
SLOW = (40.0, 400.0)
#: Seconds between two looks at what could be asked for.
BETWEEN = 0.3
#: Seconds for the last ones to end.
PATIENCE = 180.0

#: As they are published; leaves of a partitioned table are not asked for.
_TABLES = """
    SELECT relname FROM pg_class
    WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'p') AND NOT relispartition
    ORDER BY relname
"""


class Asker:
    """Asks until `stop`."""

    def __init__(self, project: Project, draw: random.Random) -> None:
        self._project = project
        self._draw = draw
        self._requests = Requests(project.state / "backfills")
        self._over = threading.Event()
        self._mistake: Exception | None = None
        #: What was asked for, in order.
        self.log: list[str] = []
        self._thread = threading.Thread(target=self._run, name="backfills")
        self._thread.start()

    def stop(self) -> None:
        """Asks for nothing any more."""
        self._over.set()
        self._thread.join()
        if self._mistake is not None:
            raise self._mistake

    def ended(self) -> Counter[str]:
        """Waits until all that was asked for has ended, and says how many did in which state."""

        def over() -> bool:
            self._project.ensure_running()
            going = self._going()
            with suppress(CdcflowError):  # the engine is just starting
                for kept in going:
                    if kept.request.wish == "pause":
                        self._wish(kept, "run")
            return not going

        try:
            eventually(over, timeout=PATIENCE, interval=0.2)
        except TimeoutError as error:
            status = self._project.status() or {}
            raise AssertionError(f"backfills do not end: {status.get('backfills')}") from error
        return Counter(kept.state for kept in self._requests.all())

    def _run(self) -> None:
        while not self._over.wait(BETWEEN):
            try:
                self._ask()
            except (CdcflowError, psycopg.OperationalError):
                pass  # what answers has just been killed
            except Exception as error:  # noqa: BLE001 - raised by `stop`
                self._mistake = error
                return

    def _going(self) -> list[Kept]:
        return [kept for kept in self._requests.all() if kept.state in ("running", "paused")]

    def _ask(self) -> None:
        going = self._going()
        if len(going) < AT_ONCE:
            self._start()
            return
        kept = self._draw.choice(going)
        # Of a table without a key, what has come so far is half of it.
        if kept.request.halt or self._draw.random() < 0.85:
            return
        wishes = ["run"] if kept.request.wish == "pause" else ["pause", "pause", "cancel"]
        self._wish(kept, self._draw.choice(wishes))

    def _start(self) -> None:
        with psycopg.connect(self._project.dsn, autocommit=True, connect_timeout=5) as connection:
            names = [name for (name,) in connection.execute(_TABLES).fetchall()]
        asked: dict[str, Any] = {"tables": [f"public.{self._draw.choice(names)}"]}
        how = self._draw.random()
        if how < 0.4:
            asked["halt"] = True
        elif how < 0.8:
            asked["rate"] = self._draw.uniform(*SLOW)
        elif how < 0.9:
            asked["replace"] = True
        self._tell({"do": "start", "request": asked})

    def _wish(self, kept: Kept, wish: str) -> None:
        if kept.request.name == "initial" and wish == "cancel":
            return
        self._tell({"do": wish, "name": kept.request.name})

    def _tell(self, asked: dict[str, Any]) -> None:
        answer = control.backfill(self._project.state, asked)
        self.log.append(f"{asked} → {answer.get('name')}")
