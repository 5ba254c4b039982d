"""Random values of every type, as text that the type's input function takes.

What comes out of Postgres for them is Postgres' own affair: nothing here is ever compared with anything.
"""

import json
import struct
from base64 import b16encode
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from ipaddress import IPv4Network, IPv6Network
from random import Random
from uuid import UUID

Make = Callable[[Random], str]

#: How often a value is one of its type's special ones, and how often it is NULL.
SPECIAL = 0.25
NULL = 0.08


@dataclass(frozen=True)
class Type:
    """A type as SQL names it. `misfits` are values that the warehouse's column for it must refuse.

    `delimiter` is what its arrays are separated by. `needs` is the extension that has it, or the least
    major version of the server.
    """

    name: str
    make: Make
    misfits: tuple[str, ...] = ()
    delimiter: str = ","
    needs: str | int = ""


def either(make: Make, *specials: str) -> Make:
    return lambda r: r.choice(specials) if r.random() < SPECIAL else make(r)


def one_of(*values: str) -> Make:
    return lambda r: r.choice(values)


# Numbers.


def whole(bits: int) -> Make:
    """Integers of every length up to `bits`, with a sign."""
    return lambda r: str(r.choice((1, -1)) * r.getrandbits(r.randint(1, bits)))


def natural(bits: int) -> Make:
    return lambda r: str(r.getrandbits(r.randint(1, bits)))


def digits(before: int, behind: int) -> Make:
    def make(r: Random) -> str:
        left = str(r.getrandbits(4 * before))[: r.randint(1, before)]
        right = "".join(r.choices("0123456789", k=r.randint(0, behind)))
        return f"{r.choice(('', '-'))}{left}.{right}" if right else left

    return make


def float8(r: Random) -> str:
    return repr(struct.unpack("<d", r.randbytes(8))[0])


def float4(r: Random) -> str:
    return repr(struct.unpack("<f", r.randbytes(4))[0])


def coordinate(r: Random) -> str:
    """A finite float, of a size that Postgres can do sums with."""
    return r.choice((repr(r.uniform(-1e6, 1e6)), str(r.randint(-9, 9)), "-0", repr(r.uniform(-1, 1) * 1e-30)))


# Text.

_MARKS = (
    *"abcXYZ 0123",
    *"\"'\\,;:{}()[]<>=|&!*%$_-./@#\t\n\r\x01\x0b\x1f\x7f",
    *("ü", "ß", "日本", "😀", "e\u0301", "\u2028", "\ufeff", "\u00a0", "NULL", "\\N", "\\."),
)


def text(longest: int = 12) -> Make:
    return lambda r: "".join(r.choices(_MARKS, k=r.randint(0, longest)))


def characters(longest: int) -> Make:
    return lambda r: text()(r)[:longest]


def word(r: Random) -> str:
    return "".join(r.choices("abcdefXYZ_019", k=r.randint(1, 8)))


def bits(least: int, most: int) -> Make:
    return lambda r: "".join(r.choices("01", k=r.randint(least, most)))


def document(surrogates: bool) -> Make:
    def scalar(r: Random) -> str:
        special = [
            "null",
            "true",
            "-0",
            "1e5",
            "12345678901234567890123.4567890",
            "9007199254740993",
            '"NULL"',
        ]
        if surrogates:
            special += ['"\\ud800"', '"\\u0000"', "1E+400"]
        if r.random() < 0.4:
            return r.choice(special)
        if r.random() < 0.5:
            return json.dumps(text()(r), ensure_ascii=r.random() < 0.5)
        return whole(90)(r)

    def make(r: Random, depth: int = 0) -> str:
        kind = r.random()
        space = r.choice(("", " ", "\n ", "\r\n")) if surrogates else ""
        if depth < 3 and kind < 0.3:
            return "[" + f",{space}".join(make(r, depth + 1) for _ in range(r.randint(0, 3))) + "]"
        if depth < 3 and kind < 0.7:
            pairs = (f'"{r.choice("ab")}":{space}{make(r, depth + 1)}' for _ in range(r.randint(0, 3)))
            return "{" + ",".join(pairs) + "}"
        return scalar(r)

    return make


def markup(r: Random) -> str:
    escapes = {ord("<"): "&lt;", ord("&"): "&amp;", ord(">"): "&gt;", **dict.fromkeys([*range(32), 127])}
    inner = text()(r).translate(escapes)
    return r.choice((f"<a>{inner}</a>", f'<a b="1"/>{inner}', f"<!--{word(r)}--><a/>", ""))


