"""What a text means as a value of a type: Postgres' input functions, for literals and for casts from text.

Numbers, booleans, uuid, bytea and JSON are read in every form that Postgres takes. Dates, times and intervals
are read in ISO 8601 and in Postgres' own output; their many other forms (`tomorrow`, `Jan 2`) are refused.
"""

import math
import re
from collections.abc import Callable
from decimal import Decimal
from ipaddress import IPv6Address
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cdcflow.transform.expression import documents, exact
from cdcflow.transform.expression.conversion import codec
from cdcflow.transform.expression.function import Fails
from cdcflow.transform.expression.lists import read_array
from cdcflow.transform.expression.moments import DAY
from cdcflow.transform.expression.numbers import in_range
from cdcflow.transform.expression.spans import read_interval
from cdcflow.transform.expression.sqltype import SqlType
from cdcflow.types.datetime import INFINITE_DAY, INFINITE_MICROSECOND, days_from_civil

#: isspace() of the C locale, which the input functions skip.
_SPACE = " \t\n\r\v\f"


def _invalid(name: str) -> Fails:
    return Fails(f"invalid input syntax for type {name}")


#: Since PostgreSQL 16: hexadecimal, octal, binary, and underscores between digits.
_INTEGER = re.compile(
    r"[+-]?(?:\d+(?:_\d+)*|0[xX](?:_?[0-9a-fA-F])+|0[oO](?:_?[0-7])+|0[bB](?:_?[01])+)", re.ASCII
)
_NAMES = {"int2": "smallint", "int4": "integer", "int8": "bigint"}


def integer(key: str) -> Callable[[str], int]:
    name = _NAMES[key]

    def read(text: str) -> int:
        trimmed = text.strip(_SPACE)
        if _INTEGER.fullmatch(trimmed) is None:
            raise _invalid(name)
        sign = -1 if trimmed.startswith("-") else 1
        digits = trimmed.lstrip("+-").replace("_", "")
        base = {"x": 16, "o": 8, "b": 2}.get(digits[1:2].lower(), 10)
        try:
            return in_range(sign * int(digits[2:] if base != 10 else digits, base), key)
        except Fails:
            raise Fails(f"value is out of range for type {name}") from None

    return read


_NUMERIC = re.compile(
    r"([+-]?)(?:(\d+(?:_\d+)*)(?:\.((?:\d+(?:_\d+)*)?))?|\.(\d+(?:_\d+)*))(?:[eE]([+-]?\d+(?:_\d+)*))?",
    re.ASCII,
)
_SPECIAL = re.compile(r"([+-]?)(nan|inf(?:inity)?)", re.IGNORECASE)


def numeric(text: str) -> Decimal:
    trimmed = text.strip(_SPACE)
    match = _NUMERIC.fullmatch(trimmed)
    if match is None:
        special = _SPECIAL.fullmatch(trimmed)
        if special is not None and not (special[1] and special[2].lower() == "nan"):
            return Decimal(trimmed)
        if _INTEGER.fullmatch(trimmed):
            return Decimal(_based(trimmed))
        raise _invalid("numeric")
    sign, whole, fraction, only_fraction, exponent = match.groups()
    digits_behind = (fraction or only_fraction or "").replace("_", "")
    power = int((exponent or "0").replace("_", ""))
    if abs(power) > 2**30:
        raise _invalid("numeric")
    if power > 140_000 or power < -20_000:
        if Decimal(f"{(whole or '').replace('_', '')}{digits_behind}" or "0").is_zero() and power < 0:
            raise Fails("value overflows numeric format")
        if power > 0:
            raise Fails("value overflows numeric format")
    value = Decimal(f"{sign}{(whole or '0').replace('_', '')}.{digits_behind or '0'}").scaleb(
        power, context=exact.CONTEXT
    )
    scale = max(len(digits_behind) - power, 0)
    if scale > 16_383:
        scale = 16_383
    return exact.checked(exact.rounded(value, scale))


