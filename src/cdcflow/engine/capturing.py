"""The work of the capture process: `cdcflow.source.capture`, under the supervisor's eyes."""

import gc
from collections.abc import Callable, Mapping
from typing import Any

from cdcflow.config import Config
from cdcflow.config.models import HeartbeatSettings
from cdcflow.engine.places import Places
from cdcflow.engine.reports import CaptureReport, Delivered, Order, Report
from cdcflow.source.appender import Retention
from cdcflow.source.capture import Capture, CaptureSettings
from cdcflow.source.heartbeat import Heartbeat
from cdcflow.source.retained import Limits


class Capturing:
    """`run` returns 0 after `stop`, behind the last fsync, or raises what no retry can mend."""

    def __init__(self, config: Config, report: Callable[[Report], None]) -> None:
        self._report = report
        source, journal = config.source, config.journal
        settings = CaptureSettings(
            dsn=source.dsn.get_secret_value(),
            slot=source.slot,
            publication=source.publication,
            journal=journal.path,
            backfill=source.backfill != "none",
            confirm_delivered=source.confirm == "delivered",
            messages=source.captured_messages,
            origin=source.origin,
            segment_bytes=journal.segment_size,
            retention=Retention(max_bytes=journal.keep.size, max_age=journal.keep.age),
            retained_wal=Limits(source.retained_wal.warn, source.retained_wal.drop_slot),
            heartbeat=_heartbeat(source.heartbeat),
            backfills=Places(config.engine.state).backfills,
            backfill_readers=source.backfill_readers,
            backfill_new_tables=source.new_tables == "backfill",
        )
        self._capture = Capture(settings, self._tell)

    def run(self) -> int:
        # Each read makes thousands of buffers, none of them in a cycle; looking for cycles among them
        # after every 700 took a quarter of capture's CPU. What is loaded by now stays for good.
        gc.freeze()
        gc.set_threshold(100_000, 50, 100)
        self._capture.run()
        return 0

    def stop(self) -> None:
        self._capture.stop()

    def hurry(self) -> None:
        """What is not fsynced by then comes again from the slot: the process may simply end."""
        self._capture.stop()

    def obey(self, order: Order) -> None:
        if isinstance(order, Delivered):
            self._capture.delivered(order.offset)

    def _tell(self, figures: Mapping[str, Any]) -> None:
        self._report(CaptureReport(dict(figures)))


def _heartbeat(settings: HeartbeatSettings) -> Heartbeat | None:
    if settings.kind == "none":
        return None
    schema, _, name = (settings.table or "").partition(".")
    return Heartbeat(settings.every, (schema, name) if name else None)
