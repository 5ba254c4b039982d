"""to_char, and to_date and to_timestamp with a format, in their common forms (Postgres' formatting.c).

The format must be a constant. Names of months and days are English. What depends on the server's locale (D,
G, L, TM) is refused, and so is a text that has not exactly the form of a format: Postgres reads leniently.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from cdcflow.transform.expression import exact
from cdcflow.transform.expression.clock.fields import date_field, iso_week
from cdcflow.transform.expression.clock.limits import is_infinite
from cdcflow.transform.expression.function import (
    Fails,
    Kernel,
    Refused,
    Supported,
    Variant,
    constant_value,
    row_kernel,
)
from cdcflow.transform.expression.moments import DAY, civil_from_days
from cdcflow.transform.expression.node import Bound
from cdcflow.transform.expression.reading import civil, clock
from cdcflow.transform.expression.sqltype import DATE, TEXT, TIMESTAMPTZ, SqlType, builtin

_MONTHS = (
    *("January", "February", "March", "April", "May", "June", "July"),
    *("August", "September", "October", "November", "December"),
)
_DAYS = ("Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday")


@dataclass(frozen=True)
class _Moment:
    """A moment's fields."""

    year: int
    month: int
    day: int
    days: int
    micros: int
    zone: str

    @property
    def shown_year(self) -> int:
        """There is no year 0: it is 1 BC, and shown as 1."""
        return self.year if self.year > 0 else 1 - self.year

    @property
    def iso_year(self) -> int:
        year = iso_week(self.days)[0]
        return year if year > 0 else 1 - year

    @property
    def hour(self) -> int:
        return self.micros // 3_600_000_000

    @property
    def second_micros(self) -> int:
        return self.micros % 1_000_000


Field = Callable[[_Moment], str]


def _number(width: int, value: Callable[[_Moment], int]) -> Callable[[bool], Field]:
    """A number that is filled with zeros, but not under FM."""

    def of(fill: bool) -> Field:
        def write(m: _Moment) -> str:
            number = value(m)
            # The sign has a place of its own.
            return f"{number:0{width + (number < 0)}}" if fill else str(number)

        return write

    return of


def _fixed(value: Callable[[_Moment], str]) -> Callable[[bool], Field]:
    return lambda _fill: value


def _name(value: Callable[[_Moment], str], width: int = 0) -> Callable[[bool], Field]:
    return lambda fill: lambda m: value(m).ljust(width) if fill else value(m)


def _day_name(m: _Moment) -> str:
    return _DAYS[(m.days + 4) % 7]


def _month_name(m: _Moment) -> str:
    return _MONTHS[m.month - 1]


def _century(m: _Moment) -> int:
    return date_field(m.days, "century")


def _half(m: _Moment, after: str, before: str) -> str:
    return after if m.hour >= 12 else before


