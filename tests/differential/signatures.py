"""What a server's catalog says of types, casts, operators and functions, against `catalog.py`."""

from typing import Any

import psycopg

from cdcflow.transform.expression import catalog

_TYPES = "SELECT oid, typname FROM pg_type WHERE typnamespace = 'pg_catalog'::regnamespace"
_CASTS = """
SELECT s.typname, t.typname, c.castcontext
FROM pg_cast AS c JOIN pg_type AS s ON s.oid = c.castsource JOIN pg_type AS t ON t.oid = c.casttarget
WHERE s.oid <> t.oid
"""
_OPERATORS = """
SELECT o.oprname, concat_ws(',', l.typname, r.typname), t.typname
FROM pg_operator AS o LEFT JOIN pg_type AS l ON l.oid = o.oprleft
JOIN pg_type AS r ON r.oid = o.oprright JOIN pg_type AS t ON t.oid = o.oprresult
"""
_FUNCTIONS = """
SELECT p.proname,
       array_to_string(ARRAY(
           SELECT t.typname FROM unnest(p.proargtypes) WITH ORDINALITY AS a(o, n)
           JOIN pg_type AS t ON t.oid = a.o ORDER BY n), ','),
       t.typname
FROM pg_proc AS p JOIN pg_type AS t ON t.oid = p.prorettype
WHERE p.pronamespace = 'pg_catalog'::regnamespace AND p.prokind = 'f' AND NOT p.proretset
"""


def differing(connection: psycopg.Connection[Any]) -> tuple[list[Any], list[Any]]:
    """What `catalog.py` has and the server has not, and the other way round for the names that it knows."""
    known = set(catalog.OIDS)

    def listed(rows: list[Any], names: Any) -> set[Any]:
        return {row for row in rows if row[0] in names and set(row[1].split(",")) <= known | {""}}

    theirs: dict[str, set[Any]] = {
        "types": {tuple(row) for row in connection.execute(_TYPES).fetchall() if row[1] in known},
        "casts": {row for row in connection.execute(_CASTS).fetchall() if {row[0], row[1]} <= known},
        "operators": listed(connection.execute(_OPERATORS).fetchall(), catalog.OPERATOR_SIGNATURES),
        "functions": listed(connection.execute(_FUNCTIONS).fetchall(), catalog.FUNCTION_SIGNATURES),
    }
    ours: dict[str, set[Any]] = {
        "types": {(oid, name) for name, oid in catalog.OIDS.items()},
        "casts": {(s, t, context) for (s, t), context in catalog.CAST_CONTEXT.items()},
        "operators": _signatures(catalog.OPERATOR_SIGNATURES),
        "functions": _signatures(catalog.FUNCTION_SIGNATURES),
    }
    older = _shorter(catalog.FUNCTION_SIGNATURES)
    missing = [(kind, row) for kind, rows in ours.items() for row in sorted(rows - theirs[kind])]
    unknown = [(kind, row) for kind, rows in theirs.items() for row in sorted(rows - ours[kind] - older)]
    return missing, unknown


def _signatures(table: Any) -> set[Any]:
    return {(name, ",".join(s.args), s.result) for name, found in table.items() for s in found}


def _shorter(table: Any) -> set[Any]:
    """The same without arguments that have a default, as older versions may have them."""
    return {
        (name, ",".join(s.args[: len(s.args) - n]), s.result)
        for name, found in table.items()
        for s in found
        for n in range(1, s.defaults + 1)
    }
