"""Sizes and durations as people write them in YAML: `20GB`, `7d`. A number without a unit is an error,
since nobody would know what it counts."""

import re
from typing import Annotated, Any

from pydantic import BeforeValidator

#: kB, MB … count in thousands and KiB, MiB … in 1024s (IEC 80000-13).
SIZES = {
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}

DURATIONS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}

_QUANTITY = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]+)")


def parse_size(text: str) -> int:
    """Bytes of `64MB`, `1.5 GiB`. Raises ValueError for anything else."""
    match = _QUANTITY.fullmatch(text.strip())
    factor = SIZES.get(match[2].lower()) if match else None
    if match is None or factor is None:
        raise ValueError(f"expected a size with a unit such as 500MB or 20GB, found {text!r}")
    return round(float(match[1]) * factor)


def parse_duration(text: str) -> float:
    """Seconds of `30s`, `12h`, `7d`. Raises ValueError for anything else."""
    match = _QUANTITY.fullmatch(text.strip())
    factor = DURATIONS.get(match[2]) if match else None
    if match is None or factor is None:
        raise ValueError(f"expected a duration with a unit such as 30s, 12h or 7d, found {text!r}")
    return float(match[1]) * factor


def _size(value: Any) -> int:
    return parse_size(str(value))


def _duration(value: Any) -> float:
    return parse_duration(str(value))


#: A number of bytes, written with its unit.
Size = Annotated[int, BeforeValidator(_size)]

#: A number of seconds, written with its unit.
Duration = Annotated[float, BeforeValidator(_duration)]