def _fields() -> dict[str, Callable[[bool], Field]]:
    numbers: dict[str, Callable[[bool], Field]] = {
        "HH24": _number(2, lambda m: m.hour),
        "HH12": _number(2, lambda m: m.hour % 12 or 12),
        "HH": _number(2, lambda m: m.hour % 12 or 12),
        "MI": _number(2, lambda m: m.micros // 60_000_000 % 60),
        "SSSSS": _fixed(lambda m: str(m.micros // 1_000_000)),
        "SSSS": _fixed(lambda m: str(m.micros // 1_000_000)),
        "SS": _number(2, lambda m: m.micros // 1_000_000 % 60),
        "MS": _fixed(lambda m: f"{m.second_micros // 1000:03}"),
        "US": _fixed(lambda m: f"{m.second_micros:06}"),
        "YYYY": _number(4, lambda m: m.shown_year),
        "YYY": _number(3, lambda m: m.shown_year % 1000),
        "YY": _number(2, lambda m: m.shown_year % 100),
        "Y": _number(1, lambda m: m.shown_year % 10),
        "IYYY": _number(4, lambda m: m.iso_year),
        "IYY": _number(3, lambda m: m.iso_year % 1000),
        "IY": _number(2, lambda m: m.iso_year % 100),
        "I": _number(1, lambda m: m.iso_year % 10),
        "MM": _number(2, lambda m: m.month),
        "DDD": _number(3, lambda m: date_field(m.days, "doy")),
        "DD": _number(2, lambda m: m.day),
        "D": _fixed(lambda m: str((m.days + 4) % 7 + 1)),
        "ID": _fixed(lambda m: str((m.days + 3) % 7 + 1)),
        "WW": _number(2, lambda m: (date_field(m.days, "doy") - 1) // 7 + 1),
        "IW": _number(2, lambda m: iso_week(m.days)[1]),
        "W": _fixed(lambda m: str((m.day - 1) // 7 + 1)),
        "Q": _fixed(lambda m: str((m.month - 1) // 3 + 1)),
        "CC": _number(2, _century),
        "J": _fixed(lambda m: str(m.days + 2_440_588)),
    }
    for digits in range(1, 7):
        numbers[f"FF{digits}"] = _fixed(lambda m, n=digits: f"{m.second_micros:06}"[:n])  # type: ignore[misc]
    found = dict(numbers)
    found |= {key.lower(): field for key, field in numbers.items()}
    found |= {
        "Month": _name(_month_name, 9),
        "MONTH": _name(lambda m: _month_name(m).upper(), 9),
        "month": _name(lambda m: _month_name(m).lower(), 9),
        "Mon": _name(lambda m: _month_name(m)[:3]),
        "MON": _name(lambda m: _month_name(m)[:3].upper()),
        "mon": _name(lambda m: _month_name(m)[:3].lower()),
        "Day": _name(_day_name, 9),
        "DAY": _name(lambda m: _day_name(m).upper(), 9),
        "day": _name(lambda m: _day_name(m).lower(), 9),
        "Dy": _name(lambda m: _day_name(m)[:3]),
        "DY": _name(lambda m: _day_name(m)[:3].upper()),
        "dy": _name(lambda m: _day_name(m)[:3].lower()),
        "TZ": _fixed(lambda m: m.zone),
        "tz": _fixed(lambda m: m.zone.lower()),
        "OF": _fixed(lambda _m: "+00"),
        "TZH": _fixed(lambda _m: "+00"),
        "TZM": _fixed(lambda _m: "00"),
    }
    for after, before in (("PM", "AM"), ("pm", "am"), ("P.M.", "A.M."), ("p.m.", "a.m.")):
        found[after] = found[before] = _fixed(lambda m, a=after, b=before: _half(m, a, b))  # type: ignore[misc]
    for ad, bc in (("AD", "BC"), ("ad", "bc"), ("A.D.", "B.C."), ("a.d.", "b.c.")):
        found[ad] = found[bc] = _fixed(lambda m, a=ad, b=bc: a if m.year > 0 else b)  # type: ignore[misc]
    return found


_FIELDS = _fields()
#: Keywords of Postgres that are not supported: they must not be taken for shorter ones.
_REFUSED = ("Y,YYY", "y,yyy", "RM", "rm", "IDDD", "iddd", "of", "tzh", "tzm")
_KEYWORDS = sorted([*_FIELDS, *_REFUSED], key=len, reverse=True)


def _moment_format(format_: str) -> list[Field]:
    """The format as functions, one per part."""
    parts: list[Field] = []
    at = 0

    def literal(text: str) -> None:
        parts.append(lambda _m: text)

    while at < len(format_):
        fill = True
        if format_[at : at + 2] in ("FM", "fm"):
            fill = False
            at += 2
        elif format_[at : at + 2] in ("TM", "tm", "FX", "fx"):
            raise Refused(f"{format_[at : at + 2]} in a format is not supported")
        keyword = next((word for word in _KEYWORDS if format_.startswith(word, at)), None)
        if keyword is not None:
            if keyword in _REFUSED:
                raise Refused(f"{keyword} in a format is not supported")
            at += len(keyword)
            if format_[at : at + 2] in ("TH", "th", "SP"):
                raise Refused(
                    f"{format_[at : at + 2]} behind {keyword} in a format is not supported",
                    hint='put letters in double quotes: YYYY-MM-DD"T"HH24:MI',
                )
            parts.append(_FIELDS[keyword](fill))
        elif at < len(format_) and format_[at] == '"':
            at += 1
            while at < len(format_) and format_[at] != '"':
                at += format_[at] == "\\" and at + 1 < len(format_)
                literal(format_[at])
                at += 1
            at += 1
        elif at < len(format_):
            if format_[at] == "\\":
                raise Refused("a backslash in a format is not supported", hint="put text in double quotes")
            literal(format_[at])
            at += 1
    return parts


def _moment_to_char(key: str) -> Variant:
    kind = builtin(key)

    def bind(_value: Bound, format_: Bound) -> Kernel:
        text = _format(format_)
        parts = _moment_format(text)
        zone = "UTC" if key == "timestamptz" else ""

        def write(micros: int) -> str | None:
            if is_infinite(micros) or not text:
                return None
            days, time = divmod(micros, DAY)
            moment = _Moment(*civil_from_days(days), days, time, zone)
            return "".join(part(moment) for part in parts)

        kernel = row_kernel(write, [kind], TEXT)
        return lambda rows, values, _format: kernel(rows, values)

    return Variant(bind=bind, immutable=False)


def _format(argument: Bound) -> str:
    if argument.constant is None:
        raise Refused("the format must be a constant here")
    text: str = constant_value(argument)
    return text


# --- numbers -----------------------------------------------------------------------------------------------

_NUMBER_FORMAT = re.compile(r"(FM)?([09,]*)(?:(\.)([09]*))?")


def _number_to_char(_value: Bound, format_: Bound) -> Kernel:
    """9, 0, comma, point and FM."""
    text = _format(format_)
    match = _NUMBER_FORMAT.fullmatch(text)
    if match is None or not (match[2] or match[4]):
        raise Refused("only 9, 0, comma, point and a leading FM are supported in the format of a number")
    whole, point, fraction = match[2], match[3] or "", match[4] or ""
    kind: SqlType = _value.type
    short = match[1] is not None

    def write(value: Any) -> str:
        if isinstance(value, Decimal) and not value.is_finite():
            raise Fails("to_char of NaN or infinity is not supported here")
        return number_text(Decimal(value), whole, point, fraction, short=short)

    kernel = row_kernel(write, [kind], TEXT)
    return lambda rows, values, _format: kernel(rows, values)


def number_text(value: Decimal, whole: str, point: str, fraction: str, *, short: bool) -> str:
    """A number under a format: `whole` and `fraction` are the parts around the point; `short` is FM."""
    places = whole.count("9") + whole.count("0")
    rounded = exact.rounded(value, len(fraction))
    negative = rounded.is_signed() and not rounded.is_zero()
    digits, _, behind = format(rounded.copy_abs(), "f").partition(".")
    if len(digits) > places and not (digits == "0" and fraction):
        digits, behind = "#" * places, "#" * len(fraction)
    behind = behind.ljust(len(fraction), "0")
    if digits == "0" and fraction:
        # A zero before the point is left out unless a 0 of the format wants it.
        digits = ""
    first_zero = next((i for i, mark in enumerate(whole.replace(",", "")) if mark == "0"), places)
    if short:
        needed = fraction.rfind("0") + 1
        behind = behind[:needed] + behind[needed:].rstrip("0")
        if not behind and not digits and point:
            # Something must be shown: a zero before the point.
            digits = "0"
    shown: list[str] = []
    place = 0
    for mark in whole:
        if mark == ",":
            shown.append("," if any(c != " " for c in shown) else " ")
            continue
        behind_start = place - (places - len(digits))
        shown.append(digits[behind_start] if behind_start >= 0 else "0" if place >= first_zero else " ")
        place += 1
    text = "".join(shown)
    number = text.lstrip(" ")
    sign = "-" if negative else "" if short else " "
    blanks = "" if short else " " * (len(text) - len(number))
    return f"{blanks}{sign}{number}{point}{behind}"


# --- reading -----------------------------------------------------------------------------------------------

_PARTS = {
    "YYYY": r"(?P<year>\d{4})",
    "MM": r"(?P<month>\d{2})",
    "DD": r"(?P<day>\d{2})",
    "HH24": r"(?P<hour>\d{2})",
    "MI": r"(?P<minute>\d{2})",
    "SS": r"(?P<second>\d{2})",
}
_TOKEN = re.compile("|".join((*_PARTS, r"[-/.:, ]")))


def _reading(format_: Bound) -> Callable[[str], int]:
    """A function from text to microseconds since 1970."""
    text = _format(format_)
    pattern, at, used = "", 0, set[str]()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None or match[0] in used:
            raise Refused(
                "only YYYY, MM, DD, HH24, MI and SS, each once, with - / . : , or spaces between are"
                " supported in a format that is read"
            )
        if match[0] in _PARTS:
            used.add(match[0])
        pattern += _PARTS.get(match[0]) or re.escape(match[0])
        at = match.end()
    if "YYYY" not in used:
        raise Refused("a format that is read must have YYYY")
    compiled = re.compile(pattern, re.ASCII)

    def read(value: str) -> int:
        match = compiled.fullmatch(value)
        if match is None:
            raise Fails("the text is not of the form of the format")
        found = match.groupdict()
        if found["year"] == "0000":
            raise Fails("the year 0000 is not supported here")
        for part in ("month", "day"):
            if found.get(part) == "00":
                raise Fails("date/time field value out of range")
        if found.get("hour") == "24" or found.get("second") == "60":
            raise Fails("the hour 24 and the second 60 are not supported here")
        days = civil(found["year"], found.get("month") or "1", found.get("day") or "1", None)
        return days * DAY + clock(found.get("hour"), found.get("minute"), found.get("second"), None)

    return read


def _to_date(_text: Bound, format_: Bound) -> Kernel:
    read = _reading(format_)
    kernel = row_kernel(lambda text: read(text) // DAY, [TEXT], DATE)
    return lambda rows, text, _format: kernel(rows, text)


def _to_timestamp(_text: Bound, format_: Bound) -> Kernel:
    kernel = row_kernel(_reading(format_), [TEXT], TIMESTAMPTZ)
    return lambda rows, text, _format: kernel(rows, text)


_NUMBERS = {f"{key},text": Variant(bind=_number_to_char, fails=True) for key in ("numeric", "int4", "int8")}

SUPPORTED: tuple[Supported, ...] = (
    Supported(
        "to_char",
        "a moment or a number in a format: `YYYY-MM-DD HH24:MI`, `Month`, `Q` …; `FM9,990.00`",
        "to_char(created_at, 'YYYY-MM')",
        {**{f"{key},text": _moment_to_char(key) for key in ("timestamp", "timestamptz")}, **_NUMBERS},
    ),
    Supported(
        "to_date",
        "a date of the form of a format",
        "to_date(born, 'DD.MM.YYYY')",
        {"text,text": Variant(bind=_to_date, fails=True)},
    ),
    Supported(
        "to_timestamp",
        "a moment (in UTC) of the form of a format",
        "to_timestamp(sent, 'YYYY-MM-DD HH24:MI')",
        {"text,text": Variant(bind=_to_timestamp, fails=True)},
    ),
)
