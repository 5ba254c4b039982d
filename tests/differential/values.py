"""The table that expressions are generated over: columns of many types, and rows with NULLs and edge
values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

#: A share of values that are NULL.
NULL = 0.12


@dataclass(frozen=True)
class Kind:
    """A type, as `catalog` names it; how it is declared; and values of it, as SQL literals' text."""

    key: str
    declared: str
    edges: Sequence[str]
    make: Callable[[Random], str]

    def value(self, r: Random) -> str:
        return r.choice(self.edges) if r.random() < 0.5 else self.make(r)


_WORDS = [
    "a",
    "abc",
    "ABC",
    "Hello World",
    "paid",
    "open",
    "x,y,z",
    "a.b.c",
    "foo@example.com",
    "  pad ",
    "0012",
    "12",
    "-7",
]
_WORDS += [
    "3.50",
    "true",
    "é",
    "Straße",
    "日本語",
    "😀 ok",
    "ÀÉÎ",
    "50%",
    "a_b",
    "back\\slash",
    "o'brien",
    'say "hi"',
    "tab\there",
]
_WORDS += [
    "line\nbreak",
    "2024-02-29",
    "2024-02-30",
    "1999-12-31 23:59:59",
    "{}",
    '{"a": 1}',
    "null",
    "aaa",
    "abab",
    "ab12cd345",
]


def _text(r: Random) -> str:
    if r.random() < 0.6:
        return r.choice(_WORDS)
    return "".join(r.choice("abcABC012 .,-_%xyz") for _ in range(r.randint(1, 9)))


def _integer(bits: int) -> Callable[[Random], str]:
    def make(r: Random) -> str:
        if r.random() < 0.7:
            return str(r.randint(-20, 20))
        return str(r.randint(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) >> r.randint(0, bits - 2))

    return make


def _numeric(r: Random) -> str:
    digits = r.choice((1, 2, 3, 6, 12, 25, 45))
    scale = r.randint(0, r.choice((0, 2, 2, 4, 12)))
    return f"{'-' * r.randint(0, 1)}{r.randint(0, 10**digits - 1)}" + (
        f".{r.randint(0, 10**scale - 1):0{scale}}" if scale else ""
    )


def _float(r: Random) -> str:
    if r.random() < 0.5:
        return repr(r.randint(-1000, 1000) / r.choice((1, 2, 4, 10, 100)))
    return repr(r.uniform(-1, 1) * 10.0 ** r.randint(-12, 18))


def _float4(r: Random) -> str:
    return repr(r.randint(-1000, 1000) / r.choice((1, 2, 4, 10, 100)))


def _date(r: Random) -> str:
    return f"{r.randint(1900, 2100):04}-{r.randint(1, 12):02}-{r.randint(1, 28):02}"


def _time(r: Random) -> str:
    return f"{r.randint(0, 23):02}:{r.randint(0, 59):02}:{r.randint(0, 59):02}" + r.choice(
        ("", "", ".5", ".123456")
    )


def _moment(r: Random) -> str:
    return f"{_date(r)} {_time(r)}"


def _interval(r: Random) -> str:
    parts = []
    for unit, most in (("years", 3), ("mons", 30), ("days", 50), ("hours", 60), ("secs", 5000)):
        if r.random() < 0.35:
            parts.append(f"{r.randint(-most, most)} {unit}")
    return " ".join(parts) or "0 days"


def _json(r: Random, depth: int = 2) -> str:
    kind = r.randint(0, 7 if depth else 4)
    if kind >= 6:
        keys = r.sample(["a", "b", "c", "name", "tags", "ä"], r.randint(0, 3))
        return "{" + ", ".join(f'"{key}": {_json(r, depth - 1)}' for key in keys) + "}"
    if kind == 5:
        return "[" + ", ".join(_json(r, depth - 1) for _ in range(r.randint(0, 3))) + "]"
    return r.choice(
        [
            '"text"',
            '"é"',
            '"a\\"b"',
            "1",
            "-2.50",
            "1e3",
            "12345678901234567890",
            "true",
            "false",
            "null",
            '""',
        ]
    )


def _array(of: Callable[[Random], str], quote: bool) -> Callable[[Random], str]:
    def make(r: Random) -> str:
        items = []
        for _ in range(r.randint(0, 4)):
            if r.random() < 0.15:
                items.append("NULL")
            else:
                text = of(r)
                items.append('"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"' if quote else text)
        return "{" + ",".join(items) + "}"

    return make