def _based(text: str) -> int:
    sign = -1 if text.startswith("-") else 1
    digits = text.lstrip("+-").replace("_", "")
    return sign * int(digits[2:], {"x": 16, "o": 8, "b": 2}[digits[1].lower()])


_FLOAT = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)


#: strtod() of the C library takes hexadecimal numbers as well.
_HEX_FLOAT = re.compile(
    r"[+-]?0[xX](?:[0-9a-fA-F]+(?:\.[0-9a-fA-F]*)?|\.[0-9a-fA-F]+)(?:[pP][+-]?\d+)?", re.ASCII
)


def double(text: str) -> float:
    trimmed = text.strip(_SPACE)
    if _HEX_FLOAT.fullmatch(trimmed):
        try:
            return float.fromhex(trimmed)
        except OverflowError:
            raise Fails("value is out of range for type double precision") from None
    if _FLOAT.fullmatch(trimmed):
        value = float(trimmed)
        nonzero = re.search(r"[1-9]", re.split("[eE]", trimmed)[0]) is not None
        if value in (float("inf"), float("-inf")) or (value == 0 and nonzero):
            raise Fails("value is out of range for type double precision")
        return value
    if _SPECIAL.fullmatch(trimmed):
        return float(trimmed)
    raise _invalid("double precision")


_TRUE = ("true", "yes", "on", "1")
_FALSE = ("false", "no", "off", "0")


def boolean(text: str) -> bool:
    """bool.c, parse_bool_with_len: any beginning of these words that is not ambiguous."""
    word = text.strip(_SPACE).lower()
    if word and word.isascii() and word != "o":
        if any(full.startswith(word) for full in _TRUE):
            return True
        if any(full.startswith(word) for full in _FALSE):
            return False
    raise _invalid("boolean")


_UUID = re.compile(r"\{?((?:[0-9a-fA-F]{4}-?){7}[0-9a-fA-F]{4})\}?")


def uuid(text: str) -> str:
    match = _UUID.fullmatch(text)
    if match is None or text.startswith("{") != text.endswith("}"):
        raise _invalid("uuid")
    digits = match[1].replace("-", "").lower()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


_ESCAPED = re.compile(rb"\\(\\|[0-3][0-7]{2})|[^\\]", re.DOTALL)


_HEX_PAIRS = re.compile(r"(?:[ \n\t\r]*[0-9a-fA-F]{2})*[ \n\t\r]*")


def from_hex(digits: str) -> bytes:
    """Pairs of hexadecimal digits, with white space between them."""
    if _HEX_PAIRS.fullmatch(digits) is None:
        raise Fails("invalid hexadecimal data")
    return bytes.fromhex(digits)


def bytea(text: str) -> bytes:
    """Both forms, hex and escape."""
    if text.startswith("\\x"):
        return from_hex(text[2:])
    raw = text.encode()
    pieces, at = [], 0
    while at < len(raw):
        match = _ESCAPED.match(raw, at)
        if match is None:
            raise _invalid("bytea")
        found = match[1]
        pieces.append(match[0] if found is None else b"\\" if found == b"\\" else bytes([int(found, 8)]))
        at = match.end()
    return b"".join(pieces)


def single(text: str) -> float:
    """A float4. Read from the text itself: by way of a double it could be rounded twice."""
    try:
        value = double(text)
    except Fails as failure:
        raise Fails(str(failure).replace("double precision", "real")) from None
    trimmed = text.strip(_SPACE)
    if _FLOAT.fullmatch(trimmed):
        narrow = pc.cast(pa.scalar(trimmed.lstrip("+")), pa.float32()).as_py()
    else:
        narrow = pc.cast(pa.scalar(value), pa.float32(), safe=False).as_py()
    if (math.isinf(narrow) and not math.isinf(value)) or (narrow == 0 and value != 0):
        raise Fails("value is out of range for type real")
    return float(narrow)


_IPV4 = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})(?:/(\d{1,2}))?", re.ASCII)


