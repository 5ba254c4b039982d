"""`date_trunc`: moments and intervals down to a unit."""

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression.clock.limits import HOUR, MICRO, is_infinite, toward_zero
from cdcflow.transform.expression.clock.units import unit_named
from cdcflow.transform.expression.frame import Datum, Rows
from cdcflow.transform.expression.function import Kernel, Supported, Variant, row_kernel
from cdcflow.transform.expression.moments import DAY, civil_from_days
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.reading import moment_in_range
from cdcflow.transform.expression.spans import span, span_text
from cdcflow.transform.expression.sqltype import INTERVAL, builtin
from cdcflow.types.datetime import INFINITE_MICROSECOND, days_from_civil

_STEPS = {
    "microseconds": 1,
    "milliseconds": 1000,
    "second": MICRO,
    "minute": 60 * MICRO,
    "hour": HOUR,
    "day": DAY,
}
_TRUNCATED = (*_STEPS, "week", "month", "quarter", "year", "decade", "century", "millennium")


def _truncated(micros: int, unit: str) -> int:
    if is_infinite(micros):
        return micros
    step = _STEPS.get(unit)
    if step is not None:
        return moment_in_range(micros // step * step)
    days = micros // DAY
    year, month, _ = civil_from_days(days)
    match unit:
        case "week":
            days -= (days + 3) % 7
        case "month":
            days = days_from_civil(year, month, 1)
        case "quarter":
            days = days_from_civil(year, (month - 1) // 3 * 3 + 1, 1)
        case "year":
            days = days_from_civil(year, 1, 1)
        case "decade":
            days = days_from_civil(year // 10 * 10, 1, 1)
        case "century":
            first = (year + 99) // 100 * 100 - 99 if year > 0 else -((99 - (year - 1)) // 100 * 100) + 1
            days = days_from_civil(first, 1, 1)
        case _:
            first = (
                (year + 999) // 1000 * 1000 - 999 if year > 0 else -((999 - (year - 1)) // 1000 * 1000) + 1
            )
            days = days_from_civil(first, 1, 1)
    return moment_in_range(days * DAY)


def _date_trunc(key: str) -> Variant:
    kind = builtin(key)

    def bind(unit: Bound, _value: Bound) -> Kernel:
        name = unit_named(unit, _TRUNCATED)
        exactly = row_kernel(lambda micros: _truncated(micros, name), [kind], kind)
        step = _STEPS.get(name)

        def kernel(rows: Rows, _unit: Datum, values: Datum) -> pa.Array:
            raw = as_array(values, rows.count).view(pa.int64())
            low = pc.min(raw).as_py()
            if step is None or low is None or low < 0 or pc.max(raw).as_py() >= INFINITE_MICROSECOND:
                return exactly(rows, values)
            return pc.multiply(pc.divide(raw, step), step).view(values.type)

        return kernel

    return Variant(bind=bind, fails=True)


def _trunc_span(text: str, unit: str) -> str:
    months, days, micros = span(text)
    match unit:
        case "microseconds":
            pass
        case "day":
            micros = 0
        case "month" | "quarter" | "year" | "decade" | "century" | "millennium":
            days = micros = 0
            size = {
                "month": 1,
                "quarter": 3,
                "year": 12,
                "decade": 120,
                "century": 1200,
                "millennium": 12_000,
            }[unit]
            years, rest = toward_zero(months, 12)
            if unit in ("month", "quarter"):
                months = years * 12 + toward_zero(rest, size)[0] * size
            else:
                months = toward_zero(months, size)[0] * size
        case _:
            micros = toward_zero(micros, _STEPS[unit])[0] * _STEPS[unit]
    return span_text((months, days, micros))


def _date_trunc_span(unit: Bound, _value: Bound) -> Kernel:
    name = unit_named(unit, tuple(u for u in _TRUNCATED if u != "week"))
    kernel = row_kernel(lambda text: _trunc_span(text, name), [INTERVAL], INTERVAL)
    return lambda rows, _unit, values: kernel(rows, values)


SUPPORTED: tuple[Supported, ...] = (
    Supported(
        "date_trunc",
        "down to a unit",
        "date_trunc('month', created_at)",
        {
            "text,timestamp": _date_trunc("timestamp"),
            "text,timestamptz": _date_trunc("timestamptz"),
            "text,interval": Variant(bind=_date_trunc_span, fails=True),
        },
    ),
)