def lexeme(r: Random) -> str:
    return "'" + (text(5)(r) or "x").replace("\\", "\\\\").replace("'", "''") + "'"


def vector_of_lexemes(r: Random) -> str:
    places = ("", ":1", ":3A,4B", ":16383", ":2C")
    return " ".join(lexeme(r) + r.choice(places) for _ in range(r.randint(0, 4)))


def query_of_lexemes(r: Random, depth: int = 0) -> str:
    if depth > 2 or r.random() < 0.4:
        return lexeme(r) + r.choice(("", ":*", ":AB"))
    if r.random() < 0.2:
        return f"!{query_of_lexemes(r, 3)}"
    operator = r.choice(("&", "|", "<->", "<3>"))
    return f"({query_of_lexemes(r, depth + 1)} {operator} {query_of_lexemes(r, depth + 1)})"


# Dates and times.


def day(last: int) -> Make:
    def make(r: Random) -> str:
        year = r.choice((r.randint(1, 4712), r.randint(1900, 2100), r.randint(1, last)))
        bc = " BC" if year < 4712 and r.random() < 0.3 else ""
        return f"{year:04}-{r.randint(1, 12):02}-{r.randint(1, 28):02}{bc}"

    return make


def clock(r: Random) -> str:
    fraction = r.choice(("", f".{r.randrange(10**6):06}", f".{r.randrange(10)}"))
    return f"{r.randrange(24):02}:{r.randrange(60):02}:{r.randrange(60):02}{fraction}"


def offset(r: Random) -> str:
    return f"{r.choice('+-')}{r.randrange(16):02}:{r.randrange(60):02}:{r.randrange(60):02}"


def moment(zone: bool) -> Make:
    def make(r: Random) -> str:
        date, _, era = day(294_246)(r).partition(" ")
        return f"{date} {clock(r)}{offset(r) if zone else ''} {era}".strip()

    return make


def interval(r: Random) -> str:
    months, days = (whole(r.choice((5, 31)))(r) for _ in range(2))
    return f"{months} mons {days} days {whole(r.choice((20, 40, 63)))(r)} microseconds"


# Ranges.


def pair_of_integers(r: Random) -> tuple[str, str]:
    low, high = sorted(int(whole(30)(r)) for _ in range(2))
    return str(low), str(high)


def pair_of_numerics(r: Random) -> tuple[str, str]:
    low, high = sorted((digits(9, 4)(r) for _ in range(2)), key=Decimal)
    return low, high


def pair_of_moments(form: str) -> Callable[[Random], tuple[str, str]]:
    def make(r: Random) -> tuple[str, str]:
        low, high = sorted(r.randrange(253_402_300_799 * 10**6) for _ in range(2))
        first, last = (datetime(1970, 1, 1) + timedelta(microseconds=n) for n in (low, high))
        return f"{first:{form}}", f"{last:{form}}"

    return make


def range_of(pair: Callable[[Random], tuple[str, str]]) -> Make:
    def make(r: Random) -> str:
        if r.random() < 0.1:
            return "empty"
        low, high = pair(r)
        low, high = ("" if r.random() < 0.1 else low), ("" if r.random() < 0.1 else high)
        return f'{r.choice("[(")}"{low}","{high}"{r.choice("])")}'.replace('""', "")

    return make


def multirange_of(pair: Callable[[Random], tuple[str, str]]) -> Make:
    return lambda r: "{" + ",".join(range_of(pair)(r) for _ in range(r.randint(0, 3))) + "}"


# Networks and shapes.


def network(host_bits: bool) -> Make:
    def make(r: Random) -> str:
        kind, width = r.choice(((IPv4Network, 32), (IPv6Network, 128)))
        address, length = r.getrandbits(width), r.randint(0, width)
        found = kind((address, length), strict=False)
        if not host_bits:
            return str(found)
        whole_address = kind((address, width)).network_address
        return f"{whole_address}/{length}" if r.random() < 0.5 else str(whole_address)

    return make


def hardware(count: int) -> Make:
    return lambda r: ":".join(f"{byte:02x}" for byte in r.randbytes(count))


def point(r: Random) -> str:
    return f"({coordinate(r)},{coordinate(r)})"


def points(least: int, opening: str = "(", closing: str = ")") -> Make:
    def make(r: Random) -> str:
        return opening + ",".join(point(r) for _ in range(r.randint(least, 4))) + closing

    return make


