"""Units, and where dates and moments end."""

from cdcflow.types.datetime import INFINITE_DAY, INFINITE_MICROSECOND

MICRO = 1_000_000
HOUR = 3_600 * MICRO
OUT_OF_RANGE = "timestamp out of range"


def is_infinite(micros: int) -> bool:
    return abs(micros) >= INFINITE_MICROSECOND


def infinite_day(days: int) -> bool:
    return abs(days) >= INFINITE_DAY


def toward_zero(value: int, unit: int) -> tuple[int, int]:
    quotient, rest = divmod(abs(value), unit)
    return (-quotient, -rest) if value < 0 else (quotient, rest)
