"""The text of dates, times and moments as Postgres writes it under `DateStyle=ISO` and `TimeZone=UTC`."""

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.types.datetime import INFINITE_DAY, INFINITE_MICROSECOND

DAY = 86_400_000_000
#: From 0001-01-01 to 9999-12-31, in days and in microseconds since 1970: what Arrow writes as Postgres does.
_FIRST_DAY, _LAST_DAY = -719_162, 2_932_896


def civil_from_days(days: int) -> tuple[int, int, int]:
    """Year (1 BC is 0), month and day of a day since 1970-01-01.

    Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
    """
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * shifted + 2) // 5 + 1
    month = shifted + (3 if shifted < 10 else -9)
    return year_of_era + era * 400 + (month <= 2), month, day


def date_text(days: int) -> str:
    if abs(days) >= INFINITE_DAY:
        return "infinity" if days > 0 else "-infinity"
    year, month, day = civil_from_days(days)
    return f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02}{'' if year > 0 else ' BC'}"


def time_text(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    point = f".{fraction:06}".rstrip("0") if fraction else ""
    return f"{hour:02}:{minute:02}:{second:02}{point}"


def timestamp_text(micros: int, zone: str = "") -> str:
    if abs(micros) >= INFINITE_MICROSECOND:
        return "infinity" if micros > 0 else "-infinity"
    days, rest = divmod(micros, DAY)
    date, _, era = date_text(days).partition(" ")
    return f"{date} {time_text(rest)}{zone}{' ' if era else ''}{era}"


def write_date(values: pa.Array) -> pa.StringArray:
    raw = values.view(pa.int32())
    if _within(raw, _FIRST_DAY, _LAST_DAY):
        return pc.cast(values, pa.string())
    return pa.array([None if v is None else date_text(v) for v in raw.to_pylist()], pa.string())


def write_time(values: pa.Array) -> pa.StringArray:
    raw = values.view(pa.int64()).to_pylist()
    return pa.array([None if v is None else time_text(v) for v in raw], pa.string())


def write_timestamp(values: pa.Array) -> pa.StringArray:
    return _write(values, "")


def write_timestamptz(values: pa.Array) -> pa.StringArray:
    return _write(values, "+00")


def _write(values: pa.Array, zone: str) -> pa.StringArray:
    raw = values.view(pa.int64())
    if _within(raw, _FIRST_DAY * DAY, (_LAST_DAY + 1) * DAY - 1):
        seconds = pc.divide(raw, 1_000_000)
        if pc.all(pc.equal(pc.multiply(seconds, 1_000_000), raw), min_count=0).as_py():
            texts = pc.cast(seconds.view(pa.timestamp("s")), pa.string())
        else:
            # Always six digits behind the point: the zeros at the end go, and then the point.
            texts = pc.cast(raw.view(pa.timestamp("us")), pa.string())
            texts = pc.utf8_rtrim(pc.utf8_rtrim(texts, characters="0"), characters=".")
        return pc.binary_join_element_wise(texts, zone, "") if zone else texts
    return pa.array([None if v is None else timestamp_text(v, zone) for v in raw.to_pylist()], pa.string())


def ordinary(raw: pa.Array) -> bool:
    """Whether all moments, in microseconds since 1970, lie in the years 1 to 9999, which Arrow handles."""
    return _within(raw, _FIRST_DAY * DAY, (_LAST_DAY + 1) * DAY - 1)


#: Below so many rows, writing them one by one costs less than looking whether Arrow may.
_FEW = 16


def _within(raw: pa.Array, low: int, high: int) -> bool:
    if len(raw) < _FEW:
        return False
    bounds = pc.min_max(raw)
    least = bounds["min"].as_py()
    return least is None or (least >= low and bounds["max"].as_py() <= high)