def inet(text: str) -> str:
    """IPv4 whole, and IPv6 without an IPv4 address in it."""
    match = _IPV4.fullmatch(text)
    if match is not None:
        *octets, mask = (None if part is None else int(part) for part in match.groups())
        if any(octet is None or octet > 255 for octet in octets) or (mask is not None and mask > 32):
            raise _invalid("inet")
        address = ".".join(str(octet) for octet in octets)
        return address if mask in (None, 32) else f"{address}/{mask}"
    address, slash, width = text.partition("/")
    if ":" not in address or "." in address or "%" in address:
        raise _invalid("inet")
    try:
        found = IPv6Address(address)
    except ValueError:
        raise _invalid("inet") from None
    if int(found) >> 32 in (0, 0xFFFF) and int(found) > 0xFFFF:
        raise Fails("an IPv6 address that holds an IPv4 address is not supported here")
    if slash and not (width.isdigit() and width.isascii() and int(width) <= 128):
        raise _invalid("inet")
    return str(found) if not slash or int(width) == 128 else f"{found}/{int(width)}"


_MAC = re.compile(r"([0-9a-f]{1,2})([:-])([0-9a-f]{1,2})(?:\2([0-9a-f]{1,2})){4}", re.ASCII | re.IGNORECASE)


def macaddr(text: str) -> str:
    """Six parts between colons or hyphens."""
    trimmed = text.strip(_SPACE)
    if _MAC.fullmatch(trimmed) is None:
        raise Fails("the text is not a macaddr of the form 08:00:2b:01:02:03")
    return ":".join(f"{int(part, 16):02x}" for part in re.split("[:-]", trimmed))


_DATE = r"(\d{4,7})-(\d{1,2})-(\d{1,2})"
_CLOCK = r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?"
_ZONE = r"(?: ?(Z|UTC|GMT|[+-]\d{1,2}(?::?\d{2})?))?"
_DATE_TEXT = re.compile(rf"{_DATE}( BC)?", re.ASCII | re.IGNORECASE)
_TIME_TEXT = re.compile(_CLOCK, re.ASCII)
_MOMENT_TEXT = re.compile(rf"{_DATE}(?:[ T]{_CLOCK})?{_ZONE}( BC)?", re.ASCII | re.IGNORECASE)
_LENGTHS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_FORMS = {
    "date": "YYYY-MM-DD",
    "time": "HH:MM:SS",
    "timestamp": "YYYY-MM-DD HH:MM:SS",
    "timestamptz": "YYYY-MM-DD HH:MM:SS+00",
}


def _unread(key: str) -> Fails:
    return Fails(f"the text is not a {key} of the form {_FORMS[key]}")


def _infinite(text: str) -> int:
    return {"infinity": 1, "+infinity": 1, "-infinity": -1}.get(text.lower(), 0)


def _out_of_range(what: str) -> Fails:
    return Fails(f"{what} field value out of range")


def civil(year: str, month: str, day: str, bc: str | None) -> int:
    """Days since 1970-01-01. Raises Fails for a day that does not exist."""
    y, m, d = int(year), int(month), int(day)
    if y == 0 or not 1 <= m <= 12 or not 1 <= d <= _LENGTHS[m - 1]:
        raise _out_of_range("date/time")
    y = 1 - y if bc else y
    if m == 2 and d == 29 and not (y % 4 == 0 and (y % 100 != 0 or y % 400 == 0)):
        raise _out_of_range("date/time")
    days = days_from_civil(y, m, d)
    if not FIRST_DAY <= days <= LAST_DAY:
        raise Fails("date out of range")
    return days


#: 4714-11-24 BC and 5874897-12-31: the first and last date (datetime.h).
FIRST_DAY, LAST_DAY = -2_440_588, 2_145_031_948
#: The first moment, 4714-11-24 00:00:00 BC.
FIRST_MOMENT = FIRST_DAY * DAY