# Types of extensions, and types that users declare.


def quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def hstore(r: Random) -> str:
    values = ("NULL" if r.random() < 0.2 else quoted(text(5)(r)) for _ in range(r.randint(0, 4)))
    return ", ".join(f"{quoted(text(4)(r))}=>{value}" for value in values)


def small_float(r: Random) -> str:
    return repr(round(r.uniform(-60_000, 60_000), r.randint(0, 5))) if r.random() < 0.8 else "0"


def vector(size: int) -> Make:
    return lambda r: "[" + ",".join(small_float(r) for _ in range(size)) + "]"


def sparse(size: int) -> Make:
    def make(r: Random) -> str:
        places = sorted(r.sample(range(1, size + 1), r.randint(0, size)))
        return "{" + ",".join(f"{place}:{small_float(r)}" for place in places) + f"}}/{size}"

    return make


def path_of_labels(r: Random) -> str:
    return ".".join(word(r) for _ in range(r.randint(0, 4)))


def record(*parts: Make) -> Make:
    def make(r: Random) -> str:
        # Unquoted and empty is NULL; quotes and backslashes are doubled by the backslash.
        return "(" + ",".join("" if r.random() < 0.2 else quoted(part(r)) for part in parts) + ")"

    return make


MOODS = ("ok", "so so", 'quo"te', "back\\slash", "com,ma", "NULL", "ünï{code}", "'single'")

#: What has to be there before the tables: statements for the types of users.
DECLARATIONS = (
    "CREATE DOMAIN public.tiny AS int2 CHECK (VALUE > -40000)",
    "CREATE DOMAIN public.small AS public.tiny",
    "CREATE DOMAIN public.price AS numeric(8,2)",
    "CREATE DOMAIN public.ids AS int4[]",
    "CREATE DOMAIN public.note AS text",
    "CREATE TYPE public.mood AS ENUM ({})".format(", ".join("'" + m.replace("'", "''") + "'" for m in MOODS)),
    "CREATE DOMAIN public.feeling AS public.mood",
    "CREATE TYPE public.pair AS (a int4, b text, c public.mood)",
    "CREATE TYPE public.nest AS (p public.pair, l int4[], d date)",
    "CREATE TYPE public.floatrange AS RANGE (subtype = float8)",
    # PostGIS prints EWKB in hex and separates arrays by colons: so does this type of its name.
    "CREATE TYPE public.geometry",
    "CREATE FUNCTION public.geometry_in(cstring) RETURNS public.geometry LANGUAGE internal IMMUTABLE STRICT"
    " AS 'textin'",
    "CREATE FUNCTION public.geometry_out(public.geometry) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT"
    " AS 'textout'",
    "CREATE TYPE public.geometry"
    " (INPUT = public.geometry_in, OUTPUT = public.geometry_out, LIKE = pg_catalog.text, DELIMITER = ':')",
)
EXTENSIONS = ("hstore", "citext", "ltree", "vector", "cube", "seg")

_FLOATS = (
    "NaN",
    "Infinity",
    "-Infinity",
    "-0",
    "0",
    "0.1",
    "1e22",
    "1e23",
    "5e-324",
    "1e-45",
    "3.4028235e+38",
)
_LATE = ("294276-12-31 23:59:59.999999", "294247-01-10 04:00:54.775807")
_OBJECTS = ("0", "4294967295", "123456789")
_DAYS = pair_of_moments("%Y-%m-%d")
_STAMPS = pair_of_moments("%Y-%m-%d %H:%M:%S.%f")