KINDS: tuple[Kind, ...] = (
    Kind("int2", "int2", ("0", "1", "-1", "32767", "-32768"), _integer(16)),
    Kind("int4", "int4", ("0", "1", "-1", "2147483647", "-2147483648", "7"), _integer(32)),
    Kind("int8", "int8", ("0", "1", "-1", "9223372036854775807", "-9223372036854775808", "12"), _integer(64)),
    Kind(
        "float4",
        "float4",
        ("0", "-0", "NaN", "Infinity", "-Infinity", "1.5", "3.4e38", "1e-40", "16777216"),
        _float4,
    ),
    Kind(
        "float8",
        "float8",
        ("0", "-0", "NaN", "Infinity", "-Infinity", "0.5", "-2.5", "1e300", "1e-310", "1e15"),
        _float,
    ),
    Kind(
        "numeric",
        "numeric",
        ("0", "0.00", "NaN", "Infinity", "-Infinity", "1.10", "-0.5", "2.5", "1e-20", "99999999"),
        _numeric,
    ),
    Kind("text", "text", ("", " ", "a", "abc", "paid"), _text),
    Kind("bool", "bool", ("t", "f"), lambda r: r.choice("tf")),
    Kind(
        "date",
        "date",
        ("1970-01-01", "2024-02-29", "infinity", "-infinity", "0044-03-15 BC", "9999-12-31", "2000-01-01"),
        _date,
    ),
    Kind("time", "time", ("00:00:00", "24:00:00", "23:59:59.999999", "12:30:00"), _time),
    Kind(
        "timestamp",
        "timestamp",
        (
            "1970-01-01 00:00:00",
            "infinity",
            "-infinity",
            "2024-02-29 12:34:56.789",
            "1999-12-31 23:59:59.999999",
            "0001-01-01 00:00:00 BC",
        ),
        _moment,
    ),
    Kind(
        "timestamptz",
        "timestamptz",
        (
            "1970-01-01 00:00:00+00",
            "infinity",
            "-infinity",
            "2024-03-31 01:30:00+00",
            "2026-10-25 00:30:00.5+00",
        ),
        lambda r: f"{_moment(r)}+00",
    ),
    Kind(
        "interval",
        "interval",
        ("0", "1 day", "-1 mons", "24:00:00", "1 year 2 mons -3 days 04:05:06.7"),
        _interval,
    ),
    Kind(
        "jsonb",
        "jsonb",
        (
            "null",
            "{}",
            "[]",
            '{"a": {"b": [1, 2, {"c": "x"}]}}',
            '{"a": null, "b": "2"}',
            '[1, 2.0, "x", null]',
        ),
        _json,
    ),
    Kind("json", "json", ("null", "{}", '{"a" : 1, "a":2}', '{"a": {"b": [1, 2]}}', '[1 , "x"]'), _json),
    Kind(
        "uuid",
        "uuid",
        ("00000000-0000-0000-0000-000000000000", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"),
        lambda r: f"{r.getrandbits(128):032x}",
    ),
    Kind(
        "inet",
        "inet",
        ("10.0.0.1", "10.0.0.0/8", "::1", "2001:db8::1/64", "0.0.0.0/0"),
        lambda r: f"10.0.{r.randint(0, 3)}.{r.randint(0, 255)}",
    ),
    Kind(
        "macaddr",
        "macaddr",
        ("08:00:2b:01:02:03", "ff-ff-ff-ff-ff-ff"),
        lambda r: ":".join(f"{b:02x}" for b in r.randbytes(6)),
    ),
    Kind(
        "bytea",
        "bytea",
        ("\\x", "\\x00ff", "\\x616263", "\\x5c"),
        lambda r: "\\x" + r.randbytes(r.randint(0, 6)).hex(),
    ),
    Kind("_int4", "int4[]", ("{}", "{1,2,3}", "{NULL}", "{1,NULL,1}"), _array(_integer(32), quote=False)),
    Kind("_text", "text[]", ("{}", "{a,b}", '{NULL,"NULL"}'), _array(_text, quote=True)),
    Kind("varchar", "varchar(10)", ("", "abc", "ABC"), lambda r: _text(r)[:10]),
    Kind("bpchar", "char(5)", ("", "ab", "abcde"), lambda r: _text(r)[:5]),
)

BY_KEY = {kind.key: kind for kind in KINDS}


@dataclass(frozen=True)
class TableColumn:
    name: str
    kind: Kind


#: Two columns of each type, so that they meet each other, and one of a numeric with a scale.
COLUMNS: tuple[TableColumn, ...] = (
    *(
        TableColumn(f"{kind.key.strip('_')}{'s' * kind.key.startswith('_')}_{n}", kind)
        for kind in KINDS
        for n in (1, 2)
    ),
    TableColumn(
        "money_1",
        Kind(
            "numeric",
            "numeric(12,2)",
            ("0", "NaN", "-1.005", "9999999999.99"),
            lambda r: f"{r.randint(-(10**6), 10**6) / 100:.2f}",
        ),
    ),
    TableColumn(
        "money_2",
        Kind(
            "numeric",
            "numeric(12,2)",
            ("0", "1", "0.01"),
            lambda r: f"{r.randint(-(10**6), 10**6) / 100:.2f}",
        ),
    ),
    TableColumn("small_1", Kind("int4", "int4", ("0", "1", "2", "3"), lambda r: str(r.randint(-3, 9)))),
    TableColumn("small_2", Kind("int8", "int8", ("0", "1", "2", "3"), lambda r: str(r.randint(-3, 9)))),
)


def rows(r: Random, count: int) -> list[list[str | None]]:
    """Values of all columns, as text."""
    return [[None if r.random() < NULL else column.kind.value(r) for column in COLUMNS] for _ in range(count)]
