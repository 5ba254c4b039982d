"""The engine's log: one line per event on stderr, with time, level and the part that speaks."""

import logging
import sys
import time

FORMAT = "%(asctime)s.%(msecs)03dZ %(levelname)-7s %(part)s %(message)s"


class _Formatter(logging.Formatter):
    @staticmethod
    def converter(seconds: float | None) -> time.struct_time:
        return time.gmtime(seconds)

    def format(self, record: logging.LogRecord) -> str:
        record.part = record.name.removeprefix("cdcflow.")
        return super().format(record)


def configure(*, verbose: bool) -> None:
    """Sends what cdcflow logs to stderr: events, or with `verbose` details too. Other packages' loggers
    are left alone, since what they say of requests may hold addresses with tokens in them."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(FORMAT, datefmt="%Y-%m-%dT%H:%M:%S"))
    logger = logging.getLogger("cdcflow")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.DEBUG if verbose else logging.INFO)
    logger.propagate = False