TYPES: tuple[Type, ...] = (
    Type("int2", either(whole(15), "-32768", "32767", "0")),
    Type("int4", either(whole(31), "-2147483648", "2147483647", "0")),
    Type("int8", either(whole(63), "-9223372036854775808", "9223372036854775807", "9007199254740992")),
    Type("float4", lambda r: r.choice(_FLOATS[:6]) if r.random() < SPECIAL else float4(r)),
    Type("float8", either(float8, *_FLOATS)),
    Type(
        "numeric", either(digits(60, 40), "NaN", "Infinity", "-Infinity", "1.10", "-0.00", "1e-30", "1e200")
    ),
    Type("numeric(12,2)", digits(10, 2), ("NaN",)),
    Type("numeric(38,10)", digits(28, 10), ("NaN",)),
    Type("numeric(3,-2)", whole(15), ("NaN",)),
    Type("numeric(2,4)", lambda r: f"{r.choice(('', '-'))}0.00{r.randrange(100):02}", ("NaN",)),
    Type("numeric(60,20)", either(digits(40, 20), "NaN")),
    Type("text", either(text(), "", " ", "NULL", "null", "\\N", "{}", '"', "\\", "x" * 3000)),
    Type("varchar(20)", characters(20)),
    Type("bpchar(8)", characters(8)),
    Type('"char"', either(one_of(*"aZ0 "), "", "\\", '"', "é")),
    Type("name", word),
    Type("refcursor", text()),
    Type("bool", one_of("t", "f")),
    Type(
        "bytea",
        either(lambda r: "\\x" + b16encode(r.randbytes(r.randint(0, 40))).decode(), "\\x", "\\x00", ""),
    ),
    Type(
        "date",
        either(day(5_874_897), "infinity", "-infinity", "4714-11-24 BC", "5874897-12-31", "0001-12-31 BC"),
    ),
    Type("time", either(clock, "24:00:00", "00:00:00", "23:59:59.999999")),
    Type("time(3)", clock),
    Type("timetz", either(lambda r: clock(r) + offset(r), "24:00:00-15:59:59", "00:00:00+15:59:59")),
    Type("timestamp", either(moment(False), "infinity", "-infinity", "4714-11-24 00:00:00 BC"), _LATE),
    Type("timestamp(0)", moment(False)),
    Type(
        "timestamptz", either(moment(True), "infinity", "-infinity", "9999-12-31 23:59:59.999999+00"), _LATE
    ),
    Type("interval", either(interval, "0", "-1 mon", "1 day -00:00:00.000001", "2562047788:00:54.775807")),
    Type("interval(6)", interval, ("infinity", "-infinity"), needs=17),
    Type("uuid", lambda r: str(UUID(int=r.getrandbits(128)))),
    Type("json", document(True)),
    Type("jsonb", document(False)),
    Type("jsonpath", one_of("$", '$."a b"[*] ? (@.b > 1.50)', "strict $.a.size()", "lax $[0 to last].**")),
    Type("int4range", range_of(pair_of_integers)),
    Type("int8range", range_of(pair_of_integers)),
    Type("numrange", either(range_of(pair_of_numerics), "[1.10,Infinity)", "[-Infinity,NaN]")),
    Type("tsrange", either(range_of(_STAMPS), "[2026-01-01,infinity]")),
    Type("tstzrange", either(range_of(_STAMPS), "[-infinity,0044-03-15 BC]")),
    Type("daterange", either(range_of(_DAYS), "(,infinity)", "[4714-11-24 BC,10000-01-01]")),
    Type("int4multirange", multirange_of(pair_of_integers)),
    Type("int8multirange", multirange_of(pair_of_integers)),
    Type("nummultirange", multirange_of(pair_of_numerics)),
    Type("tsmultirange", multirange_of(_STAMPS)),
    Type("tstzmultirange", multirange_of(_STAMPS)),
    Type("datemultirange", multirange_of(_DAYS)),
    Type("inet", network(True)),
    Type("cidr", network(False)),
    Type("macaddr", hardware(6)),
    Type("macaddr8", hardware(8)),
    Type("point", either(point, "(NaN,Infinity)", "(-0,-Infinity)", "(5e-324,1.7976931348623157e+308)")),
    Type("line", lambda r: f"{{{coordinate(r)},{r.randint(1, 9)},{coordinate(r)}}}"),
    Type("lseg", lambda r: f"[{point(r)},{point(r)}]"),
    Type("box", lambda r: f"{point(r)},{point(r)}", delimiter=";"),
    Type("path", lambda r: r.choice((points(1), points(1, "[", "]")))(r)),
    Type("polygon", points(1)),
    Type("circle", lambda r: f"<{point(r)},{abs(r.uniform(0, 1e6))!r}>"),
    Type("bit(5)", bits(5, 5)),
    Type("varbit", bits(0, 70)),
    Type("money", lambda r: f"{r.choice(('', '-'))}{r.getrandbits(r.randint(1, 55))}.{r.randrange(100):02}"),
    Type("xml", markup),
    Type("tsvector", vector_of_lexemes),
    Type("tsquery", either(query_of_lexemes, "")),
    Type("oid", either(natural(32), "4294967295")),
    Type("regclass", one_of("pg_class", "public.here", 'public."Not Folded"', *_OBJECTS)),
    Type("regtype", one_of("int4", "numeric[]", "public.mood", 'public."geometry"', *_OBJECTS)),
    Type("regproc", one_of("now", "public.geometry_in", *_OBJECTS)),
    Type("regprocedure", one_of("abs(int4)", "public.geometry_in(cstring)", *_OBJECTS)),
    Type("regoper", one_of("96", "551", *_OBJECTS)),
    Type("regoperator", one_of("=(int4,int4)", "-(NONE,int4)", *_OBJECTS)),
    Type("regnamespace", one_of("public", "pg_catalog", *_OBJECTS)),
    Type("regrole", one_of("pg_monitor", *_OBJECTS)),
    Type("regcollation", one_of('"C"', "pg_catalog.ucs_basic", *_OBJECTS)),
    Type("regconfig", one_of("english", "simple", *_OBJECTS)),
    Type("regdictionary", one_of("simple", *_OBJECTS)),
    Type("oidvector", lambda r: " ".join(natural(32)(r) for _ in range(r.randint(0, 4)))),
    Type("int2vector", lambda r: " ".join(whole(15)(r) for _ in range(r.randint(0, 4)))),
    Type("aclitem", one_of("pg_monitor=r*w/pg_monitor", "=r/pg_monitor")),
    Type("pg_lsn", lambda r: f"{r.getrandbits(32):X}/{r.getrandbits(32):X}"),
    Type("xid", natural(32)),
    Type("xid8", either(natural(64), "18446744073709551615")),
    Type("cid", natural(32)),
    Type("tid", lambda r: f"({r.getrandbits(32)},{r.getrandbits(16)})"),
    Type("pg_snapshot", one_of("10:20:10,14", "1:1:")),
    Type("txid_snapshot", one_of("10:20:10,14", "1:1:")),
    Type("public.small", whole(15)),
    Type("public.price", digits(6, 2)),
    Type("public.ids", lambda r: array(r, Type("int4", whole(31)))),
    Type("public.note", text()),
    Type("public.mood", one_of(*MOODS)),
    Type("public.feeling", one_of(*MOODS)),
    Type("public.pair", record(whole(31), text(), one_of(*MOODS))),
    Type("public.nest", record(record(whole(31), text(), one_of(*MOODS)), one_of("{1,NULL}"), day(9999))),
    Type("public.floatrange", either(range_of(pair_of_numerics), "[-Infinity,NaN)")),
    Type("public.geometry", lambda r: b16encode(r.randbytes(21)).decode(), delimiter=":"),
    Type("public.hstore", hstore, needs="hstore"),
    Type("public.citext", text(), needs="citext"),
    Type("public.ltree", path_of_labels, needs="ltree"),
    Type("public.lquery", one_of("*.a.*{1,2}", "a|b.!c@"), needs="ltree"),
    Type("public.ltxtquery", one_of("a & !b", "(a | b*@) & c"), needs="ltree"),
    Type("public.vector(3)", vector(3), needs="vector"),
    Type("public.halfvec(3)", vector(3), needs="vector"),
    Type("public.sparsevec(5)", sparse(5), needs="vector"),
    Type("public.cube", one_of("(1,2),(3,4.5)", "(0)", "(-1.5,1e-30)"), needs="cube"),
    Type("public.seg", one_of("1.50", "~1 .. <2.0", "5(+-)0.3"), needs="seg"),
)


def array(r: Random, of: Type, values: Sequence[str] = ()) -> str:
    """An array's literal: empty, with NULLs, in up to three dimensions, with lower bounds."""
    sizes = [r.randint(1, 3) for _ in range(r.choice((1, 1, 1, 2, 3)))]
    if r.random() < 0.1:
        return "{}"

    def element() -> str:
        if r.random() < 2 * NULL:
            return r.choice(("NULL", "null"))
        return quoted(r.choice(values) if values and r.random() < SPECIAL else of.make(r))

    def level(depth: int) -> str:
        inner = (level(depth + 1) if depth + 1 < len(sizes) else element() for _ in range(sizes[depth]))
        return "{" + of.delimiter.join(inner) + "}"

    bounds = ""
    if r.random() < 0.15:
        starts = [r.randint(-3, 3) for _ in sizes]
        bounds = "".join(f"[{a}:{a + n - 1}]" for a, n in zip(starts, sizes, strict=True)) + "="
    return bounds + level(0)
