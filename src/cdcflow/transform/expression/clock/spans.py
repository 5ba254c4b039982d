"""Intervals from moments (`age`), and intervals in other units (`justify_…`)."""

from collections.abc import Callable

from cdcflow.transform.expression.clock.arithmetic import month_length
from cdcflow.transform.expression.clock.limits import is_infinite, toward_zero
from cdcflow.transform.expression.function import Fails, Supported, by_row
from cdcflow.transform.expression.moments import DAY, civil_from_days
from cdcflow.transform.expression.spans import in_range, span, span_text


def _age(a: int, b: int) -> str:
    """timestamp.c, timestamp_age: years, months, days and time, field by field."""
    if is_infinite(a) or is_infinite(b):
        raise Fails("the age of an infinite timestamp is not supported here")
    sign = 1
    later, earlier = a, b
    if a < b:
        sign, later, earlier = -1, b, a
    late_days, late_time = divmod(later, DAY)
    early_days, early_time = divmod(earlier, DAY)
    y1, m1, d1 = civil_from_days(late_days)
    y2, m2, d2 = civil_from_days(early_days)
    time = late_time - early_time
    days, months, years = d1 - d2, m1 - m2, y1 - y2
    if time < 0:
        time += DAY
        days -= 1
    while days < 0:
        days += month_length(y2, m2)
        months -= 1
    if months < 0:
        months += 12
        years -= 1
    return span_text((sign * (years * 12 + months), sign * days, sign * time))


def _justify(hours: bool, days: bool) -> Callable[[str], str]:
    def justify(text: str) -> str:
        months, day_count, micros = span(text)
        if hours:
            extra, micros = toward_zero(micros, DAY)
            day_count += extra
        if days:
            extra, day_count = toward_zero(day_count, 30)
            months += extra
        if days and hours:
            if months > 0 and (day_count < 0 or (day_count == 0 and micros < 0)):
                day_count += 30
                months -= 1
            elif months < 0 and (day_count > 0 or (day_count == 0 and micros > 0)):
                day_count -= 30
                months += 1
        elif days:
            if months > 0 and day_count < 0:
                day_count += 30
                months -= 1
            elif months < 0 and day_count > 0:
                day_count -= 30
                months += 1
        if hours:
            if day_count > 0 and micros < 0:
                micros += DAY
                day_count -= 1
            elif day_count < 0 and micros > 0:
                micros -= DAY
                day_count += 1
        return span_text(in_range(months, day_count, micros))

    return justify


SUPPORTED: tuple[Supported, ...] = (
    Supported(
        "age",
        "years, months and days between two moments",
        "age(ended_at, started_at)",
        {
            "timestamp,timestamp": by_row(_age, "timestamp,timestamp", "interval", fails=True),
            "timestamptz,timestamptz": by_row(_age, "timestamptz,timestamptz", "interval", fails=True),
        },
    ),
    Supported(
        "justify_hours",
        "24 hours as days",
        "justify_hours(waited)",
        {"interval": by_row(_justify(True, False), "interval", "interval", fails=True)},
    ),
    Supported(
        "justify_days",
        "30 days as months",
        "justify_days(waited)",
        {"interval": by_row(_justify(False, True), "interval", "interval", fails=True)},
    ),
    Supported(
        "justify_interval",
        "both",
        "justify_interval(waited)",
        {"interval": by_row(_justify(True, True), "interval", "interval", fails=True)},
    ),
)
