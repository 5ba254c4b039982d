"""`at time zone`. A named zone is looked up in the time zone database of Python's `zoneinfo`; Postgres has
one of its own, which may be of another year.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from zoneinfo import ZoneInfo

import pyarrow as pa

from cdcflow.transform.expression.clock.limits import MICRO, is_infinite
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Refused,
    Supported,
    Variant,
    constant_value,
    row_kernel,
)
from cdcflow.transform.expression.moments import DAY
from cdcflow.transform.expression.node import Bound, as_array
from cdcflow.transform.expression.sqltype import builtin

_ABBREVIATIONS = frozenset({"utc", "gmt", "z", "zulu", "ut"})
_SECOND_1970 = datetime(1970, 1, 1, tzinfo=UTC)
#: Where Python's datetime ends.
_FIRST_KNOWN, _LAST_KNOWN = -62_135_596_800 * MICRO + DAY * 2, 253_402_300_800 * MICRO - DAY * 2


@lru_cache(maxsize=256)
def _zone(name: str) -> ZoneInfo | None:
    """The zone, or None for UTC."""
    if name.lower() in _ABBREVIATIONS:
        return None
    if "/" not in name:
        raise Refused(
            f"the time zone {name!r} is not supported", hint="write UTC or a name such as Europe/Berlin"
        )
    try:
        return ZoneInfo(name)
    except (OSError, ValueError):
        raise Refused(f"the time zone {name!r} is not known") from None


def _named(argument: Bound) -> ZoneInfo | None:
    if argument.constant is None:
        raise Refused("the time zone must be a constant here")
    return _zone(constant_value(argument))


def _offset_of_moment(micros: int, zone: ZoneInfo) -> int:
    """Microseconds east of UTC at a moment."""
    if not _FIRST_KNOWN <= micros <= _LAST_KNOWN:
        raise Fails("a time zone is not supported for years before 1 or after 9999")
    moment = _SECOND_1970 + timedelta(microseconds=micros)
    offset = moment.astimezone(zone).utcoffset()
    assert offset is not None
    return offset // timedelta(microseconds=1)


def _to_local(micros: int, zone: ZoneInfo) -> int:
    return micros if is_infinite(micros) else micros + _offset_of_moment(micros, zone)


def _from_local(micros: int, zone: ZoneInfo) -> int:
    """datetime.c, DetermineTimeZoneOffset: a time that is skipped or comes twice is taken as standard
    time, that is with the offset from before a gap and from behind an overlap."""
    if is_infinite(micros):
        return micros
    before = _offset_of_moment(micros - DAY, zone)
    after = _offset_of_moment(micros + DAY, zone)
    if before == after:
        middle = _offset_of_moment(micros - before, zone)
        return micros - middle
    first, second = micros - before, micros - after
    first_holds = _offset_of_moment(first, zone) == before
    second_holds = _offset_of_moment(second, zone) == after
    if first_holds and not second_holds:
        return first
    if second_holds and not first_holds:
        return second
    if first_holds:
        return second
    return first


def _timezone(source: str, target: str, convert: Callable[[int, ZoneInfo], int]) -> Variant:
    arrow = pa.timestamp("us", "UTC") if target == "timestamptz" else pa.timestamp("us")

    def bind(name: Bound, _value: Bound) -> Kernel:
        zone = _named(name)
        if zone is None:
            return lambda rows, _zone, values: as_array(values, rows.count).view(arrow)
        kernel = row_kernel(lambda micros: convert(micros, zone), [builtin(source)], builtin(target))
        return lambda rows, _zone, values: kernel(rows, values)

    return Variant(bind=bind, fails=True)


SUPPORTED: tuple[Supported, ...] = (
    Supported(
        "timezone",
        "`at time zone`: UTC, or a name such as Europe/Berlin",
        "created_at at time zone 'Europe/Berlin'",
        {
            "text,timestamptz": _timezone("timestamptz", "timestamp", _to_local),
            "text,timestamp": _timezone("timestamp", "timestamptz", _from_local),
        },
    ),
)
