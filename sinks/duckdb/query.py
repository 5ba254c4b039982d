"""Answers people's SQL without letting it write: one statement, in a read-only transaction."""

from typing import Any

import duckdb
import pyarrow as pa

from cdcflow.errors import Permanent
from cdcflow_sinks.duckdb.statements import literal, quote

#: Statements that only look. `EXPLAIN ANALYZE INSERT` and an INSERT inside WITH are of these types too;
#: the read-only transaction refuses those.
_LOOKING = (duckdb.StatementType.SELECT, duckdb.StatementType.EXPLAIN)


def run_query(connection: Any, sql: str, schema: str) -> pa.Table:
    """The result of one SELECT (also WITH, FROM, VALUES, DESCRIBE, SHOW, SUMMARIZE) or EXPLAIN.

    `connection` is one that nobody else uses meanwhile. A table without a schema is looked for in
    `schema` if there is such a one, as Postgres looks in public. Raises Permanent for anything that
    would write, and with DuckDB's own message for SQL that is wrong.
    """
    try:
        found = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise Permanent(f"the query cannot be read: {error}") from error
    if len(found) != 1:
        raise Permanent(f"a query is one statement, found {len(found)}")
    if found[0].type not in _LOOKING:
        raise Permanent(
            f"a query may only read the warehouse, found a statement of type {found[0].type.name}",
            hint="use SELECT, WITH, DESCRIBE, SHOW, SUMMARIZE or EXPLAIN",
        )
    try:
        connection.execute("SET search_path = " + literal(quote(schema)))
    except duckdb.CatalogException:
        pass  # nothing of that schema has come yet
    connection.execute("BEGIN TRANSACTION READ ONLY")
    try:
        return connection.sql(found[0].query).to_arrow_table()
    except duckdb.InterruptException:
        raise Permanent("the query was broken off: the flow's process ends", hint="ask again") from None
    except duckdb.Error as error:
        raise Permanent(f"the query failed: {error}") from error
    finally:
        connection.execute("ROLLBACK")
