"""Dates, times and moments. The session's time zone is UTC, as in capture."""

from cdcflow.transform.expression.clock import arithmetic, comparing, fields, making, spans, truncation, zones
from cdcflow.transform.expression.function import Supported

SUPPORTED: tuple[Supported, ...] = (
    *arithmetic.SUPPORTED,
    *comparing.SUPPORTED,
    *making.SUPPORTED,
    *truncation.SUPPORTED,
    *fields.SUPPORTED,
    *spans.SUPPORTED,
    *zones.SUPPORTED,
)
