"""Arguments that say something to their function: patterns, fields, small counts. Keys are the name and
the number of arguments (0: any number); values are, by place, literals to choose from or a maker."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

Argument = Sequence[str] | Callable[[Any, str, int], str]

SMALL = ("0", "1", "2", "3", "5", "-1", "-2", "small_1", "10")
CHARACTERS = ("' '", "'a'", "'ab'", "'xyz'", "''", "'é'", "text_2")
LIKES = (
    "'%'",
    "'a%'",
    "'%a'",
    "'%a%'",
    "'_b%'",
    "'a_c'",
    "'%\\%%'",
    "''",
    "'abc'",
    "'%e%o%'",
    "text_1",
    "varchar_2",
    "'é%'",
    "'%\n%'",
)
REGEXES = (
    "'^a'",
    "'b$'",
    "'[a-c]+'",
    "'^[A-Z][a-z]+ '",
    "'\\d+'",
    "'\\s'",
    "'a.c'",
    "'(a|b)c'",
    "'x{2,3}'",
    "'^$'",
    "'[^a-z ]'",
    "'[[:digit:]]{2}'",
    "'\\.'",
    "'a*b'",
    "'[[:alpha:]_]+'",
    "'\\w+@\\w+'",
    "'^.*$'",
    "'(?i)ABC'",
    "'[]x]'",
)
#: Whose match is the same in both, and that match something.
DETERMINATE = (
    "'[a-c]+'",
    "'\\d+'",
    "'a.c'",
    "'^[a-z]'",
    "'([a-z])([0-9])'",
    "'b+$'",
    "'foo|bar'",
    "'[^a-zA-Z]+'",
    "'\\s+'",
    "'(\\w+)@(\\w+)'",
    "'[,.]'",
    "'a[bc]?'",
    "'([A-Z])([a-z]+)'",
    "'0{1,2}'",
)
REPLACEMENTS = ("''", "'x'", "'<\\&>'", "'\\1-\\2'", "'\\\\'", "'\\q'", "'é'")
FORMATS = ("'%s'", "'%s-%s'", "'%L'", "'100%%'", "'a %s b %L'")

KEYS = ("'a'", "'b'", "'c'", "'name'", "'0'", "'-1'", "'ä'", "text_1")
PATHS = (
    "'{a,b}'",
    "'{a}'",
    "'{}'",
    "'{a,b,0}'",
    "'{0,a}'",
    "'{a,b,-1,c}'",
    "'{1}'",
    "'{tags,NULL}'",
    "texts_1",
)
DOCUMENTS = (
    "'{}'::jsonb",
    "'[]'::jsonb",
    "'1'::jsonb",
    "'\"x\"'::jsonb",
    "'{\"a\": {}}'::jsonb",
    "'[1]'::jsonb",
    "'{\"a\": null}'::jsonb",
    "'[[]]'::jsonb",
    "jsonb_1",
    "'[2]'::jsonb",
)

NUMBERS = (
    "'999'",
    "'9,999.99'",
    "'FM9990.00'",
    "'0000'",
    "'FM999,999,990.09'",
    "'9.9'",
    "'FM9.9'",
    "'990.0'",
    "'FM000'",
    "'99999999999.99'",
)
MOMENTS = (
    "'YYYY-MM-DD'",
    "'HH24:MI:SS.US'",
    "'Month'",
    "'FMMonth DD, YYYY'",
    "'Dy DAY day'",
    "'IYYY-IW-ID'",
    "'Q WW W CC'",
    "'HH12:MI AM'",
    "'YYYY-MM-DD\"T\"HH24:MI:SS.MS'",
    "'MON mon FMDD FMHH24'",
    "'J DDD D'",
    "'YY Y BC'",
    "'SSSS FF3 TZ OF'",
    "'yyyy/mm/dd hh pm'",
    "''",
    "'week IW'",
)

UNITS = tuple(
    f"'{u}'"
    for u in [
        "microseconds",
        "milliseconds",
        "second",
        "minute",
        "hour",
        "day",
        "week",
        "month",
        "quarter",
        "year",
        "decade",
        "century",
        "millennium",
        "Months",
    ]
)
FIELDS = (*UNITS, "'epoch'", "'dow'", "'isodow'", "'doy'", "'isoyear'", "'epoch'")

ARGUMENTS: Mapping[tuple[str, int], Mapping[int, Argument]] = {
    ("left", 2): {1: SMALL},
    ("right", 2): {1: SMALL},
    ("repeat", 2): {1: SMALL},
    ("lpad", 0): {1: SMALL, 2: CHARACTERS},
    ("rpad", 0): {1: SMALL, 2: CHARACTERS},
    ("substring", 3): {1: SMALL, 2: SMALL},
    ("split_part", 3): {1: ("','", "'.'", "'@'", "''", "'ab'", "text_2"), 2: SMALL},
    ("overlay", 0): {2: ("1", "2", "3", "0", "small_1"), 3: ("0", "1", "2", "-1")},
    ("btrim", 2): {1: CHARACTERS},
    ("ltrim", 2): {1: CHARACTERS},
    ("rtrim", 2): {1: CHARACTERS},
    ("replace", 3): {1: ("'a'", "'ab'", "''", "'.'", "text_2"), 2: ("''", "'x'", "'aa'", "text_1")},
    ("strpos", 2): {1: ("'a'", "''", "'@'", "'é'", "text_2")},
    ("position", 2): {1: ("'a'", "''", "'@'", "'é'", "text_2")},
    ("translate", 3): {1: ("'abc'", "'aab'", "''", "'é'"), 2: ("'xyz'", "'x'", "''")},
    ("starts_with", 2): {1: ("'a'", "''", "'ab'", "text_2")},
    ("^@", 2): {1: ("'a'", "''", "'ab'", "text_2")},
    ("chr", 1): {0: ("65", "233", "128512", "0", "-1", "55296", "1114112", "small_1")},
    ("factorial", 1): {0: ("small_2", "5", "20", "0")},
    ("round", 2): {1: SMALL},
    ("trunc", 2): {1: SMALL},
    ("like_escape", 2): {0: LIKES, 1: ("'!'", "'\\'", "''", "'a'")},
    ("similar_to_escape", 1): {0: ("'%a%'", "'(a|b)%'", "'[a-c]+'", "'a_c'", "'a.c'")},
    ("similar_to_escape", 2): {0: ("'%a%'", "'(a|b)%'", "'[a-c]+'", "'a_c'"), 1: ("'!'", "'#'")},
    ("~~", 2): {1: LIKES},
    ("!~~", 2): {1: LIKES},
    ("~~*", 2): {1: LIKES},
    ("!~~*", 2): {1: LIKES},
    ("~", 2): {1: REGEXES},
    ("!~", 2): {1: REGEXES},
    ("~*", 2): {1: REGEXES},
    ("!~*", 2): {1: REGEXES},
    ("regexp_like", 0): {1: REGEXES, 2: ("''", "'i'")},
    ("substring", 2): {1: lambda g, key, depth: g.r.choice(DETERMINATE if key == "text" else SMALL)},
    ("regexp_replace", 0): {1: DETERMINATE, 2: REPLACEMENTS, 3: ("'g'", "'i'", "'gi'", "''")},
    ("format", 0): {0: FORMATS},
    ("->", 2): {1: lambda g, key, depth: g.r.choice(KEYS if key == "text" else SMALL)},
    ("->>", 2): {1: lambda g, key, depth: g.r.choice(KEYS if key == "text" else SMALL)},
    ("#>", 2): {1: PATHS},
    ("#>>", 2): {1: PATHS},
    ("?", 2): {1: KEYS},
    ("?|", 2): {1: PATHS},
    ("?&", 2): {1: PATHS},
    ("@>", 2): {1: lambda g, key, depth: g.r.choice(DOCUMENTS) if key == "jsonb" else g.of(key, depth)},
    ("<@", 2): {0: lambda g, key, depth: g.r.choice(DOCUMENTS) if key == "jsonb" else g.of(key, depth)},
    ("jsonb_extract_path", 0): {1: KEYS},
    ("jsonb_extract_path_text", 0): {1: KEYS},
    ("array_length", 2): {1: ("1", "2", "0")},
    ("array_lower", 2): {1: ("1", "2", "0")},
    ("array_upper", 2): {1: ("1", "2", "0")},
    ("array_to_string", 0): {1: ("','", "''", "' - '"), 2: ("'*'", "''")},
    ("string_to_array", 0): {1: ("','", "'.'", "''", "'a'", "null::text"), 2: ("'b'", "''")},
    ("to_char", 2): {1: NUMBERS},
    ("to_date", 2): {
        0: ("'2024-02-29'", "'29.02.2024'", "'20240230'", "text_1", "date_1::text"),
        1: ("'YYYY-MM-DD'", "'DD.MM.YYYY'", "'YYYYMMDD'"),
    },
    ("to_timestamp", 2): {
        0: ("'2024-02-29 10:11:12'", "'2024-02-29'", "'2024-02-29 25:00:00'", "timestamp_1::text"),
        1: ("'YYYY-MM-DD HH24:MI:SS'", "'YYYY-MM-DD'"),
    },
    ("encode", 2): {1: ("'hex'", "'base64'", "'escape'", "'HEX'")},
    ("decode", 2): {
        0: ("'00ff'", "'YWJj'", "'YQ=='", "'a b'", "text_1", "'x'", "'\\\\001'"),
        1: ("'hex'", "'base64'", "'escape'"),
    },
    ("date_trunc", 2): {0: UNITS},
    ("extract", 2): {0: FIELDS},
    ("date_part", 2): {0: FIELDS},
    ("timezone", 2): {
        0: ("'UTC'", "'Europe/Berlin'", "'America/New_York'", "'Asia/Kolkata'", "'Australia/Lord_Howe'")
    },
    ("make_date", 3): {
        0: ("2024", "1999", "-44", "0", "small_1"),
        1: ("2", "12", "13", "small_1"),
        2: ("28", "29", "30", "31", "1"),
    },
    ("make_time", 3): {
        0: ("0", "23", "24", "25"),
        1: ("0", "59", "60"),
        2: ("0", "59.999999", "60", "1.5", "-1"),
    },
    ("make_timestamp", 6): {
        0: ("2024", "-4"),
        1: ("2", "12"),
        2: ("28", "31"),
        3: ("0", "24"),
        4: ("0", "59"),
        5: ("0", "1.5"),
    },
    ("to_timestamp", 1): {0: ("0", "1700000000.123456", "-1e9", "float8_1", "small_1")},
}

#: How a call may also be written.
SYNTAX: Mapping[tuple[str, int], Sequence[str]] = {
    ("btrim", 1): ("trim({0})", "trim(both from {0})"),
    ("btrim", 2): ("trim(both {1} from {0})",),
    ("ltrim", 2): ("trim(leading {1} from {0})",),
    ("rtrim", 2): ("trim(trailing {1} from {0})",),
    ("position", 2): ("position({1} in {0})",),
    ("substring", 2): ("substring({0} from {1})",),
    ("substring", 3): ("substring({0} from {1} for {2})", "substr({0}, {1}, {2})"),
    ("overlay", 4): ("overlay({0} placing {1} from {2} for {3})",),
    ("char_length", 1): ("character_length({0})",),
    ("ceil", 1): ("ceiling({0})",),
    ("timezone", 2): ("{1} at time zone {0}",),
}
