"""Dates, moments and intervals held against each other."""

from cdcflow.transform.expression import comparison
from cdcflow.transform.expression.clock.limits import infinite_day, is_infinite
from cdcflow.transform.expression.function import Supported, Variant, by_row, operator, row_kernel
from cdcflow.transform.expression.moments import DAY
from cdcflow.transform.expression.spans import comparable
from cdcflow.transform.expression.sqltype import BOOL, INTERVAL
from cdcflow.types.datetime import INFINITE_MICROSECOND


def _between_kinds(name: str, left: str, right: str) -> Variant:
    """A date against a timestamp. A date beyond all timestamps is beyond them here as well."""
    compare = comparison.PYTHON[name]

    def value(of: int, key: str) -> int:
        if key != "date":
            return of
        if infinite_day(of):
            return INFINITE_MICROSECOND if of > 0 else -INFINITE_MICROSECOND
        # Finite, however far: less than infinity.
        return min(of * DAY, INFINITE_MICROSECOND - 1)

    return by_row(lambda a, b: compare(value(a, left), value(b, right)), f"{left},{right}", "bool")


def _spans(name: str) -> Variant:
    compare = comparison.PYTHON[name]
    return Variant(row_kernel(lambda a, b: compare(comparable(a), comparable(b)), [INTERVAL, INTERVAL], BOOL))


def _comparisons(name: str) -> dict[str, Variant]:
    pairs = [("date", "timestamp"), ("date", "timestamptz"), ("timestamp", "date"), ("timestamptz", "date")]
    found = {f"{a},{b}": _between_kinds(name, a, b) for a, b in pairs}
    as_they_are = comparison.PYTHON[name]
    for a, b in (("timestamp", "timestamptz"), ("timestamptz", "timestamp")):
        found[f"{a},{b}"] = by_row(as_they_are, f"{a},{b}", "bool")
    return {**found, "interval,interval": _spans(name)}


SUPPORTED: tuple[Supported, ...] = (
    *(
        operator(
            name,
            "dates, moments and intervals with each other",
            f"created_at {name} '2026-01-01'",
            _comparisons(name),
        )
        for name in ("=", "<>", "<", "<=", ">", ">=")
    ),
    Supported(
        "isfinite",
        "whether it is no infinity",
        "isfinite(valid_until)",
        {
            "date": by_row(lambda d: not infinite_day(d), "date", "bool"),
            **{k: by_row(lambda m: not is_infinite(m), k, "bool") for k in ("timestamp", "timestamptz")},
        },
    ),
)