def date(text: str) -> int:
    trimmed = text.strip(_SPACE)
    if sign := _infinite(trimmed):
        return sign * INFINITE_DAY
    match = _DATE_TEXT.fullmatch(trimmed)
    if match is not None:
        return civil(*match.groups())
    # A moment is a date as well: its time is dropped.
    moment = _MOMENT_TEXT.fullmatch(trimmed)
    if moment is None:
        raise _unread("date")
    year, month, day, hour, minute, second, fraction, _zone, bc = moment.groups()
    clock(hour, minute, second, fraction)
    return civil(year, month, day, bc)


def clock(hour: str | None, minute: str | None, second: str | None, fraction: str | None) -> int:
    """Microseconds since midnight; 60 seconds and 24:00:00 are taken as Postgres does."""
    h, m, s = int(hour or 0), int(minute or 0), int(second or 0)
    micros = int((fraction or "").ljust(6, "0"))
    if h > 24 or m > 59 or s > 60 or (h == 24 and (m or s or micros)):
        raise _out_of_range("date/time")
    if s == 60 and micros:
        raise _out_of_range("date/time")
    return ((h * 60 + m) * 60 + s) * 1_000_000 + micros


def time(text: str) -> int:
    match = _TIME_TEXT.fullmatch(text.strip(_SPACE))
    if match is None:
        raise _unread("time")
    return clock(*match.groups())


def timestamp(text: str) -> int:
    """A zone in the text is read and ignored, as Postgres does for timestamp without time zone."""
    return _moment(text, "timestamp", with_zone=False)


def timestamptz(text: str) -> int:
    return _moment(text, "timestamptz", with_zone=True)


def _moment(text: str, key: str, *, with_zone: bool) -> int:
    trimmed = text.strip(_SPACE)
    if sign := _infinite(trimmed):
        return sign * INFINITE_MICROSECOND
    match = _MOMENT_TEXT.fullmatch(trimmed)
    if match is None:
        raise _unread(key)
    year, month, day, hour, minute, second, fraction, zone, bc = match.groups()
    if zone is not None and hour is None and zone[0] in "+-":
        raise _unread(key)
    micros = civil(year, month, day, bc) * DAY + clock(hour, minute, second, fraction)
    if with_zone and zone is not None:
        micros -= _offset(zone) * 1_000_000
    return moment_in_range(micros)


def _offset(zone: str) -> int:
    """Seconds east of UTC."""
    if zone[0] not in "+-":
        return 0
    digits = zone[1:].replace(":", "")
    hours, minutes = (int(digits), 0) if len(digits) <= 2 else (int(digits[:-2]), int(digits[-2:]))
    if hours > 15 or minutes > 59:
        raise Fails("time zone displacement out of range")
    return (hours * 3600 + minutes * 60) * (-1 if zone[0] == "-" else 1)


def moment_in_range(micros: int) -> int:
    """A moment of Postgres'; of those after 294247-01-10 Arrow has none."""
    if micros < FIRST_MOMENT or micros >= INFINITE_MICROSECOND:
        raise Fails("timestamp out of range")
    return micros


def text(value: str) -> str:
    return value


#: typname → what its text means, in Python's form (see `conversion`).
READERS: dict[str, Callable[[str], Any]] = {
    "int2": integer("int2"),
    "int4": integer("int4"),
    "int8": integer("int8"),
    "numeric": numeric,
    "float4": single,
    "float8": double,
    "bool": boolean,
    "text": text,
    "varchar": text,
    "bpchar": text,
    "uuid": uuid,
    "inet": inet,
    "macaddr": macaddr,
    "bytea": bytea,
    "date": date,
    "time": time,
    "timestamp": timestamp,
    "timestamptz": timestamptz,
    "interval": read_interval,
    "json": documents.check,
    "jsonb": documents.canonical,
}


def reader(kind: SqlType) -> Callable[[str], Any] | None:
    """The input function of a type; of an array, by its elements'."""
    if not kind.is_array:
        return READERS.get(kind.key)
    read = READERS.get(kind.element.key)
    if read is None:
        return None
    how = codec(kind.element)

    def element(text: str) -> str:
        written: str = how.write(how.build([read(text)]))[0].as_py()
        return written

    return lambda text: read_array(text, element)
